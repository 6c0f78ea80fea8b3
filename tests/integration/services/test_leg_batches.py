"""Legs in batches, over a real socket: item by item what each alone would have been answered with."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import grpc
import grpc.aio
import pytest

from cellbook.v1 import settlement_pb2 as pb
from cells.domain.commands import LegAction, ReceiveTransfer
from cells.domain.refusals import FieldInvalid, LegCancelled, NotPermitted, PayeeNotFound, Refused
from cells.domain.sagas.leg import LegMark, LegResult
from cells.domain.values import Direction, LegId, Money
from cells.sagas.circuit_breaker import CALLS_MAX
from cells.store.ports import LegCall, PeerUnknown
from server.peers import GrpcPeers
from server.shell.calls.statuses import of_status
from server.shell.channels.channel_pool import ChannelPool
from server.shell.channels.client import Caller
from server.shell.channels.location_cache import LocationCache
from server.shell.fields.bounds import LEGS
from server.shell.identity.principal import Principal, Role
from server.wire.legs import leg_item_to_proto
from tests.integration.services_rig import HERE, PEER, THERE, Rig, refusal_of
from tests.local_cells import available

LATER_MS = 2**46


def credit(user_id: UUID, *, orchestrator: str = THERE) -> LegCall:
    """7 minor units for a user of the served cell, each time of another saga."""
    saga_id = uuid4()
    action: LegAction = ReceiveTransfer(
        user_id=user_id,
        from_user_id=uuid4(),
        amount=Money("USD", 7),
        from_cell=THERE,
        clearing_id=uuid4(),
        valid_until_ms=LATER_MS,
    )
    return LegCall(
        leg_id=LegId(saga_id, "receive", 1),
        action=action,
        orchestrator=orchestrator,
        causation_id=saga_id,
        user_id=user_id,
    )


def item(call: LegCall, direction: Direction = Direction.ACTION) -> pb.LegRequest:
    return leg_item_to_proto(call, direction)


async def taken(rig: Rig, *items: pb.LegRequest) -> list[pb.LegResult]:
    return list((await rig.ask("BatchLegs", items=items)).results)


def refused(result: pb.LegResult) -> Refused:
    found = of_status(result.refused)
    assert found is not None, result
    return found


async def test_each_leg_has_its_own_answer(rig: Rig) -> None:
    """Done, undone, refused for what it is or for how it is written: none is any other's business."""
    late, nobody, foreign, junk = (credit(rig.ann) for _ in range(4))
    nobody = credit(uuid4())
    foreign = credit(rig.ann, orchestrator="ap-tokyo")
    broken = item(junk)
    broken.apply.leg.saga_id = "junk"
    results = await taken(
        rig,
        item(credit(rig.ann)),
        item(late, Direction.COMPENSATION),
        item(nobody),
        item(foreign),
        broken,
        pb.LegRequest(),
        item(credit(rig.ben)),
    )
    assert results[0].applied.event_id
    assert results[1].compensated.result == pb.COMPENSATION_RESULT_TOMBSTONED
    assert isinstance(refused(results[2]), PayeeNotFound)
    assert isinstance(refused(results[3]), NotPermitted)
    found = [refused(result) for result in results[4:6]]
    assert [type(each) for each in found] == [FieldInvalid, FieldInvalid]
    assert [each.facts["field"] for each in found] == ["items[4].leg.saga_id", "items[5].request"]
    assert results[6].applied.event_id
    assert isinstance(refused((await taken(rig, item(late)))[0]), LegCancelled)
    assert await available(rig.cell, rig.ann) == await available(rig.cell, rig.ben) == 100_007


async def test_a_leg_twice_in_a_batch_is_taken_once(rig: Rig) -> None:
    """Both have the same answer, and so has the leg alone."""
    call = credit(rig.ann)
    results = await taken(rig, item(call), item(call))
    alone = await rig.call(item(call).apply, by=PEER)
    assert {result.applied.event_id for result in results} == {alone.event_id}
    assert await available(rig.cell, rig.ann) == 100_007


async def test_a_full_batch_is_taken_and_a_larger_one_is_not(rig: Rig) -> None:
    """The bound is told by the field, and nothing of it happens."""
    calls = [credit(rig.ann) for _ in range(LEGS.most + 1)]
    too_many = rig.ask("BatchLegs", items=map(item, calls))
    assert (await refusal_of(too_many)).facts["field"] == "items"
    assert await available(rig.cell, rig.ann) == 100_000
    assert all(result.applied.event_id for result in await taken(rig, *map(item, calls[:-1])))
    assert await available(rig.cell, rig.ann) == 100_000 + 7 * LEGS.most


# --- the calling side ---


