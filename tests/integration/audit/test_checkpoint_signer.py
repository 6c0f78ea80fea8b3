"""The log's tree and its checkpoints on a real database: made beside the writer, taken up again, never forked."""

from hashlib import sha256
from itertools import pairwise

import asyncpg
import pytest

from cells.audit.proofs import tree
from cells.audit.proofs.ports import SignedCheckpoint
from cells.audit.proofs.store import PostgresProofs
from cells.audit.proofs.tree import TreeIncomplete, TreeReader
from cells.audit.verify.note import checkpoint_in
from cells.audit.verify.tree import Frontier, Tile, is_consistent, is_included, leaf_hash, split, tree_root
from cells.domain.audit.refusals import CheckpointNotFound, EventNotFound, LogTampered, NotSignedYet
from cells.domain.refusals import DataLost, Refused
from server.shell.postgres.database import connect
from tests.integration.audit.proof_rig import KEYS, CheckpointInMemory, proving
from tests.integration.audit.superuser import unguard
from tests.integration.database import CELL, CELL_ROLE, ask, opened
from tests.integration.rows import NOW
from tests.local_cells import build_cell, leading, open_user, until

TILES = 259
# Enough that a tile of the second level is full, and a few leaves stand at the edge.
LEAVES = 256 * TILES + 37


async def root_of(dsn: str, size: int) -> bytes:
    """From the rows, the slow and simple way."""
    rows = await ask(dsn, "SELECT leaf_hash FROM event_store WHERE position <= $1 ORDER BY position", size)
    return tree_root([leaf for (leaf,) in rows])


def checked(checkpoint: SignedCheckpoint) -> SignedCheckpoint:
    """Signed by the cell's key, and what the row says."""
    found = checkpoint_in(checkpoint.text, [KEYS.log.verifier])
    assert (found.size, found.root) == (checkpoint.size, checkpoint.root)
    return checkpoint


async def fill(dsn: str, count: int) -> None:
    """So many rows of no content but a leaf hash, as an older program without a tree has left them behind."""
    await ask(
        dsn,
        """
        WITH added AS (
            INSERT INTO event_store
            SELECT n, gen_random_uuid(), 'DEPOSITED', gen_random_uuid(), 1, NULL, gen_random_uuid(), 1000 + n, 0,
                   '{}', '{}', '{}', NULL, now(), sha256(n::text::bytea)
            FROM generate_series(1, $1::int) n
            RETURNING position
        )
        INSERT INTO head (cell, position) SELECT 'us-east', max(position) FROM added
        """,
        count,
    )


async def test_checkpoints_are_signed_beside_the_writer(cell_dsn: str) -> None:
    """After so many events, and so long after the last: each the root of the rows up to there, each grown out of the

    one before. The last is signed when the cell stops.
    """
    async with proving(cell_dsn) as rig:
        sizes = []
        for commands in (1, 3, 300, 260):
            await rig.write(commands)
            sizes.append(checked(await rig.signed()).size)
        rig.checkpoint_signer.pause_max_s = 3_600.0
        rig.checkpoint_signer.events_max = 1_000_000
        await rig.write(1)
    assert sizes == [1, 4, 304, 564]
    async with proving(cell_dsn) as rig:
        all_signed = await rig.proofs.checkpoints(1, 100)
        assert [each.size for each in all_signed][-1] == 565
        for old, new in pairwise(all_signed):
            grown = await rig.prover.consistency(old.size, new.size)
            assert is_consistent(old.size, new.size, old.root, new.root, grown.path)
        for each in all_signed:
            assert checked(each).root == await root_of(cell_dsn, each.size)
    assert await ask(cell_dsn, "SELECT level, place FROM log_tiles ORDER BY 1, 2") == [(0, 0), (0, 1)]


