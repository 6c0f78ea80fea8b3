"""The end of a fault is the end of its effect: no retry sleeps on, and a cell that cannot write is asked after."""

from collections.abc import Callable, Sequence
from unittest import mock

import grpc.aio
import pytest

from cellbook.v1 import settlement_pb2
from cells.background import PAUSE_MAX_S
from cells.domain.refusals import ClockAtBound, NotLeading, QueueFull, Refused, Unavailable
from cells.sagas import circuit_breaker, steps
from cells.store.ports import PeerUnknown
from server.cli.client import Client
from server.peers import _failure, _result
from server.shell.calls.statuses import code_of, details_metadata, to_status
from server.shell.channels.client import open_cell_channel, open_channel
from server.shell.channels.options import RECONNECT
from server.shell.hosting.keepalive import KEEPALIVE

PROMISED_S = 10.0


def test_no_retry_waits_for_longer_than_a_fifth_of_what_is_promised() -> None:
    """The first attempt may still meet the fault, and each of a payment's legs may have to wait for a pause."""
    assert max(steps.BACKOFF_MAX_S, circuit_breaker.PROBE_MAX_S, PAUSE_MAX_S) <= PROMISED_S / 5


@pytest.mark.parametrize(
    ("refused", "answered"),
    [
        (Unavailable(problem="the database is away"), False),
        (NotLeading(cell="eu-west"), False),
        # No commit has raised the bound: its database is away, and more attempts do not help.
        (ClockAtBound(bound_ms=1), False),
        (QueueFull(queued=1, queued_bytes=1), True),
    ],
)
def test_a_leg_that_a_cell_cannot_write_is_unanswered_alone_and_in_a_batch(refused: Refused, answered: bool) -> None:  # noqa: FBT001
    """Each leg once paused by itself, up to half a minute after the peer was back; now they wait at its gate."""
    status = to_status(refused)
    result = _result("eu-west", settlement_pb2.LegResult(refused=status))
    trailing = grpc.aio.Metadata(*details_metadata(status))
    error = grpc.aio.AioRpcError(code_of(type(refused)), grpc.aio.Metadata(), trailing)
    for each in (result, _failure("eu-west", error)):
        assert isinstance(each, PeerUnknown)
        assert each.answered is answered


def of_peers(target: str) -> None:
    open_channel(target)


def of_cells(target: str) -> None:
    open_cell_channel([target])


def of_the_command_line(target: str) -> None:
    Client(target)


@pytest.mark.parametrize("opens", [of_peers, of_cells, of_the_command_line])
def test_every_channel_reconnects_soon_and_finds_dead_connections(
    opens: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default gRPC waits up to two minutes: after a power cut of 10 s a client came 5 s after the last cell led."""
    opened: list[dict[str, object]] = []

    def insecure_channel(_: str, *, options: Sequence[tuple[str, object]]) -> mock.MagicMock:
        opened.append(dict(options))
        return mock.MagicMock()

    monkeypatch.setattr(grpc.aio, "insecure_channel", insecure_channel)
    opens("127.0.0.1:1")
    assert opened
    for options in opened:
        assert set(KEEPALIVE) <= options.items()
        assert {*RECONNECT} <= options.items()
        assert options["grpc.max_reconnect_backoff_ms"] == PROMISED_S / 5 * 1_000
