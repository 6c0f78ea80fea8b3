"""`cellbook audit balance`, `auction`, `asset` and `stream`: past state, checked against the events."""

import json
import re
from collections.abc import Iterable
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table

from cellbook.v1 import auction_pb2, audit_pb2, ledger_pb2, router_pb2
from server.cli import report
from server.cli.audit.ask import AUDITOR, answer_of
from server.cli.audit.moment import parse_moment, point_text
from server.cli.client import CellStubs, ClientError, LedgerRefusal
from server.cli.reach import Reach
from server.cli.saga.show import span_text, time_text
from server.cli.screen import literal
from server.cli.texts import amount_text

_NAME = re.compile(r"cells/([a-z0-9-]{1,32})/")
_ELSEWHERE = "AT_HOME_ELSEWHERE"
_NOWHERE = frozenset({"NOTHING_TO_TRACE"})


async def home_of(reach: Reach, user_id: str) -> CellStubs:
    """The user's home, or the only cell if just one is addressed. Raises ClientError."""
    if len(reach.cells) == 1:
        return reach.cells[0]
    request = router_pb2.ResolveUserRequest(user_id=user_id)
    home = (await reach.client.call(reach.client.router.ResolveUser, request, AUDITOR)).cell.name
    return cell_named(reach, home)


def cell_named(reach: Reach, name: str) -> CellStubs:
    for cell in reach.cells:
        if cell.name == name:
            return cell
    raise ClientError(f"{name} is not among the cells to ask: {', '.join(cell.name for cell in reach.cells)}")


def cell_in_name(reach: Reach, name: str, collection: str) -> CellStubs:
    found = _NAME.match(name)
    if found is None:
        raise ClientError(f"{name!r} is no name: expected cells/CELL/{collection}/UUID")
    return cell_named(reach, found[1])


async def run_balance(reach: Reach, user_id: str, at: str, *, as_json: bool) -> None:
    """Compares two sources of the same balance: buckets from the index and holds from the events."""
    moment, cell = parse_moment(at), await home_of(reach, user_id)
    request = ledger_pb2.GetBalanceRequest(user_id=user_id, as_of=moment)
    for _ in reach.cells:
        try:
            balance = await answer_of(cell, cell.ledger.GetBalance, request)
            break
        except LedgerRefusal as refusal:
            # A position belongs to one log; with a time, ask the cell where the user lived then.
            if refusal.reason != _ELSEWHERE or request.as_of.WhichOneof("moment") == "position":
                raise
            cell = cell_named(reach, refusal.facts["home"])
    else:
        raise ClientError(f"no cell says that {user_id} was at home there then")
    # Use the same moment again, even if it was "now".
    same = parse_moment(f"@{balance.as_of.position}") if moment is not None else None
    account = await answer_of(cell, cell.ledger.GetAccount, ledger_pb2.GetAccountRequest(user_id=user_id, as_of=same))
    if as_json:
        print(json.dumps({"cell": cell.name, **plain(account)}, indent=2))
    else:
        with report.stdout() as console:
            tell_account(console, cell.name, user_id, account, at)
    if moment is not None and list(balance.balances) != list(account.balances):
        raise ClientError("the index of entries and the events do not say the same: run cellbook audit stream")


async def run_auction(reach: Reach, name: str, at: str, *, as_json: bool) -> None:
    cell = cell_in_name(reach, name, "auctions")
    request = auction_pb2.GetAuctionRequest(name=name, as_of=parse_moment(at))
    reply = await answer_of(cell, cell.auctions.GetAuction, request)
    if as_json:
        print(json.dumps(plain(reply), indent=2))
        return
    with report.stdout() as console:
        tell_auction(console, name, reply, at)


async def run_asset(reach: Reach, name: str, at: str, *, as_json: bool) -> None:
    cell = cell_in_name(reach, name, "assets")
    request = auction_pb2.GetAssetRequest(name=name, as_of=parse_moment(at))
    reply = await answer_of(cell, cell.auctions.GetAsset, request)
    if as_json:
        print(json.dumps(plain(reply), indent=2))
        return
    with report.stdout() as console:
        tell_asset(console, name, reply, at)


async def run_stream(reach: Reach, aggregate_id: str, at: str, *, as_json: bool) -> None:
    """Raises ClientError if the stored state differs from the events."""
    request = audit_pb2.CheckStreamRequest(aggregate_id=aggregate_id, as_of=parse_moment(at))
    cell, reply = await _wherever(reach, request)
    if as_json:
        content = plain(reply)
        content["state"] = json.loads(content.pop("state_json") or "null")
        print(json.dumps({"cell": cell, **content}, indent=2))
    else:
        with report.stdout() as console:
            tell_stream(console, cell, aggregate_id, reply)
    if reply.problems:
        raise ClientError(f"{len(reply.problems)} of what is kept is not what the events say")


