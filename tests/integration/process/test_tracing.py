"""Traces: taken up from callers, carried to peers, one a saga; and nothing at all where no collector is named."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from concurrent import futures
from pathlib import Path
from uuid import UUID, uuid4

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cellbook.v1 import auction_pb2, ledger_pb2, settlement_pb2
from cells.domain.refusals import UserNotFound
from cells.domain.sagas.saga import SagaState
from cells.domain.values import derived_id
from server.process.flows import sagas_of
from server.shell.calls.otel import OtelTracing
from server.shell.channels.client import Caller
from server.shell.identity.principal import Principal, Role
from server.shell.observability.tracing import build_tracing
from server.shell.settings.host import SettingsInvalid
from tests.integration.shell.shell_host import SERVICE, USER, Shell, refuse, running, settings_in
from tests.local_cells import until
from tests.saga_world import AWAY, HERE, THIRD, world

SHOP = "service/shop"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = ("traceparent", f"00-{TRACE}-{PARENT}-01")


class Kept:
    """Traces as they are, kept here instead of handed on."""

    def __init__(self, ratio: float = 1.0) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracing = OtelTracing(provider=provider, ratio=ratio)

    def spans(self, name: str = "") -> Sequence[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if name in span.name]


def trace_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.trace_id)


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
async def shell(tmp_path: Path, kept: Kept) -> AsyncIterator[Shell]:
    async with running(tmp_path) as shell:
        shell.guard.tracing = kept.tracing
        yield shell


async def test_a_callers_trace_is_taken_up(shell: Shell, kept: Kept) -> None:
    """The call is a child of the caller's span, and says how it ended; who called, and with what, it does not say."""
    await shell.balance(metadata=(*SERVICE, TRACEPARENT))
    shell.ledger.answer = refuse(UserNotFound(user_id=USER))
    await shell.failure(metadata=(*SERVICE, TRACEPARENT))
    shell.ledger.answer = refuse(RuntimeError("a bug"))
    await shell.failure()
    answered, refused, broken = kept.spans("GetBalance")
    assert f"{trace_of(answered):032x}" == f"{trace_of(refused):032x}" == TRACE
    assert answered.parent is not None
    assert f"{answered.parent.span_id:016x}" == PARENT
    assert trace_of(broken) != trace_of(answered)
    ends = [(span.attributes or {})["rpc.grpc.status"] for span in (answered, refused, broken)]
    assert ends == ["OK", "NOT_FOUND", "INTERNAL"]
    assert [span.status.is_ok for span in (answered, refused, broken)] == [True, True, False]
    told = "".join(span.to_json() for span in kept.spans())
    assert USER not in told
    assert "shop" not in told


async def test_a_trace_goes_on_in_the_peer(shell: Shell, kept: Kept) -> None:
    """Whatever is under way here is the parent of what it asks for there."""
    caller = Caller(Principal(role=Role.SERVICE, name="shop"), trace=kept.tracing.outgoing)
    request = ledger_pb2.GetBalanceRequest(user_id=USER)
    with kept.tracing.leg(uuid4(), "escrow-in", "ACTION"):
        await caller.call(shell.stub.GetBalance, request, to="us-east", timeout_s=10)
    await until(lambda: len(kept.spans()) == 2)
    [there], [here] = kept.spans("GetBalance"), kept.spans("escrow-in")
    assert trace_of(there) == trace_of(here)
    assert there.parent is not None
    assert here.context is not None
    assert there.parent.span_id == here.context.span_id


async def test_a_saga_is_one_trace_by_its_own_id(kept: Kept) -> None:
    """In whichever cell its legs are, and though no call lasts as long as it does."""
    async with world() as here:
        here.all_steps[HERE].traced = kept.tracing.leg
        auction = await here.sold(AWAY, THIRD)
        await here.becomes(auction, SagaState.COMPLETED)
        saga_id = await here.saga_id(auction)
    assert saga_id == derived_id(auction, "settlement")
    spans = kept.spans()
    assert {trace_of(span) for span in spans} == {saga_id.int}
    legs = [str((span.attributes or {})["cellbook.leg"]) for span in spans]
    assert [leg for leg in legs if not leg.startswith("notify")] == [
        *("pin", "escrow-out", "escrow-in", "credit-out", "credit-in", "ownership", "settle")
    ]


