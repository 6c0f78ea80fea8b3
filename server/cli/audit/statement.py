"""`cellbook audit statement`: prints each movement of an account as a table, CSV or JSON, and checks the sums."""

import csv
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, TextIO, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from cellbook.v1 import audit_pb2, ledger_pb2, types_pb2
from server.cli.client import CellStubs
from server.cli.reach import Reach
from server.cli.report import plain, show, table, tell_verdict
from server.cli.screen import literal
from server.cli.texts import MOMENT, account_text, amount, parse_moment, point_text, stamp_text, utc
from server.shell.fields.texts import shown

PAGE = 1_000
# Characters that begin a formula in a spreadsheet.
_FORMULAS = frozenset("=+-@")
_AMOUNT = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
BUCKETS = ("available", "reserved", "pending")
CSV_COLUMNS = (
    *("position", "time_utc", "hlc", "event_id", "event_type", "currency"),
    *(f"{bucket}_{side}" for bucket in BUCKETS for side in ("before", "change", "after")),
    *("counter_postings", "causation_id", "cause_event_type", "correlation_id", "command_id", "principal"),
)

At = Annotated[str, typer.Option("--at", metavar="MOMENT", help=MOMENT)]
User = Annotated[str, typer.Argument(metavar="USER", help="The user's id.")]
PageReply = TypeVar("PageReply", audit_pb2.ListBalancesResponse, audit_pb2.GetStatementResponse)


class Form(StrEnum):
    TABLE = "table"
    CSV = "csv"
    JSON = "json"


@dataclass(slots=True, kw_only=True)
class Statement:
    cell: str
    user_id: str
    # The first page, with the totals and the two end points.
    head: audit_pb2.GetStatementResponse
    movements: list[audit_pb2.Movement] = field(default_factory=list)
    # There are more movements than the limit.
    more: bool = False

    def problems(self) -> Iterator[str]:
        """The sums that do not add up, recomputed by this program. Empty if all do."""
        if self.more:
            yield f"it was cut off after {len(self.movements):,} movements: --limit shows more"
            return
        for total in self.head.totals:
            yield from self._problems_of(total)

    def _problems_of(self, total: audit_pb2.StatementTotal) -> Iterator[str]:
        currency, running, count = total.closing.currency, buckets(total.opening), 0
        for each in self.movements:
            if each.after.currency != currency:
                continue
            count += 1
            if buckets(each.before) != running:
                yield f"position {each.position}: {currency} before it is not what was after the movement above it"
            running = tuple(map(sum, zip(buckets(each.before), buckets(each.change), strict=True)))
            if buckets(each.after) != running:
                yield f"position {each.position}: {currency} after it is not what was before it and its change"
        if running != buckets(total.closing) or count != total.movements or not total.proved:
            yield f"{currency}: the movements do not come to the closing balance"


async def run_statement(  # noqa: PLR0917 - as many options
    reach: Reach,
    user_id: User,
    after: Annotated[str, typer.Option("--from", metavar="MOMENT", help="After this moment. " + MOMENT)] = "",
    until: Annotated[str, typer.Option("--to", metavar="MOMENT", help="Up to and including this moment.")] = "",
    currency: Annotated[str, typer.Option("--currency", help="Only this currency: EUR")] = "",
    form: Annotated[Form, typer.Option("--format", help="How to print it.")] = Form.TABLE,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=10_000_000, help="The maximum number of movements.")
    ] = 100_000,
) -> None:
    """Show each movement of an account with the balance before and after it. Exit code 0 only if it adds up."""
    request = audit_pb2.GetStatementRequest(user_id=user_id, to=parse_moment(until), currency=currency)
    if (begun := parse_moment(after)) is not None:
        getattr(request, "from").CopyFrom(begun)
    statement = await fetched(await reach.home_of(user_id), request, limit)
    wrong = "; ".join(statement.problems())
    problems = [f"this statement is not proved: {wrong}"] * bool(wrong)
    printed: Callable[[Console], None] = (
        (lambda _: write_csv(sys.stdout, statement.movements))
        if form is Form.CSV
        else lambda console: tell(console, statement)
    )
    show(lambda: statement_json(statement), printed, problems, as_json=form is Form.JSON)


async def fetched(cell: CellStubs, request: audit_pb2.GetStatementRequest, limit: int) -> Statement:
    request.page_size = min(limit, PAGE)
    head, movements = audit_pb2.GetStatementResponse(), list[audit_pb2.Movement]()
    more = False
    async for page in pages(cell, cell.audit.GetStatement, request):
        head = head if movements else page
        movements += page.movements
        more = bool(page.next_page_token) or len(movements) > limit
        if len(movements) >= limit:
            break
    return Statement(cell=cell.name, user_id=request.user_id, head=head, movements=movements[:limit], more=more)


async def pages(
    cell: CellStubs,
    method: Callable[..., Awaitable[PageReply]],
    request: audit_pb2.ListBalancesRequest | audit_pb2.GetStatementRequest,
) -> AsyncIterator[PageReply]:
    """The pages of an answer, one after the other. Raises ClientError, LedgerRefusal."""
    while True:
        page = await cell.ask(method, request)
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def buckets(balance: ledger_pb2.Balance) -> tuple[int, ...]:
    return balance.available_minor, balance.reserved_minor, balance.pending_minor


