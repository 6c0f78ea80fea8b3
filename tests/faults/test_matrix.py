"""The fault matrix on real processes: one thing goes wrong at one place of a settlement (docs/faults.md).

Chosen cases, or with FAULTS=all (`make faults`) every fault at every leg and compensation. Whatever it was: the saga
ends once, forward or back, each effect is there once, and no cent is missing in any cell.
"""

import os

import pytest

from tests.doubles.failpoints import GARBAGE, TROUBLES
from tests.e2e.cluster import AUCTION_CELL, SELLER_CELL, WINNER_CELL
from tests.faults.matrix import LEGS, PIVOT, REMOTE, SHORT_MS, UNDONE, Matrix, Place
from tests.local_cells import until

pytestmark = [
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(180),
]

ALL = os.environ.get("FAULTS") == "all"
FORTH = tuple(Place(leg=leg) for leg in LEGS)
BACK = tuple(Place(leg=leg, direction="compensation") for leg in UNDONE)
EVERYWHERE = (*FORTH, *BACK)
ASKED = tuple(place for place in EVERYWHERE if place.leg in REMOTE)
HOUR_MS = 3_600_000
# Of a settlement that has to pass its pivot before its deadline does.
LONG_MS = 15_000


def at(*chosen: Place, of: tuple[Place, ...] = EVERYWHERE) -> pytest.MarkDecorator:
    """The chosen places, or all there are."""
    return pytest.mark.parametrize("place", of if ALL else chosen, ids=str)


def goes_back(place: Place) -> bool:
    return place.direction == "compensation"


# --- processes and databases die ------------------------------------------------------------------------------------


@at(Place(leg="escrow-out"), Place(leg="credit-in", direction="compensation"))
@pytest.mark.parametrize("point", ["hold-taken", "hold-done"])
async def test_a_participant_is_killed(here: Matrix, place: Place, point: str) -> None:
    """Kill -9 of the leg's cell, before its commit, and after it and before the answer."""
    async with here.held(point, place) as won:
        await here.kill(place.cell)
    await here.settles(won, back=goes_back(place))


@at(Place(leg="escrow-in"), Place(leg="credit-in"), Place(leg="escrow-out", direction="compensation"))
@pytest.mark.parametrize("point", ["hold-taken", "hold-done"])
async def test_a_participants_database_is_killed(here: Matrix, place: Place, point: str) -> None:
    """As in a power cut: the cell that is left without it answers nothing definite, and goes on when it is back."""
    async with here.held(point, place) as won:
        await here.power_cut(place.cell)
    await here.settles(won, back=goes_back(place))


@at(Place(leg="credit-in"), Place(leg="pin", direction="compensation"))
async def test_the_orchestrator_is_killed_while_a_leg_is_out(here: Matrix, place: Place) -> None:
    """It goes on from its log alone, there and back: the leg that was out is asked for again, and was done once."""
    async with here.held("hold-done", place) as won:
        await here.kill(AUCTION_CELL)
    await here.settles(won, back=goes_back(place))


@at(Place(leg="settle"), of=ASKED)
async def test_a_participant_stands_still(here: Matrix, place: Place) -> None:
    """SIGSTOP for longer than an attempt: others are served meanwhile, and it goes on where it was."""
    async with here.held("hold-taken", place) as won:
        go_on = here.stop(place.cell)
        try:
            await here.tried(won)
            await here.somebody(AUCTION_CELL)
        finally:
            go_on()
    await here.settles(won, back=goes_back(place))


# --- calls and answers are lost, late or wrong ----------------------------------------------------------------------


@at(Place(leg="credit-in"), Place(leg="escrow-out", direction="compensation"), of=ASKED)
async def test_answers_are_lost(here: Matrix, place: Place) -> None:
    """Calls arrive, answers do not: the leg is done, asked for again, and done once."""
    async with here.held("hold-done", place) as won:
        here.mesh.ways[AUCTION_CELL, place.cell].mute()
    await here.tried(won)
    await here.settles(won, back=goes_back(place))


@at(Place(leg="settle"), Place(leg="pin", direction="compensation"), of=ASKED)
async def test_calls_are_lost(here: Matrix, place: Place) -> None:
    """Nothing arrives one way, while the other cell can still ask this one."""
    here.add(AUCTION_CELL, f"hold/{place}")
    won = await here.on_its_way(place)
    await here.is_at(won, place)
    here.mesh.ways[AUCTION_CELL, place.cell].cut(answers=False)
    here.drop(AUCTION_CELL, f"hold/{place}")
    await here.tried(won)
    payer, payee = await here.rich(place.cell), await here.rich(AUCTION_CELL)
    await here.pay(payer, payee, 100)
    await here.settles(won, back=goes_back(place))


@pytest.mark.parametrize("place", [FORTH[0], BACK[0]], ids=str)
async def test_everything_is_slow(here: Matrix, place: Place) -> None:
    """Each message between cells takes its time, there and back."""
    for way in here.mesh.ways.values():
        way.delay_s = 0.2
    won = await here.on_its_way(place)
    await here.over(won)
    await here.settles(won, back=goes_back(place))


