"""Sagas in flight belong to one engine: a process with another one neither leads nor takes the lead from anybody."""

import pytest

from cells.domain.sagas.saga import SagaState
from cells.store import postgres as stores
from cells.store.unusable import SagasOfAnotherEngine
from tests.integration.database import ask, opened
from tests.integration.rows import batch_on, projection_row, saga

UNFINISHED = sorted(set(SagaState) - {SagaState.COMPLETED, SagaState.COMPENSATED})


async def engine_of(dsn: str) -> str:
    ((engine,),) = await ask(dsn, "SELECT saga_engine FROM head")
    return str(engine)


@pytest.mark.parametrize("state", UNFINISHED)
async def test_another_engine_does_not_start_while_sagas_are_in_flight(cell_dsn: str, state: SagaState) -> None:
    """It says whose they are and what to do. The same engine goes on."""
    async with opened(cell_dsn) as native:
        await native.append(batch_on(await native.claim(), projections=[projection_row(saga(state))]))
    with pytest.raises(SagasOfAnotherEngine, match="start this cell with saga_engine=native again"):
        async with opened(cell_dsn, saga_engine="temporal"):
            pass
    async with opened(cell_dsn) as native:
        await native.claim()


async def test_another_engine_starts_once_all_have_ended(cell_dsn: str) -> None:
    """From then on it is the first that is refused."""
    async with opened(cell_dsn) as native:
        ended = [saga(SagaState.COMPLETED), saga(SagaState.COMPENSATED)]
        await native.append(batch_on(await native.claim(), projections=[projection_row(each) for each in ended]))
    async with opened(cell_dsn, saga_engine="temporal") as temporal:
        assert await engine_of(cell_dsn) == "native"
        head = await temporal.claim()
        assert await engine_of(cell_dsn) == "temporal"
        await temporal.append(batch_on(head, projections=[projection_row(saga())]))
    with pytest.raises(SagasOfAnotherEngine, match="saga_engine=temporal again"):
        async with opened(cell_dsn):
            pass


async def test_a_standby_with_another_engine_deposes_nobody(cell_dsn: str) -> None:
    """The sagas began after it had started: its claim changes nothing, and the leader goes on."""
    async with opened(cell_dsn) as native, opened(cell_dsn, saga_engine="temporal") as temporal:
        head = await native.claim()
        await native.append(batch_on(head, projections=[projection_row(saga())]))
        head = await native.head()
        with pytest.raises(SagasOfAnotherEngine):
            await temporal.claim(expected_epoch=head.epoch)
        assert await native.head() == head
        await native.append(batch_on(head))


async def test_unasked_it_would_take_them_over(cell_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ablation: without the question the sagas of the one are the other's."""
    monkeypatch.setitem(stores.SQL, "sagas_of_another_engine", "SELECT saga_engine FROM head WHERE $1 = ''")
    async with opened(cell_dsn) as native, opened(cell_dsn, saga_engine="temporal") as temporal:
        await native.append(batch_on(await native.claim(), projections=[projection_row(saga())]))
        await temporal.claim()
        assert await engine_of(cell_dsn) == "temporal"
