// An auction of your own: two users bid, the better bid wins, and the settlement pays the seller.
//
//   cellbook up                         # in another terminal
//   npm ci && npm run stubs && npm run build && npm run quickstart 127.0.0.1:7400

import { randomUUID as newId } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { credentials, Metadata, ServiceError, status } from "@grpc/grpc-js";
import {
  AuctionServiceClient,
  CloseAuctionRequest,
  CloseAuctionResponse,
  CreateAuctionRequest,
  CreateAuctionResponse,
  GetAssetRequest,
  GetAssetResponse,
  PlaceBidRequest,
  PlaceBidResponse,
  RegisterAssetRequest,
  RegisterAssetResponse,
} from "../gen/cellbook/v1/auction";
import {
  DepositRequest,
  DepositResponse,
  GetBalanceRequest,
  GetBalanceResponse,
  LedgerServiceClient,
} from "../gen/cellbook/v1/ledger";
import { RegisterUserRequest, RegisterUserResponse, RouterServiceClient } from "../gen/cellbook/v1/router";
import { SagaServiceClient, sagaStateToJSON, WatchSagaRequest, WatchSagaResponse } from "../gen/cellbook/v1/saga";

// The outcome is unknown: send the same command again.
const UNKNOWN = new Set([status.UNAVAILABLE, status.DEADLINE_EXCEEDED, status.ABORTED]);
type Answer<T> = (error: ServiceError | null, value: T) => void;
type Method<Q, A> = (request: Q, metadata: Metadata, options: { deadline: number }, answer: Answer<A>) => unknown;

function as(principal: string, cell = ""): Metadata {
  const metadata = new Metadata();
  metadata.set("cellbook-principal", principal);
  if (cell) metadata.set("cellbook-cell", cell);
  return metadata;
}

/** Sends until the outcome is known. The commandId stays the same, so the command happens once. */
async function send<Q, A>(method: Method<Q, A>, request: Q, caller = as("service/shop")): Promise<A> {
  for (const giveUp = Date.now() + 60_000; ; await sleep(200)) {
    try {
      return await new Promise<A>((resolve, reject) =>
        method(request, caller, { deadline: Date.now() + 10_000 }, (error, value) =>
          error ? reject(error) : resolve(value),
        ),
      );
    } catch (error) {
      if (!UNKNOWN.has((error as ServiceError).code) || Date.now() > giveUp) throw error;
    }
  }
}

const usd = (amountMinor: bigint) => ({ currency: "USD", amountMinor });

async function main(address: string): Promise<void> {
  const router = new RouterServiceClient(address, credentials.createInsecure());
  const ledger = new LedgerServiceClient(address, credentials.createInsecure());
  const auctions = new AuctionServiceClient(address, credentials.createInsecure());
  const sagas = new SagaServiceClient(address, credentials.createInsecure());

  // 1. Register users. Each one's money lives in a cell of their region.
  const users = { sue: newId(), ann: newId(), ben: newId() };
  const register: Method<RegisterUserRequest, RegisterUserResponse> = router.registerUser.bind(router);
  for (const [name, region] of [["sue", "eu"], ["ann", "us"], ["ben", "ap"]] as const) {
    const { home } = await send(register, RegisterUserRequest.fromPartial({ userId: users[name], region }));
    console.log(`${name} lives in ${home?.cell}`);
  }

  // 2. The bank brings in the bidders' money.
  const bringIn: Method<DepositRequest, DepositResponse> = ledger.deposit.bind(ledger);
  for (const userId of [users.ann, users.ben]) {
    const externalReference = `statement/${newId()}`;
    const deposit = { commandId: newId(), userId, amount: usd(100_00n), externalReference };
    await send(bringIn, DepositRequest.fromPartial(deposit), as("treasury/bank"));
  }

  // 3. Sue registers a lamp, and opens its auction for an hour.
  const registerAsset: Method<RegisterAssetRequest, RegisterAssetResponse> = auctions.registerAsset.bind(auctions);
  const create: Method<CreateAuctionRequest, CreateAuctionResponse> = auctions.createAuction.bind(auctions);
  const asset = { commandId: newId(), ownerUserId: users.sue, description: "A lamp" };
  const lamp = (await send(registerAsset, RegisterAssetRequest.fromPartial(asset))).asset;
  const opened = CreateAuctionRequest.fromPartial({
    commandId: newId(),
    asset: lamp,
    sellerUserId: users.sue,
    openingPrice: usd(10_00n),
    endTimeMs: BigInt(Date.now() + 3_600_000),
  });
  const auction = (await send(create, opened)).auction;
  console.log(`open: ${auction}`);

  // 4. Ann and Ben bid. A refusal by the rules is a failed precondition: it is final, and its text says why.
  const placeBid: Method<PlaceBidRequest, PlaceBidResponse> = auctions.placeBid.bind(auctions);
  for (const [name, amountMinor] of [["ann", 40_00n], ["ben", 55_00n], ["ann", 50_00n]] as const) {
    const bid = { commandId: newId(), auction, bidderUserId: users[name], amount: usd(amountMinor) };
    try {
      await send(placeBid, PlaceBidRequest.fromPartial(bid));
      console.log(`${name} leads with ${amountMinor}`);
    } catch (error) {
      const refused = error as ServiceError;
      if (refused.code !== status.FAILED_PRECONDITION) throw error;
      console.log(`${name} is refused: ${refused.details}`);
    }
  }

  // 5. Close the auction. Its settlement, a saga over three cells, starts in the same commit.
  const close: Method<CloseAuctionRequest, CloseAuctionResponse> = auctions.closeAuction.bind(auctions);
  const closed = await send(close, CloseAuctionRequest.fromPartial({ commandId: newId(), auction }));
  console.log(`closed: ${closed.winningBid?.amount?.amountMinor} wins`);

  // 6. Watch the settlement, in the cell where the auction lives.
  const watched = WatchSagaRequest.fromPartial({ sagaId: closed.sagaId });
  const stream = sagas.watchSaga(watched, as("service/shop", auction.split("/")[1]), { deadline: Date.now() + 60_000 });
  for await (const { event, saga } of stream as AsyncIterable<WatchSagaResponse>) {
    // Without an event, an attempt has failed, and is made again.
    console.log(`settlement: ${event?.eventType ?? "TRYING AGAIN"} ${saga && sagaStateToJSON(saga.state)}`);
  }

  // 7. Ben owns the lamp, Sue has the price less the fee of 2.5 %, and Ann has all her money back. A bid that was beaten
  // is released in the background: until then its money is reserved.
  const getAsset: Method<GetAssetRequest, GetAssetResponse> = auctions.getAsset.bind(auctions);
  const getBalance: Method<GetBalanceRequest, GetBalanceResponse> = ledger.getBalance.bind(ledger);
  const owner = (await send(getAsset, GetAssetRequest.fromPartial({ name: lamp }))).asset?.ownerUserId;
  console.log(`the lamp is ben's: ${owner === users.ben}`);
  for (const [name, userId] of Object.entries(users)) {
    const asked = GetBalanceRequest.fromPartial({ userId });
    let [balance] = (await send(getBalance, asked)).balances;
    for (; balance.reservedMinor; [balance] = (await send(getBalance, asked)).balances) await sleep(100);
    console.log(`${name} has ${balance.availableMinor} ${balance.currency}`);
  }
  for (const client of [router, ledger, auctions, sagas]) client.close();
}

main(process.argv[2] ?? "127.0.0.1:7400").catch((error) => {
  console.error(error);
  process.exit(1);
});