class Counting(Caller):
    """Counts the calls by their request's kind; `lost`: none is answered; `short`: some legs are not."""

    def __init__(self) -> None:
        super().__init__(Principal(role=Role.PEER, name=THERE))
        self.calls: list[str] = []
        self.lost = self.short = False

    async def call(self, method: Any, request: Any, *, to: str, timeout_s: float) -> Any:  # noqa: ANN401 - any message
        self.calls.append(type(request).__name__)
        if self.lost:
            status = (grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata())
            raise grpc.aio.AioRpcError(*status, details="gone")
        reply = await super().call(method, request, to=to, timeout_s=timeout_s)
        if self.short:
            del reply.results[-1]
        return reply


@pytest.fixture
async def caller() -> Counting:
    return Counting()


@pytest.fixture
async def peers(rig: Rig, caller: Counting) -> AsyncIterator[GrpcPeers]:
    static = {HERE: "127.0.0.1:1"}
    places = ChannelPool(open_channel=lambda _: rig.channel)
    locations = LocationCache(routers=(), caller=caller, channels=places, static=static)
    peers = GrpcPeers(locations=locations, caller=caller)
    yield peers
    for coalescer in peers._coalescers.values():
        coalescer.close()


async def ask(peers: GrpcPeers, *calls: LegCall) -> list[LegMark | BaseException]:
    asked = (peers.request_leg(HERE, call, Direction.ACTION, timeout_s=10.0) for call in calls)
    return await asyncio.gather(*asked, return_exceptions=True)


async def test_legs_that_wait_together_travel_together(rig: Rig, peers: GrpcPeers, caller: Counting) -> None:
    """As many as a gate lets out at once go in a few calls; a lone one goes as it always did."""
    answers = await ask(peers, *(credit(rig.ann) for _ in range(CALLS_MAX)))
    assert all(isinstance(answer, LegMark) and answer.result is LegResult.APPLIED for answer in answers)
    assert caller.calls == ["BatchLegsRequest"] * -(-CALLS_MAX // LEGS.most)
    await ask(peers, credit(rig.ann))
    assert caller.calls[-1] == "ApplyLegRequest"
    assert await available(rig.cell, rig.ann) == 100_000 + 7 * (CALLS_MAX + 1)


async def test_actions_and_compensations_share_a_call(rig: Rig, peers: GrpcPeers, caller: Counting) -> None:
    """Each is answered for what it is."""
    call, other = credit(rig.ann), credit(rig.ann)
    done, undone = await asyncio.gather(
        peers.request_leg(HERE, call, Direction.ACTION, timeout_s=10.0),
        peers.request_leg(HERE, other, Direction.COMPENSATION, timeout_s=10.0),
    )
    assert (done.result, undone.result) == (LegResult.APPLIED, LegResult.TOMBSTONED)
    assert caller.calls == ["BatchLegsRequest"]


async def test_a_no_to_one_leg_is_no_other_legs(rig: Rig, peers: GrpcPeers) -> None:
    """A definite one is raised as it would be alone, one that is not final says nothing for certain."""
    answers = await ask(peers, credit(rig.ann), credit(uuid4()), credit(rig.ann, orchestrator="ap-tokyo"))
    assert isinstance(answers[0], LegMark)
    assert isinstance(answers[1], PayeeNotFound)
    assert isinstance(answers[2], PeerUnknown)
    assert answers[2].answered


async def test_a_lost_batch_says_nothing_of_any_leg(rig: Rig, peers: GrpcPeers, caller: Counting) -> None:
    """All are unknown, and asked again they are done, once."""
    calls = [credit(rig.ann) for _ in range(5)]
    caller.lost = True
    lost = await ask(peers, *calls)
    assert [type(answer) for answer in lost] == [PeerUnknown] * 5
    assert not any(answer.answered for answer in lost if isinstance(answer, PeerUnknown))
    caller.lost = False
    assert all(isinstance(answer, LegMark) for answer in await ask(peers, *calls))
    assert await available(rig.cell, rig.ann) == 100_035


async def test_a_batch_refused_as_a_whole_refuses_no_leg(
    rig: Rig, peers: GrpcPeers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A final no to the call is none to the legs in it: before their pivot they would turn back for it."""
    monkeypatch.setattr("server.wire.legs.LEGS", LEGS._replace(most=1))
    answers = await ask(peers, credit(rig.ann), credit(rig.ann))
    assert [type(answer) for answer in answers] == [PeerUnknown] * 2


async def test_answers_that_are_not_one_a_leg_are_none(rig: Rig, peers: GrpcPeers, caller: Counting) -> None:
    """Whose they were is not guessed."""
    caller.short = True
    assert [type(answer) for answer in await ask(peers, credit(rig.ann), credit(rig.ann))] == [PeerUnknown] * 2
