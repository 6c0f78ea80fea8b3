"""SagaService as an operator sees it, over a real socket."""

import json
from collections.abc import Awaitable, Callable
from uuid import UUID

import pytest

from cellbook.v1 import saga_pb2
from cells.domain.commands import PlaceBid
from cells.domain.refusals import CommandIdReused, NotPermitted, SagaNotFound
from cells.domain.sagas.saga_refusals import SagaHasEnded, SagaIsPaused, SagaNotPaused, SagaPastPivot, SagasDrivenHere
from cells.domain.values import Money
from cells.sagas import circuit_breaker
from tests.doubles.failpoints import holding
from tests.integration.services_rig import HERE, OPERATOR, THERE, Rig, new_id, refusal_of
from tests.local_cells import request, until_async

pytestmark = pytest.mark.usefixtures("quick_retries")
COMPLETED, COMPENSATED = saga_pb2.SAGA_STATE_COMPLETED, saga_pb2.SAGA_STATE_COMPENSATED


async def stranded(rig: Rig) -> str:
    """The settlement of an auction here, won from the neighbour, who then is cut off."""
    name = await rig.auction()
    auction_id = UUID(name.rpartition("/")[2])
    bid = PlaceBid(auction_id=auction_id, auction_cell=HERE, bidder_id=rig.carl, amount=Money("USD", 700))
    await rig.there.execute(request(bid))
    rig.peers.cut.add(THERE)
    return str((await rig.ask("CloseAuction", auction=name)).saga_id)


async def get(rig: Rig, saga_id: str) -> saga_pb2.GetSagaResponse:
    got: saga_pb2.GetSagaResponse = await rig.ask("GetSaga", saga_id=saga_id, by=OPERATOR)
    return got


async def becomes(rig: Rig, saga_id: str, held: Callable[[saga_pb2.Saga], object]) -> saga_pb2.Saga:
    await until_async(lambda: get(rig, saga_id), lambda found: held(found.saga))
    return (await get(rig, saga_id)).saga


def pause(rig: Rig, saga_id: str, command_id: str = "", note: str = "") -> Awaitable[saga_pb2.PauseSagaResponse]:
    return rig.ask("PauseSaga", command_id=command_id or new_id(), saga_id=saga_id, note=note)


def resume(rig: Rig, saga_id: str) -> Awaitable[saga_pb2.ResumeSagaResponse]:
    return rig.ask("ResumeSaga", saga_id=saga_id)


def compensate(rig: Rig, saga_id: str) -> Awaitable[saga_pb2.CompensateSagaResponse]:
    return rig.ask("CompensateSaga", saga_id=saga_id, note="a forged lamp")


def retry(rig: Rig, saga_id: str) -> Awaitable[saga_pb2.RetrySagaResponse]:
    return rig.ask("RetrySaga", saga_id=saga_id)


async def listed(rig: Rig, **wanted: object) -> list[str]:
    return [saga.saga_id for saga in (await rig.ask("ListSagas", wanted, by=OPERATOR)).sagas]


async def test_a_stranded_saga_says_what_it_waits_for(rig: Rig) -> None:
    """Attempts, the last error, the deadline, who is concerned, and the ids by which each cell knows it."""
    saga_id = await stranded(rig)
    saga = await becomes(rig, saga_id, lambda saga: saga.waits_for_cell)
    assert saga.waits_for_cell == THERE
    assert saga.attempts
    assert "cut off" in saga.last_error
    assert (saga.paused, saga.stuck) == (False, False)
    assert saga.deadline_ms > saga.start_time_ms
    assert [(party.role, party.user_id, party.cell) for party in saga.parties] == [
        ("winner", str(rig.carl), THERE),
        ("seller", str(rig.ann), HERE),
    ]
    by_leg = {leg.leg: leg for leg in saga.legs}
    assert by_leg["escrow-out"].clearing_id == by_leg["escrow-in"].clearing_id != by_leg["credit-in"].clearing_id
    assert not by_leg["pin"].clearing_id
    assert len({leg.leg_id for leg in saga.legs}) == len(saga.legs)
    assert saga.asset.startswith(f"cells/{HERE}/assets/")
    rig.peers.cut.clear()
    await becomes(rig, saga_id, lambda saga: saga.state == COMPLETED)
    history = (await get(rig, saga_id)).history
    assert [event.event_type for event in history[:2]] == ["SAGA_STARTED", "SAGA_LEG_COMPLETED"]
    assert history[-1].event_type == "SAGA_COMPLETED"
    assert [event.stream_version for event in history] == list(range(1, len(history) + 1))
    assert {json.loads(event.payload_json).get("leg") for event in history[1:-1]} == set(by_leg)


