"""Moving a user to another cell."""

from contextlib import suppress
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from cellbook.v1 import router_pb2
from server.cli.client import Client, LedgerRefusal, NoAnswer, new_command_id
from server.console.console import ledger_of, render
from server.console.pages import get, post
from server.console.serving import field, require_confirmed, see

# The page then shows how far the move is.
MOVE_WAIT_S = 3.0
NEVER_MOVED = "MOVE_NOT_FOUND"


@get("/operator/moves", "RouterService.MoveUser", "RouterService.GetMove", "RouterService.ResolveUser", title="Moves")
async def moves(request: Request) -> Response:
    ledger, user_id = ledger_of(request), await field(request, "user")
    move, home, client = None, None, ledger.client
    if user_id:
        home = await client.ask_router(client.router.ResolveUser, router_pb2.ResolveUserRequest(user_id=user_id))
        move = await _last_move(client, user_id)
    return render(
        request,
        "operator/moves.html",
        user_id=user_id,
        home=home,
        move=move,
        cells=[each.name for each in (await ledger.listed()).cells],
        command_id=new_command_id(),
    )


async def _last_move(client: Client, user_id: str) -> router_pb2.Move | None:
    try:
        return (await client.ask_router(client.router.GetMove, router_pb2.GetMoveRequest(user_id=user_id))).move
    except LedgerRefusal as refused:
        if refused.reason != NEVER_MOVED:
            raise
        return None


@post("/operator/moves", "RouterService.MoveUser")
async def begin(request: Request) -> Response:
    """A form that is sent twice is one move, by the id in it."""
    await require_confirmed(request)
    user_id, region = await field(request, "user"), await field(request, "region")
    order = router_pb2.MoveUserRequest(
        command_id=await field(request, "command_id"),
        user_id=user_id,
        cell=await field(request, "cell"),
        region=None if region == "unchanged" else region,
    )
    client = ledger_of(request).client
    with suppress(NoAnswer):
        await client.ask_router(client.router.MoveUser, order, timeout_s=MOVE_WAIT_S)
    return see(f"/operator/moves?user={quote(user_id)}")
