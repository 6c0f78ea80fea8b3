"""The keys of a cell and of its auditors: made once, told from junk, and a cell does not start with the wrong ones."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cells.audit.keys import checkpoint_body, new_keys, origin_of
from cells.audit.verify.command import BAD, USAGE
from server.cli.audit import proof
from server.cli.main import app
from server.keyfile import SigningKeysInvalid, signing_keys
from server.memo import FileMemo, LogShorter, MemoInvalid

HERE = "us-east"
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
        with pytest.raises(SigningKeysInvalid):
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
    """Nor one whose log is shorter than its memo: a line that says what to do, and no trace."""
    key, memo = tmp_path / "checkpoint.key", tmp_path / "checkpoint.last"

    def started() -> str:
        command = [sys.executable, "-m", "server", "--cell", HERE, "--dsn", cell_dsn, "--checkpoint-key-file", str(key)]
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
    memo.write_text("junk\n")
    assert "move the file away if the key was changed on purpose" in started()
    signer = signing_keys(key, HERE, make=False).log
    body = f"cellbook/{HERE}\n7\n{'A' * 43}=\n"
    memo.write_text(f"{body}\n{signer.sign(body)}")
    assert "ends at position 0, and this cell has signed its first 7 events" in started()


async def test_the_memo_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    """Whole or not at all, for the next start; of another key it is not believed."""
    keys = signing_keys(tmp_path / "checkpoint.key", HERE, make=True)
    memo = FileMemo(tmp_path / "checkpoint.last", keys.log.verifier)
    memo.load()
    assert memo.last() is None
    for size in (7, 9):
        body = checkpoint_body(origin_of(HERE), size, bytes(32))
        await memo.keep(f"{body}\n{keys.log.sign(body)}")
    again = FileMemo(tmp_path / "checkpoint.last", keys.log.verifier)
    again.load()
    assert again.last() == memo.last() == (origin_of(HERE), 9, bytes(32), ())
    again.check(9)
    with pytest.raises(LogShorter, match="signed its first 9 events"):
        again.check(8)
    other = new_keys(HERE, os.urandom).log.verifier
    with pytest.raises(MemoInvalid, match="put the key back that belongs to it"):
        FileMemo(tmp_path / "checkpoint.last", other).load()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["checkpoint.key", "checkpoint.last"]


@pytest.mark.parametrize(("problem", "goes_on"), [(errno.EROFS, True), (errno.EACCES, True), (errno.ENOSPC, False)])
async def test_where_no_memo_can_be_kept_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: int, *, goes_on: bool
) -> None:
    """A folder of secrets may be mounted read-only: signing goes on. A full disk is another matter: it waits."""
    keys = signing_keys(tmp_path / "checkpoint.key", HERE, make=True)
    memo = FileMemo(tmp_path / "checkpoint.last", keys.log.verifier)

    def fail(*_: object) -> None:
        raise OSError(problem, os.strerror(problem))

    monkeypatch.setattr(Path, "replace", fail)
    body = checkpoint_body(origin_of(HERE), 7, bytes(32))
    note = f"{body}\n{keys.log.sign(body)}"
    if goes_on:
        await memo.keep(note)
        assert memo.last() is not None
    else:
        with pytest.raises(OSError, match="No space"):
            await memo.keep(note)
        assert memo.last() is None