async def test_an_operator_pauses_and_resumes(rig: Rig) -> None:
    """Under a command's id: sent again, it has the first answer. The log says who it was, and why."""
    saga_id, command_id = await stranded(rig), new_id()
    first = await pause(rig, saga_id, command_id, "until the auditors have looked")
    again = await pause(rig, saga_id, command_id, "until the auditors have looked")
    assert (first.receipt.replayed, again.receipt.replayed) == (False, True)
    assert isinstance(await refusal_of(pause(rig, saga_id, command_id, "else")), CommandIdReused)
    assert isinstance(await refusal_of(pause(rig, saga_id)), SagaIsPaused)
    assert isinstance(await refusal_of(retry(rig, saga_id)), SagaIsPaused)
    answer = await get(rig, saga_id)
    assert (answer.saga.paused, answer.saga.state) == (True, saga_pb2.SAGA_STATE_RUNNING)
    paused = answer.history[-1]
    assert (paused.event_type, paused.correlation_id) == ("SAGA_PAUSED", saga_id)
    assert json.loads(paused.payload_json) == {"note": "until the auditors have looked"}
    assert json.loads(paused.metadata_json)["principal"] == "operator/olga"
    assert paused.causation_id == answer.history[-2].event_id
    rig.peers.cut.clear()
    await resume(rig, saga_id)
    assert isinstance(await refusal_of(resume(rig, saga_id)), SagaNotPaused | SagaHasEnded)
    await becomes(rig, saga_id, lambda saga: saga.state == COMPLETED)


async def test_an_operator_turns_a_saga_back(rig: Rig) -> None:
    """The winner has the money back; once it has ended, or passed its pivot, there is nothing to turn."""
    saga_id = await stranded(rig)
    await compensate(rig, saga_id)
    rig.peers.cut.clear()
    saga = await becomes(rig, saga_id, lambda saga: saga.state == COMPENSATED)
    assert (saga.failure_reason, saga.failure_message) == ("CALLED_OFF", "a forged lamp")
    assert (await rig.there.account(rig.carl)).state.balance("USD").available_minor == 100_000
    assert isinstance(await refusal_of(compensate(rig, saga_id)), SagaHasEnded)


async def test_past_the_pivot_the_refusal_says_so(rig: Rig) -> None:
    """It names the pivot, and the saga goes on forward."""
    with holding(rig.cell.engine.steps, "settle"):
        saga_id = await stranded(rig)
        rig.peers.cut.clear()
        await becomes(rig, saga_id, lambda saga: saga.state == saga_pb2.SAGA_STATE_COMMITTED)
        refused = await refusal_of(compensate(rig, saga_id))
        assert isinstance(refused, SagaPastPivot)
        assert refused.facts["leg"] == "ownership"
    await pause(rig, saga_id)
    await resume(rig, saga_id)
    await becomes(rig, saga_id, lambda saga: saga.state == COMPLETED)


async def test_orders_are_an_operators(rig: Rig) -> None:
    """Neither the shop nor the auditor gives any; both may look."""
    saga_id = await stranded(rig)
    for principal in ("service/shop", "auditor/anna", f"user/{rig.ann}"):
        order = rig.ask("PauseSaga", saga_id=saga_id, by=(("cellbook-principal", principal),))
        assert isinstance(await refusal_of(order), NotPermitted)
    auditor = (("cellbook-principal", "auditor/anna"),)
    assert (await rig.ask("GetSaga", saga_id=saga_id, by=auditor)).saga.saga_id == saga_id


