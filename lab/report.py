"""The report of a market for people, and its summary for programs."""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from cellbook.v1 import auction_pb2, event_pb2, saga_pb2
from lab.books import BUCKETS, CONSERVATION, Check, MoneyRow, clearing_left, money_rows, over_all
from lab.demo import Run
from lab.market import Market
from lab.play import Featured, Sale
from server.cli.report import mark, table
from server.cli.screen import literal
from server.cli.texts import ID_TAIL, amount, amount_text, hlc_text, posting_text

SALES_SHOWN_MAX = 40
_STATES = {
    auction_pb2.AUCTION_STATE_SETTLED: "settled",
    auction_pb2.AUCTION_STATE_UNSOLD: "no bid stood",
    auction_pb2.AUCTION_STATE_CANCELLED: "cancelled",
    auction_pb2.AUCTION_STATE_SETTLEMENT_FAILED: "rolled back",
}


def summary(run: Run, market: Market, started_s: float, set_up_s: float) -> dict[str, object]:
    """The one JSON object of --json."""
    left, ended = clearing_left(run.logs), Counter(sale.saga_state for sale in run.sales)
    failed = {check.name for check in run.checks if not check.held}
    return {
        "ok": not failed,
        "auctions": len(run.sales),
        "bids_accepted": sum(sale.accepted for sale in run.sales),
        "bids_refused": sum(sale.refused for sale in run.sales),
        "settlements_completed": ended[saga_pb2.SAGA_STATE_COMPLETED],
        "settlements_compensated": ended[saga_pb2.SAGA_STATE_COMPENSATED],
        "conservation_ok": not failed.intersection(CONSERVATION),
        "clearing_in_transit_minor": sum(abs(amount) for amount in left.values()),
        "elapsed_s": round(time.monotonic() - started_s, 3),
        "set_up_s": round(set_up_s, 3),
        "events": sum(len(events) for events in run.logs.values()),
        "retries": market.client.retries,
        "checks": [asdict(check) for check in run.checks],
        "results": [_result(sale) for sale in run.sales],
    }


def _result(sale: Sale) -> dict[str, object]:
    return {
        "auction": sale.lot.key,
        "accepted": sale.accepted,
        "refused": sale.refused,
        "winner": sale.winner_number,
        "price_minor": sale.price_minor,
        "currency": sale.lot.currency,
        "state": auction_pb2.AuctionState.Name(sale.state).removeprefix("AUCTION_STATE_"),
        "name": sale.auction.name,
    }


def tell(run: Run, console: Console, summed: dict[str, object]) -> None:
    """Prints the report, on a terminal or to a file."""
    section(console, "Who won what, for how much")
    console.print(_sales_table(run.sales[:SALES_SHOWN_MAX]))
    if len(run.sales) > SALES_SHOWN_MAX:
        console.print(f"... and {len(run.sales) - SALES_SHOWN_MAX:,} more; --json lists all")
    section(console, "Bids refused")
    console.print(_refusals_table(run.sales))
    if run.featured is not None:
        _tell_featured(run, run.featured, console)
    rows = money_rows(run.books)
    section(
        console,
        "Money in each cell and over all, added up from the event logs",
        "deposits - withdrawals = with users + escrow + fees + clearing (sent to other cells, less received)",
    )
    console.print(_money_table([*rows, *over_all(rows)]))
    section(console, "Checks, from the logs alone and against what the cells answer")
    tell_verdict(
        console,
        run.checks,
        f"{summed['auctions']:,} auctions, {summed['bids_accepted']:,} bids accepted and "
        f"{summed['bids_refused']:,} refused, {summed['settlements_completed']:,} settlements completed and "
        f"{summed['settlements_compensated']:,} rolled back, {summed['events']:,} events; "
        f"{summed['elapsed_s']:.1f} s, {summed['set_up_s']:.1f} s of it to start.",
    )


def section(console: Console, title: str, said: str = "") -> None:
    console.print()
    console.print(f"[bold]{literal(title)}[/bold]")
    if said:
        console.print(literal(said))


def tell_verdict(console: Console, checks: Sequence[Check], said: str) -> None:
    """Each check, and all of the run in one line."""
    for check in checks:
        console.print(f"{mark(held=check.held)} {literal(check.name)} [dim]({literal(check.detail)})[/dim]")
    failed, count = sum(not check.held for check in checks), len(checks)
    result = f"{failed} of {count} checks failed" if failed else f"All {count} checks held"
    console.print()
    console.print(f"{mark(held=not failed)} [bold]{literal(f'{result}: {said}')}[/bold]", soft_wrap=True)


