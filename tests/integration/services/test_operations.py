"""OperationsService: what a process says of itself and of its cell."""

from contextlib import suppress
from unittest.mock import AsyncMock

import grpc.aio
import pytest

from cellbook.v1 import operations_pb2 as pb
from cells.audit.reconcile.findings import Check, Finding, Report
from cells.audit.reconcile.service import Reconciliation
from cells.domain.refusals import ClockOffsetExceeded
from cells.domain.time.hlc import Stamp
from cells.store.ports import StoreUnavailable
from server.services.operations import VERSION
from tests.integration.services_rig import AUDITOR, HERE, SHOP, THERE, Rig, refusal_of, usd
from tests.local_cells import until_async

ASKED = pb.GetCellStatusRequest()


async def status(rig: Rig) -> pb.GetCellStatusResponse:
    found: pb.GetCellStatusResponse = await rig.call(ASKED, by=AUDITOR)
    return found


async def test_a_leader_tells_of_its_log(rig: Rig) -> None:
    """Epoch, head, events and commands, whose growth over time is a rate; operators and auditors alone may ask."""
    before = await status(rig)
    assert (before.cell, before.version, before.trouble) == (HERE, VERSION, "")
    assert before.role == pb.PROCESS_ROLE_LEADS
    assert (before.epoch, before.position) == (1, rig.cell.time.durable_position)
    assert before.queue.commands_max == rig.cell.writer.queue.commands_max > before.queue.commands == 0
    await rig.auction()
    after = await status(rig)
    assert after.events - before.events == after.position - before.position > 0
    assert after.commands - before.commands == 2
    assert 0 <= after.commit_age_ms < 10_000
    assert abs(after.time_ms - rig.cell.time.clock.wall_ms()) < 10_000
    assert (await refusal_of(rig.call(ASKED, by=SHOP))).reason == "NOT_PERMITTED"


async def test_it_tells_of_a_silent_peer_and_of_money_in_transit(rig: Rig) -> None:
    """A transfer to a cell that does not answer: the money has left here, and its saga waits."""
    rig.peers.cut.add(THERE)
    with suppress(grpc.aio.AioRpcError):
        await rig.ask("Transfer", from_user_id=rig.ann, to_user_id=rig.carl, amount=usd(500), timeout_s=0.5)

    async def silent() -> bool:
        return any(peer.HasField("silent_ms") for peer in (await status(rig)).peers)

    await until_async(silent)
    found = await status(rig)
    [peer] = found.peers
    assert (peer.cell, list(peer.clearing)) == (THERE, [usd(500)])
    assert 0 <= peer.silent_ms < 10_000
    assert found.sagas.running == 1
    assert 0 < found.sagas.oldest_age_ms < 60_000
    rig.peers.cut.clear()
    await until_async(lambda: status(rig), lambda found: not found.sagas.oldest_age_ms)
    [peer] = (await status(rig)).peers
    # Here it counts as sent for good: the balance of the other cell makes it up.
    assert list(peer.clearing) == [usd(500)]
    assert not peer.HasField("silent_ms")
    assert peer.position == rig.there.time.durable_position


async def test_it_tells_of_clocks_and_claims(rig: Rig) -> None:
    """Whose clock is refused, and who has seen a longer log."""
    with pytest.raises(ClockOffsetExceeded):
        rig.cell.time.observe(Stamp(rig.cell.time.clock.wall_ms() + 3_600_000, 0), {}, peer=THERE)
    rig.cell.time.disputed[THERE] = 10_000
    found = await status(rig)
    [peer] = found.peers
    assert (peer.clock_refused, peer.claimed_position) == (1, 10_000)
    assert 3_500_000 < peer.clock_offset_ms <= 3_600_000
    assert "eu-west has seen position 10000" in found.trouble


async def test_it_tells_of_the_last_pass(rig: Rig) -> None:
    """Where it ended, its findings, and how much is signed."""
    finding = Finding(check=Check.HOUSE, row="house_balances fees USD", expected="1", found="2")
    last = Reconciliation(report=Report(cell=HERE, position=3, findings_count=1, findings=[finding]))
    reconciliation = rig.reconciliation
    reconciliation.last, reconciliation.since_s = last, rig.cell.time.clock.monotonic_s()
    found = await status(rig)
    assert (found.reconciliation.position, found.reconciliation.finding_count) == (3, 1)
    assert [(each.check, each.found) for each in found.reconciliation.findings] == [("house balance", "2")]
    await until_async(lambda: status(rig), lambda found: found.signing.size == rig.cell.time.durable_position)


async def test_a_process_that_does_not_lead_answers_by_itself(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is forwarded: it says whether it stands by. Without its database it says that."""
    monkeypatch.setattr(rig.cell.writer, "leading", False)
    assert (await status(rig)).role == pb.PROCESS_ROLE_UNSPECIFIED
    monkeypatch.setattr(rig.cell.leadership, "standing_by", True)
    assert (await status(rig)).role == pb.PROCESS_ROLE_STANDS_BY
    monkeypatch.setattr(rig.store, "head", AsyncMock(side_effect=StoreUnavailable("no route")))
    found = await status(rig)
    assert found.trouble == "its database: no route"
    assert found.position == rig.cell.time.durable_position
