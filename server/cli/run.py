"""A complete run of a market, from registration to the checks: shared by demo and replay."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console

from cellbook.v1 import auction_pb2, event_pb2, ledger_pb2, saga_pb2
from server.cli import checks as log_checks
from server.cli import outcomes
from server.cli.bidfile import Lot
from server.cli.books import Books, add_up, clearing_left, money_rows, over_all
from server.cli.checks import Check, order
from server.cli.market import Market
from server.cli.play import (
    AUCTIONS_AT_ONCE,
    Cast,
    Featured,
    Sale,
    close,
    close_featured,
    featured_index,
    gather_cast,
    places,
    play_bids,
    settled,
    side_by_side,
)
from server.cli.progress import Progress
from server.cli.report import Report
from server.cli.trace import trace_rows


@dataclass(slots=True, kw_only=True)
class Run:
    """The sales that were played, and the evidence from the logs."""

    cast: Cast
    sales: list[Sale]
    featured: Featured | None
    logs: dict[str, list[event_pb2.Event]] = field(default_factory=dict)
    books: list[Books] = field(default_factory=list)
    trace: list[event_pb2.Event] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    @property
    def held(self) -> bool:
        return all(check.held for check in self.checks)


async def play(market: Market, lots: Sequence[Lot], progress: Progress) -> Run:
    """Plays every lot. The sale that crosses the most cells is closed last and alone, so that it can be examined."""
    cast = await gather_cast(market, lots, progress)
    spread = places(lots, market.cell_names, cast.sellers)
    special = featured_index(lots, spread, cast.bidders)

    async def one(index: int) -> Sale:
        sale = await play_bids(market, lots[index], spread[index], cast.bidders, stage.advance)
        return sale if index == special else await close(market, sale, cast.bidders)

    with progress.stage(f"{len(lots)} auctions: bids", sum(len(lot.bids) for lot in lots)) as stage:
        sales = await side_by_side(range(len(lots)), one, limit=AUCTIONS_AT_ONCE)
    with progress.stage("settling", 0) as stage:
        await market.wait_until_quiet(stage.left)
    sales = await side_by_side(sales, lambda sale: settled(market, sale))
    featured = None
    if special is not None:
        with progress.stage("settling one more, to be traced", 1):
            sales[special], featured = await close_featured(market, sales[special], cast.bidders)
    return Run(cast=cast, sales=sales, featured=featured)


async def examine(market: Market, run: Run, progress: Progress) -> None:
    """Reads the logs of all cells and checks them, and the sales, from outside."""
    with progress.stage("reading the logs and checking them", 0):
        await market.wait_until_quiet()
        run.logs = await market.log()
        run.books = add_up(run.logs)
        run.checks += log_checks.check_log(run.logs, run.books)
        run.checks.append(log_checks.balances_agree(run.books, await _told_balances(market, run)))
        run.checks += await _sale_checks(market, run)
        if run.featured is not None:
            traced = await market.trace(run.featured.sale.saga_id)
            run.trace = sorted((each.event for each in traced.events), key=order)
            run.checks.append(outcomes.featured_paid(run.featured, run.trace))
            run.checks.append(outcomes.featured_traced(run.featured, traced, run.logs))


async def _told_balances(market: Market, run: Run) -> dict[str, dict[str, dict[str, ledger_pb2.Balance]]]:
    # The new home reports the balance of users who have moved: here they must have nothing left.
    users = [(own.cell, user) for own in run.books for user in own.users() - own.left]
    answers = await side_by_side(users, lambda user: market.balances(*user))
    told: dict[str, dict[str, dict[str, ledger_pb2.Balance]]] = {}
    for (cell, user_id), answer in zip(users, answers, strict=True):
        told.setdefault(cell, {})[user_id] = answer
    return told


async def _sale_checks(market: Market, run: Run) -> list[Check]:
    assets = await side_by_side(run.sales, lambda sale: market.asset(sale.auction))
    by_name = {asset.name: asset for asset in assets}
    return [outcomes.all_settled(run.sales), outcomes.assets_owned(run.sales, by_name)]


def summary(run: Run, market: Market, started_s: float, set_up_s: float) -> dict[str, object]:
    """The one JSON object of --json."""
    left = clearing_left(run.logs)
    failed = {check.name for check in run.checks if not check.held}
    return {
        "ok": run.held,
        "auctions": len(run.sales),
        "bids_accepted": sum(sale.accepted for sale in run.sales),
        "bids_refused": sum(sale.refused for sale in run.sales),
        "settlements_completed": _sagas(run, saga_pb2.SAGA_STATE_COMPLETED),
        "settlements_compensated": _sagas(run, saga_pb2.SAGA_STATE_COMPENSATED),
        "conservation_ok": not failed.intersection(log_checks.CONSERVATION),
        "clearing_in_transit_minor": sum(abs(amount) for amount in left.values()),
        "elapsed_s": round(time.monotonic() - started_s, 3),
        "set_up_s": round(set_up_s, 3),
        "events": sum(len(events) for events in run.logs.values()),
        "retries": market.client.retries,
        "checks": [{"name": c.name, "held": c.held, "detail": c.detail} for c in run.checks],
        "results": [_result(sale) for sale in run.sales],
    }


def _sagas(run: Run, state: "saga_pb2.SagaState.ValueType") -> int:
    return sum(sale.saga_state == state for sale in run.sales)


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
    report = Report(console)
    report.section("Who won what, for how much")
    report.sales(run.sales)
    report.section("Bids refused")
    report.refusals(run.sales)
    if run.featured is not None:
        _tell_featured(run, run.featured, report)
    rows = money_rows(run.books)
    report.section(
        "Money in each cell and over all, added up from the event logs",
        "deposits - withdrawals = with users + escrow + fees + clearing (sent to other cells, less received)",
    )
    report.money([*rows, *over_all(rows)])
    report.section("Checks, from the logs alone and against what the cells answer")
    report.checks(run.checks)
    report.verdict(_verdict(run, summed), held=run.held)


def _verdict(run: Run, summed: dict[str, object]) -> str:
    """The run in one line."""
    failed, count = sum(not check.held for check in run.checks), len(run.checks)
    return (
        f"{f'{failed} of {count} checks failed' if failed else f'All {count} checks held'}: "
        f"{summed['auctions']:,} auctions, {summed['bids_accepted']:,} bids accepted and "
        f"{summed['bids_refused']:,} refused, {summed['settlements_completed']:,} settlements completed and "
        f"{summed['settlements_compensated']:,} rolled back, {summed['events']:,} events; "
        f"{summed['elapsed_s']:.1f} s, {summed['set_up_s']:.1f} s of it to start."
    )


def _tell_featured(run: Run, featured: Featured, report: Report) -> None:
    sale = featured.sale
    people = {user_id: person.label for user_id, person in run.cast.by_user_id().items()}
    report.section(
        f"One settlement, event by event: {sale.lot.item} ({sale.auction.name})",
        f"saga {sale.saga_id}: {featured.winner.label} at {featured.winner.cell} pays "
        f"{sale.auction.seller.label} at {sale.auction.seller.cell}; merged by HLC, then by cell.",
    )
    report.trace(trace_rows(run.trace, people))
    report.section("Winner and seller, before the close and after the settlement")
    report.balances(featured)
