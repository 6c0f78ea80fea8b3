"""A witness outside over the wire: it follows real cells, they keep what it signs, and the verifier counts it.

Then all cells are restored from yesterday, with their checkpoint files and witnesses: it alone knows better.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from cells.audit.proofs.keys import origin_of
from cells.audit.verify.command import GOOD
from cells.audit.verify.command import main as verify
from server.audit.keys import SigningKeysInvalid, outside_witnesses, verifier_keys
from server.cli.access import PLAIN
from server.cli.audit import export, proof
from server.cli.witness import GrpcLogs, follower_of
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.audit_rig import Town, town
from tests.integration.database import ask
from tests.local_cells import open_user, until_async

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMES = ("us-east", "eu-west")
OUTSIDE = "witness.bank.example"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(
    cluster: EmbeddedPostgres, template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Town]:
    """Two cells that keep what the witness signs."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "witnesses").write_text("\n".join(proof.make_witness_key(OUTSIDE, folder / "witness.key")))
    async with town(cluster, template, *NAMES, keys=folder) as cells:
        keys = [key for name in NAMES for key in proof.keys_in(folder / name / "checkpoint.key", "")]
        (folder / "keys").write_text("\n".join([*keys, (folder / "witnesses").read_text()]))
        cells.folder = folder
        yield cells


async def grown(rig: Town) -> dict[str, int]:
    """The size that each cell has signed, after some more events."""
    for name in NAMES:
        await asyncio.gather(*(open_user(rig.cells[name].parts.cell) for _ in range(5)))
    return {name: await signed(rig, name) for name in NAMES}


async def signed(rig: Town, name: str) -> int:
    parts = rig.cells[name].parts
    cell, signer = parts.cell, parts.proofs.checkpoint_signer

    async def so() -> bool:
        return signer.last is not None and signer.last.size == cell.time.durable_position

    await until_async(so)
    return cell.time.durable_position


async def test_it_signs_for_all_to_see_and_finds_what_was_put_back(
    rig: Town, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One story, as each part of it needs the one before."""
    assert rig.folder is not None
    sizes = await grown(rig)
    logs = GrpcLogs(router="", access=PLAIN)
    keys = verifier_keys(rig.folder / "keys")
    follower = follower_of(logs, keys, rig.folder / "witness.key", tmp_path / "memory", new=True)
    async with rig.reach() as reach:
        logs.cells = {cell.name: cell for cell in reach.cells}
        await follower.round()
        sizes = await grown(rig)
        await follower.round()
        assert (follower.alarms, follower.problems, follower.sizes) == ({}, {}, sizes)
        for name in NAMES:
            [(count,)] = await ask(
                rig.cells[name].dsn,
                "SELECT count(*) FROM cosignatures WHERE witness = $1 AND size = $2",
                OUTSIDE,
                sizes[name],
            )
            assert count == 1
    async with rig.reach(NAMES[0]) as reach:
        await export.run_export(reach, tmp_path / "log", 1, 0, as_json=False)
    policy = tmp_path / "policy"
    policy.write_text(
        "\n".join(
            [
                f"log {next(key for key in keys if key.name == origin_of(NAMES[0]))}",
                f"witness bank {(rig.folder / 'witnesses').read_text()}",
                "quorum bank",
            ]
        )
    )
    assert verify(["--key", str(policy), str(tmp_path / "log")], program="verify") == GOOD
    assert f"witnessed up to position {sizes[NAMES[0]]}, by 1 of (1 of {OUTSIDE})" in capsys.readouterr().out
    for name in NAMES:
        dsn = rig.cells[name].dsn
        for table in ("cosignatures", "checkpoints", "event_store"):
            await ask(dsn, f"ALTER TABLE {table} DISABLE TRIGGER append_only")
            if table != "event_store":
                await ask(dsn, f"DELETE FROM {table} WHERE size > 5")  # noqa: S608 - our own tables
        await ask(dsn, "DELETE FROM event_store WHERE position > 5")
        await ask(dsn, "DELETE FROM witnessed")
    async with rig.reach() as reach:
        logs.cells = {cell.name: cell for cell in reach.cells}
        await follower.round()
        assert set(follower.alarms) == set(NAMES)
        assert all("takes some back" in told for told in follower.alarms.values())


async def test_a_cell_takes_so_many_witnesses_and_no_logs(tmp_path: Path) -> None:
    """Each may add a line to each checkpoint, so their number is bounded."""
    file = tmp_path / "witnesses"
    made = [proof.make_witness_key(f"w{number}.example", tmp_path / f"{number}")[0] for number in range(17)]
    file.write_text("\n".join(made[:16]))
    assert len(outside_witnesses(file)) == 16
    file.write_text("\n".join(made))
    with pytest.raises(SigningKeysInvalid, match="at most 16 keys"):
        outside_witnesses(file)
    file.write_text(proof.make_keys("us-east", tmp_path / "log")[0])
    with pytest.raises(SigningKeysInvalid, match="each of a witness"):
        outside_witnesses(file)
    assert outside_witnesses(None) == []
    with pytest.raises(SigningKeysInvalid, match="no name of a witness"):
        proof.make_witness_key("a b+c", tmp_path / "x")
