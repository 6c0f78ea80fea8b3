"""The consolidated trial balance of a run with many faults, at every cut that it has."""

import json
from collections import Counter

import pytest

from cells.audit.verify.books import CellBooks, consolidated
from tests.simulation.world import World, played

# Without a hostile cell, whose log cannot be read.
SEEDS = (6, 16, 26, 36)
# Whose money was in transit, as a sale's and a moving user's.
SENT = {"ESCROW_SENT", "ESCROW_PAID_OUT", "BALANCE_DEPARTED"}


@pytest.fixture(scope="module")
def worlds() -> dict[int, World]:
    built = {seed: World(seed) for seed in SEEDS}
    assert not [each for each in built.values() if played(each)]
    return built


@pytest.fixture(params=SEEDS)
def world(request: pytest.FixtureRequest, worlds: dict[int, World]) -> World:
    return worlds[request.param]


def test_money_is_in_transit_in_these_runs(worlds: dict[int, World]) -> None:
    """Of every kind in one run or another: one alone may have none."""
    assert {row.event_type for world in worlds.values() for log in world.databases.values() for row in log.log} >= SENT


def test_at_every_cut_all_cells_and_what_is_in_transit_come_to_zero(world: World) -> None:
    """In transit is exactly the money that was sent and has not arrived, including settlements and moves."""
    cells = {cell: CellBooks(cell=cell) for cell in world.cells}
    rows = [(row.hlc_physical, row.hlc_logical, cell, row) for cell in cells for row in world.databases[cell].log]
    under_way = Counter[str]()
    for _, _, cell, row in sorted(rows, key=lambda each: each[:3]):
        payload = json.loads(row.payload)
        cells[cell].add(payload)
        for line in payload.get("postings", ()):
            if line["account"].startswith("clearing/"):
                under_way[payload["clearing_id"]] += int(line["amount_minor"])
        found = consolidated([*cells.values()])
        assert found.problems == []
        assert all(own + transit == 0 for own, transit in found.totals().values())
        expected = {clearing_id: amount for clearing_id, amount in under_way.items() if amount}
        assert {each.clearing_id: each.amount_minor for each in found.in_transit} == expected
        assert all({each.sender, each.receiver} <= set(cells) for each in found.in_transit)
        assert found.in_transit or row.event_type not in SENT


def test_a_cut_that_is_not_one_moment_does_not_add_up(world: World) -> None:
    """If the cells were not asked for the same stamp, more would have arrived than was sent: this is reported."""
    for cell in world.cells:
        books = [CellBooks(cell=each) for each in world.cells]
        [late] = [each for each in books if each.cell == cell]
        for row in world.databases[cell].log:
            late.add(json.loads(row.payload))
        received = any(amount < 0 for amount in late.movements.values())
        problems = consolidated(books).problems
        assert any("more than" in each for each in problems) == received


def test_a_cell_that_is_left_out_is_named(world: World) -> None:
    """A cell with which nothing but whole movements were exchanged may be left out: its part of the sums is zero."""
    cells = books_of(world)
    for absent in cells:
        others = [each for each in cells if each is not absent]
        moved = any(amount for each in others for (peer, _, _), amount in each.movements.items() if peer == absent.cell)
        problems = consolidated(others).problems
        assert any(f"{absent.cell} is not among the cells" in each for each in problems) == moved


def test_a_cell_is_missed_though_its_movements_cancel_out() -> None:
    """Sent under one id and received under another, the clearing account is at zero, and the cell still took part."""
    books = CellBooks(cell="eu-west")
    for number, amount in ((1, 500), (2, -500)):
        lines = [("clearing/us-east", amount), ("house/cash", -amount)]
        books.add(
            {
                "clearing_id": f"00000000-0000-7000-8000-00000000000{number}",
                "postings": [{"account": each, "currency": "USD", "amount_minor": str(of)} for each, of in lines],
            }
        )
    problems = consolidated([books]).problems
    assert any("clearing/us-east holds 0 USD, and us-east is not among the cells" in each for each in problems)


def test_a_movement_that_the_clearing_account_lacks_is_named(world: World) -> None:
    cells = books_of(world)
    cells[0].movements[cells[1].cell, "00000000-0000-7000-8000-000000000000", "USD"] += 5
    problems = consolidated(cells).problems
    assert any("its movements come to" in each for each in problems)
    assert any("the sum is not zero" in each for each in problems)


def books_of(world: World) -> list[CellBooks]:
    cells = [CellBooks(cell=cell) for cell in world.cells]
    for books in cells:
        for row in world.databases[books.cell].log:
            books.add(json.loads(row.payload))
    return cells
