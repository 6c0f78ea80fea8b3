"""`cellbook audit evidence` over real cells, and its verifier, which names whatever is not as it was written."""

import base64
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
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
        checkpoint_signer = cells.cells[HERE].parts.cell.checkpoint_signer
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
    (folder / SUMMARY).write_text(f"{body}\n{rig.operator.sign(body)}")


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
    (copy / SUMMARY).write_text(f"{body}\n{other.sign(body)}")
    assert problems_of(capsys, rig, copy) == ["summary: none of the keys given has signed it"]


def drop_a_movement(folder: Path) -> str:
    [path] = [
        each for each in (folder / PATHS.statements).iterdir() if len(json.loads(each.read_bytes())["movements"]) > 2
    ]
    content = json.loads(path.read_bytes())
    del content["movements"][1]
    path.write_text(json.dumps(content))
    return path.relative_to(folder).as_posix()


def round_a_balance(folder: Path) -> str:
    path = min((folder / PATHS.statements).iterdir())
    content = json.loads(path.read_bytes())
    content["totals"][0]["closing"]["available_minor"] = "1"
    path.write_text(json.dumps(content))
    return path.relative_to(folder).as_posix()


def raise_the_fees(folder: Path) -> str:
    content = json.loads((folder / TRIAL).read_bytes())
    content["accounts"][0]["amount_minor"] = "7"
    (folder / TRIAL).write_text(json.dumps(content))
    return TRIAL


def forget_a_statement(folder: Path) -> str:
    path = min((folder / PATHS.statements).iterdir())
    path.unlink()
    return path.relative_to(folder).as_posix()


@pytest.mark.parametrize("change", [drop_a_movement, round_a_balance, raise_the_fees, forget_a_statement])
async def test_what_the_exports_say_otherwise_is_found_whoever_signs(
    rig: Rig, copy: Path, capsys: Out, change: Callable[[Path], str]
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
    checkpoint = checkpoint_in(note, [rig.town.cells[HERE].parts.cell.checkpoint_signer.key.verifier])  # type: ignore[union-attr]
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
    """By the others' clearing with it."""
    shutil.rmtree(copy / "cells" / HERE)
    resigned(rig, copy, lambda manifest: manifest["cells"].pop(HERE))
    assert any(f"{HERE} is not among the cells" in each for each in problems_of(capsys, rig, copy))


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


def say_a_movement_twice(folder: Path) -> str:
    path = min((folder / PATHS.statements).iterdir())
    content = json.loads(path.read_bytes())
    first = content["movements"][0]
    lie = {**first, "change": {**first["change"], "available_minor": "900"}}
    content["movements"].insert(0, lie)
    path.write_text(json.dumps(content))
    return path.relative_to(folder).as_posix()


def close_twice(folder: Path) -> str:
    path = min((folder / PATHS.statements).iterdir())
    content = json.loads(path.read_bytes())
    content["totals"].insert(0, {"closing": {**content["totals"][0]["closing"], "available_minor": "900"}})
    path.write_text(json.dumps(content))
    return path.relative_to(folder).as_posix()


def name_a_closing_twice(folder: Path) -> str:
    path = min((folder / PATHS.statements).iterdir())
    text = path.read_text()
    path.write_text(text.replace('"closing": {', '"closing": {"available_minor": "900", ', 1))
    return path.relative_to(folder).as_posix()


def say_an_account_twice(folder: Path) -> str:
    content = json.loads((folder / TRIAL).read_bytes())
    content["accounts"].insert(0, {**content["accounts"][0], "amount_minor": "7"})
    (folder / TRIAL).write_text(json.dumps(content))
    return TRIAL


def put_a_statement_elsewhere(folder: Path) -> str:
    """Where it is not compared with anything."""
    path = min((folder / PATHS.statements).iterdir())
    path.rename(path.with_suffix(".txt"))
    return path.with_suffix("").relative_to(folder).as_posix()


@pytest.mark.parametrize(
    "change",
    [
        insert_a_line,
        hide_the_first_events,
        say_a_movement_twice,
        close_twice,
        name_a_closing_twice,
        say_an_account_twice,
        put_a_statement_elsewhere,
    ],
)
async def test_what_the_verifier_would_pass_over_is_found(
    rig: Rig, copy: Path, capsys: Out, change: Callable[[Path], str]
) -> None:
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
