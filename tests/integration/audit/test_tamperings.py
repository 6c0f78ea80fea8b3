"""Each tampering of the table in docs/audit.md, done to a cell that runs: who names it, and who does not."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio

from cells.audit.proofs import checkpoint_signer
from cells.writer import leadership, writer
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.audit.tamper_rig import TOGETHER, Base, based, noticed
from tests.integration.audit.tamperings import TAMPERINGS, Tampering, nothing
from tests.integration.played import Templates
from tests.tamper_table import NOTICED, PAGE, page_with, table

CHUNK = 16
ROWS_LEAST = 40
ALL = (*TAMPERINGS, Tampering("nothing", nothing))


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
    turn, told = asyncio.Semaphore(TOGETHER), dict[str, tuple[str, ...]]()

    async def tell(tampering: Tampering) -> None:
        async with turn:
            found = await noticed(base, tampering.make, down=tampering.down, fresh=tampering.fresh)
            told[tampering.what] = found.row()

    await asyncio.gather(*map(tell, tamperings))
    expected = NOTICED | {"nothing": ("", "", "", "")}
    assert {what: (expected.get(what), row) for what, row in told.items() if row != expected.get(what)} == {}


def test_the_page_has_the_table() -> None:
    """`make pages` writes it, and each row of it was tried."""
    assert PAGE.read_text("utf-8") == page_with(table())
    assert [each.what for each in TAMPERINGS] == [*NOTICED]
    assert len(NOTICED) >= ROWS_LEAST
