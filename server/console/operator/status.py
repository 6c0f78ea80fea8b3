"""The state of all cells as their processes tell it, and how it went while somebody looked."""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from cellbook.v1 import operations_pb2, router_pb2
from server.cli.client import ClientError, LedgerRefusal
from server.console.console import Ledger

# A page with a process that does not answer waits so long for it.
TIMEOUT_S = 2.0
KEPT_S = 300.0
# Two visitors who look at once give no more samples than one.
SAMPLE_EVERY_S = 1.0
SAMPLES_MAX = 400

Status = operations_pb2.GetCellStatusResponse


class Process(NamedTuple):
    """`status` None: it does not answer, for the reason in `problem`."""

    endpoint: str
    status: Status | None
    problem: str = ""

    @property
    def leads(self) -> bool:
        return self.status is not None and self.status.role == operations_pb2.PROCESS_ROLE_LEADS


class CellState(NamedTuple):
    listed: router_pb2.Cell
    processes: Sequence[Process]

    @property
    def name(self) -> str:
        return self.listed.name

    @property
    def leader(self) -> Process | None:
        """Of two that say so during a takeover, the one of the higher epoch."""
        leaders = [each for each in self.processes if each.leads]
        return max(leaders, key=lambda each: each.status.epoch if each.status else 0, default=None)

    @property
    def status(self) -> Status | None:
        """The leader's; if there is none, that of any process."""
        known = [each.status for each in (self.leader, *self.processes) if each is not None]
        return next((each for each in known if each is not None), None)


class Link(NamedTuple):
    """Two cells, each by what it tells of the other one. None: it does not answer, or knows nothing of it."""

    one: str
    other: str
    seen_by_one: operations_pb2.PeerStatus | None
    seen_by_other: operations_pb2.PeerStatus | None

    @property
    def in_transit(self) -> dict[str, int] | None:
        """By currency, what one of the two has sent and the other has not received; None: one does not answer."""
        if self.seen_by_one is None or self.seen_by_other is None:
            return None
        sums = defaultdict[str, int](int)
        for amount in (*self.seen_by_one.clearing, *self.seen_by_other.clearing):
            sums[amount.currency] += amount.amount_minor
        return {currency: amount_minor for currency, amount_minor in sorted(sums.items()) if amount_minor}


def links_of(cells: Sequence[CellState]) -> Iterator[Link]:
    for number, one in enumerate(cells):
        for other in cells[number + 1 :]:
            yield Link(one.name, other.name, peer_of(one, other.name), peer_of(other, one.name))


def peer_of(cell: CellState, name: str) -> operations_pb2.PeerStatus | None:
    if cell.status is None:
        return None
    known = {peer.cell: peer for peer in cell.status.peers}
    return known.get(name, operations_pb2.PeerStatus(cell=name))


async def look(ledger: Ledger, *, cell: str = "") -> list[CellState]:
    """All cells that the router lists, or the one named. Raises as `Ledger.listed`."""
    listed = (await ledger.listed()).cells
    wanted = [each for each in sorted(listed, key=lambda each: each.name) if cell in {"", each.name}]
    return list(await asyncio.gather(*(_state(ledger, each) for each in wanted)))


async def _state(ledger: Ledger, cell: router_pb2.Cell) -> CellState:
    return CellState(cell, await asyncio.gather(*(_process(ledger, cell, each) for each in cell.endpoints)))


async def _process(ledger: Ledger, cell: router_pb2.Cell, endpoint: str) -> Process:
    stubs = ledger.process(cell, endpoint)
    request = operations_pb2.GetCellStatusRequest()
    try:
        return Process(endpoint, await ledger.client.once(stubs.operations.GetCellStatus, request, timeout_s=TIMEOUT_S))
    except (ClientError, LedgerRefusal) as error:
        return Process(endpoint, None, str(error))


# --- the last minutes -----------------------------------------------------------------------------------------------


class Sample(NamedTuple):
    at_s: float
    position: int
    queued: int


@dataclass(slots=True)
class Courses:
    """The last minutes of each cell. Only visitors' looks are samples: the console itself may ask nothing."""

    monotonic_s: Callable[[], float] = time.monotonic
    _samples: defaultdict[str, deque[Sample]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=SAMPLES_MAX))
    )

    def note(self, cells: Sequence[CellState]) -> None:
        now_s = self.monotonic_s()
        for cell in cells:
            samples = self._samples[cell.name]
            while samples and samples[0].at_s < now_s - KEPT_S:
                samples.popleft()
            if cell.status is not None and (not samples or now_s - samples[-1].at_s >= SAMPLE_EVERY_S):
                samples.append(Sample(now_s, cell.status.position, cell.status.queue.commands))

    def events_per_s(self, cell: str) -> list[tuple[float, float]]:
        """By age in seconds, the oldest first. Positions are the cell's, so a new leader changes nothing."""
        now_s = self.monotonic_s()
        return [
            (now_s - after.at_s, max(after.position - before.position, 0) / (after.at_s - before.at_s))
            for before, after in pairwise(self._samples[cell])
        ]

    def queued(self, cell: str) -> list[tuple[float, float]]:
        now_s = self.monotonic_s()
        return [(now_s - each.at_s, float(each.queued)) for each in self._samples[cell]]
