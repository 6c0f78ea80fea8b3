"""`cellbook audit balance`, `auction`, `asset`, `stream`: past state, checked against the events; and `accesses`."""

import json
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.table import Table

from cellbook.v1 import auction_pb2, audit_pb2, event_pb2, ledger_pb2, types_pb2
from server.cli.audit.statement import BUCKETS, At, User, amounts
from server.cli.client import CellStubs, ClientError, LedgerRefusal
from server.cli.reach import Reach
from server.cli.report import plain, show, show_line, table, tell_facts
from server.cli.screen import literal
from server.cli.texts import amount_text, enum_text, parse_moment, point_text, span_text, time_text, utc

_NAME = re.compile(r"cells/([a-z0-9-]{1,32})/")
_ELSEWHERE = "AT_HOME_ELSEWHERE"
DIFFERS = "the index of entries and the events do not say the same: run cellbook audit stream"
_NOWHERE = frozenset({"NOTHING_TO_TRACE"})
ACCESSES = "ACCESSES_RECORDED"
# Subjects of accesses that cover more than one account.
OF_ALL, MORE = "", "*"
SAID = {OF_ALL: "all", MORE: "more in this minute"}

Auction = Annotated[str, typer.Argument(help="cells/CELL/auctions/UUID")]
Asset = Annotated[str, typer.Argument(help="cells/CELL/assets/UUID")]
Aggregate = Annotated[str, typer.Argument(metavar="ID", help="Id of an account, asset, auction or saga.")]
OneUser = Annotated[str, typer.Option("--user", metavar="USER", help="Only reads of this user, or of all users.")]


def cell_in_name(reach: Reach, name: str, collection: str) -> CellStubs:
    found = _NAME.match(name)
    if found is None:
        raise ClientError(f"{name!r} is no name: expected cells/CELL/{collection}/UUID")
    return reach.named(found[1])


class AccountAt(NamedTuple):
    """An account at a moment, and the cell where the user was at home then."""

    cell: CellStubs
    account: ledger_pb2.GetAccountResponse
    # Empty: the index of entries and the events say the same.
    problem: str


async def run_balance(reach: Reach, user_id: User, at: At = "") -> None:
    """Show a user's balance and the holds behind it."""
    moment, home = parse_moment(at), await reach.home_of(user_id)
    cell, account, problem = await account_at(reach, home, user_id, moment)
    show(
        lambda: {"cell": cell.name, **plain(account)},
        lambda console: tell_account(console, cell.name, user_id, account, at),
        [problem] * bool(problem),
    )


async def account_at(reach: Reach, cell: CellStubs, user_id: str, moment: types_pb2.AsOf | None) -> AccountAt:
    """Asks `cell`, and where the user lived elsewhere at the moment, that one. Raises ClientError, LedgerRefusal."""
    # Two sources of the same balance: buckets from the index, and buckets with their holds from the events.
    request = ledger_pb2.GetBalanceRequest(user_id=user_id, as_of=moment)
    for _ in reach.cells:
        try:
            balance = await cell.ask(cell.ledger.GetBalance, request)
            break
        except LedgerRefusal as refusal:
            # A position belongs to one log; with a time, ask the cell where the user lived then.
            if refusal.reason != _ELSEWHERE or request.as_of.WhichOneof("moment") == "position":
                raise
            cell = reach.named(refusal.facts["home"])
    else:
        raise ClientError(f"no cell says that {user_id} was at home there then")
    # Use the same moment again, even if it was "now".
    same = parse_moment(f"@{balance.as_of.position}") if moment is not None else None
    account = await cell.ask(cell.ledger.GetAccount, ledger_pb2.GetAccountRequest(user_id=user_id, as_of=same))
    differs = moment is not None and list(balance.balances) != list(account.balances)
    return AccountAt(cell, account, DIFFERS if differs else "")


async def run_auction(reach: Reach, name: Auction, at: At = "") -> None:
    """Show the state of an auction at a moment."""
    cell = cell_in_name(reach, name, "auctions")
    request = auction_pb2.GetAuctionRequest(name=name, as_of=parse_moment(at))
    reply = await cell.ask(cell.auctions.GetAuction, request)
    show(lambda: plain(reply), lambda console: tell_auction(console, name, reply, at))


async def run_asset(reach: Reach, name: Asset, at: At = "") -> None:
    """Show the owner of an asset at a moment."""
    cell = cell_in_name(reach, name, "assets")
    request = auction_pb2.GetAssetRequest(name=name, as_of=parse_moment(at))
    reply = await cell.ask(cell.auctions.GetAsset, request)
    show(lambda: plain(reply), lambda console: tell_asset(console, name, reply, at))


async def run_stream(reach: Reach, aggregate_id: Aggregate, at: At = "") -> None:
    """Replay all events of one account, asset, auction or saga, and compare the cell's stored state with them."""
    request = audit_pb2.CheckStreamRequest(aggregate_id=aggregate_id, as_of=parse_moment(at))
    cell, reply = await _wherever(reach, request)

    def content() -> dict[str, Any]:
        found = plain(reply)
        return {"cell": cell, **found, "state": json.loads(found.pop("state_json") or "null")}

    count = len(reply.problems)
    problems = [f"{count} of what is kept is not what the events say"] * bool(count)
    show(content, lambda console: tell_stream(console, cell, aggregate_id, reply), problems)


