"""Examines the running processes of a cluster: leaders, clocks, versions, expiry of certificates."""

import asyncio
import socket
import ssl
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from grpc import StatusCode, aio

from cellbook.v1 import operations_pb2, router_pb2
from cellbook.v1.operations_pb2_grpc import OperationsServiceStub
from server.cli.access import Access
from server.cli.client import ANSWER_S, OPERATOR, Client, status_text
from server.cli.doctor import homes
from server.cli.doctor.files import expiry
from server.cli.doctor.findings import Examined, Finding, State
from server.shell.identity.tls import TlsFiles
from server.shell.settings.addresses import parse_address

CLOCK_WARN_MS, CLOCK_FAIL_MS = 250.0, 500.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process's answers. `problem`: it did not answer."""

    cell: str
    endpoint: str
    problem: str = ""
    # It is of a version that does not know GetCellStatus: all that follows is unknown.
    is_older: bool = False
    leads: bool = False
    took_ms: float = 0.0
    version: str = ""
    # How far its clock is ahead of ours, if it leads: a standby issues no time.
    ahead_ms: float | None = None
    # The end of each cell's log as far as it knows, including its own.
    known: Mapping[str, int] = field(default_factory=dict)
    # The problems that it reports of its log and its database.
    trouble: str = ""


async def examine(router: str, access: Access, *, with_homes: bool = True) -> list[Finding]:
    """The router at `router`, each process of each cell that it lists, and the home of each user."""
    at = Examined(f"router {router}")
    async with Client(router, access) as client:
        try:
            request, metadata = router_pb2.ListCellsRequest(), access.metadata(OPERATOR)
            listed = await client.router.ListCells(request, timeout=ANSWER_S, metadata=metadata)
        except aio.AioRpcError as error:
            is_no_router = error.code() is StatusCode.UNIMPLEMENTED
            found = "it is no router, perhaps a cell" if is_no_router else status_text(error)
            return [at.fail("answers", found, "name another one by --router")]
        of_users = await homes.examine(client, listed) if with_homes else []
    asked = [(cell.name, endpoint) for cell in listed.cells for endpoint in cell.endpoints]
    processes = await asyncio.gather(*(ask(cell, endpoint, access) for cell, endpoint in asked))
    # The ends of the logs are read after the other cells' knowledge of them: meanwhile a log only grows.
    again = await asyncio.gather(*(ask(each.cell, each.endpoint, access) for each in processes if each.leads))
    certificates = await asyncio.gather(
        *(_certificate(endpoint, access) for endpoint in [router, *(e for _, e in asked)])
    )
    return [
        _directory(at, listed),
        *(finding for process in processes for finding in answered(process)),
        *together(processes),
        *logs(processes, again),
        *of_users,
        *(finding for found in certificates for finding in found),
    ]


def _directory(at: Examined, listed: router_pb2.ListCellsResponse) -> Finding:
    if listed.read_only:
        return at.fail("directory", "its database is away: nobody can be registered", "bring it back")
    out = [cell.name for cell in listed.cells if cell.state != router_pb2.CELL_STATE_ACTIVE]
    cells = f"{len(listed.cells)} cells"
    return at.first("directory", cells, (out, State.NOTE, f"{cells}, {', '.join(out)} drained or down", ""))


async def ask(cell: str, endpoint: str, access: Access) -> Process:
    channel = access.channel(endpoint, ())
    try:
        asked_ms = time.time() * 1_000
        status = await OperationsServiceStub(channel).GetCellStatus(
            operations_pb2.GetCellStatusRequest(), timeout=ANSWER_S, metadata=access.metadata(OPERATOR)
        )
        took_ms = time.time() * 1_000 - asked_ms
    except aio.AioRpcError as error:
        is_older = error.code() is StatusCode.UNIMPLEMENTED
        return Process(cell=cell, endpoint=endpoint, problem="" if is_older else status_text(error), is_older=is_older)
    finally:
        await channel.close()
    leads = status.role == operations_pb2.PROCESS_ROLE_LEADS
    return Process(
        cell=cell,
        endpoint=endpoint,
        leads=leads,
        took_ms=took_ms,
        version=status.version,
        ahead_ms=status.time_ms + status.clock_ahead_ms - asked_ms - took_ms / 2 if leads else None,
        known={cell: status.position, **{peer.cell: peer.position for peer in status.peers}} if leads else {},
        trouble=status.trouble,
    )


