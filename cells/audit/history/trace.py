"""Traces the causes and effects of an object over all cells, as one tree.

Each cell follows causation within its own log. The cell that received the request continues in other cells where a
cause or an effect is there, until it finds nothing new.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol
from uuid import UUID

from cells.audit.checks.checked import Checked
from cells.domain.refusals import Refused
from cells.domain.time.hlc import Stamp
from cells.store.outcomes import outcome_of
from cells.store.ports import EventRow, OutcomeRow

EVENTS_DEFAULT = 500
EVENTS_MAX = 2_000
# Bytes of JSON in one answer: a gRPC message holds 4 MiB.
TEXT_BYTES_MAX = 2_000_000
# The timeout of a call to another cell: it is short, so that an auditor soon learns that the cell is unreachable.
PEER_TIMEOUT_S = 3.0


class Role(StrEnum):
    SUBJECT = "subject"
    CAUSE = "cause"
    EFFECT = "effect"


class Search(NamedTuple):
    """A search in one cell: `subject` with its causes and effects, causes by id, and effects of other events."""

    subject: UUID | None = None
    causes: frozenset[UUID] = frozenset()
    effects_of: frozenset[UUID] = frozenset()


class Found(NamedTuple):
    cell: str
    row: EventRow
    role: Role
    problem: str


class RefusedHere(NamedTuple):
    """The subject is a command that the cell has refused, when its clock was at `stamp`."""

    cell: str
    refusal: Refused
    stamp: Stamp
    # The sender of the command.
    principal: str


class Answer(NamedTuple):
    found: Sequence[Found]
    truncated: bool = False
    refused: RefusedHere | None = None


class TraceLookups(Protocol):
    """One cell's log, by cause and effect. Each returns at most `limit` events."""

    async def subjects(self, subject: UUID, limit: int) -> list[UUID]:
        """Events with that id, of that flow, of that stream, or where the command of that id ended."""

    async def causes(self, ids: Iterable[UUID], limit: int) -> list[UUID]:
        """The events of `ids` that are here, and their causes here."""

    async def effects(self, ids: Iterable[UUID], limit: int) -> list[UUID]:
        """The effects of `ids` here, near ones first."""

    async def rows(self, ids: Iterable[UUID]) -> list[Checked]:
        """The rows by position."""

    async def outcomes(self, command_id: UUID) -> Sequence[OutcomeRow]:
        """The outcomes of the commands with that id here, one per sender."""


class Silent(Exception):
    """The cell does not answer."""


class TracePeers(Protocol):
    async def names(self) -> tuple[Sequence[str], str]:
        """The other cells, and the problem with the list: empty if it is complete."""

    async def find(self, cell: str, search: Search, limit: int) -> Answer:
        """Raises Silent."""


class Node(NamedTuple):
    found: Found
    depth: int
    cause_missing: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    nodes: Sequence[Node]
    # Cell -> why it did not answer; "" stands for the directory.
    missing: dict[str, str]
    cells: Sequence[str]
    truncated: bool
    # Set if the subject is a command that was refused.
    refused: Sequence[RefusedHere] = ()


@dataclass(frozen=True, slots=True)
class Finder:
    """Searches one cell."""

    cell: str
    lookups: TraceLookups

    async def find(self, search: Search, limit: int) -> Answer:
        """If there are more than `limit`, keeps causes before subjects before effects."""
        subjects: list[UUID] = []
        refused = None
        if search.subject is not None:
            subjects = await self.lookups.subjects(search.subject, limit + 1)
            refused = await self._refused(search.subject)
        roots = {*subjects, *search.causes}
        causes = await self.lookups.causes(roots, limit + 1 + len(roots)) if roots else []
        starts = {*subjects, *search.effects_of}
        effects = await self.lookups.effects(starts, limit + 1) if starts else []
        roles = dict.fromkeys(effects, Role.EFFECT) | dict.fromkeys(causes, Role.CAUSE)
        roles |= dict.fromkeys(subjects, Role.SUBJECT)
        wanted = sorted(roles, key=lambda event_id: _RANK[roles[event_id]])
        rows = await self.lookups.rows(wanted[:limit])
        kept, whole = _within_bytes(rows)
        found = [Found(self.cell, row, roles[row.event_id], problem) for row, problem, _ in kept]
        return Answer(found, truncated=len(wanted) > limit or not whole, refused=refused)

    async def _refused(self, subject: UUID) -> RefusedHere | None:
        """The refusal of a command; with several senders, the oldest."""
        for row in sorted(await self.lookups.outcomes(subject), key=lambda row: row.recorded_at):
            status = outcome_of(row, self.cell)
            if status.refusal is not None:
                return RefusedHere(self.cell, status.refusal, status.hlc, status.principal)
        return None


_RANK = {Role.CAUSE: 0, Role.SUBJECT: 1, Role.EFFECT: 2}


def _within_bytes(rows: Sequence[Checked]) -> tuple[Sequence[Checked], bool]:
    size_bytes = 0
    for place, (row, *_) in enumerate(rows):
        size_bytes += len(row.payload) + len(row.metadata) + len(row.vector_clock)
        if size_bytes > TEXT_BYTES_MAX:
            return rows[:place], False
    return rows, True