def changes(movement: audit_pb2.Movement) -> list[tuple[str, int]]:
    """The buckets that it changes, and by how much."""
    moved = zip(BUCKETS, buckets(movement.change), strict=True)
    return [(bucket, amount_minor) for bucket, amount_minor in moved if amount_minor]


def amounts(balance: ledger_pb2.Balance) -> list[str]:
    """The buckets without the currency."""
    return [amount(each, balance.currency) for each in buckets(balance)]


# --- for programs ---------------------------------------------------------------------------------------------------


def statement_json(statement: Statement) -> dict[str, Any]:
    head = plain(statement.head)
    return {
        "cell": statement.cell,
        "user_id": statement.user_id,
        "from": head["from"],
        "to": head["to"],
        "proved": not list(statement.problems()),
        "totals": head["totals"],
        "movements": [plain(movement) for movement in statement.movements],
    }


def write_csv(file: TextIO, movements: Iterable[audit_pb2.Movement], *, header: bool = True) -> None:
    """Writes exact amounts in major units, and times in UTC."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([CSV_COLUMNS] * header)
    writer.writerows(map(_csv_row, movements))


def _csv_row(each: audit_pb2.Movement) -> list[str]:
    currency = each.after.currency
    columns = zip(buckets(each.before), buckets(each.change), buckets(each.after), strict=True)
    against = (f"{line.account} {decimal_text(line.amount_minor, currency)}" for line in each.counter_postings)
    cells = [
        str(each.position),
        f"{utc(each.recorded_at_us):%Y-%m-%dT%H:%M:%S.%fZ}",
        f"{each.hlc.physical_ms}+{each.hlc.logical}",
        each.event_id,
        each.event_type,
        currency,
        *(decimal_text(each_minor, currency) for column in columns for each_minor in column),
        "; ".join(against),
        each.causation_id,
        each.cause_event_type,
        each.correlation_id,
        each.command_id,
        each.principal,
    ]
    return list(map(csv_cell, cells))


def csv_cell(text: str) -> str:
    """The text, visible and never a formula in a spreadsheet: only an amount may begin with a sign."""
    visible = shown(text)
    return visible if visible[:1] not in _FORMULAS or _AMOUNT.fullmatch(visible) else f"'{visible}"


def decimal_text(amount_minor: int, currency: str) -> str:
    """The amount without a currency or thousands separators, for programs."""
    return amount(amount_minor, currency).replace(",", "")


# --- for people -----------------------------------------------------------------------------------------------------


def tell(console: Console, statement: Statement) -> None:
    start: types_pb2.AsOfPoint = getattr(statement.head, "from")
    console.print(f"[bold]{literal(statement.user_id)}[/bold] in {literal(statement.cell)}", soft_wrap=True)
    console.print(f"from {literal(point_text(start))}", soft_wrap=True)
    console.print(f"to   {literal(point_text(statement.head.to))}", soft_wrap=True)
    for total in statement.head.totals:
        of_it = [each for each in statement.movements if each.after.currency == total.closing.currency]
        console.print()
        console.print(_table(total, of_it))
    if not statement.head.totals:
        console.print("no movement in all that time, and nothing before it")
    tell_verdict(console, list(statement.problems()), map(proof_text, statement.head.totals))


def proof_text(total: audit_pb2.StatementTotal) -> str:
    currency, columns = total.closing.currency, (total.opening, total.change, total.closing)
    parts = (
        f"{bucket} {amount(had, currency)} {'-' if change < 0 else '+'} {amount(abs(change), currency)}"
        f" = {amount(left, currency)}"
        for bucket, had, change, left in zip(BUCKETS, *map(buckets, columns), strict=True)
    )
    return f"{currency}: opening + {total.movements:,} movements = closing: {', '.join(parts)}"


def _table(total: audit_pb2.StatementTotal, movements: Sequence[audit_pb2.Movement]) -> Table:
    currency = total.closing.currency
    columns = ("position", "HLC (UTC)", "what", "against", "change", *BUCKETS)
    made = table(*columns, right={"position", *BUCKETS}, no_wrap={"HLC (UTC)"})
    made.add_row("", "", f"[bold]opening, {literal(currency)}[/bold]", "", "", *amounts(total.opening))
    for each in movements:
        cause = f"\n[dim]by {literal(each.cause_event_type)}[/dim]" if each.cause_event_type else ""
        against = "\n".join(
            literal(f"{account_text(line.account, {})} {amount(line.amount_minor, currency, signed=True)}")
            for line in each.counter_postings
        )
        change = "\n".join(f"{bucket} {amount(changed, currency, signed=True)}" for bucket, changed in changes(each))
        what = f"{literal(each.event_type)}{cause}"
        made.add_row(str(each.position), stamp_text(each.hlc), what, against, change, *amounts(each.after))
    made.add_row("", "", f"[bold]closing, {literal(currency)}[/bold]", "", "", *amounts(total.closing))
    return made