async def test_a_long_log_without_a_tree_is_caught_up_with(cell_dsn: str) -> None:
    """An upgrade, or a lead that was lost: tile by tile, over three levels. Proofs read a few tiles then."""
    await fill(cell_dsn, LEAVES)
    async with proving(cell_dsn) as rig:
        await until(lambda: rig.checkpoint_signer.last is not None)
        checkpoint = checked(await rig.signed())
        assert checkpoint.size == LEAVES
        assert checkpoint.root == await root_of(cell_dsn, LEAVES)
        assert await ask(cell_dsn, "SELECT level, count(*) FROM log_tiles GROUP BY 1 ORDER BY 1") == [
            (0, TILES),
            (1, 1),
        ]
        for size in (1, 255, 256, 257, 65_535, 65_536, 65_537, LEAVES):
            assert await TreeReader(rig.proofs, size).root() == await root_of(cell_dsn, size)
        leaves = {n: sha256(str(n).encode()).digest() for n in (1, 256, 257, 65_536, 65_537, LEAVES)}
        assert split(await rig.proofs.leaf_hashes(256, 257)) == [leaves[257]]


async def test_the_tree_is_read_while_it_lags_behind(cell_dsn: str) -> None:
    """Full tiles of the last seconds are made anew; where there are too many, it is said, and an export goes on."""
    await fill(cell_dsn, 256 * 3 + 7)
    async with opened(cell_dsn) as store:
        proofs = PostgresProofs(pool=store.reads)
        for size in (256, 511, 512, 775):
            assert await TreeReader(proofs, size).root() == await root_of(cell_dsn, size)
        await proofs.add_tiles((await frontier_tiles(cell_dsn))[:2])
        assert await TreeReader(proofs, 775).root() == await root_of(cell_dsn, 775)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(tree, "BEHIND_MAX", 0)
            with pytest.raises(TreeIncomplete, match="tiles 2 to 2 of level 0 are not there yet"):
                await TreeReader(proofs, 775).root()


async def frontier_tiles(dsn: str) -> list[Tile]:
    frontier, tiles = Frontier(), list[Tile]()
    for (leaf,) in await ask(dsn, "SELECT leaf_hash FROM event_store ORDER BY position"):
        tiles += frontier.add(leaf)
    return tiles


async def test_what_the_cell_wrote_is_signed_and_not_what_became_of_it(cell_dsn: str) -> None:
    """A superuser who is faster than the next checkpoint changes rows, and not what is signed."""
    async with proving(cell_dsn, events_max=1_000_000, pause_max_s=3_600.0) as rig:
        await rig.write(300)
        truth = await root_of(cell_dsn, 300)
        await unguard(cell_dsn, "event_store")
        await ask(cell_dsn, "UPDATE event_store SET leaf_hash = sha256('x') WHERE position IN (7, 299)")
        rig.checkpoint_signer.events_max = 1
        assert (await rig.signed()).root == truth != await root_of(cell_dsn, 300)


async def test_a_start_compares_the_rows_with_what_was_signed(cell_dsn: str) -> None:
    """Rather than sign a second branch of the log. It goes on serving, without a signature under it."""
    async with proving(cell_dsn) as rig:
        await rig.write(5)
        signed = await rig.signed()
    await unguard(cell_dsn, "event_store")
    await ask(cell_dsn, "UPDATE event_store SET leaf_hash = sha256('x') WHERE position = 3")
    async with proving(cell_dsn) as rig:
        await until(lambda: rig.checkpoint_signer.broken)
        await rig.write(1)
        assert "position 5" in rig.checkpoint_signer.broken
        assert rig.checkpoint_signer.last == signed
        with pytest.raises(LogTampered, match="position 3"):
            await rig.prover.inclusion(3)
        with pytest.raises(LogTampered, match="position 2"):
            await rig.prover.inclusion(2)


async def test_a_database_older_than_what_is_known_of_it_is_not_written_to(cell_dsn: str) -> None:
    """A stale restore: what the process remembers, from beside its key or from its own lead, is more than there is."""
    async with proving(cell_dsn) as rig:
        await rig.write(3)
    async with opened(cell_dsn) as store:
        cell = build_cell(CELL, store)
        cell.time.remember(4)
        async with leading(cell):
            with pytest.raises(DataLost, match="own position 4, beyond its head 3"):
                await open_user(cell)
    async with opened(cell_dsn) as store:
        cell = build_cell(CELL, store)
        cell.time.remember(3)
        async with leading(cell):
            await open_user(cell)
    assert await ask(cell_dsn, "SELECT position FROM head") == [(4,)]


