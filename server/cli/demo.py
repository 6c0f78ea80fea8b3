"""`cellbook demo`: a small market over three cells, from registration to the last check."""

from collections import Counter
from collections.abc import Awaitable
from dataclasses import replace

from cellbook.v1 import auction_pb2
from server.cli.bidfile import FileBid, Lot, read_lots
from server.cli.checks import Check, found
from server.cli.client import LedgerRefusal, new_command_id
from server.cli.market import Market, Person
from server.cli.outcomes import sold_as_expected
from server.cli.play import Sale, close
from server.cli.progress import Progress
from server.cli.run import Run, examine, play
from server.cli.sample import PATH

# Yen have no minor unit: 180000 is 180,000 JPY.
YEN_CELL = "ap-tokyo"
YEN_LOT = Lot(
    key="1900",
    item="woodblock print",
    opening_minor=180_000,
    currency="JPY",
    bids=tuple(
        FileBid(bidder=bidder, amount_minor=amount_minor)
        for bidder, amount_minor in (
            (3, 180_000),
            (7, 195_000),
            (5, 195_000),
            (3, 210_000),
            (8, 240_000),
            (5, 260_000),
        )
    ),
)
CALLED_OFF = Lot(key="1901", item="signal flags", opening_minor=4_000, bids=())
UNSOLD = Lot(key="1902", item="umbrella stand", opening_minor=900_000, bids=())


def lots(cells: list[str]) -> list[Lot]:
    """The sample's lots, with one in yen when Tokyo's turn comes."""
    sample = read_lots(PATH)
    turn = cells.index(YEN_CELL) if YEN_CELL in cells else len(sample)
    return [*sample[:turn], YEN_LOT, *sample[turn:]]


async def run_demo(market: Market, progress: Progress) -> Run:
    run = await play(market, lots(market.cell_names), progress)
    as_expected = sold_as_expected(run.sales)
    with progress.stage("one auction cancelled, one without a bid that stands", 2) as stage:
        run.sales.append(await _called_off(market, run))
        stage.advance()
        run.sales.append(await _unsold(market, run))
        stage.advance()
    run.checks += [as_expected, await _same_command_twice(market, run)]
    await _withdraw_proceeds(market, run)
    await examine(market, run, progress)
    return run


async def _called_off(market: Market, run: Run) -> Sale:
    """Two bids are accepted, then the auction is cancelled and a third bid is refused; all get their money back."""
    cells = market.cell_names
    seller, bidders = run.cast.sellers[0], list(run.cast.bidders.values())[:3]
    auction = await market.open_auction(cells[1], seller, CALLED_OFF.item, "USD", CALLED_OFF.opening_minor)
    for bidder, amount_minor in zip(bidders[:2], (4_000, 4_500), strict=True):
        await market.bid(bidder, auction, "USD", amount_minor)
    await market.cancel(auction)
    sale = Sale(lot=CALLED_OFF, auction=auction, accepted=2, state=auction_pb2.AUCTION_STATE_CANCELLED)
    return await _refused(sale, market.bid(bidders[2], auction, "USD", 5_000))


async def _unsold(market: Market, run: Run) -> Sale:
    """Every bid breaks a rule: nobody wins, and the asset stays with its seller."""
    cells = market.cell_names
    seller, regular = run.cast.sellers[1], next(iter(run.cast.bidders.values()))
    await market.deposit(seller, "USD", 2_000_000)
    auction = await market.open_auction(cells[0], seller, UNSOLD.item, "USD", UNSOLD.opening_minor)
    sale = Sale(lot=UNSOLD, auction=auction)
    poor = await market.register("somebody with no money", cells[0])
    await market.deposit(poor, "USD", 100)
    for bidder, currency, amount_minor in (
        (poor, "USD", 900_000),
        (seller, "USD", 1_000_000),
        (regular, "USD", 1_000),
    ):
        sale = await _refused(sale, market.bid(bidder, auction, currency, amount_minor))
    await market.deposit(poor, "EUR", 2_000_000)
    sale = await _refused(sale, market.bid(poor, auction, "EUR", 1_500_000))
    return await close(market, sale, run.cast.bidders)


async def _refused(sale: Sale, bid: Awaitable[object]) -> Sale:
    """The sale with one more refusal; an accepted bid is recorded too, and the checks then report it."""
    try:
        await bid
    except LedgerRefusal as refusal:
        refusals = sale.refusals + Counter([refusal.reason])
        return replace(sale, refusals=refusals, examples={**sale.examples, refusal.reason: refusal.message})
    return replace(sale, accepted=sale.accepted + 1)


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


async def _withdraw_proceeds(market: Market, run: Run) -> None:
    """The traced sale's seller withdraws everything that is available."""
    if run.featured is None:
        return
    seller: Person = run.featured.sale.auction.seller
    proceeds = run.featured.after.seller
    await market.withdraw(seller, proceeds.currency, proceeds.available_minor)
