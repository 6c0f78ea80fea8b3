"""What an operator's orders to a saga, and a leg that comes too late, are refused with."""

from cells.domain.refusals import BusinessRefusal, Busy


class SagaHasEnded(BusinessRefusal):
    """saga {saga_id} has ended: it is {state}"""


class SagaIsPaused(BusinessRefusal):
    """saga {saga_id} is paused"""


class SagaNotPaused(BusinessRefusal):
    """saga {saga_id} is not paused"""


class SagaTurnedBack(BusinessRefusal):
    """saga {saga_id} is being compensated already: {failure_reason}"""


class SagaPastPivot(BusinessRefusal):
    """saga {saga_id} has passed its pivot, {leg}: from there on there is only forward"""


class SagaHasNoWayBack(BusinessRefusal):
    """saga {saga_id} is a {kind}: it is driven forward until it is done"""


class SagasDrivenHere(BusinessRefusal):
    """cell {cell} drives its sagas itself: start it with saga_engine=temporal and temporal_worker=apart"""


class CalledOff(BusinessRefusal):
    """saga {saga_id} was called off by an operator"""


class SagaOverdue(Busy):
    """saga {saga_id} was to pass its pivot by {deadline_ms} ms and it is {now_ms} ms: it turns back"""
