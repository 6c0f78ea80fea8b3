"""Reconcile and Rebuild over real sockets, between three real cells, each pass in a process of its own."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from cellbook.v1 import audit_pb2, types_pb2
from cells.audit.reconcile.findings import Order
from cells.domain.audit.refusals import StampInFuture
from cells.domain.refusals import NotPermitted, Unavailable
from server.audit.process import ChildPasses
from server.cli.audit import books as shown
from server.cli.client import ClientError
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.audit_rig import CELLS, Town, town
from tests.integration.books.corruptions import CHANGED
from tests.integration.json_output import as_json
from tests.integration.played import corrupt
from tests.integration.services_rig import AUDITOR, refusal_of
from tests.invariants import check_all
from tests.local_cells import until

if TYPE_CHECKING:
    from cells.audit.reconcile.findings import Progress

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(cluster: EmbeddedPostgres, template: str) -> AsyncIterator[Town]:
    async with town(cluster, template) as cells:
        await cells.sale()
        await cells.sale(*CELLS[1:], CELLS[0])
        yield cells


def said(capsys: pytest.CaptureFixture[str]) -> Any:  # noqa: ANN401 - JSON
    """The command's JSON, behind what the cells have logged."""
    out = capsys.readouterr().out
    return json.loads(out[out.index("{\n") :])


async def test_cells_are_reconciled_and_rebuilt_from_the_command_line(
    rig: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    """Well; then a row is wrong, named, put right; and well again. What is said to programs says the same."""
    dsn = rig.cells[CELLS[1]].dsn
    async with rig.reach() as reach:
        with as_json():
            await shown.run_reconcile(reach, full=True, events_per_s=0)
        content = said(capsys)
        assert content["well"]
        assert [cell["cell"] for cell in content["cells"]] == list(CELLS)
        assert all(cell["clearing_cells"] == sorted(CELLS) for cell in content["cells"])
        [account_id] = await corrupt(dsn, [CHANGED[0].sql])
        with pytest.raises(ClientError, match=f"{CELLS[1]}: 1 mismatches"):
            await shown.run_reconcile(reach, full=False, events_per_s=100_000)
        text = capsys.readouterr().out
        assert f"projection accounts {account_id}" in text
        assert "expected" in text
    async with rig.reach(CELLS[1]) as reach:
        with as_json():
            await shown.run_rebuild(reach, "a disk that lies")
        content = said(capsys)
        assert (content["state_count"], content["left_count"], content["left"]) == ("1", "0", [])
        await shown.run_reconcile(reach, full=True, events_per_s=0)
    await check_all({name: each.dsn for name, each in rig.cells.items()})


async def test_a_cell_that_is_away_fails_the_command(rig: Town, capsys: pytest.CaptureFixture[str]) -> None:
    """Its movements could not be compared, and it is said with whom."""
    with rig.away(CELLS[2]):
        async with rig.reach(CELLS[0]) as reach:
            with as_json(), pytest.raises(ClientError, match=f"could not compare movements with {CELLS[2]}"):
                await shown.run_reconcile(reach, full=False, events_per_s=0)
    content = said(capsys)
    assert [each["cell"] for each in content["cells"][0]["missing"]] == [CELLS[2]]


async def test_progress_comes_before_findings_and_the_summary_last(rig: Town) -> None:
    """As a stream; whoever goes away ends the pass, and its process."""
    here = rig.cells[CELLS[0]]
    full = here.send(audit_pb2.ReconcileRequest(full=True), by=AUDITOR, timeout_s=60)
    told = [message.WhichOneof("told") async for message in full]
    assert told[-1] == "summary"
    assert told.count("summary") == 1
    call = here.send(audit_pb2.ReconcileRequest(full=True, events_per_s=1), by=AUDITOR, timeout_s=60)
    await call.read()
    call.cancel()
    reconciliation = here.parts.audit.reconciliation
    await until(lambda: not reconciliation._busy.locked())
    await reconciliation.reconcile(Order())


async def test_an_auditor_looks_and_does_not_write(rig: Town) -> None:
    """Whoever checks the books does not put them right; and nobody but they and operators looks."""
    here, others = rig.cells[CELLS[0]], ("service/shop", "treasury/bank", "peer/eu-west")
    looks = [here.ask("Reconcile", by=(("cellbook-principal", principal),)) for principal in others]
    for call in (here.ask("Rebuild", by=AUDITOR), *looks):
        assert isinstance(await refusal_of(call), NotPermitted)


async def test_no_cell_promises_for_the_future(rig: Town) -> None:
    """Not even for an auditor."""
    far = types_pb2.HlcStamp(physical_ms=4_102_444_800_000)
    call = rig.cells[CELLS[0]].ask("ListClearing", peer=CELLS[1], until=far, by=AUDITOR)
    assert isinstance(await refusal_of(call), StampInFuture)


async def test_the_schedule_looks_without_being_asked(rig: Town) -> None:
    """The leader alone, and over and over."""
    reconciliation = rig.cells[CELLS[0]].parts.audit.reconciliation
    before = reconciliation.passes_count
    await reconciliation.stop()
    reconciliation.every_s = 0.01  # type: ignore[assignment]
    try:
        await reconciliation.start()
        await until(lambda: reconciliation.passes_count >= before + 2, timeout_s=30)
    finally:
        await reconciliation.stop()
        reconciliation.every_s = 0
        await reconciliation.start()
    assert reconciliation.last is None


async def test_a_process_that_dies_is_no_good_news() -> None:
    """A pass without a word at its end has failed, and it is said why as far as is known."""
    passes = ChildPasses(dsn="postgresql://nobody@127.0.0.1:1/none", cell=CELLS[0])
    seen: list[Progress] = []
    with pytest.raises(Unavailable, match="onnect"):
        await asyncio.wait_for(passes.run(Order(full=True), seen.append), 60)
