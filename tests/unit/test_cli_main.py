"""The command line itself: usage, errors, exit codes."""

import json
import re
from contextlib import nullcontext
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lab import command as commands
from lab.books import Check
from lab.cluster import Cluster
from lab.demo import SAMPLE, Run
from lab.market import Market
from lab.member import ClusterError
from lab.play import Cast
from server.cli import client
from server.cli.main import COMMANDS, GROUPS, app, imported, to_be_imported

RUN = CliRunner()
IN_DOCS = re.compile(r"(?:\$ |`|bin/)cellbook ([a-z][a-z-]*)(?![a-z/-])(?: ([a-z][a-z-]+))?")


@pytest.mark.parametrize("arguments", [["demo", "--colour"], ["replay"], ["up", "--port-base", "80"], ["fly"]])
def test_a_wrong_command_line_is_told(arguments: list[str]) -> None:
    """Exit code 2 and a message on stderr, nothing on stdout."""
    result = RUN.invoke(app, arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr


def test_help_names_every_command() -> None:
    """`cellbook --help` lists all commands."""
    result = RUN.invoke(app, ["--help"])
    assert result.exit_code == 0
    assert all(name in result.stdout for name in COMMANDS | GROUPS)
    assert str(to_be_imported.__doc__) not in result.stdout


def test_the_docs_name_only_commands_that_exist() -> None:
    """A command, and of a group one of its own."""
    groups = {name: imported(place, name).commands for name, place in GROUPS.items()}
    for page in (Path("README.md"), Path("CONTRIBUTING.md"), *Path("docs").glob("**/*.md")):
        for name, of_group in IN_DOCS.findall(page.read_text()):
            assert name in {*COMMANDS, *GROUPS, "verify", "console"}, f"{page}: {name}"
            assert of_group in {"", *groups.get(name, {of_group})}, f"{page}: {name} {of_group}"


def test_nobody_is_erased_by_a_slip() -> None:
    """Without a confirmation nobody is erased; an invalid id is reported as such."""
    user = "00000000-0000-7000-8000-000000000001"
    asked = RUN.invoke(app, ["contact", "erase", user, "--router", "127.0.0.1:1"], input="n\n")
    assert (asked.exit_code, asked.stdout.strip()) == (1, "n")
    assert f"Forget the name and address of {user} for good?" in asked.stderr
    assert RUN.invoke(app, ["contact", "erase", "ann", "--yes"]).exit_code == 2


@pytest.mark.parametrize("command", [["demo"], ["replay", str(SAMPLE)]])
def test_a_router_that_is_not_there_is_told_at_once(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to do. The command used to retry for 90 s."""
    monkeypatch.setattr(client, "PATIENCE_S", 0.0)
    result = RUN.invoke(app, [*command, "--router", "127.0.0.1:1"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no router answers at 127.0.0.1:1" in result.stderr
    assert "or get in by cellbook --keys DIR" in result.stderr


def test_a_bad_file_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is read before anything is started; the error has file and line, exit code 2."""
    monkeypatch.setattr(Cluster, "__aenter__", lambda _: pytest.fail("a cluster was started"))
    file = tmp_path / "bids.csv"
    file.write_text("auction,item,open_minor,bidder,bid_minor\n1,bell,1,1,-3\n")
    result = RUN.invoke(app, ["replay", str(file), "--json"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{file}, line 2: bid_minor must be positive, got -3" in result.stderr


def test_a_missing_file_is_told() -> None:
    """A missing file is reported, too."""
    result = RUN.invoke(app, ["replay", "nowhere.csv"])
    assert result.exit_code == 2
    assert "nowhere.csv: No such file or directory" in result.stderr


def test_a_cluster_that_does_not_start_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1, and the reason on stderr."""

    async def fail(_: Cluster) -> Cluster:
        raise ClusterError("us-east ended with exit code 3")

    monkeypatch.setattr(Cluster, "__aenter__", fail)
    for command in ("demo", "up"):
        result = RUN.invoke(app, [command])
        assert (result.exit_code, result.stdout) == (1, "")
        assert "cellbook: us-east ended with exit code 3" in result.stderr


async def _entered(market: Market) -> Market:
    return market


def _run_with(check: Check) -> object:
    async def play(_: Market) -> Run:
        return Run(cast=Cast(bidders={}, sellers=[]), sales=[], featured=None, checks=[check])

    return play


@pytest.mark.parametrize("arguments", [["demo"], ["demo", "--json"]])
def test_a_check_that_fails_is_the_commands_failure(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The report is still printed, stderr names the check, and the exit code is 1; if it holds, 0."""
    monkeypatch.setattr(commands, "reached", lambda *_: nullcontext())
    monkeypatch.setattr(Market, "__aenter__", _entered)
    failed = Check(name="money conserved over all cells", held=False, detail="5 USD short")
    monkeypatch.setattr(commands, "run_demo", _run_with(failed))
    result = RUN.invoke(app, [*arguments, "--router", "127.0.0.1:1"])
    assert result.exit_code == 1
    assert "a check failed: money conserved over all cells: 5 USD short" in result.stderr
    if "--json" in arguments:
        told = json.loads(result.stdout)
        assert (told["ok"], told["conservation_ok"]) == (False, False)
    else:
        assert "NO money conserved over all cells (5 USD short)" in result.stdout

    monkeypatch.setattr(commands, "run_demo", _run_with(Check(name="all", held=True, detail="well")))
    assert RUN.invoke(app, [*arguments, "--router", "127.0.0.1:1"]).exit_code == 0
