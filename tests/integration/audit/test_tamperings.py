"""Each tampering of the table in docs/audit.md, done to a cell that runs: who names it, and who does not."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from cells.audit.proofs import checkpoint_signer
from cells.writer import leadership, writer
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.audit.tamper_rig import TOGETHER, Base, based, noticed
from tests.integration.audit.tamperings import TAMPERINGS, Tampering, nothing
from tests.integration.played import Templates

CHUNK = 16
ROWS_LEAST = 40
PAGE = Path(__file__).resolve().parents[3] / "docs" / "audit.md"
WHY = "nothing: "
ALL = (*TAMPERINGS, Tampering("nothing", nothing))


def page_rows() -> dict[str, tuple[str, ...]]:
    """What is done, and what each column of the page's table says of it."""
    _, _, rest = PAGE.read_text("utf-8").partition("<!-- tamperings: begin -->\n")
    lines = rest.partition("<!-- tamperings: end -->")[0].splitlines()
    assert lines[0] == "| what is done | alarm | `reconcile` | `verify` | witness |"
    rows = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines[2:]]
    return {what: tuple(row) for what, *row in rows}


def noticed_by(row: Sequence[str]) -> tuple[str, ...]:
    """Who notices it by that row; empty: nobody of this column."""
    return tuple("" if column == "-" or column.startswith(WHY) else column.strip("`") for column in row)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def base(cluster: EmbeddedPostgres, market: Templates) -> AsyncIterator[Base]:
    """Neither beats nor looks come in between, and nobody waits for a leader that has ended."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(checkpoint_signer, "POLL_S", 0.01)
        patched.setattr(writer, "BEAT_S", 3_600.0)
        patched.setattr(leadership, "TAKEOVER_S", 0.0)
        async with based(cluster, market.names) as built:
            yield built


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("tamperings", [ALL[first : first + CHUNK] for first in range(0, len(ALL), CHUNK)])
async def test_whoever_may_notice_a_tampering_does(base: Base, tamperings: Sequence[Tampering]) -> None:
    """As the page says it, cell by cell: neither less than it promises nor more; where nothing was done, nothing is."""
    turn, rows = asyncio.Semaphore(TOGETHER), dict[str, tuple[str, ...]]()

    async def tamper(tampering: Tampering) -> None:
        async with turn:
            found = await noticed(base, tampering.make, down=tampering.down, fresh=tampering.fresh)
            rows[tampering.what] = found.row()

    await asyncio.gather(*map(tamper, tamperings))
    expected = {what: noticed_by(row) for what, row in page_rows().items()} | {"nothing": ("", "", "", "")}
    assert {what: (expected.get(what), row) for what, row in rows.items() if row != expected.get(what)} == {}


def test_each_row_of_the_page_is_tried() -> None:
    """And a row that nobody notices says why."""
    rows = page_rows()
    assert [each.what for each in TAMPERINGS] == [*rows]
    assert len(rows) >= ROWS_LEAST
    for row in rows.values():
        assert any(noticed_by(row)) != row[0].startswith(WHY), row
