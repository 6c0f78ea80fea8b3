"""Cells whose sagas a Temporal server drives: real processes, a real server, and kill -9 of the orchestrator."""

import asyncio
from pathlib import Path

import pytest

pytest.importorskip("temporalio", reason="needs the extra cellbook[temporal]")

from temporalio.client import WorkflowExecutionStatus

from cellbook.v1 import auction_pb2
from tests.e2e.town import AUCTION_CELL, town
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
