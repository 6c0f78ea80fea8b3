"""The end of the log in memory: each commit is distributed once, to the readers whose filters match."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from uuid import UUID

from cells.store.ports import EventFilter, EventRow

# The number of events kept, some two commits' worth. A reader that falls behind reads the table until it catches up.
EVENTS_MAX = 2_048

# Columns for finding readers, the most selective first: each reader is registered under the first one in its filter.
_KEYS = ("aggregate_id", "correlation_id", "user_id", "event_type")


@dataclass(slots=True, eq=False)
class LogReader:
    """Follows the log from `position` on, the next one that it receives."""

    position: int
    wanted: EventFilter
    attached: bool = False
    # Positions of matching events that are still kept; unused if the reader wants all events.
    matches: deque[int] = field(default_factory=deque)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def keys(self) -> tuple[str, Sequence[UUID | str]]:
        """The column and values under which it is registered; an empty column: it wants all events."""
        wanted = self.wanted
        for column, value in zip(_KEYS, (wanted.aggregate_id, wanted.correlation_id, wanted.user_id), strict=False):
            if value is not None:
                return column, (value,)
        return ("event_type", wanted.event_types) if wanted.event_types else ("", ("",))


@dataclass(slots=True, kw_only=True)
class LogTail:
    """Readers hold positions, not events: a slow one costs no memory, and is detached when the tail has moved on."""

    events_max: int = EVENTS_MAX
    # The position of the last published event.
    last: int = 0
    _rows: deque[EventRow] = field(default_factory=deque)
    # Column -> value -> its readers; only columns that some reader filters by.
    _attached: dict[str, dict[UUID | str, list[LogReader]]] = field(default_factory=dict)

    @property
    def _first(self) -> int:
        return self.last - len(self._rows) + 1

    @property
    def feeds_any(self) -> bool:
        return bool(self._attached)

    def restart(self, last: int) -> None:
        """Drops all events, continues after `last`, and sends every reader back to the table."""
        self._rows.clear()
        self.last = last
        for readers in [readers for by_value in self._attached.values() for readers in by_value.values()]:
            for reader in list(readers):
                self.detach(reader)

    def attach(self, reader: LogReader) -> bool:
        """Feeds the reader from now on; False if it still needs events that are no longer kept."""
        if reader.position < self._first:
            return False
        column, values = reader.keys()
        for value in values:
            self._attached.setdefault(column, {}).setdefault(value, []).append(reader)
        reader.attached = True
        if column:
            since = max(reader.position - self._first, 0)
            kept = (self._rows[index] for index in range(since, len(self._rows)))
            reader.matches.extend(row.position for row in kept if reader.wanted.lets(row))
        return True

    def detach(self, reader: LogReader) -> None:
        """Stops feeding it, and wakes it."""
        if not reader.attached:
            return
        column, values = reader.keys()
        by_value = self._attached[column]
        for value in values:
            by_value[value].remove(reader)
            if not by_value[value]:
                del by_value[value]
        if not by_value:
            del self._attached[column]
        reader.attached = False
        reader.matches.clear()
        reader.news.set()

    def publish(self, rows: Sequence[EventRow]) -> None:
        """Adds the next events of the log. After a gap all readers go back to the table."""
        if rows[0].position != self.last + 1:
            self.restart(rows[0].position - 1)
        self._rows.extend(rows)
        self.last = rows[-1].position
        for _ in range(len(self._rows) - self.events_max):
            self._rows.popleft()
        for reader in self._woken(rows):
            reader.news.set()
            if reader.matches and reader.matches[0] < self._first:
                self.detach(reader)

    def _woken(self, rows: Sequence[EventRow]) -> set[LogReader]:
        """The readers that match some of `rows`, which get the positions. Each event is looked up once per column."""
        woken: set[LogReader] = set()
        for column, by_value in self._attached.items():
            if not column:
                woken.update(by_value[column])
                continue
            value_of = attrgetter(column)
            for row in rows:
                for reader in by_value.get(value_of(row), ()):
                    if row.position >= reader.position and reader.wanted.lets(row):
                        reader.matches.append(row.position)
                        woken.add(reader)
        return woken

    def take(self, reader: LogReader, limit: int) -> list[EventRow] | None:
        """The next matching events; None if the reader has fallen behind, or is not attached."""
        first, matches = self._first, reader.matches
        wants_all = not reader.keys()[0]
        if (reader.position if wants_all else matches[0] if matches else first) < first:
            self.detach(reader)
        if not reader.attached:
            return None
        if wants_all:
            until = min(self.last + 1, reader.position + limit)
            return [self._rows[position - first] for position in range(reader.position, until)]
        return [self._rows[matches.popleft() - first] for _ in range(min(limit, len(matches)))]

    def passed(self, reader: LogReader) -> int:
        """The position up to which an attached reader has received all matching events."""
        return reader.position - 1 if reader.matches or not reader.keys()[0] else max(self.last, reader.position - 1)