@dataclass(slots=True, kw_only=True)
class _Round:
    """The events found so far, and the searches still to send to each cell."""

    here: str
    found: dict[UUID, Found] = field(default_factory=dict)
    asked: dict[str, set[UUID]] = field(default_factory=lambda: defaultdict(set))
    missing: dict[str, str] = field(default_factory=dict)
    refused: list[RefusedHere] = field(default_factory=list)
    truncated: bool = False

    def take(self, answer: Answer) -> list[Found]:
        """Adds an answer; returns its new events."""
        self.truncated = self.truncated or answer.truncated
        self.refused += [answer.refused] if answer.refused is not None else []
        new = [each for each in answer.found if each.row.event_id not in self.found]
        self.found |= {each.row.event_id: each for each in new}
        return new

    def next_search(self, cell: str, new: Sequence[Found]) -> Search | None:
        """The search for relatives of the `new` events in `cell`, which has already searched around its own events."""
        foreign = [each for each in new if each.cell != cell]
        causes = {
            each.row.causation_id
            for each in foreign
            if each.role is not Role.EFFECT and each.row.causation_id not in {None, *self.found}
        }
        effects_of = {each.row.event_id for each in foreign if each.role is not Role.CAUSE}
        search = Search(None, frozenset(filter(None, causes)), frozenset(effects_of))
        return search if search.causes or search.effects_of else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracer:
    """`finder` searches this cell, `peers` the others."""

    finder: Finder
    peers: TracePeers

    async def trace(self, subject: UUID, event_max: int) -> Trace:
        names, problem = await self.peers.names()
        state = _Round(here=self.finder.cell)
        if problem:
            state.missing[""] = problem
        cells = [self.finder.cell, *(name for name in sorted(names) if name != self.finder.cell)]
        searches: dict[str, Search] = {cell: Search(subject=subject) for cell in cells}
        while searches and len(state.found) < event_max:
            new = await self._ask(searches, state, event_max)
            reached = [cell for cell in cells if cell not in state.missing]
            searches = {cell: search for cell in reached if (search := state.next_search(cell, new)) is not None}
        listed = _first(state.found, event_max)
        return Trace(
            nodes=list(tree(listed)),
            missing=state.missing,
            cells=[cell for cell in cells if cell not in state.missing],
            truncated=state.truncated or bool(searches) or len(listed) < len(state.found),
            refused=sorted(state.refused, key=lambda each: each.cell),
        )

    async def _ask(self, searches: dict[str, Search], state: _Round, limit: int) -> list[Found]:
        answers = await asyncio.gather(*(self._find(cell, search, limit) for cell, search in searches.items()))
        new: list[Found] = []
        for cell, answer in zip(searches, answers, strict=True):
            if isinstance(answer, Silent):
                state.missing[cell] = str(answer)
            else:
                new += state.take(answer)
        return new

    async def _find(self, cell: str, search: Search, limit: int) -> Answer | Silent:
        if cell == self.finder.cell:
            return await self.finder.find(search, limit)
        try:
            return await self.peers.find(cell, search, limit)
        except Silent as error:
            return error


def _first(found: dict[UUID, Found], event_max: int) -> list[Found]:
    """At most `event_max` events: causes before subjects before effects, and earlier ones first within each."""
    ordered = sorted(found.values(), key=lambda each: (_RANK[each.role], order(each)))
    kept, size_bytes = [], 0
    for each in ordered[:event_max]:
        size_bytes += len(each.row.payload) + len(each.row.metadata) + len(each.row.vector_clock)
        if size_bytes > TEXT_BYTES_MAX:
            break
        kept.append(each)
    return kept


def order(each: Found) -> tuple[int, int, str, int]:
    """The order over all cells: by HLC, then by the cell's name."""
    return each.row.hlc_physical, each.row.hlc_logical, each.cell, each.row.position


def tree(found: Iterable[Found]) -> Iterator[Node]:
    """The tree in preorder: causes before effects. If a changed log has a cycle of causes, no event is lost."""
    ordered = sorted(found, key=order)
    known = {each.row.event_id: each for each in ordered}
    effects: dict[UUID | None, list[Found]] = defaultdict(list)
    for each in ordered:
        effects[each.row.causation_id].append(each)
    listed: set[UUID] = set()
    roots = [each for each in ordered if each.row.causation_id not in known]
    for root in (*roots, *ordered):
        waiting = [(root, 0)]
        while waiting:
            each, depth = waiting.pop()
            if each.row.event_id in listed:
                continue
            listed.add(each.row.event_id)
            cause = known.get(each.row.causation_id) if each.row.causation_id is not None else None
            yield Node(_timed(each, cause), depth, cause is None and each.row.causation_id is not None)
            waiting += [(effect, depth + 1) for effect in reversed(effects[each.row.event_id])]


def _timed(each: Found, cause: Found | None) -> Found:
    """Reports an effect that is not stamped after its cause: an honest clock never does that."""
    if cause is None or order(each)[:2] > order(cause)[:2] or each.problem:
        return each
    return each._replace(problem="its stamp is not after that of its cause")
