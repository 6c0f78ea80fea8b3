"""The end of a fault is the end of its effect: no retry sleeps on, and a cell that cannot write is asked after."""

import pytest

from cellbook.v1 import settlement_pb2
from cells.background import PAUSE_MAX_S
from cells.domain.refusals import ClockAtBound, NotLeading, Refused, Unavailable
from cells.ports import PeerUnknown
from cells.sagas import gates, steps
from server.peers import _result
from server.shell.statuses import to_status

PROMISED_S = 10.0


def test_no_retry_waits_for_longer_than_half_of_what_is_promised() -> None:
    """The first attempt may still come into the fault, and the next one is in time all the same."""
    assert max(steps.BACKOFF_MAX_S, gates.PROBE_MAX_S, PAUSE_MAX_S) <= PROMISED_S / 2


@pytest.mark.parametrize(
    ("refused", "answered"),
    [
        (Unavailable(problem="the database is away"), False),
        (NotLeading(cell="eu-west"), False),
        (ClockAtBound(bound_ms=1), True),
    ],
)
def test_a_leg_in_a_batch_is_unanswered_as_a_lone_one_is(refused: Refused, answered: bool) -> None:  # noqa: FBT001
    """Each leg of a batch slept on its own, up to half a minute after the peer was back; now they wait at its gate."""
    result = _result("eu-west", settlement_pb2.LegResult(refused=to_status(refused)))
    assert isinstance(result, PeerUnknown)
    assert result.answered is answered
