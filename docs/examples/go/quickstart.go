// An auction of your own: two users bid, the better bid wins, and the settlement pays the seller.
//
//	cellbook up                              # in another terminal
//	buf generate ../../../protos             # the stubs, package cellbook/v1 below gen/src
//	go run quickstart.go 127.0.0.1:7400      # with gen in GOPATH; docs/quickstart.md has the whole of it
package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "cellbook/v1"
)

const shop, bank = "service/shop", "treasury/bank"

// send sends until the outcome is known. The command_id stays the same, so the command happens once.
func send(principal string, call func(context.Context) error) error {
	for giveUp := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(as(principal, ""), 10*time.Second)
		err := call(ctx)
		cancel()
		switch status.Code(err) {
		case codes.Unavailable, codes.DeadlineExceeded, codes.Aborted:
			if time.Now().Before(giveUp) {
				continue
			}
		}
		return err
	}
}

func as(principal, cell string) context.Context {
	ctx := metadata.AppendToOutgoingContext(context.Background(), "cellbook-principal", principal)
	if cell != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "cellbook-cell", cell)
	}
	return ctx
}

// must ends the program on a refusal, or when the outcome stays unknown.
func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// newID makes a UUID, version 4.
func newID() string {
	var id [16]byte
	_, err := rand.Read(id[:])
	must(err)
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}

func usd(amountMinor int64) *pb.Money {
	return &pb.Money{Currency: "USD", AmountMinor: amountMinor}
}

func main() {
	address := "127.0.0.1:7400"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	channel, err := grpc.Dial(address, grpc.WithInsecure())
	must(err)
	defer channel.Close()
	router, ledger := pb.NewRouterServiceClient(channel), pb.NewLedgerServiceClient(channel)
	auctions, sagas := pb.NewAuctionServiceClient(channel), pb.NewSagaServiceClient(channel)

	// 1. Register users. Each one's money lives in a cell of their region.
	users := map[string]string{}
	for _, user := range [][2]string{{"sue", "eu"}, {"ann", "us"}, {"ben", "ap"}} {
		request := &pb.RegisterUserRequest{UserId: newID(), Region: user[1]}
		must(send(shop, func(ctx context.Context) error {
			registered, err := router.RegisterUser(ctx, request)
			if err == nil {
				fmt.Println(user[0], "lives in", registered.Home.Cell)
			}
			return err
		}))
		users[user[0]] = request.UserId
	}

	// 2. The bank brings in the bidders' money.
	for _, bidder := range []string{"ann", "ben"} {
		deposit := &pb.DepositRequest{
			CommandId:         newID(),
			UserId:            users[bidder],
			Amount:            usd(100_00),
			ExternalReference: "statement/" + newID(),
		}
		must(send(bank, func(ctx context.Context) error {
			_, err := ledger.Deposit(ctx, deposit)
			return err
		}))
	}

	// 3. Sue registers a lamp, and opens its auction for an hour.
	var lamp, auction string
	asset := &pb.RegisterAssetRequest{CommandId: newID(), OwnerUserId: users["sue"], Description: "A lamp"}
	must(send(shop, func(ctx context.Context) error {
		registered, err := auctions.RegisterAsset(ctx, asset)
		lamp = registered.GetAsset()
		return err
	}))
	opened := &pb.CreateAuctionRequest{
		CommandId:    newID(),
		Asset:        lamp,
		SellerUserId: users["sue"],
		OpeningPrice: usd(10_00),
		EndTimeMs:    time.Now().Add(time.Hour).UnixNano() / 1_000_000,
	}
	must(send(shop, func(ctx context.Context) error {
		created, err := auctions.CreateAuction(ctx, opened)
		auction = created.GetAuction()
		return err
	}))
	fmt.Println("open:", auction)

	// 4. Ann and Ben bid. A refusal by the rules is a failed precondition: it is final, and its text says why.
	for _, bid := range []struct {
		bidder      string
		amountMinor int64
	}{{"ann", 40_00}, {"ben", 55_00}, {"ann", 50_00}} {
		request := &pb.PlaceBidRequest{
			CommandId:    newID(),
			Auction:      auction,
			BidderUserId: users[bid.bidder],
			Amount:       usd(bid.amountMinor),
		}
		err := send(shop, func(ctx context.Context) error {
			_, err := auctions.PlaceBid(ctx, request)
			return err
		})
		if status.Code(err) == codes.FailedPrecondition {
			fmt.Println(bid.bidder, "is refused:", status.Convert(err).Message())
			continue
		}
		must(err)
		fmt.Println(bid.bidder, "leads with", bid.amountMinor)
	}

	// 5. Close the auction. Its settlement, a saga over three cells, starts in the same commit.
	var closed *pb.CloseAuctionResponse
	closing := &pb.CloseAuctionRequest{CommandId: newID(), Auction: auction}
	must(send(shop, func(ctx context.Context) (err error) {
		closed, err = auctions.CloseAuction(ctx, closing)
		return err
	}))
	fmt.Println("closed:", closed.WinningBid.Amount.AmountMinor, "wins")

	// 6. Watch the settlement, in the cell where the auction lives.
	stream, err := sagas.WatchSaga(as(shop, strings.Split(auction, "/")[1]), &pb.WatchSagaRequest{SagaId: closed.SagaId})
	for err == nil {
		var news *pb.WatchSagaResponse
		if news, err = stream.Recv(); err == nil {
			// Without an event, an attempt has failed, and is made again.
			happened := "TRYING AGAIN"
			if news.Event != nil {
				happened = news.Event.EventType
			}
			fmt.Println("settlement:", happened, news.Saga.State)
		}
	}
	if err != io.EOF {
		log.Fatal(err)
	}

	// 7. Ben owns the lamp, Sue has the price less the fee of 2.5 %, and Ann has all her money back. A bid that was beaten
	// is released in the background: until then its money is reserved.
	must(send(shop, func(ctx context.Context) error {
		found, err := auctions.GetAsset(ctx, &pb.GetAssetRequest{Name: lamp})
		if err == nil {
			fmt.Println("the lamp is ben's:", found.Asset.OwnerUserId == users["ben"])
		}
		return err
	}))
	for _, name := range []string{"sue", "ann", "ben"} {
		balance := &pb.Balance{ReservedMinor: 1}
		for ; balance.ReservedMinor != 0; time.Sleep(100 * time.Millisecond) {
			must(send(shop, func(ctx context.Context) error {
				found, err := ledger.GetBalance(ctx, &pb.GetBalanceRequest{UserId: users[name]})
				if err == nil {
					balance = found.Balances[0]
				}
				return err
			}))
		}
		fmt.Println(name, "has", balance.AvailableMinor, balance.Currency)
	}
}
