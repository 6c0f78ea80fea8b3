"""Checkpoints are numbered: one that is missing is found, in the middle, at the end, or with all that came after.

A log that is restored whole, with its cell's checkpoint file and its witnesses, is found by a checkpoint that is kept.
"""

import pytest

from cells.audit.export.exporter import Wanted
from cells.audit.proofs.keys import checkpoint_body
from cells.audit.proofs.ports import SignedCheckpoint
from cells.audit.reconcile.one_pass import BOOKS
from cells.audit.verify.export import check_export
from cells.audit.verify.note import Checkpoint, checkpoint_in, sequence_in
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.audit.proof_rig import KEYS, CheckpointInMemory, Rig, export_of, proving
from tests.integration.audit.superuser import unguard
from tests.integration.database import another, ask

SIZES = (2, 4, 6)
MISSED = "position 6: a checkpoint of size 6 is held and is not in the export: it was deleted"


async def grow(rig: Rig, *sizes: int) -> list[SignedCheckpoint]:
    """Signs at each of these sizes."""
    signed = []
    for size in sizes:
        await rig.write(size - rig.cell.time.durable_position)
        signed.append(await rig.signed())
    return signed


@pytest.fixture
async def signed(cell_dsn: str) -> str:
    """A log with three checkpoints, whose tables a superuser has opened."""
    async with proving(cell_dsn) as rig:
        await grow(rig, *SIZES)
    await unguard(cell_dsn, "event_store", "checkpoints", "cosignatures")
    return cell_dsn


async def problems(dsn: str, *held: Checkpoint, lines: list[bytes] | None = None) -> list[str]:
    found = check_export(lines or await export_of(dsn), [KEYS.log.verifier], held)
    return [str(each) for each in found.problems]


async def numbers(dsn: str) -> list[int]:
    return [sequence_in(note) for (note,) in await ask(dsn, "SELECT note FROM checkpoints ORDER BY size")]


async def numbered_wrong(dsn: str) -> list[int]:
    """As a full pass of reconciliation asks: the sizes of those before which one is missing."""
    return [size for size, _ in await ask(dsn, BOOKS["a_checkpoint_is_missing_by_its_number"])]


async def last_of(dsn: str) -> Checkpoint:
    [(note,)] = await ask(dsn, "SELECT note FROM checkpoints ORDER BY size DESC LIMIT 1")
    return checkpoint_in(note, [KEYS.log.verifier])


async def test_they_are_numbered_without_a_gap(signed: str) -> None:
    """By one process after another."""
    async with proving(signed) as rig:
        await grow(rig, 8)
    assert await numbers(signed) == [1, 2, 3, 4]
    assert await problems(signed) == []
    assert await numbered_wrong(signed) == []


@pytest.mark.parametrize(
    ("size", "told"),
    [
        (2, ["positions 1 to 4: before the checkpoint of size 4 number 1 is missing: it was deleted"]),
        (4, ["positions 3 to 6: before the checkpoint of size 6 number 2 is missing: it was deleted"]),
        # Nothing comes after it: it is found by the cell's checkpoint file, the next one, or one that is kept.
        (6, []),
    ],
)
async def test_a_checkpoint_that_was_deleted_is_found_by_its_number(signed: str, size: int, told: list[str]) -> None:
    """Without any that somebody has kept."""
    kept = await last_of(signed)
    await ask(signed, "DELETE FROM checkpoints WHERE size = $1", size)
    assert await problems(signed) == told
    # A checkpoint that is held takes the place of none before it.
    assert await problems(signed, kept) == (told or [MISSED])
    assert await numbered_wrong(signed) == [size + 2] * len(told)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("DELETE FROM checkpoints WHERE size = 2", {4: "number 1 is missing: it was deleted"}),
        ("DELETE FROM checkpoints WHERE size = 4", {6: "number 2 is missing: it was deleted"}),
        ("DELETE FROM checkpoints WHERE size = 6", {6: "is missing, or is not what was signed"}),
        ("DELETE FROM checkpoints", {6: "is missing, or is not what was signed"}),
        ("UPDATE checkpoints SET root = sha256('x') WHERE size = 6", {6: "is missing, or is not what was signed"}),
        ("UPDATE checkpoints SET note = note || 'x' WHERE size = 4", {4: "cannot be read"}),
        ("UPDATE checkpoints SET signed_at = now()", {}),
    ],
)
async def test_the_cell_that_runs_finds_it(cell_dsn: str, change: str, told: dict[int, str]) -> None:
    """By itself, within a round over its log: also where it was the last, which the process has signed itself."""
    async with proving(cell_dsn) as rig:
        await grow(rig, *SIZES)
        await unguard(cell_dsn, "checkpoints", "cosignatures")
        watch = rig.watch()
        await watch.round()
        assert watch.before == {}
        await ask(cell_dsn, change)
        await watch.round()
        assert watch.before.keys() == told.keys()
        assert all(told[size] in problem for size, problem in watch.before.items())


