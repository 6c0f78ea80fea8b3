"""An auction, an asset, and the outcome of a command."""

from starlette.requests import Request
from starlette.responses import Response

from cellbook.v1 import auction_pb2, ledger_pb2
from server.cli.client import CellStubs
from server.cli.texts import enum_text
from server.console.console import cell_in, render
from server.console.pages import get


@get("/support/auctions/{cell}/{id}", "AuctionService.GetAuction")
async def auction(request: Request) -> Response:
    cell, wanted = await _asked(request)
    name = f"cells/{cell.name}/auctions/{wanted}"
    found = (await cell.ask(cell.auctions.GetAuction, auction_pb2.GetAuctionRequest(name=name))).auction
    return render(request, "support/auction.html", name=name, auction=found)


@get("/support/assets/{cell}/{id}", "AuctionService.GetAsset")
async def asset(request: Request) -> Response:
    cell, wanted = await _asked(request)
    name = f"cells/{cell.name}/assets/{wanted}"
    found = (await cell.ask(cell.auctions.GetAsset, auction_pb2.GetAssetRequest(name=name))).asset
    return render(request, "support/asset.html", name=name, asset=found)


@get("/support/commands/{cell}/{id}", "LedgerService.GetCommand")
async def command(request: Request) -> Response:
    cell, wanted = await _asked(request)
    found = await cell.ask(cell.ledger.GetCommand, ledger_pb2.GetCommandRequest(command_id=wanted))
    return render(
        request,
        "support/command.html",
        cell=cell.name,
        command=found,
        state=enum_text(found, "state"),
        result=sorted(found.result.items()),
    )


async def _asked(request: Request) -> tuple[CellStubs, str]:
    return await cell_in(request), request.path_params["id"]
