"""An auction of your own: two users bid, the better bid wins, and the settlement pays the seller.

cellbook up                                   # in another terminal
python docs/examples/quickstart.py 127.0.0.1:7400
"""

import sys
import time
from collections.abc import Callable
from typing import TypeVar
from uuid import uuid4

import grpc

from cellbook.v1 import auction_pb2, ledger_pb2, router_pb2, saga_pb2
from cellbook.v1.auction_pb2_grpc import AuctionServiceStub
from cellbook.v1.ledger_pb2_grpc import LedgerServiceStub
from cellbook.v1.router_pb2_grpc import RouterServiceStub
from cellbook.v1.saga_pb2_grpc import SagaServiceStub
from cellbook.v1.types_pb2 import Money

Response = TypeVar("Response")
# The outcome is unknown: send the same command again.
UNKNOWN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.ABORTED}
SHOP = (("cellbook-principal", "service/shop"),)
BANK = (("cellbook-principal", "treasury/bank"),)


def send(method: Callable[..., Response], request: object, caller: tuple[tuple[str, str], ...] = SHOP) -> Response:
    """Sends until the outcome is known. The command_id stays the same, so the command happens once."""
    give_up_s = time.monotonic() + 60
    while True:
        try:
            return method(request, metadata=caller, timeout=10)
        except grpc.RpcError as error:
            if error.code() not in UNKNOWN or time.monotonic() > give_up_s:
                raise
            time.sleep(0.2)


def new_id() -> str:
    return str(uuid4())


def usd(amount_minor: int) -> Money:
    return Money(currency="USD", amount_minor=amount_minor)


def main(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        router, ledger = RouterServiceStub(channel), LedgerServiceStub(channel)
        auctions, sagas = AuctionServiceStub(channel), SagaServiceStub(channel)

        # 1. Register users. Each one's money lives in a cell of their region.
        users = {"sue": new_id(), "ann": new_id(), "ben": new_id()}
        for (name, user_id), region in zip(users.items(), ("eu", "us", "ap"), strict=True):
            home = send(router.RegisterUser, router_pb2.RegisterUserRequest(user_id=user_id, region=region)).home
            print(f"{name} lives in {home.cell}")

        # 2. The bank brings in the bidders' money.
        for bidder in ("ann", "ben"):
            deposit = ledger_pb2.DepositRequest(
                command_id=new_id(),
                user_id=users[bidder],
                amount=usd(100_00),
                external_reference=f"statement/{new_id()}",
            )
            send(ledger.Deposit, deposit, BANK)

        # 3. Sue registers a lamp, and opens its auction for an hour.
        asset = auction_pb2.RegisterAssetRequest(command_id=new_id(), owner_user_id=users["sue"], description="A lamp")
        lamp = send(auctions.RegisterAsset, asset).asset
        opened = auction_pb2.CreateAuctionRequest(
            command_id=new_id(),
            asset=lamp,
            seller_user_id=users["sue"],
            opening_price=usd(10_00),
            end_time_ms=time.time_ns() // 1_000_000 + 3_600_000,
        )
        auction = send(auctions.CreateAuction, opened).auction
        print(f"open: {auction}")

        # 4. Ann and Ben bid. A refusal by the rules is a failed precondition: it is final, and its text says why.
        for bidder, amount_minor in (("ann", 40_00), ("ben", 55_00), ("ann", 50_00)):
            bid = auction_pb2.PlaceBidRequest(
                command_id=new_id(), auction=auction, bidder_user_id=users[bidder], amount=usd(amount_minor)
            )
            try:
                send(auctions.PlaceBid, bid)
                print(f"{bidder} leads with {amount_minor}")
            except grpc.RpcError as refused:
                if refused.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                    raise
                print(f"{bidder} is refused: {refused.details()}")

        # 5. Close the auction. Its settlement, a saga over three cells, starts in the same commit.
        closed = send(auctions.CloseAuction, auction_pb2.CloseAuctionRequest(command_id=new_id(), auction=auction))
        print(f"closed: {closed.winning_bid.amount.amount_minor} wins")

        # 6. Watch the settlement, in the cell where the auction lives.
        cell = ("cellbook-cell", auction.split("/")[1])
        watched = saga_pb2.WatchSagaRequest(saga_id=closed.saga_id)
        for news in sagas.WatchSaga(watched, metadata=(*SHOP, cell), timeout=60):
            # Without an event, an attempt has failed, and is made again.
            happened = news.event.event_type or "TRYING AGAIN"
            print(f"settlement: {happened} {saga_pb2.SagaState.Name(news.saga.state)}")

        # 7. Ben owns the lamp, Sue has the price less the fee of 2.5 %, and Ann has all her money back. A bid that was
        # beaten is released in the background: until then its money is reserved.
        owner = send(auctions.GetAsset, auction_pb2.GetAssetRequest(name=lamp)).asset.owner_user_id
        print(f"the lamp is ben's: {owner == users['ben']}")
        for name, user_id in users.items():
            asked = ledger_pb2.GetBalanceRequest(user_id=user_id)
            while (balance := send(ledger.GetBalance, asked).balances[0]).reserved_minor:
                time.sleep(0.1)
            print(f"{name} has {balance.available_minor} {balance.currency}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7400")
