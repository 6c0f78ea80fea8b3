"""How the commands of `cellbook audit` read moments, ask cells, and print the answers: for people, or as JSON."""

import json
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, TypeVar

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from grpc import aio
from rich.console import Console
from rich.table import Table

from cellbook.v1 import audit_pb2, types_pb2
from server.cli import report
from server.cli.access import chosen_access
from server.cli.client import CellStubs, ClientError, unknown_in
from server.cli.options import json_option
from server.cli.reach import Reach
from server.cli.screen import literal
from server.cli.texts import amount_text, stamp_text

AUDITOR = "auditor/cellbook"
# Answers may cover many cells or many events.
ANSWER_S = 30.0
MOMENT = (
    "A time in UTC (2026-11-22 14:23, or with its offset), how long ago (90s, 15m, 2h, 3d), @POSITION, or MS+COUNTER."
)

Reply = TypeVar("Reply", bound=Message)
PageReply = TypeVar("PageReply", audit_pb2.ListBalancesResponse, audit_pb2.GetStatementResponse)

At = Annotated[str, typer.Option("--at", metavar="MOMENT", help=MOMENT)]
User = Annotated[str, typer.Argument(metavar="USER", help="The user's id.")]
Json = Annotated[bool, json_option("Print JSON instead of tables.")]

_AGO = re.compile(r"([0-9]{1,9})([smhd])")
_POSITION = re.compile(r"@([0-9]{1,18})")
_STAMP = re.compile(r"([0-9]{1,15})\+([0-9]{1,5})")
_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
# Events carry milliseconds and a counter, so a finer time has no meaning.
_TOO_FINE = re.compile(r"[.,][0-9]{3}[0-9]*[1-9]")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


# --- moments --------------------------------------------------------------------------------------------------------


def parse_moment(text: str) -> types_pb2.AsOf | None:
    """None: now. A time means all of its millisecond: 12:00 includes each event of 12:00:00.000. Raises ClientError."""
    if not text:
        return None
    if found := _POSITION.fullmatch(text):
        return types_pb2.AsOf(position=int(found[1]))
    if found := _STAMP.fullmatch(text):
        return types_pb2.AsOf(hlc=types_pb2.HlcStamp(physical_ms=int(found[1]), logical=int(found[2])))
    if found := _AGO.fullmatch(text):
        return types_pb2.AsOf(time_ms=time.time_ns() // 1_000_000 - int(found[1]) * _UNITS_MS[found[2]])
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ClientError(f"{text!r} is no moment: expected {MOMENT[0].lower()}{MOMENT[1:-1]}") from None
    if _TOO_FINE.search(text):
        raise ClientError(
            f"{text!r} is finer than a millisecond, which events carry: write three digits, for all of that "
            "millisecond, or MS+COUNTER, for one event of it"
        )
    # A time without an offset is in UTC, like all times in the output.
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return types_pb2.AsOf(time_ms=(at - _EPOCH) // timedelta(milliseconds=1))


def point_text(point: types_pb2.AsOfPoint) -> str:
    """The event that the point follows, for the line above a table."""
    if point.position == 0:
        return f"before the first event of {point.cell}"
    stamp = stamp_text(point.hlc.physical_ms, point.hlc.logical)
    return f"after event {point.cell}/{point.position} of {stamp} UTC"


# --- calls ----------------------------------------------------------------------------------------------------------


async def answer_of(cell: CellStubs, method: Callable[..., Awaitable[Reply]], request: Message) -> Reply:
    """The cell's answer. Raises ClientError, LedgerRefusal."""
    try:
        return await method(request, timeout=ANSWER_S, metadata=chosen_access().metadata(AUDITOR))
    except aio.AioRpcError as error:
        raise ClientError(f"{cell.name}: {unknown_in(error, request).told}") from error


async def first_answer(
    reach: Reach, method: Callable[[CellStubs], Callable[..., Awaitable[Reply]]], request: Message
) -> tuple[str, Reply]:
    """The answer of the first cell in order that answers, with its name; for requests that any cell can answer.

    Raises:
        LedgerRefusal: the cell refuses.
        ClientError: no cell answers.
    """
    silent = []
    for cell in reach.cells:
        try:
            return cell.name, await answer_of(cell, method(cell), request)
        except ClientError as error:
            silent.append(str(error))
    raise ClientError("; ".join(silent) or "there is no cell to ask")


async def pages(
    cell: CellStubs,
    method: Callable[..., Awaitable[PageReply]],
    request: audit_pb2.ListBalancesRequest | audit_pb2.GetStatementRequest,
) -> AsyncIterator[PageReply]:
    """The pages of an answer, one after the other. Raises ClientError, LedgerRefusal."""
    while True:
        page = await answer_of(cell, method, request)
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


async def items(
    cell: CellStubs, method: "Callable[..., aio.UnaryStreamCall[Any, Reply]]", request: Message, by: str = AUDITOR
) -> AsyncGenerator[Reply, None]:
    """The items of a stream, which ends when this generator is closed. Raises ClientError, LedgerRefusal."""
    call = method(request, metadata=chosen_access().metadata(by))
    try:
        async for item in call:
            yield item
    except aio.AioRpcError as error:
        raise ClientError(f"{cell.name}: {unknown_in(error, request).told}") from error
    finally:
        call.cancel()


# --- answers --------------------------------------------------------------------------------------------------------


def show(
    content: Callable[[], object], tell: Callable[[Console], None], problems: Sequence[str] = (), *, as_json: bool
) -> None:
    """Prints an answer, for programs or for people. Raises ClientError if something in it is wrong."""
    if as_json:
        print(json.dumps(content(), indent=2))
    else:
        with report.stdout() as console:
            tell(console)
    if problems:
        raise ClientError("; ".join(problems))


def plain(message: Message) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def table(*columns: str, right: Collection[str] = (), no_wrap: Collection[str] = ()) -> Table:
    """An empty table; the columns named in `right` hold numbers."""
    made = Table(box=None, pad_edge=False, header_style="bold dim")
    for each in columns:
        justify: Literal["left", "right"] = "right" if each in right else "left"
        made.add_column(literal(each), justify=justify, no_wrap=each in no_wrap, overflow="fold")
    return made


def tell_verdict(console: Console, wrong: Collection[str], proven: Iterable[str]) -> None:
    """Shows the problems, or, if there are none, what adds up."""
    mark = "[red bold]NO[/red bold]" if wrong else "[green]ok[/green]"
    for said in wrong or proven:
        console.print(f"{mark} {literal(said)}", soft_wrap=True)


def amount(amount_minor: int, currency: str, *, signed: bool = False) -> str:
    """Without the currency."""
    return amount_text(amount_minor, currency, signed=signed).rpartition(" ")[0]