@at(Place(leg="credit-in"), of=tuple(Place(leg=leg) for leg in UNDONE if leg in REMOTE))
async def test_an_action_comes_after_its_compensation(here: Matrix, place: Place) -> None:
    """The cell says that it cannot, and does it later: by then it was undone, and is not done any more."""
    here.add(place.cell, f"late/{place}")
    seen = len(here.lines(place.cell))
    won = await here.on_its_way(place, timeout_ms=SHORT_MS)
    await here.over(won)
    here.drop(place.cell, f"late/{place}")
    await until(lambda: any("late_leg_refused" in line for line in here.lines(place.cell)[seen:]))
    await here.settles(won, back=True)


@at(Place(leg="escrow-out"), of=ASKED)
@pytest.mark.parametrize("kind", [*TROUBLES, GARBAGE])
@pytest.mark.parametrize("when", ["", "-done"] if ALL else ["-done"])
async def test_a_participant_answers_nonsense(here: Matrix, place: Place, kind: str, when: str) -> None:
    """Whatever it says that is no definite no is unknown: asked again until it makes sense, done once."""
    here.add(place.cell, f"answer-{kind}{'' if kind == GARBAGE else when}/{place}")
    won = await here.on_its_way(place)
    await here.tried(won)
    await here.settles(won, back=goes_back(place))


# --- time -----------------------------------------------------------------------------------------------------------


async def test_the_deadline_passes_at_every_leg(here: Matrix) -> None:
    """Each of them cannot be done until it has: up to the pivot all turn back, after it they go on."""
    going = {}
    for place in reversed(FORTH):
        here.add(place.cell, f"answer-UNAVAILABLE/{place}")
        late = FORTH.index(place) > LEGS.index(PIVOT)
        going[place] = await here.on_its_way(place, timeout_ms=LONG_MS if late else SHORT_MS)
        await here.tried(going[place])
        await here.is_at(going[place], place) if late else None
    for place, won in going.items():
        await here.deadline(won)
        if LEGS.index(place.leg) <= LEGS.index(PIVOT):
            await here.over(won)
    here.calm()
    for place, won in going.items():
        await here.settles(won, back=LEGS.index(place.leg) <= LEGS.index(PIVOT))


@pytest.mark.parametrize("cell", [AUCTION_CELL, WINNER_CELL, SELLER_CELL] if ALL else [SELLER_CELL])
@pytest.mark.parametrize("offset_ms", [HOUR_MS, -HOUR_MS], ids=["ahead", "behind"])
async def test_a_clock_jumps(here: Matrix, cell: str, offset_ms: int) -> None:
    """The cell writes nothing until its clock is right again: nothing ends early, and nobody follows it."""
    place = Place(leg="credit-in")
    async with here.held("hold-taken", place) as won:
        here.add(cell, f"clock/{offset_ms}")
    await here.tried(won)
    await here.settles(won)


@pytest.mark.parametrize("offset_ms", [HOUR_MS, -HOUR_MS], ids=["ahead", "behind"])
async def test_a_cell_is_killed_while_its_clock_is_wrong(here: Matrix, offset_ms: int) -> None:
    """It promised nothing by the wrong clock, in any of its beats: its successor, by the right one, need not wait."""
    place = Place(leg="credit-in")
    async with here.held("hold-taken", place) as won:
        here.add(place.cell, f"clock/{offset_ms}")
    await here.tried(won)
    # The wrong clock shows nowhere but in what is promised by it.
    await here.beats(place.cell, 4)
    here.calm()
    await here.kill(place.cell)
    await here.settles(won)


@pytest.mark.parametrize("offset_ms", [8_000, -HOUR_MS], ids=["ahead", "behind"])
async def test_a_clock_is_wrong_from_the_start(here: Matrix, offset_ms: int) -> None:
    """Ahead, the cell is shunned; behind, it does not lead: it cannot know that it gave out no later stamp before."""
    place = Place(leg="credit-in")
    async with here.held("hold-taken", place) as won:
        here.add(place.cell, f"clock/{offset_ms}")
    await here.kill(place.cell)
    await here.tried(won)
    here.calm()
    await here.kill(place.cell)
    await here.settles(won)


# --- the night, in other orders -------------------------------------------------------------------------------------


async def test_links_are_cut_one_after_another_and_mended_in_another_order(here: Matrix) -> None:
    """Until each cell is alone, and back; a settlement begins before each cut and after the last."""
    pairs = [(WINNER_CELL, AUCTION_CELL), (AUCTION_CELL, SELLER_CELL), (WINNER_CELL, SELLER_CELL)]
    first, *others = [await here.won(f"lamp {number}") for number in range(len(pairs) + 1)]
    await here.market.close(first.auction)
    for won, pair in zip(others, pairs, strict=True):
        here.mesh.cut(*pair)
        await here.market.close(won.auction)
    for cell in (WINNER_CELL, AUCTION_CELL, SELLER_CELL):
        await here.rich(cell)
    for one, other in (pairs[1], pairs[2], pairs[0]):
        for way in here.mesh.between(one, other):
            way.mend()
        await here.rich(one)
    for won in (first, *others):
        await here.settles(won)