def _tell_featured(run: Run, featured: Featured, console: Console) -> None:
    sale = featured.sale
    section(
        console,
        f"One settlement, event by event: {sale.lot.item} ({sale.auction.name})",
        f"saga {sale.saga_id}: {featured.winner.label} at {featured.winner.cell} pays "
        f"{sale.auction.seller.label} at {sale.auction.seller.cell}; merged by HLC, then by cell.",
    )
    one_line = ("#", "HLC (UTC)", "cell/position", "id", "caused by")
    made = table(*one_line, "event, leg, postings", right={"#"}, no_wrap=one_line)
    for row in trace_rows(run.trace, run.cast.labels):
        made.add_row(*row)
    console.print(made)
    section(console, "Winner and seller, before the close and after the settlement")
    console.print(_balances_table(featured))


def _sales_table(sales: Sequence[Sale]) -> Table:
    numbers = ("price", "bids", "refused")
    made = table("auction", "item", "sold in", "seller (home)", "winner (home)", *numbers, "outcome", right=numbers)
    for sale in sales:
        winner = f"{sale.winner.label} ({sale.winner.cell})" if sale.winner else "-"
        where = (sale.auction.cell, f"{sale.auction.seller.label} ({sale.auction.seller.cell})", winner)
        price = amount_text(sale.price_minor, sale.lot.currency) if sale.winner else "-"
        state = _STATES.get(sale.state, auction_pb2.AuctionState.Name(sale.state))
        texts = (sale.lot.key, sale.lot.item, *where, price, sale.accepted, sale.refused, state)
        made.add_row(*map(literal, texts))
    return made


def _refusals_table(sales: Sequence[Sale]) -> Table:
    reasons = sum((sale.refusals for sale in sales), Counter[str]())
    examples = {reason: text for sale in sales for reason, text in sale.examples.items()}
    made = table("reason", "bids", "for example", right={"bids"})
    for reason, count in reasons.most_common():
        made.add_row(literal(reason), f"{count:,}", literal(examples[reason]))
    return made


def trace_rows(events: Sequence[event_pb2.Event], names: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Number, stamp, place, id, cause, and the event with its leg and postings.

    `events` in order, the flow's first event first. `names`: user id -> label. A cause outside the flow has no number.
    """
    numbers = {event.event_id: number for number, event in enumerate(events, start=1)}

    def cause(event: event_pb2.Event) -> str:
        number, cause_id = numbers.get(event.causation_id), event.causation_id[-ID_TAIL:]
        return f"{f'#{number}' if number else 'before' if cause_id else 'a client'} {cause_id}".strip()

    def lines(event: event_pb2.Event) -> str:
        leg = str(json.loads(event.payload_json).get("leg", ""))
        head = f"[bold]{literal(event.event_type)}[/bold]{literal(f' {leg}' if leg else '')}"
        return "\n    ".join([head, *(literal(posting_text(each, names)) for each in event.postings)])

    rows: list[tuple[str, ...]] = []
    for number, event in enumerate(events, start=1):
        where, event_id = literal(f"{event.cell}/{event.position}"), literal(event.event_id[-ID_TAIL:])
        rows.append((str(number), hlc_text(event.hlc), where, event_id, literal(cause(event)), lines(event)))
    return rows


def _balances_table(featured: Featured) -> Table:
    currency = featured.sale.lot.currency
    made = table("who", "when", *BUCKETS, right=BUCKETS)
    for role, person in (("winner", featured.winner), ("seller", featured.sale.auction.seller)):
        who = {"before": f"{role}: {person.label} ({person.cell})", "after": ""}
        for when, snapshot in (("before", featured.before), ("after", featured.after)):
            balance = getattr(snapshot, role)
            amounts = (amount_text(getattr(balance, f"{bucket}_minor"), currency) for bucket in BUCKETS)
            made.add_row(literal(who[when]), when, *amounts)
    return made


def _money_table(rows: Sequence[MoneyRow]) -> Table:
    amounts = ("deposits", "withdrawals", "with users", "escrow", "fees", "clearing")
    made = table("cell", "currency", *amounts, "conserved", right=amounts)
    for row in rows:
        columns = (row.deposited, row.withdrawn, row.users, row.escrow, row.fees, row.clearing)
        texts = (amount(minor, row.currency) for minor in columns)
        made.add_row(literal(row.cell), literal(row.currency), *texts, mark(held=row.held))
    return made
