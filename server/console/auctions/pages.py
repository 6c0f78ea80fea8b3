"""The pages of this room."""

from server.console.auctions.bids import bid
from server.console.auctions.listing import listing
from server.console.auctions.live import live
from server.console.auctions.lot import AUCTION, auction
from server.console.pages import Page

_LIST, _GET, _ASSET, _WATCH, _BID = (
    f"AuctionService.{rpc}" for rpc in ("ListAuctions", "GetAuction", "GetAsset", "WatchAuction", "PlaceBid")
)

PAGES: tuple[Page, ...] = (
    Page(path="/auctions", view=listing, needs=(_LIST,), title="Auctions"),
    Page(path=AUCTION, view=auction, needs=(_GET, _ASSET)),
    Page(path=f"{AUCTION}/live", view=live, needs=(_WATCH,)),
    Page(path=f"{AUCTION}/bids", view=bid, needs=(_GET, _ASSET, _BID, "RouterService.ResolveUser"), method="POST"),
)