def answered(process: Process) -> Iterator[Finding]:
    at = Examined(f"{process.cell} {process.endpoint}")
    if process.problem:
        yield at.fail("answers", process.problem, "is it running? Its log, and docs/operations.md#a-process-is-down")
        return
    if process.is_older:
        found = "it runs an older version, which does not say whether it leads, nor its clock"
        yield at.note("version", found, "replace it: docs/operations.md#rollout")
        return
    part = "leads" if process.leads else "stands by"
    yield at.ok("answers", f"{part}, in {process.took_ms:.0f} ms, version {process.version or 'unknown'}")
    if process.trouble:
        yield at.fail("log", process.trouble, "docs/operations.md#lost-data")
    if process.ahead_ms is not None:
        found, off_ms = f"{process.ahead_ms:+.0f} ms from this machine's", abs(process.ahead_ms) - process.took_ms
        advice = "put the wrong one right: docs/operations.md#a-clock-out-of-bounds"
        wrong, doubtful = off_ms > CLOCK_FAIL_MS, off_ms > CLOCK_WARN_MS
        yield at.first("clock", found, (wrong, State.FAIL, found, advice), (doubtful, State.WARN, found, advice))


def together(processes: Sequence[Process]) -> Iterator[Finding]:
    """Findings that need all processes together."""
    cells: defaultdict[str, list[Process]] = defaultdict(list)
    for process in processes:
        cells[process.cell].append(process)
    for name, members in cells.items():
        leading = any(member.leads for member in members)
        unknown = not leading and any(member.is_older for member in members)
        alone = sum(not member.problem for member in members) == 1
        advice = "start a second process on its database, and list it: cellbook router add"
        yield Examined(name).first(
            "leader",
            f"one of {len(members)}",
            (unknown, State.NOTE, "unknown: a process of an older version does not say whether it leads", ""),
            (not leading, State.FAIL, "none: the cell takes no commands", "docs/operations.md#lost-database"),
            (alone, State.WARN, "one, and nobody stands by", advice),
        )
    versions = {process.version for process in processes if process.version}
    clocks = [process.ahead_ms for process in processes if process.ahead_ms is not None]
    at = Examined("all cells")
    if len(versions) > 1:
        yield at.note("version", " and ".join(sorted(versions)), "a rollout that has not ended?")
    if clocks and max(clocks) - min(clocks) > CLOCK_FAIL_MS:
        apart = f"{max(clocks) - min(clocks):.0f} ms apart: calls from the one ahead are refused"
        yield at.fail("clocks", apart, "docs/operations.md#a-clock-out-of-bounds")


def logs(before: Sequence[Process], after: Sequence[Process]) -> Iterator[Finding]:
    """A log shorter than another cell has seen it is an old one. `after` are the leaders, asked later."""
    for process in after:
        head = process.known.get(process.cell, 0)
        seen = {each.cell: each.known.get(process.cell, 0) for each in before if each.cell != process.cell}
        furthest = max(seen, key=lambda cell: seen[cell], default="")
        if process.leads and furthest and seen[furthest] > head:
            found = f"it ends at position {head}, and {furthest} has seen position {seen[furthest]} of it"
            advice = "was it restored from an old backup? docs/operations.md#a-disputed-position"
            yield Examined(process.cell).fail("not an old one", found, advice)


async def _certificate(endpoint: str, access: Access) -> list[Finding]:
    """The expiry of the process's certificate; its validity has already been shown by the calls."""
    if access.tls is None:
        return []
    try:
        when = await asyncio.to_thread(_shown, endpoint, access.tls)
    except (OSError, ValueError):
        return []
    return [expiry(Examined(endpoint), "certificate", when)]


def _shown(endpoint: str, tls: TlsFiles) -> datetime:
    context = ssl.create_default_context(cafile=tls.ca)
    context.check_hostname = False
    context.load_cert_chain(tls.cert, tls.key)
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(parse_address(endpoint)[:2], timeout=ANSWER_S) as plain,
        context.wrap_socket(plain) as secure,
    ):
        shown = secure.getpeercert() or {}
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(shown["notAfter"])), UTC)