def test_calls_link_to_the_sagas_that_they_begin_or_advance() -> None:
    """By the ids that the rules give them; what is no id links to nothing."""
    one, other, command = uuid4(), uuid4(), uuid4()
    bid = auction_pb2.PlaceBidRequest(bidder_user_id=str(one), command_id=str(command))
    assert sagas_of(bid, SHOP) == (derived_id(derived_id(one, f"bid/{SHOP}/{command}"), "saga"),)
    close = auction_pb2.CloseAuctionRequest(auction=f"cells/us-east/auctions/{one}")
    assert sagas_of(close, SHOP) == (derived_id(one, "settlement"),)
    transfer = ledger_pb2.TransferRequest(from_user_id=str(one), command_id=str(command))
    assert sagas_of(transfer, SHOP) == (derived_id(one, f"transfer/{SHOP}/{command}"),)
    legs = [settlement_pb2.Leg(saga_id=str(each)) for each in (one, other)]
    assert sagas_of(settlement_pb2.ApplyLegRequest(leg=legs[0]), SHOP) == (one,)
    items = [
        settlement_pb2.LegRequest(apply=settlement_pb2.ApplyLegRequest(leg=legs[0])),
        settlement_pb2.LegRequest(compensate=settlement_pb2.CompensateLegRequest(leg=legs[1])),
    ]
    assert sagas_of(settlement_pb2.BatchLegsRequest(items=items), SHOP) == (one, other)
    assert sagas_of(ledger_pb2.TransferRequest(from_user_id="nobody"), SHOP) == ()
    assert sagas_of(ledger_pb2.GetBalanceRequest(), SHOP) == ()


def test_all_processes_keep_the_same_sagas() -> None:
    """By the saga's id: about the share that was asked for, and never half of one."""
    ids = [derived_id(UUID(int=1), str(number)) for number in range(2_000)]
    half, again = Kept(0.5), Kept(0.5)
    kept = [each for each in ids if half.tracing._root_of(each).trace_flags.sampled]
    assert kept == [each for each in ids if again.tracing._root_of(each).trace_flags.sampled]
    assert 900 < len(kept) < 1_100
    assert not any(Kept(0.0).tracing._root_of(each).trace_flags.sampled for each in ids)
    assert all(Kept(1.0).tracing._root_of(each).trace_flags.sampled for each in ids)


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes what it is sent."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: object
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        self.names += [
            span.name for each in request.resource_spans for scope in each.scope_spans for span in scope.spans
        ]
        return trace_service_pb2.ExportTraceServiceResponse()


async def test_a_collector_gets_them(tmp_path: Path) -> None:
    """Over OTLP, as the settings say; what is still here at the end, too."""
    collector, server = Collector(), grpc.server(futures.ThreadPoolExecutor(max_workers=1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    tracing = build_tracing(settings_in(tmp_path, otlp=f"127.0.0.1:{port}"), name="us-east")
    assert tracing is not None
    async with running(tmp_path) as shell:
        shell.guard.tracing = tracing
        await shell.balance()
    await asyncio.to_thread(tracing.close)
    assert collector.names == ["cellbook.v1.LedgerService/GetBalance"]
    await asyncio.to_thread(server.stop(None).wait)


def test_off_is_off(tmp_path: Path) -> None:
    """Without a collector there is no tracing, and its packages are not even imported."""
    assert build_tracing(settings_in(tmp_path), name="us-east") is None
    look = "import sys, server.__main__, router.__main__; print([m for m in sys.modules if m.startswith('opentel')])"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the setting that wants it, and how to have it."""
    monkeypatch.setitem(sys.modules, "server.shell.calls.otel", None)
    with pytest.raises(SettingsInvalid, match=r"otlp: .*cellbook\[otel\]"):
        build_tracing(settings_in(tmp_path, otlp="127.0.0.1:4317"), name="us-east")


async def test_without_traces_nothing_is_wrapped(tmp_path: Path) -> None:
    """What handles a call is the very same function."""
    async with running(tmp_path) as shell:

        async def guarded(_principal: object, _request: object, _context: object) -> None: ...

        assert shell.guard._traced("/m", guarded) is guarded