async def test_unknown_sagas_are_not_found(rig: Rig) -> None:
    """By every RPC that names one."""
    assert isinstance(await refusal_of(get(rig, new_id())), SagaNotFound)
    for order in (pause, resume, compensate, retry):
        assert isinstance(await refusal_of(order(rig, new_id())), SagaNotFound)
    watch = rig.send(saga_pb2.WatchSagaRequest(saga_id=new_id()), by=OPERATOR)
    assert isinstance(await refusal_of(watch.read()), SagaNotFound)


async def test_sagas_are_listed_for_an_operator(rig: Rig) -> None:
    """By participant, age, and what needs a hand: paused, stuck."""
    first = await stranded(rig)
    rig.peers.cut.clear()
    await becomes(rig, first, lambda saga: saga.state == COMPLETED)
    second = await stranded(rig)
    third = await stranded(rig)
    await pause(rig, third)
    age_ms = (await get(rig, second)).saga.start_time_ms
    assert await listed(rig, cell=THERE) == [first, second, third]
    assert await listed(rig, cell="ap-tokyo") == []
    assert await listed(rig, started_before_ms=age_ms) == [first]
    assert await listed(rig, started_from_ms=age_ms) == [second, third]
    assert await listed(rig, paused=True) == [third]
    assert await listed(rig, stuck=True) == []
    pages = await rig.pages("ListSagas", page_size=2, cell=THERE, by=OPERATOR)
    assert [[saga.saga_id for saga in page.sagas] for page in pages] == [[first, second], [third]]


async def test_a_saga_is_watched_to_its_end(rig: Rig) -> None:
    """From its first event on, failed attempts too; the stream ends with the saga."""
    saga_id = await stranded(rig)
    seen: list[saga_pb2.WatchSagaResponse] = []
    async for news in rig.send(saga_pb2.WatchSagaRequest(saga_id=saga_id), by=OPERATOR, timeout_s=60):
        seen.append(news)
        if not news.HasField("event"):
            rig.peers.cut.clear()
    attempts = [news for news in seen if not news.HasField("event")]
    assert attempts[0].saga.attempts
    assert [news.event for news in seen if news.HasField("event")] == list((await get(rig, saga_id)).history)
    assert seen[-1].saga.state == COMPLETED
    watched = rig.send(saga_pb2.WatchSagaRequest(saga_id=saga_id), by=OPERATOR, timeout_s=60)
    assert [news.event async for news in watched] == list((await get(rig, saga_id)).history)


async def test_a_retry_is_no_event(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It only cuts the pause short."""
    monkeypatch.setattr(circuit_breaker, "PROBE_FIRST_S", 600.0)
    monkeypatch.setattr(circuit_breaker, "PROBE_MAX_S", 600.0)
    saga_id = await stranded(rig)
    await becomes(rig, saga_id, lambda saga: saga.waits_for_cell)
    before = (await get(rig, saga_id)).saga.stream_version
    assert (await retry(rig, saga_id)).saga.saga_id == saga_id
    await becomes(rig, saga_id, lambda saga: saga.waits_for_cell)
    assert (await get(rig, saga_id)).saga.stream_version == before
    rig.peers.cut.clear()
    await retry(rig, saga_id)
    await becomes(rig, saga_id, lambda saga: saga.state == COMPLETED)


async def test_only_where_a_workflow_server_drives_them_sagas_are_advanced_from_outside(rig: Rig) -> None:
    """Refused here, and it is said how to start the cell for it."""
    saga_id = await stranded(rig)
    call = rig.ask("AdvanceSaga", saga_id=saga_id)
    refused = await refusal_of(call)
    assert isinstance(refused, SagasDrivenHere)
    assert "temporal_worker=apart" in refused.message