async def _wherever(reach: Reach, request: audit_pb2.CheckStreamRequest) -> tuple[str, audit_pb2.CheckStreamResponse]:
    """Asks each cell, because an id does not name the cell of its stream. Raises LedgerRefusal, ClientError."""
    silent = []
    for cell in reach.cells:
        try:
            return cell.name, await cell.ask(cell.audit.CheckStream, request)
        except LedgerRefusal as refusal:
            if refusal.reason not in _NOWHERE:
                raise
        except ClientError as error:
            silent.append(str(error))
    if silent:
        raise ClientError(f"no cell that answers has {request.aggregate_id}, and not all do: {'; '.join(silent)}")
    raise ClientError(f"no stream {request.aggregate_id} in {reach.names}")


async def run_accesses(reach: Reach, user_id: OneUser = "") -> None:
    """List the reads of accounts, contacts and logs by staff, by the minute."""
    for cell in reach.cells:
        async for access in accesses_of(cell):
            if not user_id or access["subject"] in {user_id, *SAID}:
                show_line(access, literal(_access_text(access)))


async def accesses_of(cell: CellStubs) -> AsyncIterator[dict[str, Any]]:
    """Accesses up to the end of the log at the time of the call."""
    request = event_pb2.SubscribeRequest(filter=event_pb2.EventFilter(event_types=[ACCESSES]))
    async with aclosing(cell.items(cell.events.Subscribe, request)) as stream:
        async for item in stream:
            if item.HasField("caught_up"):
                return
            for access in json.loads(item.event.payload_json)["accesses"]:
                yield {"cell": cell.name, "position": item.event.position, **access}


# --- for people -----------------------------------------------------------------------------------------------------


def _access_text(access: dict[str, Any]) -> str:
    minute = f"{utc(access['minute_ms'] * 1_000):%Y-%m-%d %H:%M}"
    who, what, subject = access["principal"], access["method"], SAID.get(access["subject"], access["subject"])
    why = f"  {access['reason']}" if "reason" in access else ""
    return f"{minute}  {who:32}  {what:18}  {subject:36}  {access['cell']}/{access['position']}{why}"


def balances_table(balances: Iterable[tuple[str, ledger_pb2.Balance]]) -> Table:
    """A table for one user, or for several users with their names."""
    rows = list(balances)
    named = ["user"] * any(whose for whose, _ in rows)
    made = table(*named, "currency", *BUCKETS, right=BUCKETS)
    for whose, each in rows:
        made.add_row(*[literal(whose)] * len(named), literal(each.currency), *amounts(each))
    return made


def tell_account(console: Console, cell: str, user_id: str, account: ledger_pb2.GetAccountResponse, at: str) -> None:
    console.print(f"[bold]{literal(user_id)}[/bold] in {literal(cell)}, {_when(account, at)}", soft_wrap=True)
    console.print(balances_table(("", each) for each in account.balances))
    if not account.holds:
        return
    made = table("hold", "amount", "expires", "settlement")
    for hold in account.holds:
        expires = time_text(hold.expire_time_ms) if hold.expire_time_ms else "never"
        held = amount_text(hold.amount.amount_minor, hold.amount.currency)
        made.add_row(literal(hold.hold_id), literal(held), expires, literal(hold.saga_id or "-"))
    console.print(made)


def tell_auction(console: Console, name: str, reply: auction_pb2.GetAuctionResponse, at: str) -> None:
    auction, currency = reply.auction, reply.auction.opening_price.currency
    bid = auction.highest_bid
    highest = f"{amount_text(bid.amount.amount_minor, currency)} by {bid.bidder_user_id} ({bid.bidder_cell})"
    tell_facts(
        console,
        f"[bold]{literal(name)}[/bold], {_when(reply, at)}",
        [
            ("state", enum_text(auction, "state")),
            ("asset", auction.asset),
            ("seller", f"{auction.seller_user_id} ({auction.seller_cell})"),
            ("ends", time_text(auction.end_time_ms)),
            ("extends by", span_text(auction.extension_ms) if auction.extension_ms else "nothing"),
            ("settles in", span_text(auction.settlement_timeout_ms)),
            ("bids", str(auction.bids_accepted)),
            ("highest", highest if bid.bid_id else "none"),
            ("in escrow", amount_text(auction.escrow_minor, currency)),
            ("settlement", auction.saga_id or "none"),
        ],
    )


def tell_asset(console: Console, name: str, reply: auction_pb2.GetAssetResponse, at: str) -> None:
    owner = f"{reply.asset.owner_user_id} ({reply.asset.owner_cell})"
    facts = [("owner", owner), ("what", reply.asset.description), ("locked by", reply.asset.locked_by or "none")]
    tell_facts(console, f"[bold]{literal(name)}[/bold], {_when(reply, at)}", facts)


def tell_stream(console: Console, cell: str, aggregate_id: str, reply: audit_pb2.CheckStreamResponse) -> None:
    present = "the state that the cell works with" if reply.present_compared else "no present state: it has gone on"
    tell_facts(
        console,
        f"[bold]{literal(f'{reply.kind} {aggregate_id}')}[/bold] in {literal(f'{cell}, {point_text(reply.as_of)}')}",
        [
            ("events read", f"{reply.events_read:,}, each with its leaf hash checked"),
            ("compared", f"{reply.snapshots_compared:,} snapshots; {present}"),
            *(("WRONG", problem) for problem in reply.problems),
            ("state", json.dumps(json.loads(reply.state_json or "null"))),
        ],
    )


def _when(
    reply: ledger_pb2.GetAccountResponse | auction_pb2.GetAuctionResponse | auction_pb2.GetAssetResponse, at: str
) -> str:
    return literal(point_text(reply.as_of)) if at else f"now, at position {reply.token.position} or later"
