"""Placement of new users: by weight, and always the same for one user."""

import math
import random
from collections import Counter
from dataclasses import replace
from uuid import UUID

import pytest

from router.directory.placement import place
from router.directory.topology import Cell, CellState, Topology

SEED = 20_260_101
# Five standard deviations: a correct hash fails once in two million tries, and the seed is fixed anyway.
DEVIATIONS = 5


def cell(name: str, weight: int = 100, region: str = "eu", state: CellState = CellState.ACTIVE) -> Cell:
    return Cell(name=name, region=region, endpoints=("127.0.0.1:1",), weight=weight, state=state)


def users(count: int) -> list[UUID]:
    chance = random.Random(SEED)
    return [UUID(int=chance.getrandbits(128), version=4) for _ in range(count)]


def spread(among: list[UUID], cells: list[Cell]) -> Counter[str]:
    return Counter(home.name for user in among if (home := place(user, cells)) is not None)


@pytest.mark.parametrize("weights", [(100, 100, 100), (100, 200, 700), (1, 1_000), (100,), (5, 0, 5)])
def test_each_cell_gets_its_share(weights: tuple[int, ...]) -> None:
    """A cell gets its weight's share of all users, within the limits of chance."""
    cells = [cell(f"cell-{number}", weight) for number, weight in enumerate(weights)]
    count = 20_000
    got = spread(users(count), cells)
    for each in cells:
        share = each.weight / sum(weights)
        bound = DEVIATIONS * math.sqrt(count * share * (1 - share))
        assert abs(got[each.name] - count * share) <= bound


def test_users_numbered_in_order_spread_as_well() -> None:
    """Ids that differ in only a few bits, as of version 7, are spread as well."""
    got = spread([UUID(int=number) for number in range(4_000)], [cell("a"), cell("b")])
    assert abs(got["a"] - 2_000) <= DEVIATIONS * math.sqrt(4_000 / 4)


def test_a_new_cell_takes_its_share_and_moves_nobody_else() -> None:
    """Users who do not go to the new cell stay where they were."""
    before = [cell("a", 100), cell("b", 300)]
    after = [*before, cell("c", 100)]
    everybody = users(10_000)
    moved = [user for user in everybody if place(user, before) != place(user, after)]
    assert {home.name for user in moved if (home := place(user, after))} == {"c"}
    assert abs(len(moved) - 2_000) <= DEVIATIONS * math.sqrt(10_000 * 0.2 * 0.8)


def test_modulo_would_move_nearly_everybody() -> None:
    """Ablation: with a remainder instead of scores, most users move when a cell is added."""
    before = [cell("a"), cell("b"), cell("c")]
    after = [*before, cell("d")]

    def by_remainder(user: UUID, cells: list[Cell]) -> Cell:
        return cells[user.int % len(cells)]

    moved = sum(by_remainder(user, before) != by_remainder(user, after) for user in users(2_000))
    assert moved > 1_000


def test_more_weight_only_draws_users_in() -> None:
    """A cell whose weight rises loses none of its users."""
    before, after = [cell("a", 100), cell("b", 100)], [cell("a", 150), cell("b", 100)]
    assert all(place(user, after) == after[0] for user in users(5_000) if place(user, before) == before[0])


def test_neither_order_nor_endpoints_matter() -> None:
    """Only the user and the names and weights of the cells decide."""
    cells = [cell("a"), cell("b"), cell("c")]
    moved = [replace(each, endpoints=("10.0.0.1:1",)) for each in reversed(cells)]
    assert spread(users(500), cells) == spread(users(500), moved)
    assert all(
        (one := place(user, cells)) and (two := place(user, moved)) and one.name == two.name for user in users(500)
    )


def test_a_placement_written_down() -> None:
    """The hash does not change unnoticed: placements are stable only under the same hash."""
    cells = [cell("us-east"), cell("eu-west"), cell("ap-tokyo")]
    homes = [place(UUID(int=number), cells) for number in range(1, 9)]
    assert [home.name for home in homes if home] == [
        "eu-west",
        "ap-tokyo",
        "ap-tokyo",
        "ap-tokyo",
        "ap-tokyo",
        "eu-west",
        "us-east",
        "us-east",
    ]


@pytest.mark.parametrize("digest", [b"\x00" * 32, b"\xff" * 32])
def test_the_ends_of_the_hash_have_scores_too(monkeypatch: pytest.MonkeyPatch, digest: bytes) -> None:
    """No user's hash is 0 or 1, where the logarithm gives no score."""

    class Extreme:
        def digest(self) -> bytes:
            return digest

    monkeypatch.setattr("router.directory.placement.hashlib.sha256", lambda _: Extreme())
    assert place(UUID(int=1), [cell("a"), cell("b")]) is not None


def test_no_weight_no_users() -> None:
    """If no cell has any weight, there is no placement."""
    assert place(UUID(int=1), []) is None
    assert place(UUID(int=1), [cell("a", 0)]) is None


def test_residency_leaves_only_cells_of_the_region() -> None:
    """A region's users get only its active cells, even if there are none; without a region all active cells."""
    topology = Topology(
        [
            cell("us-east", region="us"),
            cell("eu-west", region="eu"),
            cell("eu-old", region="eu", state=CellState.DRAINING),
            cell("ap-old", region="ap", state=CellState.DOWN),
        ]
    )
    assert [each.name for each in topology.open_to_new_users("eu")] == ["eu-west"]
    assert topology.open_to_new_users("ap") == []
    assert topology.open_to_new_users("sa") == []
    assert [each.name for each in topology.open_to_new_users("")] == ["eu-west", "us-east"]
