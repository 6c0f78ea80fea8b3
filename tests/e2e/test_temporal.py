"""Cells whose sagas a Temporal server drives: real processes, a real server, and kill -9 of the orchestrator."""

import asyncio
import json
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("temporalio", reason="needs the extra cellbook[temporal]")

from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError

from cellbook.v1 import auction_pb2, saga_pb2
from lab.cluster import CELLS
from tests.e2e.cellbook_command import COMMAND, run
from tests.e2e.cluster import AUCTION_CELL, Town, town
from tests.local_cells import until_async
from tests.temporal_server import address_of, temporal_server

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.slow, pytest.mark.temporal]

# Before the first workflow is anything, with an effect that nobody has recorded, and past the pivot.
PLACES = ["before-send/pin/action", "before-record/credit-in/action", "before-send/settle/action"]


@pytest.mark.timeout(400)
async def test_a_settlement_survives_its_orchestrator(tmp_path: Path) -> None:
    """Killed thrice, it is one workflow, and each leg is taken once."""
    async with temporal_server() as client:
        settings = {"saga_engine": "temporal", "temporal_address": address_of(client)}
        async with town(tmp_path, {AUCTION_CELL: PLACES[:1]}, settings) as here:
            won = await here.won()
            closing = asyncio.create_task(here.market.close(won.auction))
            for following in (*PLACES[1:], ""):
                await here.dies(AUCTION_CELL)
                await here.check(settled=False)
                here.start(AUCTION_CELL, following)
            await here.ended(won, auction_pb2.AUCTION_STATE_SETTLED)
            await asyncio.wait([closing])
            await here.assert_paid(won)
            await here.check()
            saga_id = (await here.market.auction(won.auction)).saga_id
            workflow = client.get_workflow_handle(saga_id)
            await workflow.result()
            assert (await workflow.describe()).status is WorkflowExecutionStatus.COMPLETED


@pytest.mark.timeout(200)
async def test_the_other_engine_does_not_start(tmp_path: Path) -> None:
    """With a settlement in flight on Temporal the native engine refuses, and says how to go on."""
    held = f"@{tmp_path / 'failpoints'}"
    (tmp_path / "failpoints").write_text("hold/credit-out/action\n")
    async with temporal_server() as client:
        settings = {"saga_engine": "temporal", "temporal_address": address_of(client)}
        async with town(tmp_path / "data", {AUCTION_CELL: [held]}, settings) as here:
            won = await here.won()
            await here.market.close(won.auction)
            member = here.member(AUCTION_CELL)
            assert member.process is not None
            member.process.terminate()
            assert await member.wait() == 0
            member.settings["saga_engine"] = "native"
            member.start()
            assert await member.wait() == 1
            last = member.log.read_text().splitlines()[-1]
            assert "start this cell with saga_engine=temporal again" in last
            member.settings["saga_engine"] = "temporal"
            here.start(AUCTION_CELL)
            await here.ended(won, auction_pb2.AUCTION_STATE_SETTLED)
            await here.check()


@pytest.mark.timeout(200)
async def test_a_worker_of_its_own_has_the_cell_take_the_legs(tmp_path: Path) -> None:
    """Without it a settlement waits; with it all is paid, though it is killed on the way and another one comes."""
    async with temporal_server() as client:
        address = address_of(client)
        settings = {"saga_engine": "temporal", "temporal_address": address, "temporal_worker": "apart"}
        async with town(tmp_path, {}, settings) as here:
            workers = [worker(here, cell.name, address) for cell in CELLS if cell.name != AUCTION_CELL]
            try:
                won = await here.won()
                await here.market.close(won.auction)
                saga = await here.saga(won)
                handle = client.get_workflow_handle(saga.saga_id)

                async def begun() -> bool:
                    with suppress(RPCError):
                        return (await handle.describe()).status is WorkflowExecutionStatus.RUNNING
                    return False

                await until_async(begun)
                assert (await here.saga(won)).legs[0].state == saga_pb2.LEG_STATE_PENDING
                first = worker(here, AUCTION_CELL, address)
                workers.append(first)
                await until_async(
                    lambda: here.saga(won), lambda found: found.legs[0].state == saga_pb2.LEG_STATE_DONE, timeout_s=30
                )
                first.kill()
                workers.append(worker(here, AUCTION_CELL, address))
                await here.ended(won, auction_pb2.AUCTION_STATE_SETTLED)
                await here.assert_paid(won)
                await here.check()
                await handle.result()
            finally:
                for each in workers:
                    each.kill()
                    each.wait()


@pytest.mark.timeout(300)
async def test_nobody_loses_a_cent_by_a_cut_cable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The night on Temporal: 44 of 47 complete, 3 are undone, none of it twice."""
    async with temporal_server() as client:
        monkeypatch.setenv("CELLBOOK_SAGA_ENGINE", "temporal")
        monkeypatch.setenv("CELLBOOK_TEMPORAL_ADDRESS", address_of(client))
        ended = await run("chaos", "cable-cut", "--link", "proxy", "--cut-seconds", "10", "--json", temporary=tmp_path)
    assert ended.code == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert (told["in_flight"], told["completed"], told["compensated"], told["double_effects"]) == (47, 44, 3, 0)
    assert told["conservation_ok"] is True
    assert (told["escrow_minor"], told["clearing_in_transit_minor"]) == (0, 0)
    assert 0 <= told["recovery_s"] <= 30


def worker(here: Town, cell: str, address: str) -> "subprocess.Popen[bytes]":
    """`cellbook saga-worker` for a cell, its log beside the cell's."""
    arguments = ("--cell", here.member(cell).address, "--task-queue", f"cellbook-{cell}", "--temporal", address)
    with (here.member(cell).folder / "worker.log").open("ab") as log:
        return subprocess.Popen([*COMMAND, "saga-worker", *arguments], stdout=log, stderr=log)
