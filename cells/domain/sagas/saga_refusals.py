"""Refusals of an operator's orders to a saga, and of a leg that comes too late."""

from cells.domain.refusals import BusinessRefusal, Busy


class SagaHasEnded(BusinessRefusal):
    """saga {saga_id} has ended: it is {state}"""


class SagaIsPaused(BusinessRefusal):
    """saga {saga_id} is paused"""


class SagaNotPaused(BusinessRefusal):
    """saga {saga_id} is not paused"""


class SagaTurnedBack(BusinessRefusal):
    """saga {saga_id} is already being compensated: {failure_reason}"""


class SagaPastPivot(BusinessRefusal):
    """saga {saga_id} has passed its pivot, {leg}: it can only go forward"""


class SagaHasNoWayBack(BusinessRefusal):
    """saga {saga_id} is a {kind}: it is driven forward until it is done"""


class SagasDrivenHere(BusinessRefusal):
    """cell {cell} drives its sagas itself: start it with saga_engine=temporal and temporal_worker=apart"""


class CalledOff(BusinessRefusal):
    """saga {saga_id} was called off by an operator"""


class SagaOverdue(Busy):
    """saga {saga_id} had to pass its pivot by {deadline_ms} ms and it is {now_ms} ms: it is compensated"""
