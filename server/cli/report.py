"""The report for people: plain text if it is piped, colors only on a terminal."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.table import Table

from cellbook.v1 import auction_pb2, ledger_pb2
from server.cli.books import MoneyRow
from server.cli.checks import Check
from server.cli.play import Featured, Sale
from server.cli.screen import Screen, literal
from server.cli.trace import TraceRow, amount_text

# The command was asked for JSON.
AS_JSON: ContextVar[bool] = ContextVar("as_json", default=False)
# Wide enough for every table, if there is no terminal to ask.
PIPED_WIDTH = 140
SALES_SHOWN_MAX = 40
_STATES = {
    auction_pb2.AUCTION_STATE_SETTLED: "settled",
    auction_pb2.AUCTION_STATE_UNSOLD: "no bid stood",
    auction_pb2.AUCTION_STATE_CANCELLED: "cancelled",
    auction_pb2.AUCTION_STATE_SETTLEMENT_FAILED: "rolled back",
}


@contextmanager
def stdout() -> Iterator[Console]:
    """A terminal as it is; for a pipe, lines wide enough and without trailing blanks."""
    console = Screen()
    if console.is_terminal:
        yield console
        return
    console = Screen(width=PIPED_WIDTH)
    with console.capture() as captured:
        yield console
    for line in captured.get().splitlines():
        print(line.rstrip(), flush=True)


def line(said: str) -> None:
    """Shows one line of an ongoing operation at once."""
    with stdout() as console:
        console.print(said, soft_wrap=True)


def stderr() -> Console:
    return Screen(stderr=True)


class Report:
    def __init__(self, console: Console) -> None:
        self._console = console

    def section(self, title: str, said: str = "") -> None:
        self._console.print()
        self._console.print(f"[bold]{literal(title)}[/bold]")
        if said:
            self._console.print(literal(said))

    def sales(self, sales: Sequence[Sale]) -> None:
        columns = ("auction", "item", "sold in", "seller (home)", "winner (home)", "price", "bids", "refused")
        table = _table(*columns, "outcome")
        for column in table.columns[5:8]:
            column.justify = "right"
        for sale in sales[:SALES_SHOWN_MAX]:
            table.add_row(*(literal(text) for text in _sale(sale)))
        self._console.print(table)
        if len(sales) > SALES_SHOWN_MAX:
            self._console.print(f"... and {len(sales) - SALES_SHOWN_MAX:,} more; --json lists all")

    def refusals(self, sales: Sequence[Sale]) -> None:
        reasons = sum((sale.refusals for sale in sales), Counter[str]())
        examples = {reason: text for sale in sales for reason, text in sale.examples.items()}
        table = _table("reason", "bids", "for example")
        table.columns[1].justify = "right"
        for reason, count in reasons.most_common():
            table.add_row(literal(reason), f"{count:,}", literal(examples[reason]))
        self._console.print(table)

    def trace(self, rows: Sequence[TraceRow]) -> None:
        table = _table("#", "HLC (UTC)", "cell/position", "id", "caused by", "event, leg, postings")
        table.columns[0].justify = "right"
        for column in table.columns[:-1]:
            column.no_wrap = True
        for row in rows:
            cause = f"#{row.cause}" if row.cause else "a client" if not row.cause_id else "before"
            event = f"[bold]{literal(row.event_type)}[/bold]{literal(f' {row.leg}' if row.leg else '')}"
            table.add_row(
                str(row.number),
                row.hlc,
                literal(f"{row.cell}/{row.position}"),
                literal(row.event_id),
                literal(f"{cause} {row.cause_id}".strip()),
                "\n    ".join([event, *(literal(posting) for posting in row.postings)]),
            )
        self._console.print(table)

    def balances(self, featured: Featured) -> None:
        currency = featured.sale.lot.currency
        table = _table("who", "when", "available", "reserved", "pending")
        for column in table.columns[2:]:
            column.justify = "right"
        winner, seller = featured.winner, featured.sale.auction.seller
        told: list[tuple[str, str, ledger_pb2.Balance]] = [
            (f"winner: {winner.label} ({winner.cell})", "before", featured.before.winner),
            ("", "after", featured.after.winner),
            (f"seller: {seller.label} ({seller.cell})", "before", featured.before.seller),
            ("", "after", featured.after.seller),
        ]
        for who, when, balance in told:
            amounts = (balance.available_minor, balance.reserved_minor, balance.pending_minor)
            table.add_row(literal(who), when, *(amount_text(amount, currency) for amount in amounts))
        self._console.print(table)

    def money(self, rows: Sequence[MoneyRow]) -> None:
        amounts = ("deposits", "withdrawals", "with users", "escrow", "fees", "clearing")
        table = _table("cell", "currency", *amounts, "conserved")
        for column in table.columns[2:-1]:
            column.justify = "right"
        for row in rows:
            columns = (row.deposited, row.withdrawn, row.users, row.escrow, row.fees, row.clearing)
            texts = (amount_text(amount, row.currency).rpartition(" ")[0] for amount in columns)
            table.add_row(literal(row.cell), literal(row.currency), *texts, _mark(held=row.held))
        self._console.print(table)

    def checks(self, checks: Sequence[Check]) -> None:
        for check in checks:
            self._console.print(f"{_mark(held=check.held)} {literal(check.name)} [dim]({literal(check.detail)})[/dim]")

    def verdict(self, said: str, *, held: bool) -> None:
        self._console.print()
        self._console.print(f"{_mark(held=held)} [bold]{literal(said)}[/bold]", soft_wrap=True)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    for column in columns:
        table.add_column(column)
    return table


def _sale(sale: Sale) -> tuple[str, ...]:
    seller = sale.auction.seller
    return (
        sale.lot.key,
        sale.lot.item,
        sale.auction.cell,
        f"{seller.label} ({seller.cell})",
        f"{sale.winner.label} ({sale.winner.cell})" if sale.winner else "-",
        amount_text(sale.price_minor, sale.lot.currency) if sale.winner else "-",
        str(sale.accepted),
        str(sale.refused),
        _STATES.get(sale.state, auction_pb2.AuctionState.Name(sale.state)),
    )


def _mark(*, held: bool) -> str:
    return "[green]ok[/green]" if held else "[red bold]NO[/red bold]"
