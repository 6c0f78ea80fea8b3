"""What the docs draw from the code is what the code says now."""

from pathlib import Path

import pytest

from cells.domain.events import EVENT_TYPES
from tests.pages import PAGES, PARTS_OF_PAGES, drawn, events_page, leaves, refusals_page


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_page_is_fresh(path: Path) -> None:
    """`make pages` writes it."""
    assert path.read_text("utf-8") == PAGES[path]()


@pytest.mark.parametrize(("path", "marker"), PARTS_OF_PAGES)
def test_the_part_of_the_page_is_fresh(path: Path, marker: str) -> None:
    """`make pages` writes it."""
    assert path.read_text("utf-8") == drawn(path, marker)


def test_nothing_is_left_out() -> None:
    """Each reason and each type of event has its row, and each refusal's row says what to do."""
    events = events_page()
    rows = {line.split("`")[1]: line.split(" | ") for line in refusals_page().splitlines() if line.startswith("| `")}
    assert rows.keys() == {refused.reason for refused in leaves()}
    assert all(len(row) == 6 and row[-1].strip(" |") for row in rows.values())
    assert all(f"`{event_type}`" in events for event_type in EVENT_TYPES)
    assert rows["WRONG_CELL"][3] == "`resource`, `cell`, `here`, `epoch`, `home_cell`"
    assert rows["BID_TOO_LOW"][2] == "yes"
    assert rows["IN_PROGRESS"][2] == "no"
