"""The keys of a cell and of its auditors: made once, told from junk, and a cell does not start with the wrong ones."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from cells.audit.proofs.keys import CellKeys, checkpoint_body, new_keys
from cells.audit.verify.command import BAD, USAGE
from cells.audit.verify.note import origin_of
from cells.domain.time.hlc import HybridLogicalClock
from cells.store.unusable import CannotServe
from cells.time.celltime import CellTime
from cells.time.clocks import SystemClock
from server.audit.build import checkpoint_file_of, kept_checkpoint_file
from server.audit.keys import signing_keys
from server.audit.memory import CheckpointFile
from server.cli.audit import proof
from server.cli.main import app
from server.contacts.erasures import Erasures
from server.mail.build import build_vault
from server.process.settings import ServerSettings
from server.shell.files import StateNotWritable

if TYPE_CHECKING:
    from server.shell.postgres.database import Pool

HERE, AWAY = "us-east", "eu-west"
RUN = CliRunner()


def test_keys_are_made_and_shown(tmp_path: Path) -> None:
    """Never over others; readable for their owner alone; and what is no key file is said to be none."""
    file = tmp_path / "checkpoint.key"
    made = RUN.invoke(app, ["audit", "new-key", HERE, str(file)])
    assert made.exit_code == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert RUN.invoke(app, ["audit", "key", "--file", str(file)]).stdout == made.stdout
    again = RUN.invoke(app, ["audit", "new-key", HERE, str(file)])
    assert (again.exit_code, "never written over" in again.stderr) == (2, True)
    for content in ("", "junk\n"):
        file.write_text(content)
        with pytest.raises(CannotServe):
            proof.keys_in(file, "")
    assert RUN.invoke(app, ["audit", "key", "--file", str(file)]).exit_code == 2


def test_the_verifier_is_a_command_of_ours_too(tmp_path: Path) -> None:
    """With its own options, help and exit codes."""
    assert RUN.invoke(app, ["verify", "--help"]).stdout.startswith("usage: cellbook verify")
    file = tmp_path / "junk"
    file.write_text("junk\n")
    assert RUN.invoke(app, ["verify", str(file)]).exit_code == USAGE
    key = RUN.invoke(app, ["audit", "new-key", HERE, str(tmp_path / "key")]).stdout.split()[0]
    bad = RUN.invoke(app, ["verify", "--json", "--key", key, str(file)])
    assert (bad.exit_code, json.loads(bad.stdout)["holds"]) == (BAD, False)


def test_an_import_says_what_it_needs(tmp_path: Path) -> None:
    """Where to, and by which key: before anything is begun."""
    file = str(tmp_path / "x")
    for arguments, said in (
        ([file], "--data FOLDER or --dsn DSN"),
        ([file, "--data", str(tmp_path)], "by which key"),
        ([file, "--data", str(tmp_path), "--key", "a+b+c"], "not base64"),
        ([file, "--data", str(tmp_path), "--key", str(tmp_path / "none")], "cannot read"),
    ):
        done = RUN.invoke(app, ["audit", "import", *arguments])
        assert (done.exit_code, said in done.stderr) == (2, True), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_cell_with_the_wrong_keys_does_not_start(cell_dsn: str, tmp_path: Path) -> None:
    """Nor one whose log is shorter than its checkpoint file: a line that says what to do, and no trace."""
    key, checkpoint_file = tmp_path / "checkpoint.key", tmp_path / "checkpoint.last"

    def started(*more: str) -> str:
        own = ["--cell", HERE, "--dsn", cell_dsn, "--checkpoint-key-file", str(key), *more]
        command = [sys.executable, "-m", "server", *own]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (1, "", False)
        return done.stderr.splitlines()[-1]

    assert "cannot read" in started()
    key.write_text("junk\n")
    assert "expected PRIVATE+KEY+name+id+key" in started()
    key.unlink()
    proof.make_keys("eu-west", key)
    assert "it must hold a key of cellbook/us-east" in started()
    key.unlink()
    proof.make_keys(HERE, key)
    checkpoint_file.write_text("junk\n")
    assert "move the file away if the key was changed on purpose" in started()
    signer = signing_keys(key, HERE, make=False).log
    body = f"cellbook/{HERE}\n7\n{'A' * 43}=\n"
    checkpoint_file.write_text(signer.note(body))
    assert "ends at position 0, and this cell has signed its first 7 events" in started()
    checkpoint_file.unlink()
    assert "state_dir: cannot write to /proc/none" in started("--state-dir", "/proc/none")


async def test_the_memo_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    """Whole or not at all, for the next start; of another key it is not believed."""
    keys = signing_keys(tmp_path / "checkpoint.key", HERE, make=True)
    checkpoint_file = CheckpointFile(tmp_path / "checkpoint.last", keys.log.verifier)
    checkpoint_file.load()
    assert checkpoint_file.last() is None
    for size in (7, 9):
        await checkpoint_file.keep(keys.log.note(checkpoint_body(origin_of(HERE), size, bytes(32))))
    again = CheckpointFile(tmp_path / "checkpoint.last", keys.log.verifier)
    again.load()
    assert again.last() == checkpoint_file.last() == (origin_of(HERE), 9, bytes(32), (), 0)
    again.check(9)
    with pytest.raises(CannotServe, match="signed its first 9 events"):
        again.check(8)
    other = new_keys(HERE, os.urandom).log.verifier
    with pytest.raises(CannotServe, match="put the key back that belongs to it"):
        CheckpointFile(tmp_path / "checkpoint.last", other).load()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["checkpoint.key", "checkpoint.last"]


async def test_a_checkpoint_that_cannot_be_kept_is_not_taken_for_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full, or was made read-only meanwhile: signing waits, and says so."""
    keys = signing_keys(tmp_path / "checkpoint.key", HERE, make=True)
    checkpoint_file = CheckpointFile(tmp_path / "checkpoint.last", keys.log.verifier)

    def fail(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="Read-only"):
        await checkpoint_file.keep(checkpoint_of(keys, 7))
    assert checkpoint_file.last() is None


