"""A superuser changes the log behind everybody's back, and is found out: by an export and the verifier, offline."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from cells.audit.checks.log_watch import WHOLE_TREE, LogWatch
from cells.audit.proofs.checkpoint_signer import CheckpointSigner
from cells.audit.proofs.keys import new_keys
from cells.audit.proofs.store import PostgresProofs
from cells.audit.verify import export as verify_export
from cells.audit.verify.command import BAD, GOOD, USAGE, main
from cells.audit.verify.export import check_export
from cells.audit.verify.note import Malformed, checkpoint_in
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.audit.proof_rig import KEYS, export_of, proving
from tests.integration.audit.superuser import (
    Superuser,
    Tampering,
    change,
    change_all_with_it,
    change_and_hash,
    change_late,
    delete,
    delete_and_close_the_gap,
    delete_late,
    hash_alone,
    insert,
    poison,
    swap,
    swap_and_time,
    unguard,
)
from tests.integration.database import CELL, another, ask, copy_database, opened_raw
from tests.local_cells import build_cell, until

VERIFY = Path(verify_export.__file__).parent
RECOMPUTE = Path(__file__).with_name("recompute.mjs")
# Signed at 40, 300 and 340; then come 20 that are not.
SIZES = (40, 300, 340)
LAST = 360
OPEN = ("event_store", "log_tiles", "checkpoints", "cosignatures")


@pytest.fixture(scope="module")
def honest(cluster: EmbeddedPostgres, template: str) -> Iterator[str]:
    """The name of a database with a log of 360 events, to be cloned."""
    name = f"{template}_honest"

    async def make() -> None:
        await copy_database(cluster, template, name)
        async with proving(cluster.dsn(name)) as rig:
            for size in SIZES:
                await rig.write(size - rig.cell.time.durable_position)
                await rig.signed()
            rig.checkpoint_signer.broken = "enough"
            await rig.write(LAST - SIZES[-1])
        await unguard(cluster.dsn(name), *OPEN)

    asyncio.run(make())
    yield name
    asyncio.run(_drop(cluster, name))


async def _drop(cluster: EmbeddedPostgres, name: str) -> None:
    await ask(cluster.dsn("postgres"), f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
async def evil(cluster: EmbeddedPostgres, honest: str) -> AsyncIterator[Superuser]:
    """At work on that log, of which somebody elsewhere has kept the last checkpoint."""
    async with another(cluster, honest) as dsn:
        [(note,)] = await ask(dsn, "SELECT note FROM checkpoints ORDER BY size DESC LIMIT 1")
        yield Superuser(dsn=dsn, held=[checkpoint_in(note, [KEYS.log.verifier])])


async def test_an_honest_log_holds(evil: Superuser) -> None:
    """Nothing is found where nothing was done; what is signed and what not yet is said."""
    found = await evil.found()
    assert not found.problems
    assert (found.last, found.signed, found.whole) == (LAST, SIZES[-1], True)


@pytest.mark.parametrize(
    ("tamper", "position", "told"),
    [
        (change, 57, "position 57: changed: the event does not give the hash"),
        (change, 350, "position 350: changed: the event does not give the hash"),
        (change_and_hash, 57, "position 57: changed, and its hash with it"),
        (change_and_hash, 320, "positions 301 to 340: in here events were changed"),
        (change_all_with_it, 57, "positions 41 to 300: in here events were changed"),
        (delete, 57, "position 57: missing: it was deleted"),
        (delete, 360, "position 360: missing"),
        (delete_and_close_the_gap, 57, "positions 41 to 300: in here events were"),
        (delete_and_close_the_gap, 320, "positions 301 to 340: in here events were"),
        (insert, 57, "positions 41 to 300: in here events were"),
        (swap, 57, "position 58: its time is not after that of the event before"),
        (swap_and_time, 57, "positions 41 to 300: in here events were"),
        (hash_alone, 57, "position 57: the hash that is stored with the event is not its own"),
        (poison, 57, "position 57: not JSON in UTF-8: 1.5 is no integer"),
        (poison, 56, "position 57: no"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
async def test_whatever_is_done_to_a_row_is_found_and_named(
    evil: Superuser, tamper: Tampering, position: int, told: str
) -> None:
    """By its position, or where the hashes were made right as well, by the checkpoints that it lies between."""
    await tamper(evil, position)
    found = await evil.found()
    assert found.problems
    assert any(str(problem).startswith(told) for problem in found.problems), found.problems


async def cut(evil: Superuser, size: int) -> None:
    """The end of the log, and all that tells of it."""
    await evil.sql("DELETE FROM event_store WHERE position > $1", size)
    await evil.sql("UPDATE head SET position = $1", size)
    await evil.retile()


async def test_a_tail_that_was_cut_is_found_by_what_was_signed(evil: Superuser) -> None:
    """By the cell's own checkpoints where they are there still, and by any that is held elsewhere where not."""
    await cut(evil, 310)
    told = "positions 311 to 340: missing: a checkpoint of size 340"
    own = Superuser(dsn=evil.dsn)
    assert [str(each).startswith(told) for each in (await own.found()).problems] == [True]
    await evil.sql("DELETE FROM checkpoints WHERE size > 310")
    assert not (await own.found()).problems
    assert [str(each).startswith(told) for each in (await evil.found()).problems] == [True]


