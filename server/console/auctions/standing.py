"""How the visitor's own bid stands. Its maximum is in the visitor's own account: nobody else's page has it."""

from typing import NamedTuple

from starlette.requests import Request

from cellbook.v1 import auction_pb2, ledger_pb2
from server.cli.client import ClientError, LedgerRefusal
from server.console.console import ledger_of
from server.console.visitor import current_visitor
from server.shell.identity.principal import Role


class Standing(NamedTuple):
    leads: bool = False
    # The bid led, or was accepted, and another one leads now.
    outbid: bool = False
    # 0: the bid has none beyond its amount, or it is not known.
    maximum_minor: int = 0


def own_id() -> str:
    """The visitor's own user, who is the only one that the visitor may bid for; empty for other roles."""
    principal = current_visitor().principal
    return principal.name if principal.role is Role.USER else ""


class Follower:
    """From one state of the auction to the next. `has_bid`: a bid of the visitor's was accepted before."""

    def __init__(self, request: Request, *, has_bid: bool = False) -> None:
        self._request, self._has_bid = request, has_bid
        # Of the bid that led last: a bid's maximum stays the same.
        self._bid_id, self._maximum_minor = "", 0

    async def standing(self, auction: auction_pb2.Auction) -> Standing:
        bid, own = auction.highest_bid, own_id()
        if not own or auction.state != auction_pb2.AUCTION_STATE_ACTIVE:
            return Standing()
        if bid.bidder_user_id != own:
            return Standing(outbid=self._has_bid)
        self._has_bid = True
        if bid.bid_id != self._bid_id:
            self._bid_id, self._maximum_minor = bid.bid_id, await self._hold_minor(auction, own)
        return Standing(leads=True, maximum_minor=self._maximum_minor)

    async def _hold_minor(self, auction: auction_pb2.Auction, own: str) -> int:
        """The money set aside for the leading bid; 0: it is for another one, too, or the home does not answer."""
        try:
            home = await ledger_of(self._request).home_of(own)
            wanted = ledger_pb2.GetAccountRequest(user_id=own)
            account = await home.client.once(home.ledger.GetAccount, wanted, at=home.name)
        except (ClientError, LedgerRefusal):
            return 0
        holds = (hold for hold in account.holds if hold.auction == auction.name)
        return sum(hold.amount.amount_minor for hold in holds if list(hold.bid_ids) == [auction.highest_bid.bid_id])
