"""`cellbook audit evidence` over real cells, and its verifier, which names whatever is not as it was written."""

import base64
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from typer.testing import CliRunner

from cells.audit.export.lines import proof_lines
from cells.audit.proofs.keys import SigningKey, new_keys
from cells.audit.verify.command import BAD, GOOD, USAGE, main
from cells.audit.verify.evidence import MANIFEST, SUMMARY, TRIAL, hashed, manifest_text, paths_of, summary_of
from cells.audit.verify.lines import event_in
from cells.audit.verify.note import checkpoint_in
from cells.audit.verify.proof import positions
from cells.audit.verify.tree import leaf_hash, node_hash
from server.cli.audit import evidence, proof
from server.cli.audit.evidence import Wanted
from server.cli.client import ClientError
from server.cli.main import app
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.audit_rig import CELLS, Town, town
from tests.local_cells import open_user, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

Out = pytest.CaptureFixture[str]
HERE = CELLS[0]
PATHS = paths_of(HERE)
SEED, SAMPLES = "lottery 6 aus 49", 7


@dataclass(frozen=True, slots=True)
class Rig:
    town: Town
    folder: Path
    keys: Path
    operator: SigningKey
    winner: str

    def wanted(self) -> Wanted:
        return Wanted(at="", seed=SEED, samples=SAMPLES, accounts=2, named=[self.winner], key=self.operator)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(cluster: EmbeddedPostgres, template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """Three cells that sign for each other, a sale over them, some accounts more, and the evidence of it."""
    folder = tmp_path_factory.mktemp("evidence")
    operator = new_keys("operator", os.urandom).log
    async with town(cluster, template, keys=folder) as cells:
        sale = await cells.sale()
        # There is a checkpoint before the one that covers the cut.
        checkpoint_signer = cells.cells[HERE].parts.audit.proofs.checkpoint_signer
        assert checkpoint_signer is not None
        await until(lambda: checkpoint_signer.last is not None)
        for name in CELLS:
            for _ in range(4):
                await open_user(cells.cells[name].parts.cell, 500)
        public = [key for name in CELLS for key in proof.keys_in(folder / name / "checkpoint.key", "")]
        (folder / "keys").write_text("\n".join([*public, str(operator.verifier)]))
        built = Rig(cells, folder / "made", folder / "keys", operator, str(sale.winner))
        async with cells.reach() as reach:
            await evidence.run_evidence(reach, built.folder, built.wanted())
        yield built


@pytest.fixture
def copy(rig: Rig, tmp_path: Path) -> Path:
    return Path(shutil.copytree(rig.folder, tmp_path / "copy"))


def told(capsys: Out, *arguments: str) -> tuple[int, list[str], list[str]]:
    code = main([*arguments, "--json"], program="verify")
    found = json.loads(capsys.readouterr().out)
    return code, found["told"], found["problems"]


def problems_of(capsys: Out, rig: Rig, folder: Path, *more: str) -> list[str]:
    return told(capsys, "--key", str(rig.keys), *more, str(folder))[2]


async def test_evidence_holds_by_itself(rig: Rig, capsys: Out) -> None:
    """By keys that were got elsewhere, with witnesses; by those in the folder, that is said."""
    required = ("--require-witnesses", "1", "--seed", SEED)
    code, said, problems = told(capsys, "--key", str(rig.keys), *required, str(rig.folder))
    assert (code, problems) == (GOOD, [])
    for text in ("signed by cellbook/operator", f"cellbook/{HERE}: {SAMPLES} events picked", "= 0 minor units"):
        assert any(text in line for line in said), said
    code, said, _ = told(capsys, str(rig.folder))
    assert code == GOOD
    assert any("compare them with yours" in line for line in said)
    assert main([str(rig.keys)], program="verify") == USAGE
    run = CliRunner().invoke(app, ["audit", "verify", "--key", str(rig.keys), str(rig.folder)])
    assert (run.exit_code, run.output.partition(" ")[0]) == (GOOD, "HOLDS:")
    assert not list(rig.folder.parent.glob("*.partial"))


async def test_a_file_that_was_changed_removed_or_added_is_named(rig: Rig, copy: Path, capsys: Out) -> None:
    """Each of them."""
    names = [path.relative_to(copy).as_posix() for path in sorted(copy.rglob("*")) if path.is_file()]
    for name in names:
        content = (copy / name).read_bytes()
        (copy / name).write_bytes(content[:-9] + (b"y" if content[-9:-8] == b"x" else b"x") + content[-8:])
        assert any(each.startswith(f"{name}: ") for each in problems_of(capsys, rig, copy)), name
        (copy / name).unlink()
        assert any(each.startswith(f"{name}: ") for each in problems_of(capsys, rig, copy)), name
        (copy / name).write_bytes(content)
    (copy / "cells" / "one more").write_text("hello")
    assert problems_of(capsys, rig, copy) == ["cells/one more: added: the manifest does not name it"]


def resigned(rig: Rig, folder: Path, change: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
    """As whoever holds the operator's key can make the hashes right again."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in {MANIFEST, SUMMARY}]
    manifest["files"] = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": hashed(path)} for path in files
    }
    change(manifest)
    (folder / MANIFEST).write_bytes(manifest_text(manifest))
    body = summary_of(manifest_text(manifest), manifest)
    (folder / SUMMARY).write_text(rig.operator.note(body))


async def test_hashes_that_were_made_right_need_the_key(rig: Rig, copy: Path, capsys: Out) -> None:
    """Another key than the operator's does not count, nor does a signature over what was there before."""
    (copy / TRIAL).write_text((copy / TRIAL).read_text() + " ")
    summary = (copy / SUMMARY).read_bytes()
    resigned(rig, copy)
    assert problems_of(capsys, rig, copy) == []
    (copy / SUMMARY).write_bytes(summary)
    [problem] = problems_of(capsys, rig, copy)
    assert problem.startswith("manifest.json: changed: it is not the one that the summary")
    other = new_keys("operator", os.urandom).log
    body = summary.decode().partition("\n\n")[0] + "\n"
    (copy / SUMMARY).write_text(other.note(body))
    assert problems_of(capsys, rig, copy) == ["summary: none of the keys given has signed it"]


Change = Callable[[Path], str]


def a_statement(folder: Path) -> Path:
    return min((folder / PATHS.statements).iterdir())


def a_long_statement(folder: Path) -> Path:
    [found] = [
        each for each in (folder / PATHS.statements).iterdir() if len(json.loads(each.read_bytes())["movements"]) > 2
    ]
    return found


def the_trial(folder: Path) -> Path:
    return folder / TRIAL


def in_json(file: Callable[[Path], Path], change: Callable[[dict[str, Any]], object]) -> Change:
    """The change of a file's content; it returns the file's name."""

    def do(folder: Path) -> str:
        path = file(folder)
        content = json.loads(path.read_bytes())
        change(content)
        path.write_text(json.dumps(content))
        return path.relative_to(folder).as_posix()

    return do


def forget_a_statement(folder: Path) -> str:
    path = a_statement(folder)
    path.unlink()
    return path.relative_to(folder).as_posix()


WRONG: dict[str, Change] = {
    "a movement left out": in_json(a_long_statement, lambda said: said["movements"].pop(1)),
    "a closing balance": in_json(a_statement, lambda said: said["totals"][0]["closing"].update(available_minor="1")),
    "a balance before": in_json(a_statement, lambda said: said["movements"][0]["before"].update(available_minor="9")),
    "a balance after": in_json(a_statement, lambda said: said["movements"][0]["after"].update(pending_minor="9")),
    "the fees": in_json(the_trial, lambda said: said["accounts"][0].update(amount_minor="7")),
    "a statement missing": forget_a_statement,
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
async def test_what_the_exports_say_otherwise_is_found_whoever_signs(
    rig: Rig, copy: Path, capsys: Out, change: Change
) -> None:
    """The operator's own key is no help: statements and the trial balance are worked out anew."""
    name = change(copy)
    resigned(rig, copy)
    problems = problems_of(capsys, rig, copy)
    assert problems
    assert all(each.startswith(f"{name}: ") for each in problems)


async def test_the_operator_cannot_choose_the_samples(rig: Rig, copy: Path, capsys: Out) -> None:
    """Other events, each with a proof that holds; fewer of them; another seed; accounts that were not picked."""
    honest = (copy / PATHS.samples).read_bytes()
    note = (copy / PATHS.checkpoint).read_text()
    checkpoint = checkpoint_in(note, [rig.town.cells[HERE].parts.audit.proofs.checkpoint_signer.key.verifier])  # type: ignore[union-attr]
    wanted = positions(SEED, checkpoint, SAMPLES)
    prover = rig.town.cells[HERE].parts.audit.proofs.prover
    lines = []
    for position in sorted({*range(1, checkpoint.size)} - set(wanted))[:SAMPLES]:
        proven = await prover.inclusion(position, checkpoint.size)
        lines.append(proof_lines(note, checkpoint.size, proven.path, proven.event, proven.leaf_hash))
    for forged in (b"".join(lines), b"".join(honest.splitlines(keepends=True)[:-2])):
        (copy / PATHS.samples).write_bytes(forged)
        resigned(rig, copy)
        [problem] = problems_of(capsys, rig, copy)
        assert problem.startswith(f"{PATHS.samples}: it holds the events at ")
    (copy / PATHS.samples).write_bytes(honest)
    resigned(rig, copy, lambda manifest: manifest.update(seed="another"))
    assert any(each.startswith(PATHS.samples) for each in problems_of(capsys, rig, copy))
    assert "manifest.json: the samples are by the seed 'another'" in problems_of(capsys, rig, copy, "--seed", SEED)[0]
    resigned(rig, copy, lambda manifest: manifest.update(accounts=0, named=[]))
    assert any("nobody has asked for it" in each for each in problems_of(capsys, rig, copy))


async def test_nor_the_checkpoint_that_the_samples_hang_on(rig: Rig, copy: Path, capsys: Out) -> None:
    """It is the first that covers the cut: a later one, with all that follows from it, is named."""
    size = json.loads((copy / MANIFEST).read_bytes())["cells"][HERE]["size"]
    resigned(rig, copy, lambda manifest: manifest["cells"][HERE].update(position=1))
    problems = problems_of(capsys, rig, copy)
    assert any(each.startswith(f"{PATHS.checkpoint}: it is of size {size}, and the first") for each in problems)


async def test_a_cell_that_was_left_out_is_missed(rig: Rig, copy: Path, capsys: Out) -> None:
    """By the others' clearing with it; by the router's list; by the checkpoints that it has signed as a witness."""
    shutil.rmtree(copy / "cells" / HERE)
    resigned(rig, copy, lambda manifest: manifest["cells"].pop(HERE))
    problems = problems_of(capsys, rig, copy)
    assert any(f"{HERE} is not among the cells" in each for each in problems)
    for told in (f"the router lists cellbook/{HERE}", f"cellbook/{HERE} has signed another log as a witness"):
        assert f"manifest.json: {told}, and that log is not in the evidence" in problems


def insert_a_line(folder: Path) -> str:
    """Of a kind that nobody has signed, which says of itself that it is an event."""
    path = folder / PATHS.export
    lines = path.read_bytes().splitlines(keepends=True)
    event = next(json.loads(line)["event"] for line in lines if b'"DEPOSITED"' in line)
    at = next(number for number, line in enumerate(lines) if line.startswith(b'{"end"'))
    lines.insert(at, json.dumps({"outcome": {}, **event}).encode() + b"\n")
    path.write_bytes(b"".join(lines))
    return PATHS.export


def hide_the_first_events(folder: Path) -> str:
    """The hashes of what came before, as an export of a part has them."""
    path = folder / PATHS.export
    lines = path.read_bytes().splitlines(keepends=True)
    header = {**json.loads(lines[0]), "from": 3, "prefix": [_hash_of_first_two(lines)]}
    at = next(number for number, line in enumerate(lines) if b'"position":3,' in line)
    rest = [line for line in lines[1:at] if not line.startswith((b'{"event":', b'{"checkpoint":'))]
    path.write_bytes(b"".join([json.dumps(header).encode() + b"\n", *rest, *lines[at:]]))
    return PATHS.export


def _hash_of_first_two(lines: list[bytes]) -> str:
    events = [event_in(line)[0] for line in lines if line.startswith(b'{"event":')]
    return base64.b64encode(node_hash(*map(leaf_hash, events[:2]))).decode()


def name_a_closing_twice(folder: Path) -> str:
    path = a_statement(folder)
    text = path.read_text()
    path.write_text(text.replace('"closing": {', '"closing": {"available_minor": "900", ', 1))
    return path.relative_to(folder).as_posix()


def put_a_statement_elsewhere(folder: Path) -> str:
    """Where it is not compared with anything."""
    path = a_statement(folder)
    path.rename(path.with_suffix(".txt"))
    return path.with_suffix("").relative_to(folder).as_posix()


def twice(named: str, lie: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    """The first of a list stands in it twice, the first time with a lie."""

    def change(said: dict[str, Any]) -> None:
        said[named].insert(0, deepcopy(said[named][0]))
        lie(said[named][0])

    return change


PASSED_OVER: dict[str, Change] = {
    "a line of another kind": insert_a_line,
    "the first events hidden": hide_the_first_events,
    "a movement twice": in_json(
        a_statement, twice("movements", lambda said: said["change"].update(available_minor="900"))
    ),
    "a total twice": in_json(a_statement, twice("totals", lambda said: said["closing"].update(available_minor="900"))),
    "a name twice": name_a_closing_twice,
    "an account twice": in_json(the_trial, twice("accounts", lambda said: said.update(amount_minor="7"))),
    "a statement elsewhere": put_a_statement_elsewhere,
}


@pytest.mark.parametrize("change", PASSED_OVER.values(), ids=PASSED_OVER)
async def test_what_the_verifier_would_pass_over_is_found(rig: Rig, copy: Path, capsys: Out, change: Change) -> None:
    """A reader sees one thing, and the verifier compares another: whatever stands there twice, or elsewhere."""
    name = change(copy)
    resigned(rig, copy)
    assert any(each.startswith(name) for each in problems_of(capsys, rig, copy))


async def test_a_cut_of_another_moment_is_found(rig: Rig, copy: Path, capsys: Out) -> None:
    """Each log is cut at the moment that the manifest names: an earlier cut of one log leaves its money out."""
    manifest = json.loads((copy / MANIFEST).read_bytes())
    resigned(rig, copy, lambda each: each["cut"].update(physical_ms=manifest["cut"]["physical_ms"] - 60_000))
    problems = problems_of(capsys, rig, copy)
    assert any(each.startswith(f"{PATHS.export}: ") and "the moment of the cut" in each for each in problems)


async def test_a_log_whose_checkpoint_is_held_is_missed(rig: Rig, copy: Path, tmp_path: Path, capsys: Out) -> None:
    """Even where no other log knows of it."""
    held = tmp_path / "held"
    shutil.copy(copy / PATHS.checkpoint, held)
    assert not problems_of(capsys, rig, copy, "--checkpoint", str(held))
    shutil.rmtree(copy / "cells" / HERE)
    resigned(rig, copy, lambda manifest: manifest["cells"].pop(HERE))
    problems = problems_of(capsys, rig, copy, "--checkpoint", str(held))
    assert f"manifest.json: a checkpoint of cellbook/{HERE} is held, and that log is not in the evidence" in problems


async def test_an_export_of_a_part_is_told_as_one(rig: Rig, copy: Path, capsys: Out) -> None:
    """It may lack a tail: a checkpoint that is held of later events is not compared with it."""
    path = copy / PATHS.export
    for part in (False, True):
        assert main(["--key", str(rig.keys), str(path)], program="verify") == GOOD
        assert (" (a part of the log), root " in capsys.readouterr().out) == part
        path.write_bytes(path.read_bytes().replace(b'"whole":true}}', b'"whole":false}}'))


async def test_interrupted_work_leaves_nothing_that_looks_finished(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    """The folder has another name until it is complete, and is not taken for one that is."""

    async def broken(*_: object, **__: object) -> None:
        raise ClientError("the line is cut")

    monkeypatch.setattr(evidence, "pulled", broken)
    made = tmp_path / "made"
    async with rig.town.reach() as reach:
        with pytest.raises(ClientError, match="the line is cut"):
            await evidence.run_evidence(reach, made, rig.wanted())
        assert not made.exists()
        with pytest.raises(ClientError, match=r"made\.partial is there already"):
            await evidence.run_evidence(reach, made, rig.wanted())
    capsys.readouterr()
    code, _, problems = told(capsys, "--key", str(rig.keys), str(tmp_path / "made.partial"))
    assert code == BAD
    assert "manifest.json" in problems[0]