async def test_what_was_never_signed_can_be_cut(evil: Superuser) -> None:
    """The limit of it: what came after the last checkpoint, ten seconds at most. The peers' clocks tell, of some."""
    await cut(evil, 345)
    assert not (await evil.found()).problems


async def test_a_log_that_was_made_anew_is_found_by_a_checkpoint_held_elsewhere(evil: Superuser) -> None:
    """With the cell's key, even: its own checkpoints then agree, and none that was given away before."""
    await evil.sql("DELETE FROM checkpoints")
    await change_all_with_it(evil, 57)
    async with proving(evil.dsn) as rig:
        await rig.write(1)
        await rig.signed()
    assert not (await Superuser(dsn=evil.dsn).found()).problems
    problems = [str(each) for each in (await evil.found()).problems]
    assert any(each.startswith("positions 1 to 340: in here events were changed") for each in problems), problems


async def test_the_command_tells_it_and_needs_nothing_of_ours(evil: Superuser, tmp_path: Path) -> None:
    """From the folder of the verifier alone, by another process: exit codes, the positions, JSON."""
    paths = {name: tmp_path / name for name in ("export", "key", "held", "out")}
    paths["key"].write_text(f"# of us-east\n{KEYS.log.verifier}\n\n{KEYS.witness.verifier}\n")
    [(note,)] = await evil.sql("SELECT note FROM checkpoints WHERE size = 340")
    paths["held"].write_text(note)
    (tmp_path / "verify").symlink_to(VERIFY)

    def verify(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", "-c", "import sys; sys.path.insert(0, '.'); import runpy; "]
        command[-1] += "sys.argv[0] = 'verify'; runpy.run_module('verify', run_name='__main__')"
        return subprocess.run(
            [*command, "--key", str(paths["key"]), *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    paths["export"].write_bytes(b"".join(await export_of(evil.dsn)))
    good = verify("--checkpoint", str(paths["held"]), str(paths["export"]))
    assert (good.returncode, good.stderr) == (GOOD, "")
    assert good.stdout.startswith("HOLDS: positions 1 to 360 of us-east, root ")
    assert "not signed yet: positions 341 to 360" in good.stdout
    assert verify(str(paths["held"])).stdout == "HOLDS: cellbook/us-east has signed its first 340 events\n"
    await change(evil, 57)
    paths["export"].write_bytes(b"".join(await export_of(evil.dsn)))
    bad = verify("--json", str(paths["export"]))
    assert bad.returncode == BAD
    told = json.loads(bad.stdout)
    assert (told["holds"], told["problems"][0]["position"]) == (False, 57)


async def test_the_verifier_says_what_it_cannot_use(
    evil: Superuser, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong key, a file that is none, one that breaks off, a checkpoint of another log."""
    lines = await export_of(evil.dsn)
    export, part, junk, picture = (tmp_path / name for name in ("export", "part", "junk", "picture"))
    export.write_bytes(b"".join(lines))
    part.write_bytes(b"".join(lines[:50]))
    junk.write_text("junk\n")
    picture.write_bytes(b"\x89PNG\r\n")
    key, other = str(KEYS.log.verifier), str(new_keys(CELL, os.urandom).log.verifier)
    for arguments, code, told in (
        (["--key", other, str(export)], BAD, "the keys given are"),
        (["--key", key, str(part)], BAD, "the export breaks off here"),
        (["--key", key, str(junk)], BAD, "no signed note"),
        (["--key", key, str(picture)], BAD, "no text"),
        (["--key", "a+b+c", str(export)], USAGE, "a verifier key is not base64"),
        (["--key", key, str(tmp_path / "none")], USAGE, f"verify: {tmp_path / 'none'}: No such file"),
        (["--key", key, "--checkpoint", str(junk), str(export)], USAGE, "no signed note"),
    ):
        assert main(arguments, program="verify") == code
        captured = capsys.readouterr()
        assert told in captured.out + captured.err


def test_what_is_not_a_line_of_an_export_is_refused() -> None:
    """Rather than skipped: whoever adds lines hides something."""
    for lines in ([b"{}"], [b"\xff"], [b"[]"], [b'{"cellbook":"export/9"}']):
        with pytest.raises(Malformed):
            check_export(lines, [KEYS.log.verifier])


async def test_another_language_comes_to_the_same(evil: Superuser, tmp_path: Path) -> None:
    """From the document alone: leaves, root and signatures of an export, recomputed by Node."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: nothing else here speaks another language")
    file = tmp_path / "export"

    async def recomputed() -> dict[str, Any]:
        file.write_bytes(b"".join(await export_of(evil.dsn)))
        command = [node, str(RECOMPUTE), str(file), str(KEYS.log.verifier)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    found, told = await evil.found(), await recomputed()
    assert told == {
        "id": True,
        "checkpoints": len(SIZES),
        "problems": [],
        "end": {"position": LAST, "root": found.root, "whole": True},
        "root": found.root,
    }
    await change_all_with_it(evil, 57)
    assert (await recomputed())["problems"] == [-300, -340]


async def watched(evil: Superuser) -> dict[int, str]:
    """What the cell finds by itself in one round."""
    async with opened_raw(evil.dsn) as store:
        proofs = PostgresProofs(pool=store.reads)
        cell = build_cell(CELL, store)
        checkpoint_signer = CheckpointSigner(
            store=proofs, time=cell.time, key=None, checkpoint_file=None, events_max=1, pause_max_s=1.0
        )
        checkpoint_signer.last = await proofs.last_checkpoint(LAST)
        watch = LogWatch(checkpoint_signer=checkpoint_signer, proofs=proofs, events_per_s=1_000_000)
        await watch.round()
        return watch.before


@pytest.mark.parametrize(
    ("tamper", "positions"),
    [
        (None, []),
        (change, [57]),
        (change_and_hash, [57]),
        (change_all_with_it, [WHOLE_TREE]),
        (delete, [57]),
        (hash_alone, [57]),
        (poison, [57, 58]),
        (change_late, [320]),
        (delete_late, [WHOLE_TREE, 320]),
        (delete_and_close_the_gap, [WHOLE_TREE]),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
async def test_the_cell_finds_it_by_itself(evil: Superuser, tamper: Tampering | None, positions: list[int]) -> None:
    """Whatever the tree was not made from, by its position; a tree that was made anew, by the root that was signed."""
    if tamper is not None:
        await tamper(evil, 57)
    assert sorted(await watched(evil)) == positions


async def test_the_watch_runs_while_the_cell_leads(evil: Superuser) -> None:
    """Round after round; what was found stays found, until it is put right."""
    async with proving(evil.dsn) as rig:
        await rig.signed()
        watch = rig.watch()
        await watch.round()
        assert (watch.rounds, watch.problems) == (1, 0)
        await change(evil, 57)
        await watch.start()
        await until(lambda: watch.problems == 1)
        await watch.stop()
        assert not rig.checkpoint_signer.broken