async def test_a_fork_that_grew_past_the_memo_is_found(cell_dsn: str) -> None:
    """A stale backup that was put back, and written to elsewhere meanwhile: as long, and not the same."""
    checkpoint_file = CheckpointInMemory()
    async with proving(cell_dsn, checkpoint_file=checkpoint_file) as rig:
        await rig.write(5)
        await rig.signed()
    await unguard(cell_dsn, "event_store", "checkpoints", "cosignatures")
    await ask(cell_dsn, "DELETE FROM event_store WHERE position = 5")
    await ask(cell_dsn, "DELETE FROM checkpoints WHERE size = 5")
    await ask(cell_dsn, "UPDATE head SET position = 4")
    async with proving(cell_dsn) as rig:
        await rig.write(2)
    async with proving(cell_dsn, checkpoint_file=checkpoint_file) as rig:
        await until(lambda: rig.checkpoint_signer.broken)
        assert "position 5 are not those that were signed" in rig.checkpoint_signer.broken


async def test_every_event_can_be_proved(cell_dsn: str) -> None:
    """By the checkpoint asked for, or the best that holds it; the verifier takes the proof."""
    async with proving(cell_dsn) as rig:
        await rig.write(20)
        first = await rig.signed()
        await rig.write(20)
        last = await rig.signed()
        for position, size in ((1, 0), (20, 0), (1, first.size), (20, first.size), (40, 0), (33, last.size)):
            proof = await rig.prover.inclusion(position, size)
            assert proof.checkpoint == (first if size == first.size else last)
            leaf = leaf_hash(proof.event)
            assert is_included(leaf, position - 1, proof.checkpoint.size, proof.path, proof.checkpoint.root)


async def test_what_cannot_be_proved_is_said(cell_dsn: str) -> None:
    """Positions before the first and beyond the head, sizes that were never signed, events that are not signed yet."""
    async with proving(cell_dsn) as rig:
        with pytest.raises(NotSignedYet):
            await rig.prover.checkpoint()
        await rig.write(3)
        await rig.signed()
        rig.checkpoint_signer.events_max, rig.checkpoint_signer.pause_max_s = 1_000_000, 3_600.0
        await rig.write(3)
        asked: list[tuple[type[Refused], object]] = [
            (EventNotFound, rig.prover.inclusion(7)),
            (EventNotFound, rig.prover.inclusion(0)),
            (NotSignedYet, rig.prover.inclusion(4)),
            (NotSignedYet, rig.prover.inclusion(4, 3)),
            (CheckpointNotFound, rig.prover.inclusion(1, 2**62)),
            (CheckpointNotFound, rig.prover.checkpoint(2**62)),
            (CheckpointNotFound, rig.prover.consistency(2**62)),
        ]
        for kind, question in asked:
            with pytest.raises(kind):
                await question  # type: ignore[misc]
        assert (await rig.prover.checkpoint()).position == 6


@pytest.mark.parametrize("table", ["log_tiles", "checkpoints", "cosignatures"])
async def test_what_was_signed_is_never_changed(cell_dsn: str, table: str) -> None:
    """Not by a mistake either: the database refuses, whoever asks; the cell may not even try."""
    async with proving(cell_dsn) as rig:
        await rig.write(257)
        checkpoint = await rig.signed()
        await rig.proofs.add_cosignature(checkpoint.size, "cellbook/x/witness", "line", NOW)
    for change in ("UPDATE {} SET {} = {}", "DELETE FROM {}", "TRUNCATE {} CASCADE"):
        column = "root" if table != "cosignatures" else "line"
        with pytest.raises(asyncpg.PostgresError, match="what has happened stays"):
            await ask(cell_dsn, change.format(table, column, column))
    connection = await connect(cell_dsn, role=CELL_ROLE, application="test")
    try:
        for change in (f"DELETE FROM {table}", f"TRUNCATE {table}", f"ALTER TABLE {table} DISABLE TRIGGER append_only"):  # noqa: S608
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(change)
    finally:
        await connection.close()
