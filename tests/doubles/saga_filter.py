"""What a list of sagas holds, as the database's query says it."""

from uuid import UUID

from cells.domain.sagas.saga import Saga
from cells.store.ports import SagaFilter


def lets(wanted: SagaFilter, saga_id: UUID, saga: Saga) -> bool:
    """Whether the saga is one of those that are wanted."""
    return (
        (not wanted.states or saga.state in wanted.states)
        and wanted.kind in {None, saga.kind}
        and (not wanted.cell or wanted.cell in saga.cells)
        and wanted.started_from_ms <= saga.started_ms < wanted.started_before_ms
        and (saga.paused or not wanted.paused)
        and (wanted.ids is None or saga_id in wanted.ids)
    )