def checkpoint_of(keys: CellKeys, size: int) -> str:
    return keys.log.note(checkpoint_body(keys.log.name, size, bytes(32)))


def settings_with(cell: str, key_file: Path, **values: object) -> ServerSettings:
    return ServerSettings.model_validate({"cell": cell, "dsn": "x", "checkpoint_key_file": key_file, **values})


async def test_cells_of_one_folder_have_a_file_each(tmp_path: Path) -> None:
    """What one has signed is nothing to the other; a file of the old name is found by the cell whose it is."""
    all_keys = {cell: signing_keys(tmp_path / f"{cell}.key", cell, make=True) for cell in (HERE, AWAY)}
    memos = {
        cell: checkpoint_file_of(settings_with(cell, tmp_path / f"{cell}.key"), keys) for cell, keys in all_keys.items()
    }
    for size, (cell, checkpoint_file) in enumerate(memos.items(), 7):
        await checkpoint_file.keep(checkpoint_of(all_keys[cell], size))
    old = tmp_path / "checkpoint.last"
    old.write_text(checkpoint_of(all_keys[AWAY], 20))

    def last(cell: str) -> int:
        found = checkpoint_file_of(settings_with(cell, tmp_path / f"{cell}.key"), all_keys[cell]).last()
        return found.size if found is not None else 0

    assert (last(HERE), last(AWAY)) == (7, 20)
    # Whichever is the newer one: an old version may have run again meanwhile.
    old.write_text(checkpoint_of(all_keys[AWAY], 3))
    assert (last(HERE), last(AWAY)) == (7, 8)
    # Nobody's: it may be this cell's, broken.
    old.write_text("junk\n")
    with pytest.raises(CannotServe, match=r"checkpoint\.last: not a checkpoint"):
        last(HERE)


def test_a_folder_that_cannot_be_written_to_is_no_silent_end_of_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As secrets are mounted: the cell does not start, and says what to set. With a place of its own it does."""
    secrets, state = tmp_path / "secrets", tmp_path / "state"
    secrets.mkdir()
    state.mkdir()
    write = Path.touch

    def touch(self: Path) -> None:
        if self.parent == secrets:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        write(self)

    monkeypatch.setattr(Path, "touch", touch)
    keys, vault_key = signing_keys(secrets / "checkpoint.key", HERE, make=True), secrets / "vault.key"
    vault_key.write_text("0" * 64)
    pool = cast("Pool", None)
    time = CellTime(cell=HERE, clock=SystemClock(), hlc=HybridLogicalClock())
    for values in ({}, {"state_dir": state / "missing"}):
        settings = settings_with(HERE, secrets / "checkpoint.key", vault_key_file=vault_key, **values)
        with pytest.raises(StateNotWritable, match=r"state_dir: cannot write to .* Set state_dir to a folder"):
            kept_checkpoint_file(settings, keys, time)
        with pytest.raises(StateNotWritable, match="the list of those who were erased"):
            build_vault(settings, pool)
    settings = settings_with(HERE, secrets / "checkpoint.key", vault_key_file=vault_key, state_dir=state)
    assert kept_checkpoint_file(settings, keys, time).path == state / f"{HERE}.checkpoint.last"
    assert build_vault(settings, pool) is not None


def test_who_was_erased_stays_so_in_another_folder(tmp_path: Path) -> None:
    """The list beside the key is read on; what comes is written to the new one."""
    first, second = uuid4(), uuid4()
    beside = Erasures(tmp_path / "vault.erasures")
    beside.note([first])
    moved = Erasures(tmp_path / "us-east.erasures", old=beside.path)
    moved.note([second])
    assert moved.noted() == {first, second}
    assert beside.noted() == {first}
