"""`cellbook audit` and `cellbook verify` over real cells that sign for each other: from the wire to the verifier."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from typer.testing import CliRunner

from cells.audit.checks.log_watch import LogWatch
from cells.audit.export.exporter import Exporter, Piece, Wanted
from cells.audit.verify.command import BAD, GOOD, USAGE
from cells.audit.verify.command import main as verify
from cells.domain.audit.refusals import LogForked
from cells.domain.refusals import Unavailable
from server.audit.keys import verifier_keys
from server.cli.audit import export, proof, publish
from server.cli.client import ClientError, LedgerRefusal
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.audit.proof_rig import until_signed
from tests.integration.audit.superuser import unguard
from tests.integration.audit_rig import CELLS, Served, Town, town
from tests.integration.database import another, ask
from tests.integration.json_output import as_json
from tests.integration.services_rig import refusal_of
from tests.local_cells import open_user, until_async

pytestmark = pytest.mark.asyncio(loop_scope="module")

Out = pytest.CaptureFixture[str]
RUN = CliRunner()
HERE, WITNESS = CELLS[:2]


@dataclass(frozen=True, slots=True)
class Rig:
    town: Town
    folder: Path

    @property
    def here(self) -> Served:
        return self.town.cells[HERE]

    @property
    def keys(self) -> str:
        """The public ones of all cells, in a file."""
        return str(self.folder / "keys")

    async def witnessed(self) -> int:
        """The size of the log, once all of it is signed, and by the others too."""
        cell, cosigning = self.here.parts.cell, self.here.parts.audit.proofs.cosigning

        async def so() -> bool:
            sizes = [cosigning.sizes.get(name, 0) for name in CELLS if name != HERE]
            return sizes == [cell.time.durable_position] * 2

        await until_async(so, timeout_s=30.0)
        return cell.time.durable_position


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(cluster: EmbeddedPostgres, template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """Three cells, a sale over them, and some accounts more."""
    folder = tmp_path_factory.mktemp("proofs")
    async with town(cluster, template, keys=folder) as cells:
        built = Rig(cells, folder)
        await cells.sale()
        await asyncio.gather(*(open_user(cells.cells[HERE].parts.cell) for _ in range(300)))
        keys = [key for name in CELLS for key in proof.keys_in(folder / name / "checkpoint.key", "")]
        (folder / "keys").write_text("\n".join(keys))
        await built.witnessed()
        yield built


async def test_a_checkpoint_is_signed_by_all(rig: Rig, tmp_path: Path, capsys: Out) -> None:
    """What the command writes is what the verifier takes; the witnesses are named, and the keys are told."""
    size = await rig.witnessed()
    async with rig.town.reach(HERE) as reach:
        await proof.run_checkpoint(reach, 0, tmp_path / "note")
        assert f"the first {size} events of {HERE}" in capsys.readouterr().err
        with as_json():
            await proof.run_checkpoint(reach, 0, None)
        told = json.loads(capsys.readouterr().out)
        assert (told["size"], told["last_size"], told["position"]) == (size, size, size)
        await proof.run_keys(reach)
        assert capsys.readouterr().out.split() == told["keys"]
    assert verify(["--key", rig.keys, str(tmp_path / "note")], program="verify") == GOOD
    said = capsys.readouterr().out
    assert said.startswith(f"HOLDS: cellbook/{HERE} has signed its first {size} events\n")
    assert said.count("cosigned by cellbook/") == 2


async def test_proofs_hold_offline(rig: Rig, tmp_path: Path, capsys: Out) -> None:
    """Of an event, and of growth; another key, or a byte that is changed, and they do not."""
    old = await rig.witnessed()
    await open_user(rig.here.parts.cell)
    size = await rig.witnessed()
    one, grown = tmp_path / "one", tmp_path / "grown"
    async with rig.town.reach(HERE) as reach:
        await proof.run_proof(reach, 3, 0, one)
        await proof.run_consistency(reach, old, 0, grown)
        for refused in (proof.run_proof(reach, size + 99, 0, None), proof.run_consistency(reach, 2**60, 0, None)):
            with pytest.raises(LedgerRefusal, match="NOT_FOUND"):
                await refused
    async with rig.town.reach() as reach:
        with pytest.raises(ClientError, match=f"say which cell, by --cell: {HERE}, "):
            await proof.run_proof(reach, 3, 0, None)
    for file, said in ((one, f"the event is at position 3 of cellbook/{HERE}"), (grown, f"the first {old} events of")):
        assert verify(["--key", rig.keys, str(file)], program="verify") == GOOD
        assert said in capsys.readouterr().out
        other = proof.keys_in(rig.folder / WITNESS / "checkpoint.key", "")[0]
        assert verify(["--key", other, str(file)], program="verify") == BAD
        changed = file.read_bytes().replace(b'"path":["', b'"path":["AA', 1)
        (tmp_path / "changed").write_bytes(changed)
        assert verify(["--key", rig.keys, str(tmp_path / "changed")], program="verify") == BAD
        capsys.readouterr()
    (tmp_path / "changed").write_bytes(one.read_bytes().replace(b'"position":3,', b'"position":4,'))
    assert verify(["--key", rig.keys, str(tmp_path / "changed")], program="verify") == BAD


async def test_an_auditor_requires_witnesses(rig: Rig, tmp_path: Path, capsys: Out) -> None:
    """Of a checkpoint, a proof and an export: what the log alone has signed does not hold; a deleted one is missed."""
    await rig.witnessed()
    note, one, whole = tmp_path / "note", tmp_path / "one", tmp_path / "whole"
    async with rig.town.reach(HERE) as reach:
        await proof.run_checkpoint(reach, 0, note)
        await proof.run_proof(reach, 3, 0, one)
        await export.run_export(reach, whole, 1, 0)

    def judged(file: Path, *options: str) -> tuple[int, str]:
        capsys.readouterr()
        code = verify(["--key", rig.keys, *options, str(file)], program="verify")
        return code, capsys.readouterr().out

    for file in (note, one, whole):
        assert judged(file, "--require-witnesses", "2")[0] == GOOD
        # As somebody who holds the log's own key would make it.
        alone = tmp_path / f"{file.name}.alone"
        lines = file.read_text().replace("\\n", "\n\0").splitlines(keepends=True)
        kept = [line for line in lines if "/witness " not in line or "signature" in line or '"event"' in line]
        alone.write_text("".join(kept).replace("\n\0", "\\n"))
        assert judged(alone, "--require-witnesses", "0")[0] == GOOD
        code, said = judged(alone, "--require-witnesses", "1")
        assert (code, "must" in said) == (BAD, True), said
    assert judged(whole, "--require-witnesses", "7")[0] == USAGE
    gone = tmp_path / "gone"
    gone.write_text("".join(line for line in whole.read_text().splitlines(keepends=True) if '"checkpoint"' not in line))
    code, said = judged(gone, "--checkpoint", str(note))
    assert (code, "was deleted" in said) == (BAD, True)


async def test_an_export_survives_broken_connections(
    rig: Rig, tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch, cluster: EmbeddedPostgres, template: str
) -> None:
    """After each piece the cell goes away; what there is goes on where it was. It holds, and a cell is made from it."""
    size, whole = await rig.witnessed(), Exporter.pieces
    pieces = 0

    async def one_piece(self: Exporter, wanted: Wanted) -> AsyncGenerator[Piece, None]:
        nonlocal pieces
        async for piece in whole(self, wanted):
            yield piece
            pieces += 1
            if b'{"end"' not in piece.lines:
                raise Unavailable(problem="a broken cable")

    monkeypatch.setattr(Exporter, "pieces", one_piece)
    monkeypatch.setattr(export, "PAUSE_FIRST_S", 0.0)
    out = tmp_path / "us-east.jsonl"
    async with rig.town.reach(HERE) as reach:
        with as_json():
            await export.run_export(reach, out, 1, 0)
        told = json.loads(capsys.readouterr().out)
        assert (told["position"], told["whole"]) == (size, True)
        assert pieces >= 5
        with pytest.raises(ClientError, match="is there already"):
            await export.run_export(reach, out, 1, 0)
    assert [each.name for each in tmp_path.iterdir()] == [out.name]
    assert verify(["--key", rig.keys, "--json", str(out)], program="verify") == GOOD
    assert json.loads(capsys.readouterr().out)["signed"] == size
    async with another(cluster, template) as dsn:
        keys = proof.keys_from([rig.keys], None)
        with as_json():
            await export.run_import(out, dsn, None, keys)
        put_back = json.loads(capsys.readouterr().out)
        assert (put_back["events"], put_back["root"]) == (size, told["root"])
        assert await ask(dsn, "SELECT cell, position, importing FROM head") == [(HERE, size, False)]
        with pytest.raises(ClientError, match="into an empty database"):
            await export.run_import(out, dsn, None, keys)


async def test_a_folder_that_cannot_be_written_to_is_named(rig: Rig, tmp_path: Path) -> None:
    """As any failure, so as JSON too: a program must not find out by another exception."""
    out, a_file = tmp_path / "none" / "us-east.jsonl", tmp_path / "file"
    a_file.touch()
    async with rig.town.reach(HERE) as reach:
        with pytest.raises(ClientError, match=r"none/us-east\.jsonl\.part: No such file or directory"):
            await export.run_export(reach, out, 1, 0)
        with pytest.raises(ClientError, match=f"^{a_file}/checkpoint: Not a directory"):
            await publish.run_publish(reach, a_file, verifier_keys(Path(rig.keys)), 0)


@pytest.mark.parametrize(
    ("users", "behind_head", "problem", "has_root"),
    [
        (10, 1, "its signed tree is not complete", False),
        # The tree is made from its full tiles, so it has a root without the event.
        (300, 280, "it has no event at position [0-9]+$", True),
    ],
)
async def test_an_export_of_a_damaged_log_fails(
    tmp_path: Path,
    capsys: Out,
    cluster: EmbeddedPostgres,
    template: str,
    users: int,
    behind_head: int,
    problem: str,
    *,
    has_root: bool,
) -> None:
    """An event is missing, from the end of the tree or from a full tile: the command says so, and exits with 1."""
    (tmp_path / "keys").mkdir()
    # A cell of its own: what is damaged stays so.
    async with town(cluster, template, HERE, keys=tmp_path / "keys") as cells, cells.reach(HERE) as reach:
        parts, dsn = cells.cells[HERE].parts, cells.cells[HERE].dsn
        cell, signer = parts.cell, parts.audit.proofs.checkpoint_signer
        await asyncio.gather(*(open_user(cell) for _ in range(users)))
        await until_signed(signer)
        await ask(dsn, "ALTER TABLE event_store DISABLE TRIGGER ALL")
        await ask(dsn, "DELETE FROM event_store WHERE position = (SELECT position - $1 FROM head)", behind_head)
        capsys.readouterr()
        with as_json(), pytest.raises(ClientError, match=f"is damaged: {problem}"):
            await export.run_export(reach, tmp_path / "damaged.jsonl", 1, 0)
        assert bool(json.loads(capsys.readouterr().out)["root"]) is has_root


async def test_what_is_there_of_an_export_is_looked_at(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that was cut is taken again; what is no export, or another cell's, is not written over."""
    size = await rig.witnessed()
    out, part = tmp_path / "x", tmp_path / "x.part"
    async with rig.town.reach(HERE) as reach:
        await export.run_export(reach, tmp_path / "whole", 1, 0)
        whole = (tmp_path / "whole").read_bytes()
        monkeypatch.setattr(export, "TAIL_BYTES", 100_000)
        for cut in (50, 5_000, len(whole) // 2, len(whole) - 10):
            part.write_bytes(whole[:cut])
            await export.run_export(reach, out, 1, 0)
            assert out.read_bytes().count(b'{"event"') == size
            assert verify(["--key", rig.keys, str(out)], program="verify") == GOOD
            out.unlink()
        part.write_text("a letter\nto somebody\n")
        with pytest.raises(ClientError, match="no export that was broken off"):
            await export.run_export(reach, out, 1, 0)
        part.write_bytes(whole[:5_000].replace(b'"cell":"us-east"', b'"cell":"us-west"'))
        with pytest.raises(ClientError, match="is of us-west, not of us-east"):
            await export.run_export(reach, out, 1, 0)
        assert part.exists()


async def test_tiles_are_published_and_go_on(rig: Rig, tmp_path: Path, capsys: Out) -> None:
    """From what is there: full tiles stay, and a checkpoint is there only with the witnesses that are wanted."""
    folder, kept = tmp_path / "web", tmp_path / "kept"
    keys = verifier_keys(Path(rig.keys))
    size = await rig.witnessed()
    async with rig.town.reach(HERE) as reach:
        with as_json():
            await publish.run_publish(reach, folder, keys, 2)
        first = json.loads(capsys.readouterr().out)
        assert (first["size"], first["tiles_written"]) == (size, 1 + (size // 256) + 1)
        kept.write_bytes((folder / "checkpoint").read_bytes())
        await asyncio.gather(*(open_user(rig.here.parts.cell) for _ in range(3)))
        more = await rig.witnessed()
        with as_json():
            await publish.run_publish(reach, folder, keys, 2)
        again = json.loads(capsys.readouterr().out)
        assert (again["size"], again["tiles_written"]) == (more, 1)
        arguments = ["--key", rig.keys, "--require-witnesses", "2", "--checkpoint", str(kept), str(folder)]
        assert verify(arguments, program="verify") == GOOD
        told = capsys.readouterr().out
        assert told.startswith(
            f"HOLDS: the tiles of cellbook/{HERE} give the root that was signed over its first {more} "
        )
        assert told.count("cosigned by") == 2
        (folder / "tile/0/000").write_bytes(bytes(8_192))
        assert verify(arguments, program="verify") == BAD
        (folder / "tile/1/000.p/1").write_bytes(bytes(32))
        with pytest.raises(ClientError, match="are not those of its checkpoint: publish into a new folder"):
            await publish.run_publish(reach, folder, keys, 2)


async def test_a_fork_is_refused_over_the_wire(rig: Rig) -> None:
    """The witness keeps what it has seen in its database, whoever asks; and counts."""
    size = await rig.witnessed()
    witness = rig.town.cells[WITNESS]
    key = rig.here.parts.audit.proofs.checkpoint_signer.key
    assert key is not None
    body = f"cellbook/{HERE}\n{size}\n{'A' * 43}=\n"
    asked = {"key": str(key.verifier), "checkpoint": key.note(body), "old_size": size, "path": []}
    call = witness.ask("Cosign", asked, by=(("cellbook-principal", f"peer/{HERE}"),))
    assert isinstance(await refusal_of(call), LogForked)
    assert witness.parts.audit.proofs.witness.refused == {HERE: 1}
    assert await alarms(witness) == [("witnessed log", f"log of {HERE}")]


async def alarms(served: Served) -> list[tuple[str, str]]:
    """The checks and rows that the cell's log has."""
    rows = await ask(served.dsn, "SELECT payload FROM event_store WHERE event_type = 'RECONCILIATION_FAILED'")
    return [(each["check"], each["row"]) for (payload,) in rows for each in json.loads(payload)["findings"]]


@asynccontextmanager
async def laid_open(served: Served) -> AsyncIterator[LogWatch]:
    """Everything is signed, and a superuser may change events. Put right, nothing is wrong any more."""
    await asyncio.gather(*(open_user(served.parts.cell) for _ in range(20)))
    await until_signed(served.parts.audit.proofs.checkpoint_signer)
    await unguard(served.dsn, "event_store")
    watch = served.parts.audit.proofs.log_watch
    # Rounds share what they have found: one of its own, beside one of a test, would mix with it.
    await watch.background.stop()
    yield watch
    await ask(served.dsn, "ALTER TABLE event_store ENABLE ALWAYS TRIGGER append_only")
    await watch.round()
    assert watch.problems == 0
    watch.background.start()


async def test_what_the_cell_finds_changed_is_an_event_and_an_alarm(rig: Rig) -> None:
    """Once, however often it comes by; the row is named."""
    await rig.witnessed()
    here = rig.town.cells[CELLS[2]]
    async with laid_open(here) as watch:
        await ask(here.dsn, "UPDATE event_store SET stream_version = stream_version + 7 WHERE position = 3")
        for _ in range(2):
            await watch.round()
            assert watch.problems == 1
        assert await alarms(here) == [("signed log", "position 3")]
        await ask(here.dsn, "UPDATE event_store SET stream_version = stream_version - 7 WHERE position = 3")


async def test_an_alarm_is_no_reason_for_another_one(rig: Rig) -> None:
    """It is an event, which is signed in its turn: a damaged tree is told once, however far the log has grown."""
    await rig.witnessed()
    here = rig.town.cells[CELLS[2]]
    async with laid_open(here) as watch:
        [(row,)] = await ask(here.dsn, "SELECT to_jsonb(e) FROM event_store e WHERE position = 5")
        await ask(here.dsn, "DELETE FROM event_store WHERE position = 5")
        for _ in range(3):
            await watch.round()
            await until_signed(here.parts.audit.proofs.checkpoint_signer)
        told = [named for _, named in await alarms(here)]
        assert (told.count("the tree"), told.count("position 5"), told.count("position 6")) == (1, 1, 0)
        await ask(here.dsn, "INSERT INTO event_store SELECT * FROM jsonb_populate_record(NULL::event_store, $1)", row)
