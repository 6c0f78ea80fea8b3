"""`cellbook witness`: a process that anybody can run; it follows the logs of cells, signs them and raises alarms."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from google.protobuf.message import Message
from grpc import aio
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cellbook.v1 import audit_pb2
from cells.audit.proofs.keys import SigningKey, signing_key
from cells.audit.verify.note import LOG_KEY, WITNESS_KEY, VerifierKey, origin_of
from cells.audit.witness.cosigner import Witness
from cells.audit.witness.follower import Follower
from cells.store.ports import PeerUnknown
from cells.store.unusable import CannotServe
from cells.time.clocks import SystemClock
from server.audit.keys import read_setting
from server.audit.memory import FileMemory
from server.cli.access import Access, chosen_access
from server.cli.audit.proof import keys_from
from server.cli.client import ATTEMPT_S, AUDITOR, CellStubs, ClientError, status_text
from server.cli.command import HERE, router_option, run, wrong_usage
from server.cli.reach import reached
from server.shell.calls.statuses import refusal_in
from server.shell.observability.logging import configure_logging
from server.shell.observability.metrics import MetricsEndpoint, gauge, process_registry

EVERY_S = 5.0

Reply = TypeVar("Reply", bound=Message)


@dataclass(slots=True, kw_only=True)
class GrpcLogs:
    """The cells of a router, looked up again for each round."""

    router: str
    access: Access
    cells: dict[str, CellStubs] = field(default_factory=dict)

    @asynccontextmanager
    async def reached(self) -> AsyncIterator[None]:
        """Raises ClientError."""
        async with reached(self.router, self.access) as reach:
            self.cells = {cell.name: cell for cell in reach.cells}
            yield

    async def after(self, cell: str, size: int) -> str:
        request = audit_pb2.GetCheckpointRequest(after_size=size)
        return str((await self._ask(cell, self._stubs(cell).audit.GetCheckpoint, request)).checkpoint)

    async def growth(self, cell: str, old_size: int, new_size: int) -> Sequence[bytes]:
        request = audit_pb2.GetConsistencyProofRequest(old_size=old_size, new_size=new_size)
        return list((await self._ask(cell, self._stubs(cell).audit.GetConsistencyProof, request)).path)

    async def hand_back(self, cell: str, size: int, line: str) -> None:
        request = audit_pb2.AddCosignatureRequest(size=size, cosignature=line)
        await self._ask(cell, self._stubs(cell).audit.AddCosignature, request)

    async def _ask(self, cell: str, method: Callable[..., Awaitable[Reply]], request: Message) -> Reply:
        """Raises Refused for a refusal of the cell, and PeerUnknown for any other failure."""
        try:
            return await method(request, timeout=ATTEMPT_S, metadata=self.access.metadata(AUDITOR))
        except aio.AioRpcError as error:
            refused = refusal_in(error)
            if refused is not None:
                raise refused from error
            raise PeerUnknown(f"{cell}: {status_text(error)}") from error

    def _stubs(self, cell: str) -> CellStubs:
        if cell not in self.cells:
            raise PeerUnknown(f"{self.router} knows no cell {cell}")
        return self.cells[cell]


@dataclass(frozen=True, eq=False)
class WitnessMetrics(Collector):
    follower: Follower

    def collect(self) -> Iterable[Metric]:
        alarms, problems, sizes = self.follower.alarms, self.follower.problems, self.follower.sizes
        for name, what, value in (
            ("alarm", "1 where a log is not what was seen before.", alarms.__contains__),
            ("problem", "1 where a cell does not answer, or takes no cosignature.", problems.__contains__),
            ("size", "Events that were signed last.", lambda cell: sizes.get(cell, 0)),
        ):
            values = {cell: float(value(cell)) for cell in self.follower.cells}
            yield gauge(f"cellbook_witness_{name}", what, values, "cell")


def faults(follower: Follower) -> str:
    """All alarms and problems in a line; empty: there are none."""
    wrong = [*follower.alarms.items(), *follower.problems.items()]
    return "; ".join(f"{cell}: {problem}" for cell, problem in wrong)


async def follow(follower: Follower, logs: GrpcLogs, *, once: bool, every_s: float) -> None:
    """With `once`, raises ClientError if there is a problem."""
    while True:
        try:
            async with logs.reached():
                await follower.round()
        except ClientError as error:
            follower.unreachable(str(error))
        if once:
            wrong = faults(follower)
            if wrong:
                raise ClientError(wrong)
            return
        await asyncio.sleep(every_s)


def follower_of(logs: GrpcLogs, keys: Sequence[VerifierKey], signing: Path, memory: Path, *, new: bool) -> Follower:
    """Raises CannotServe."""
    pinned = {key.name: key for key in keys if key.kind == LOG_KEY}
    if not pinned:
        raise CannotServe("--key: give the public key of each log that is to be followed, or a file of them")
    own = _own_key(signing)
    seen = FileMemory(path=memory, keys=pinned)
    seen.load(new=new)
    witness = Witness(cell=own.name, key=own, proofs=seen, clock=SystemClock(), pinned=pinned, each=True)
    return Follower(cells=[name.removeprefix(origin_of("")) for name in sorted(pinned)], witness=witness, logs=logs)


def _own_key(file: Path) -> SigningKey:
    advice = f": `cellbook audit new-key --witness NAME {file}` makes one"
    key = read_setting(file, signing_key, "--signing-key", advice=advice)
    if key.kind != WITNESS_KEY:
        raise CannotServe(f"--signing-key: {file} has the key of a log: `cellbook audit new-key --witness` makes one")
    return key


def command(  # noqa: PLR0917 - as many options
    key: Annotated[
        list[str],
        typer.Option("--key", envvar="CELLBOOK_WITNESS_KEYS", help="A public key of a log, or a file of them."),
    ],
    signing_key_file: Annotated[
        Path, typer.Option("--signing-key", envvar="CELLBOOK_WITNESS_SIGNING_KEY", help="The file with its own key.")
    ],
    memory: Annotated[
        Path, typer.Option("--memory", envvar="CELLBOOK_WITNESS_MEMORY", help="The file with what it has seen.")
    ],
    router: Annotated[str, router_option("The router of the cells to follow.")] = HERE,
    every_s: Annotated[float, typer.Option("--every-s", min=0.1, help="How often it looks.")] = EVERY_S,
    listen: Annotated[
        str, typer.Option("--listen", envvar="CELLBOOK_WITNESS_LISTEN", help="host:port of /readyz and /metrics.")
    ] = "",
    *,
    insecure_listen: Annotated[bool, typer.Option("--insecure-listen", help="Also beyond this machine.")] = False,
    new: Annotated[bool, typer.Option("--new", help="Begin with logs that the memory knows nothing of.")] = False,
    once: Annotated[bool, typer.Option("--once", help="Look once; exit code 1 where anything is wrong.")] = False,
) -> None:
    """Follow logs from outside: check that each grows, sign it, and raise an alarm if it does not (docs/audit.md).

    Exit code 1, and a line logged at ERROR, if a log was cut short, rewritten, or has lost a checkpoint.
    """
    logs = GrpcLogs(router=router, access=chosen_access())
    with wrong_usage(CannotServe, ClientError):
        follower = follower_of(logs, keys_from(key, None), signing_key_file, memory, new=new)
    configure_logging("info")

    async def work() -> None:
        registry = process_registry()
        registry.register(WitnessMetrics(follower))
        endpoint = MetricsEndpoint(listen, registry, insecure_listen=insecure_listen, unready=lambda: faults(follower))
        endpoint.start()
        try:
            await follow(follower, logs, once=once, every_s=every_s)
        finally:
            await endpoint.stop()

    run(work())