async def test_a_tile_that_was_deleted_hides_no_row(cell_dsn: str) -> None:
    """It is missed itself, and the rows that it was made of are held against the hashes beside them."""
    async with proving(cell_dsn) as rig:
        await grow(rig, 300)
        await unguard(cell_dsn, "event_store", "log_tiles")
        await ask(cell_dsn, "DELETE FROM log_tiles")
        await ask(cell_dsn, "UPDATE event_store SET payload = payload || '{\"x\": 1}' WHERE position = 57")
        watch = rig.watch()
        await watch.round()
        assert sorted(watch.before) == [1, 57]
        assert watch.before[1] == "tile 0 of the tree is missing"


async def test_the_last_one_that_was_deleted_leaves_a_gap(cell_dsn: str) -> None:
    """As soon as the cell, which goes on, signs the next."""
    async with proving(cell_dsn) as rig:
        await grow(rig, *SIZES)
        await unguard(cell_dsn, "checkpoints")
        await ask(cell_dsn, "DELETE FROM checkpoints WHERE size = 6")
        await grow(rig, 8)
    assert await problems(cell_dsn) == [
        "positions 5 to 8: before the checkpoint of size 8 number 3 is missing: it was deleted"
    ]


async def test_a_checkpoint_that_the_database_lost_is_put_back(cell_dsn: str) -> None:
    """From beside it: a process that ends between signing and storing leaves no gap, and no alarm."""
    checkpoint_file = CheckpointInMemory()
    async with proving(cell_dsn, checkpoint_file=checkpoint_file) as rig:
        await grow(rig, *SIZES)
        rig.checkpoint_signer.broken = "killed"
        await rig.write(1)
    before = await ask(cell_dsn, "SELECT size, root, note FROM checkpoints ORDER BY size")
    await unguard(cell_dsn, "checkpoints")
    await ask(cell_dsn, "DELETE FROM checkpoints WHERE size = 6")
    async with proving(cell_dsn, checkpoint_file=checkpoint_file) as rig:
        await grow(rig, 8)
    after = await ask(cell_dsn, "SELECT size, root, note FROM checkpoints ORDER BY size")
    assert after[:3] == before
    assert [number for number in await numbers(cell_dsn) if number > 3]
    assert await problems(cell_dsn) == []


async def test_older_checkpoints_without_a_number_stay_valid(cell_dsn: str) -> None:
    """The first that has one has number 1; one without a number after it is none of this log."""
    async with proving(cell_dsn) as rig:
        [first] = await grow(rig, 2)
    await unguard(cell_dsn, "checkpoints")
    await ask(cell_dsn, "UPDATE checkpoints SET note = $1", unnumbered(first).note)
    async with proving(cell_dsn) as rig:
        [_, third] = await grow(rig, 4, 6)
        assert await numbers(cell_dsn) == [0, 1, 2]
        assert await problems(cell_dsn) == []
        assert await numbered_wrong(cell_dsn) == []
    await ask(cell_dsn, "UPDATE checkpoints SET note = $1 WHERE size = 6", unnumbered(third).note)
    assert await numbered_wrong(cell_dsn) == [6]
    assert await problems(cell_dsn) == ["positions 5 to 6: the checkpoint of size 6 has number none, not 2"]


def unnumbered(checkpoint: SignedCheckpoint) -> SignedCheckpoint:
    body = checkpoint_body(KEYS.log.name, checkpoint.size, checkpoint.root)
    return checkpoint._replace(note=KEYS.log.note(body))


async def test_a_part_goes_on_from_the_checkpoint_that_is_held(signed: str) -> None:
    """Earlier checkpoints are not in the export; the next one is numbered after the held one."""
    held = await last_of(signed)
    async with proving(signed) as rig:
        await grow(rig, 8, 10)
        lines = await rig.exported(Wanted(from_position=7))
    assert await problems(signed, held, lines=lines) == []
    without = [line for line in lines if not (line.startswith(b'{"checkpoint"') and b"\\n8\\n" in line)]
    assert len(without) == len(lines) - 1
    assert await problems(signed, held, lines=without) == [
        "positions 7 to 10: before the checkpoint of size 10 number 4 is missing: it was deleted"
    ]
    assert await problems(signed, lines=without) == []


async def test_everything_put_back_together_is_found_by_a_kept_checkpoint(
    cluster: EmbeddedPostgres, signed: str
) -> None:
    """Database, checkpoint file and witnesses of yesterday: the log is shorter then, or has grown otherwise."""
    [(name,)] = await ask(signed, "SELECT current_database()")
    async with another(cluster, name) as yesterday:
        async with proving(signed) as rig:
            await grow(rig, 8)
        kept = await last_of(signed)
        assert await problems(yesterday, kept) == [
            "positions 7 to 8: missing: a checkpoint of size 8 is held, so they were there"
        ]
        async with proving(yesterday) as rig:
            await grow(rig, 9)
        assert (await last_of(yesterday)).sequence == kept.sequence
        found = await problems(yesterday, kept)
        assert found[0].startswith("positions 7 to 8: in here events were changed")
        assert await problems(yesterday) == []
