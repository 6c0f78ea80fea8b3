"""`cellbook demo` and `cellbook replay`: a market over three cells, from registration to the last check."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cellbook.v1 import auction_pb2, audit_pb2, event_pb2, ledger_pb2, saga_pb2
from lab import books, play
from lab.books import Books, Check, Logs, found
from lab.lots import FileBid, Lot, expected, read_lots
from lab.market import Market, whole
from server.cli.audit.trace import problems
from server.cli.client import LedgerRefusal, new_command_id
from server.cli.report import stage

SAMPLE = Path(__file__).parent / "data" / "sample_bids.csv"
# Yen have no minor unit: 180000 is 180,000 JPY.
YEN_CELL = "ap-tokyo"
YEN_BIDS = ((3, 180_000), (7, 195_000), (5, 195_000), (3, 210_000), (8, 240_000), (5, 260_000))
YEN_LOT = Lot(
    key="1900",
    item="woodblock print",
    opening_minor=180_000,
    currency="JPY",
    bids=tuple(FileBid(bidder=bidder, amount_minor=amount_minor) for bidder, amount_minor in YEN_BIDS),
)
CALLED_OFF = Lot(key="1901", item="signal flags", opening_minor=4_000, bids=())
UNSOLD = Lot(key="1902", item="umbrella stand", opening_minor=900_000, bids=())


@dataclass(slots=True, kw_only=True)
class Run:
    """The sales that were played, and the evidence from the logs."""

    cast: play.Cast
    sales: list[play.Sale]
    featured: play.Featured | None
    logs: dict[str, list[event_pb2.Event]] = field(default_factory=dict)
    books: list[Books] = field(default_factory=list)
    trace: list[event_pb2.Event] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)


async def play_lots(market: Market, lots: Sequence[Lot]) -> Run:
    """Plays every lot. The sale that crosses the most cells is closed last and alone, so that it can be examined."""
    cast = await play.gather_cast(market, lots)
    spread = play.places(lots, market.cell_names, cast.sellers)
    special = play.featured_index(lots, spread, cast.bidders)

    async def one(index: int) -> play.Sale:
        sale = await play.play_bids(market, lots[index], spread[index], cast.bidders, bids.advance)
        if index != special:
            await play.close(market, sale, cast.bidders)
        return sale

    with stage(f"{len(lots)} auctions: bids", sum(len(lot.bids) for lot in lots)) as bids:
        sales = await play.side_by_side(range(len(lots)), one, limit=play.AUCTIONS_AT_ONCE)
    with stage("settling") as under_way:
        await market.wait_until_quiet(under_way.left)
    await play.side_by_side(sales, lambda sale: play.update(market, sale))
    featured = None
    if special is not None:
        with stage("settling one more, to be traced", 1):
            featured = await play.close_featured(market, sales[special], cast.bidders)
    return Run(cast=cast, sales=sales, featured=featured)


async def examine(market: Market, run: Run) -> None:
    """Reads the logs of all cells and checks them, and the sales, from outside."""
    with stage("reading the logs and checking them"):
        await market.wait_until_quiet()
        run.logs = await market.logs()
        run.books = books.add_up(run.logs)
        run.checks += books.check_log(run.logs, run.books)
        run.checks.append(books.balances_agree(run.books, await _reported_balances(market, run)))
        assets = await play.side_by_side(run.sales, lambda sale: market.asset(sale.auction))
        run.checks += [all_settled(run.sales), assets_owned(run.sales, {asset.name: asset for asset in assets})]
        if run.featured is not None:
            traced = await market.trace(run.featured.sale.saga_id)
            run.trace = sorted((each.event for each in traced.events), key=books.order)
            run.checks.append(featured_paid(run.featured, run.trace))
            run.checks.append(featured_traced(run.featured, traced, run.logs))


async def _reported_balances(market: Market, run: Run) -> dict[str, dict[str, dict[str, ledger_pb2.Balance]]]:
    # The new home reports the balance of users who have moved: here they must have nothing left.
    users = [(own.cell, user) for own in run.books for user in own.users() - own.left]
    answers = await play.side_by_side(users, lambda user: market.balances(*user))
    reported: dict[str, dict[str, dict[str, ledger_pb2.Balance]]] = {}
    for (cell, user_id), answer in zip(users, answers, strict=True):
        reported.setdefault(cell, {})[user_id] = answer
    return reported


async def run_replay(lots: Sequence[Lot], market: Market) -> Run:
    run = await play_lots(market, lots)
    run.checks.append(sold_as_expected(run.sales))
    await examine(market, run)
    return run


def lots(cells: list[str]) -> list[Lot]:
    """The sample's lots, with one in yen when Tokyo's turn comes."""
    sample = read_lots(SAMPLE)
    turn = cells.index(YEN_CELL) if YEN_CELL in cells else len(sample)
    return [*sample[:turn], YEN_LOT, *sample[turn:]]


async def run_demo(market: Market) -> Run:
    run = await play_lots(market, lots(market.cell_names))
    as_expected = sold_as_expected(run.sales)
    with stage("one auction cancelled, one without a bid that stands", 2) as done:
        run.sales.append(await _called_off(market, run))
        done.advance()
        run.sales.append(await _unsold(market, run))
        done.advance()
    run.checks += [as_expected, await _same_command_twice(market, run)]
    if run.featured is not None:
        seller, proceeds = run.featured.sale.auction.seller, run.featured.after.seller
        await market.withdraw(seller, proceeds.currency, proceeds.available_minor)
    await examine(market, run)
    return run


async def _called_off(market: Market, run: Run) -> play.Sale:
    """Two bids are accepted, then the auction is cancelled and a third bid is refused; all get their money back."""
    place = play.Place(cell=market.cell_names[1], seller=run.cast.sellers[0])
    bidders = list(run.cast.bidders.values())
    sale = await play.play_bids(market, CALLED_OFF, place, {})
    for bidder, amount_minor in zip(bidders, (4_000, 4_500), strict=False):
        await play.place_bid(market, sale, bidder, amount_minor)
    await market.cancel(sale.auction)
    sale.state = auction_pb2.AUCTION_STATE_CANCELLED
    await play.place_bid(market, sale, bidders[2], 5_000)
    return sale


async def _unsold(market: Market, run: Run) -> play.Sale:
    """Every bid breaks a rule: nobody wins, and the asset stays with its seller."""
    here = market.cell_names[0]
    seller, regular = run.cast.sellers[1], next(iter(run.cast.bidders.values()))
    await market.deposit(seller, "USD", 2_000_000)
    poor = await market.person("somebody with no money", here, 100)
    await market.deposit(poor, "EUR", 2_000_000)
    sale = await play.play_bids(market, UNSOLD, play.Place(cell=here, seller=seller), {})
    for bidder, amount_minor, currency in (
        (poor, 900_000, "USD"),
        (seller, 1_000_000, "USD"),
        (regular, 1_000, "USD"),
        (poor, 1_500_000, "EUR"),
    ):
        await play.place_bid(market, sale, bidder, amount_minor, currency)
    await play.close(market, sale, run.cast.bidders)
    return sale


async def _same_command_twice(market: Market, run: Run) -> Check:
    """A repeat gets the first answer and moves nothing; the same id for another request is refused."""
    person = next(iter(run.cast.bidders.values()))
    command_id = new_command_id()
    first = await market.deposit(person, "USD", 1_000, command_id=command_id)
    again = await market.deposit(person, "USD", 1_000, command_id=command_id)
    now = (await market.balances(person.cell, person.user_id))["USD"].available_minor
    wrong = []
    if not again.receipt.replayed or again.receipt.token != first.receipt.token:
        wrong.append("the repeat was not told the first answer")
    if now != first.balance.available_minor:
        wrong.append(f"{first.balance.available_minor} after the first, {now} after the repeat")
    try:
        await market.deposit(person, "USD", 2_000, command_id=command_id)
        wrong.append("another request under the same id was taken")
    except LedgerRefusal as refusal:
        if refusal.reason != "COMMAND_ID_REUSED":
            wrong.append(f"another request under the same id was refused with {refusal.reason}")
    return found("the same command twice is done once", wrong, "a deposit sent twice")


def sold_as_expected(sales: Sequence[play.Sale]) -> Check:
    """Each auction ended as an ascending auction must: `expected` is computed from the bids alone."""
    wrong = []
    for sale in sales:
        due = expected(sale.lot)
        got = (sale.accepted, sale.refused, sale.winner_number, sale.price_minor)
        wanted = (due.accepted, due.refused, due.winner, due.price_minor)
        if got != wanted:
            wrong.append(f"auction {sale.lot.key}: (accepted, refused, winner, price) {got}, not {wanted}")
    return found("every auction sold as its bids demand", wrong, f"{len(sales)} auctions")


def all_settled(sales: Sequence[play.Sale]) -> Check:
    won = [sale for sale in sales if sale.winner]
    wrong = [
        f"auction {sale.lot.key}: {auction_pb2.AuctionState.Name(sale.state)},"
        f" saga {saga_pb2.SagaState.Name(sale.saga_state)}"
        for sale in won
        if sale.state != auction_pb2.AUCTION_STATE_SETTLED or sale.saga_state != saga_pb2.SAGA_STATE_COMPLETED
    ]
    return found("every win settled", wrong, f"{len(won)} settlements completed")


def assets_owned(sales: Sequence[play.Sale], assets: Mapping[str, auction_pb2.Asset]) -> Check:
    """`assets`: by resource name. Each belongs to the winner, or still to the seller, and is not locked."""
    wrong = []
    for sale in sales:
        owner, asset = sale.winner or sale.auction.seller, assets[sale.auction.asset]
        if (asset.owner_user_id, asset.owner_cell, asset.locked_by) != (owner.user_id, owner.cell, ""):
            held = f"{asset.owner_user_id} in {asset.owner_cell}, locked by {asset.locked_by or 'nothing'}"
            wrong.append(f"{sale.lot.item}: {held}, not {owner.label}'s")
    return found("every asset with its winner or its seller", wrong, f"{len(sales)} assets")


def featured_paid(featured: play.Featured, trace: Sequence[event_pb2.Event]) -> Check:
    """The winner paid the price; the seller received the price less the fee in the log."""
    price = featured.sale.price_minor
    fee = sum(
        int(json.loads(event.payload_json)["fee_minor"]) for event in trace if event.event_type == "PENDING_SETTLED"
    )
    paid = whole(featured.before.winner) - whole(featured.after.winner)
    earned = whole(featured.after.seller) - whole(featured.before.seller)
    wrong = [f"the winner paid {paid}, the price is {price}"] * (paid != price)
    wrong += [f"the seller got {earned}, due are {price} less {fee}"] * (earned != price - fee)
    return found("winner and seller moved by the price", wrong, f"{price:,} paid, {fee:,} of it fee")


def featured_traced(featured: play.Featured, traced: audit_pb2.TraceResponse, logs: Logs) -> Check:
    """The trace is complete, and holds every event of the settlement that is in any log."""
    ids = {each.event.event_id for each in traced.events}
    of_saga = {
        event.event_id for events in logs.values() for event in events if event.correlation_id == featured.sale.saga_id
    }
    wrong = [*problems(traced), *(f"event {event_id} is not in it" for event_id in sorted(of_saga - ids))]
    return found("the settlement's trace is what the logs say", wrong, f"{len(ids)} events, {len(of_saga)} of its own")
