"""A witness outside over the wire: it follows real cells, they keep what it signs, and the verifier counts it.

Then all cells are restored from yesterday, with their checkpoint files and witnesses: it alone knows better.
"""

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest
import pytest_asyncio

from cellbook.v1 import router_pb2
from cells.audit.verify.command import GOOD
from cells.audit.verify.command import main as verify
from cells.audit.verify.note import origin_of
from cells.store.unusable import CannotServe
from server.audit.keys import outside_witnesses, verifier_keys
from server.cli.access import PLAIN
from server.cli.audit import export, proof
from server.cli.witness import GrpcLogs, follower_of
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.audit.proof_rig import until_signed
from tests.integration.audit_rig import Town, town
from tests.integration.database import ask
from tests.local_cells import open_user, until_async

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMES = ("us-east", "eu-west")
OUTSIDE = "witness.bank.example"
# The database as it was after five events. The cells still sign for each other meanwhile.
PUT_BACK = """DO $$ BEGIN
    LOCK TABLE cosignatures, checkpoints, event_store, witnessed;
    ALTER TABLE cosignatures DISABLE TRIGGER append_only;
    ALTER TABLE checkpoints DISABLE TRIGGER append_only;
    ALTER TABLE event_store DISABLE TRIGGER append_only;
    DELETE FROM cosignatures WHERE size > 5;
    DELETE FROM checkpoints WHERE size > 5;
    DELETE FROM event_store WHERE position > 5;
    DELETE FROM witnessed;
END $$"""


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
    return {name: (await until_signed(rig.cells[name].parts.audit.proofs.checkpoint_signer)).size for name in NAMES}


@asynccontextmanager
async def directory(rig: Town) -> AsyncIterator[str]:
    """The address of a router that lists the cells, and can do nothing else."""
    cells = [router_pb2.Cell(name=name, endpoints=[served.address]) for name, served in rig.cells.items()]

    async def list_cells(_request: object, _context: object) -> router_pb2.ListCellsResponse:
        return router_pb2.ListCellsResponse(cells=cells)

    handler = grpc.unary_unary_rpc_method_handler(
        list_cells,
        request_deserializer=router_pb2.ListCellsRequest.FromString,
        response_serializer=router_pb2.ListCellsResponse.SerializeToString,
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("cellbook.v1.RouterService", {"ListCells": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def started(rig: Town, router: str, memory: Path, *more: str) -> Process:
    """`cellbook witness` as a process of its own."""
    assert rig.folder is not None
    keys = ["--key", str(rig.folder / "keys"), "--signing-key", str(rig.folder / "witness.key")]
    command = [str(Path(sys.executable).with_name("cellbook")), "witness", *keys, "--memory", str(memory)]
    command += ["--router", router, *more]
    return await asyncio.create_subprocess_exec(*command, stderr=PIPE)


async def ended(process: Process) -> tuple[int, str]:
    _, said = await process.communicate()
    return process.returncode or 0, said.decode()


async def cosigned(rig: Town, name: str, size: int) -> int:
    query = "SELECT count(*) FROM cosignatures WHERE witness = $1 AND size = $2"
    [(count,)] = await ask(rig.cells[name].dsn, query, OUTSIDE, size)
    return int(count)


async def test_the_process_follows_signs_and_ends(rig: Town, tmp_path: Path) -> None:
    """It begins with logs that it does not know only if told to, goes on from its memory, and ends by a signal."""
    async with directory(rig) as router:
        memory = tmp_path / "memory"
        code, said = await ended(await started(rig, router, memory, "--once"))
        assert (code, "--new begins with what is there now" in said) == (2, True)
        sizes = await grown(rig)
        assert (await ended(await started(rig, router, memory, "--once", "--new")))[0] == 0
        assert [await cosigned(rig, name, size) for name, size in sizes.items()] == [1, 1]
        process = await started(rig, router, memory, "--every-s", "0.1")
        sizes = await grown(rig)

        async def followed() -> bool:
            return [await cosigned(rig, name, size) for name, size in sizes.items()] == [1, 1]

        await until_async(followed, timeout_s=30.0)
        process.send_signal(signal.SIGTERM)
        code, said = await ended(process)
        assert (code, "Traceback" in said) == (128 + signal.SIGTERM, False)
        # A checkpoint in the memory that somebody has changed is not what the log has signed.
        text = json.loads(memory.read_text())
        text["seen"][0]["note"] = text["seen"][0]["note"].replace("\n", "\nx", 1)
        memory.write_text(json.dumps(text))
        code, said = await ended(await started(rig, router, memory, "--once"))
        assert (code, "is damaged" in said) == (2, True)


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
            assert await cosigned(rig, name, sizes[name]) == 1
    async with rig.reach(NAMES[0]) as reach:
        await export.run_export(reach, tmp_path / "log", 1, 0)
    # For a process of its own, as the follower here holds the lock.
    (tmp_path / "copy").write_bytes((tmp_path / "memory").read_bytes())
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
        await ask(rig.cells[name].dsn, PUT_BACK)
    async with rig.reach() as reach:
        logs.cells = {cell.name: cell for cell in reach.cells}
        await follower.round()
        assert set(follower.alarms) == set(NAMES)
        assert all("takes some back" in told for told in follower.alarms.values())
    async with directory(rig) as router:
        code, said = await ended(await started(rig, router, tmp_path / "copy", "--once"))
        # The log may have grown again meanwhile, by what the cells say of it: then its checkpoint is missed.
        assert (code, said.count('"log_changed"')) == (1, len(NAMES)), said


async def test_a_cell_takes_so_many_witnesses_and_no_logs(tmp_path: Path) -> None:
    """Each may add a line to each checkpoint, so their number is bounded."""
    file = tmp_path / "witnesses"
    made = [proof.make_witness_key(f"w{number}.example", tmp_path / f"{number}")[0] for number in range(17)]
    file.write_text("\n".join(made[:16]))
    assert len(outside_witnesses(file)) == 16
    file.write_text("\n".join(made))
    with pytest.raises(CannotServe, match="at most 16 keys"):
        outside_witnesses(file)
    file.write_text(proof.make_keys("us-east", tmp_path / "log")[0])
    with pytest.raises(CannotServe, match="each of a witness"):
        outside_witnesses(file)
    assert outside_witnesses(None) == []
    with pytest.raises(CannotServe, match="no name of a witness"):
        proof.make_witness_key("a b+c", tmp_path / "x")
