"""One failing item does not keep others from being handled: it is retried separately, and the failure is counted."""

from typing import Any, cast
from uuid import UUID

import pytest
from grpc_health.v1 import health_pb2

from cells import background
from cells.audit.witness.cosigner import Asked
from cells.domain.auction.auction import AuctionState
from cells.domain.commands import CloseAuction, LegAction
from cells.domain.sagas.saga import Saga, SagaState
from cells.domain.sagas.saga_events import SettlementFacts
from cells.domain.sagas.saga_rules import action_of
from cells.requests import CommandRequest, Outcome
from cells.sagas import steps
from cells.writer.leadership import Task, stop_all
from router.directory.probes import Probes
from router.directory.topology import Cell as ListedCell
from router.directory.topology import CellHealth, LiveTopology, Topology
from server.shell.channels.channel_pool import ChannelPool
from tests.doubles.proofs import MemoryProofs
from tests.doubles.store import MemoryStore
from tests.integration.writer.test_timers import open_auctions
from tests.local_cells import memory_cell, open_user, until, until_async
from tests.saga_world import world
from tests.unit.test_background import Broken, _soon
from tests.unit.test_witness import AWAY, HERE, DirectWitnesses, signing, witness_of

__all__ = ["_soon"]


async def test_an_auction_that_cannot_be_closed_keeps_no_other_open() -> None:
    """All others are closed in time; the failing one is retried separately, and closed once possible."""
    async with memory_cell() as (cell, _):
        timers = cell.timers
        assert timers is not None
        auctions, _ = await open_auctions(cell, 300, count=20)
        bad, execute, asked = auctions[0], cell.execute, 0

        async def executed(request: CommandRequest) -> Outcome:
            nonlocal asked
            if isinstance(request.command, CloseAuction) and request.command.auction_id == bad:
                asked += 1
                raise RuntimeError("injected")
            return await execute(request)

        async def open_ones() -> list[UUID]:
            return [each for each in auctions if (await cell.auction(each)).state.state is AuctionState.ACTIVE]

        async def only_the_bad_one_is_open() -> bool:
            return await open_ones() == [bad]

        async def none_is_open() -> bool:
            return await open_ones() == []

        timers.execute = executed
        await until_async(only_the_bad_one_is_open)
        await until(lambda: asked >= 3)
        assert background.failures["timers"] >= 3
        timers.execute = execute
        await until_async(none_is_open)


async def test_a_saga_whose_leg_meets_a_bug_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It once halted until the next leader. All others settle meanwhile, and operators see the error."""
    async with world() as here:
        auctions = [await here.won(AWAY), await here.won(AWAY)]

        def injected(saga: Saga, saga_id: UUID) -> LegAction:
            facts = saga.facts
            if isinstance(facts, SettlementFacts) and facts.auction_id == auctions[0]:
                raise RuntimeError("injected")
            return action_of(saga, saga_id)

        monkeypatch.setattr(steps, "action_of", injected)
        for auction in auctions:
            await here.close(auction)
        await here.becomes(auctions[1], SagaState.COMPLETED)
        await until(lambda: background.failures["saga"] >= 3)
        engine = here.cells[HERE].engine
        run = engine.in_flight[await here.saga_id(auctions[0])]
        assert run.last_error == "RuntimeError: injected"
        assert run.attempts >= 3
        monkeypatch.setattr(steps, "action_of", action_of)
        await here.becomes(auctions[0], SagaState.COMPLETED)


async def test_a_witness_at_which_asking_fails_keeps_no_other_from_being_asked() -> None:
    """A witness for which the code fails is recorded like one that refuses."""

    class Witnesses(DirectWitnesses):
        async def names(self) -> list[str]:
            return ["bad", AWAY]

        async def cosign(self, witness: str, asked: Asked) -> str:
            if witness == "bad":
                raise RuntimeError("injected")
            return await super().cosign(witness, asked)

    store = MemoryStore(HERE)
    async with signing(store, MemoryProofs(store), Witnesses(witness_of())) as here:
        await open_user(here.cell, 5)
        await here.cosigned()
    assert background.failures["cosigning"] >= 1
    assert here.cosigning.problems == {"bad": "injected", AWAY: ""}


async def test_an_endpoint_at_which_asking_fails_hides_no_other_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others' health is known, whatever happens with one address."""
    before = background.failures["probes"]
    cells = [ListedCell(name=name, region="eu", endpoints=(f"{name}:1",)) for name in ("bad", "good")]

    class Channels:
        def channel(self, endpoint: str, _endpoints: object) -> object:
            if endpoint.startswith("bad"):
                raise RuntimeError("injected")
            return endpoint

        def forget(self, _: object) -> None: ...

    class Stub:
        def __init__(self, _: object) -> None: ...

        async def Check(self, _request: object, timeout: float) -> object:  # noqa: ASYNC109
            return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

    monkeypatch.setattr("router.directory.probes.health_pb2_grpc.HealthStub", Stub)
    topology = LiveTopology(Topology(cells))
    await Probes(topology, cast("Any", Channels())).poll()
    assert background.failures["probes"] == before + 1
    assert [cell.health for cell in topology.now.cells] == [CellHealth.UNKNOWN, CellHealth.SERVING]


async def test_an_address_that_cannot_be_looked_up_is_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed lookup was once never repeated: a process that was restarted elsewhere would not be found."""
    looked = 0

    def target_of(endpoints: tuple[str, ...]) -> str:
        nonlocal looked
        looked += 1
        if looked in {2, 3}:
            raise UnicodeError("injected")
        return ",".join(endpoints)

    class Channel:
        async def close(self, _grace_s: float = 0.0) -> None: ...

    monkeypatch.setattr("server.shell.channels.channel_pool.POLL_S", 0.001)
    monkeypatch.setattr("server.shell.channels.channel_pool.target_of", target_of)
    places = ChannelPool(open_channel=lambda _: cast("Any", Channel()))
    places.channel("cell", ("one:1", "two:1"))
    await until(lambda: looked == 4 and not places._looks)
    assert background.failures["addresses"] == 2
    await places.close()


async def test_a_part_that_fails_to_stop_keeps_no_other_running() -> None:
    """A process that no longer leads closes no auctions, whatever its mail does."""
    before = background.failures["stop"]
    stopped: list[str] = []

    class Good:
        async def start(self) -> None: ...

        async def stop(self) -> None:
            stopped.append("good")

    await stop_all(cast("list[Task]", [Broken(), Good()]))
    assert stopped == ["good"]
    assert background.failures["stop"] == before + 1


# --- leading ---


async def test_a_lead_that_ends_by_an_unforeseen_error_is_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a follower of the commits fails, its knowledge has a gap: the next lead reloads it, and continues."""
    before = background.failures["leadership"]
    monkeypatch.setattr("cells.writer.leadership.TAKEOVER_S", 0.1)
    async with memory_cell() as (cell, _):
        epoch, fails = cell.writer.epoch, True

        def follow(_: object) -> None:
            nonlocal fails
            if fails:
                fails = False
                raise RuntimeError("injected")

        cell.writer.followers.append(follow)
        await until(lambda: not fails and cell.leading and cell.writer.epoch > epoch)
        assert background.failures["leadership"] == before + 1
        await open_auctions(cell, 60_000, count=1)