async def _wherever(reach: Reach, request: audit_pb2.CheckStreamRequest) -> tuple[str, audit_pb2.CheckStreamResponse]:
    """Asks each cell, because an id does not name the cell of its stream. Raises LedgerRefusal, ClientError."""
    silent = []
    for cell in reach.cells:
        try:
            return cell.name, await answer_of(cell, cell.audit.CheckStream, request)
        except LedgerRefusal as refusal:
            if refusal.reason not in _NOWHERE:
                raise
        except ClientError as error:
            silent.append(str(error))
    if silent:
        raise ClientError(f"no cell that answers has {request.aggregate_id}, and not all do: {'; '.join(silent)}")
    raise ClientError(f"no stream {request.aggregate_id} in {', '.join(cell.name for cell in reach.cells)}")


# --- how it looks ---------------------------------------------------------------------------------------------


def plain(message: Message) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def balances_table(balances: Iterable[tuple[str, ledger_pb2.Balance]]) -> Table:
    """A table for one user, or for several users with their names."""
    rows = list(balances)
    named = any(whose for whose, _ in rows)
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    for column in (*(["user"] * named), "currency", "available", "reserved", "pending"):
        table.add_column(column, justify="left" if column in {"user", "currency"} else "right")
    for whose, each in rows:
        amounts = (each.available_minor, each.reserved_minor, each.pending_minor)
        texts = (amount_text(amount, each.currency).rpartition(" ")[0] for amount in amounts)
        table.add_row(*([literal(whose)] * named), literal(each.currency), *texts)
    return table


def _holds(holds: Iterable[ledger_pb2.Hold]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    for column in ("hold", "amount", "expires", "settlement"):
        table.add_column(column)
    for hold in holds:
        expires = time_text(hold.expire_time_ms) if hold.expire_time_ms else "never"
        amount = literal(amount_text(hold.amount.amount_minor, hold.amount.currency))
        table.add_row(literal(hold.hold_id), amount, expires, literal(hold.saga_id or "-"))
    return table


def tell_account(console: Console, cell: str, user_id: str, account: ledger_pb2.GetAccountResponse, at: str) -> None:
    title = f"[bold]{literal(user_id)}[/bold] in {literal(cell)}, {_when(account, at)}"
    console.print(title, soft_wrap=True)
    console.print(balances_table(("", each) for each in account.balances))
    if account.holds:
        console.print(_holds(account.holds))


def tell_auction(console: Console, name: str, reply: auction_pb2.GetAuctionResponse, at: str) -> None:
    auction, currency = reply.auction, reply.auction.opening_price.currency
    bid = auction.highest_bid
    state = auction_pb2.AuctionState.Name(auction.state).removeprefix("AUCTION_STATE_").lower().replace("_", " ")
    _tell(
        console,
        f"[bold]{literal(name)}[/bold], {_when(reply, at)}",
        [
            ("state", state),
            ("asset", auction.asset),
            ("seller", f"{auction.seller_user_id} ({auction.seller_cell})"),
            ("ends", time_text(auction.end_time_ms)),
            ("extends by", span_text(auction.extension_ms) if auction.extension_ms else "nothing"),
            ("settles in", span_text(auction.settlement_timeout_ms)),
            ("bids", str(auction.bids_accepted)),
            ("highest", f"{amount_text(bid.amount.amount_minor, currency)} by {bid.bidder_user_id} ({bid.bidder_cell})")
            if bid.bid_id
            else ("highest", "none"),
            ("in escrow", amount_text(auction.escrow_minor, currency)),
            ("settlement", auction.saga_id or "none"),
        ],
    )


def tell_asset(console: Console, name: str, reply: auction_pb2.GetAssetResponse, at: str) -> None:
    _tell(
        console,
        f"[bold]{literal(name)}[/bold], {_when(reply, at)}",
        [
            ("owner", f"{reply.asset.owner_user_id} ({reply.asset.owner_cell})"),
            ("what", reply.asset.description),
            ("locked by", reply.asset.locked_by or "none"),
        ],
    )


def tell_stream(console: Console, cell: str, aggregate_id: str, reply: audit_pb2.CheckStreamResponse) -> None:
    present = "the state that the cell works with" if reply.present_compared else "no present state: it has gone on"
    _tell(
        console,
        f"[bold]{literal(f'{reply.kind} {aggregate_id}')}[/bold] in {literal(f'{cell}, {point_text(reply.as_of)}')}",
        [
            ("events read", f"{reply.events_read:,}, each with its leaf hash checked"),
            ("compared", f"{reply.snapshots_compared:,} snapshots; {present}"),
            *(("WRONG", problem) for problem in reply.problems),
            ("state", json.dumps(json.loads(reply.state_json or "null"))),
        ],
    )


def _tell(console: Console, title: str, facts: Iterable[tuple[str, str]]) -> None:
    console.print(title, soft_wrap=True)
    console.print(_facts(facts))


def _facts(facts: Iterable[tuple[str, str]]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, said in facts:
        table.add_row(f"[dim]{name}[/dim]", literal(said))
    return table


def _when(
    reply: ledger_pb2.GetAccountResponse | auction_pb2.GetAuctionResponse | auction_pb2.GetAssetResponse, at: str
) -> str:
    return literal(point_text(reply.as_of)) if at else f"now, at position {reply.token.position} or later"
