"""One pass over a cell's tables: it replays the log and compares the tables with it, while the cell serves.

The replay resumes where the last pass ended, from states in its own tables; a full pass begins at the first event.
Events and the rows that follow from single events never change, so the pass reads them page by page. It ends in one
snapshot of the database: the last events, every present state and every sum, at one position of the log.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import asyncpg

from cells.audit.checks.log_check import LogCheck
from cells.audit.checks.outcome_check import OutcomeCheck
from cells.audit.checks.schema_check import schema_findings, schema_of
from cells.audit.reconcile.findings import (
    NOTHING,
    Check,
    Finding,
    Progress,
    Report,
    WrongHouse,
    WrongState,
    row_text,
    shown,
)
from cells.audit.reconcile.fold import Fold, Page
from cells.audit.reconcile.replay_state import ReplayState
from cells.audit.verify.tree import TILE_WIDTH
from cells.domain.record import replace
from cells.domain.values import Kind
from cells.encoding import codec
from cells.sql import queries
from cells.store.ports import AccountEntryRow, ClearingEntryRow, LegRow, ReferenceRow

# Quoted: the class is generic for the type checker only.
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
RowsAndTiles: TypeAlias = "tuple[Sequence[asyncpg.Record], dict[int, bytes]]"

SQL = queries("cells.sql", "reconcile.sql")
BOOKS = queries("cells.sql", "books.sql")
PAGE = 5_000
# The last stretch of events is replayed within the snapshot.
LAST_STRETCH = 4 * PAGE
FINDINGS_MAX = 1_000
WRONG_MAX = 10_000

# The table, its row type, and the check.
DERIVED: tuple[tuple[str, type[Any], Check], ...] = (
    ("account_entries", AccountEntryRow, Check.ACCOUNT_ENTRY),
    ("clearing_entries", ClearingEntryRow, Check.CLEARING_ENTRY),
    ("saga_legs", LegRow, Check.BARRIER),
    ("external_references", ReferenceRow, Check.REFERENCE),
)
PROJECTIONS: dict[Kind, str] = {
    Kind.ACCOUNT: "accounts",
    Kind.ASSET: "assets",
    Kind.AUCTION: "auctions",
    Kind.SAGA: "sagas",
}


class AnotherPass(Exception):
    """Another pass is running: only one may run, because passes store their position."""


class Difference(NamedTuple):
    """A row of a derived table that is wrong (both), missing (no `found`) or surplus (no `expected`)."""

    table: str
    expected: tuple[object, ...] | None
    found: tuple[object, ...] | None


def _nowhere(_: Progress) -> None:
    pass


@dataclass(slots=True, kw_only=True)
class Reconciler:
    """Call `run` once. The connection is exclusive, uses the cell's role, and has no command timeout."""

    connection: Connection
    full: bool = False
    # Do a full pass also if the last one ended longer ago than this; 0: do not.
    full_every_s: int = 0
    # The maximum number of events per second; 0: no limit.
    events_per_s: int = 0
    # The check of the log against what was signed.
    log: LogCheck = field(default_factory=LogCheck)
    # The key that seals the replay between passes; empty: no seal.
    key: bytes = b""
    tell: Callable[[Progress], None] = _nowhere
    findings: list[Finding] = field(default_factory=list)
    count: Counter[Check] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)
    states: list[WrongState] = field(default_factory=list)
    house: list[WrongHouse] = field(default_factory=list)
    # Positions of snapshots that differ from the replay: of states and of the house's sums.
    snapshots: list[int] = field(default_factory=list)
    house_snapshots: list[int] = field(default_factory=list)
    _shadow: ReplayState = field(init=False)
    _began: int = 0
    _began_s: float = 0.0

    async def run(self) -> Report:
        """Raises AnotherPass, and the errors of the database."""
        if not await self.connection.fetchval(SQL["only_one"]):
            raise AnotherPass("another pass is under way in this database")
        loop = asyncio.get_running_loop()
        self._began_s = loop.time()
        cell = await self.connection.fetchval(SQL["cell"])
        self._shadow = ReplayState(connection=self.connection, fold=Fold(cell=cell), key=self.key)
        full = self.full or await self.connection.fetchval(SQL["full_is_due"], self.full_every_s)
        await self._shadow.open(full=full)
        if self._shadow.tampered:
            self._find(Check.REPLAY, "the replay that passes go on from", "as the last pass has left it", "changed")
        self._began = self._shadow.position
        self.log.begin(self._began)
        await self._catch_up()
        # One snapshot, however long this takes and whatever is written meanwhile.
        async with self.connection.transaction(isolation="repeatable_read"):
            report = await self._end()
        return replace(report, took_ms=round((loop.time() - self._began_s) * 1_000))

    async def _catch_up(self) -> None:
        while True:
            head = await self.connection.fetchval(SQL["position"])
            if head - self._shadow.position <= LAST_STRETCH:
                return
            await self._replay(head)
            if self._shadow.is_large:
                async with self.connection.transaction():
                    await self._shadow.flush()

    # --- the replay -------------------------------------------------------------------------------------------------

    async def _replay(self, head: int) -> None:
        """Replays up to `head`, or until memory is full."""
        coming = self._events(head)
        while coming is not None and not self._shadow.is_large:
            rows, tiles = await coming
            first, last = self._shadow.position + 1, min(self._shadow.position + PAGE, head)
            events = self.log.read(rows, first, last, tiles)
            await self._shadow.load(events)
            self._shadow.fold.snapshots = dict(
                map(tuple, await self.connection.fetch(SQL["snapshots"], first - 1, last))
            )
            self._shadow.position = last
            # PostgreSQL reads the next page while this one is replayed.
            coming = self._events(head)
            await asyncio.sleep(0)
            page = self._shadow.fold.apply(events)
            self._found([*self.log.taken_findings(), *page.findings])
            self.snapshots += page.wrong_snapshots
            page.unreadable |= set(range(first, last + 1)).difference(event.position for event in events)
            if coming is not None:
                await asyncio.wait([coming])
            await self._compare(page, first, last)
            self.tell(Progress(stage="replay", done=last - self._began, total=head - self._began))
            await self._hold_back()

    def _events(self, head: int) -> "asyncio.Task[RowsAndTiles] | None":
        first = self._shadow.position
        if first >= head:
            return None
        return asyncio.create_task(self._fetch(first, min(first + PAGE, head)))

    async def _fetch(self, after: int, last: int) -> "RowsAndTiles":
        rows = await self.connection.fetch(SQL["events"], after, last)
        tiles = await self.connection.fetch(SQL["tiles"], after // TILE_WIDTH, (last - 1) // TILE_WIDTH)
        return rows, dict(map(tuple, tiles))

    async def _compare(self, page: Page, first: int, last: int) -> None:
        """Compares the rows that the page's events must have produced with the stored rows."""
        for table, row, check in DERIVED:
            rows = await self.connection.fetch(SQL[table], first - 1, last)
            expected: list[tuple[object, ...]] = getattr(page, table)
            found = [tuple(each) for each in rows]
            if found != expected:
                self._differ(table, row, check, expected, found, page.unreadable)
        if page.claims:
            await self._check_claims(page)

    def _differ(  # noqa: PLR0917
        self,
        table: str,
        row: type[Any],
        check: Check,
        expected: Sequence[tuple[object, ...]],
        found: Sequence[tuple[object, ...]],
        unreadable: set[int],
    ) -> None:
        """Pairs missing rows with wrong rows by key."""
        names = row._fields
        place = names.index("position")
        missing = {_key(table, each): each for each in set(expected) - set(found)}
        surplus = {_key(table, each): each for each in set(found) - set(expected) if each[place] not in unreadable}
        for key in sorted({*missing, *surplus}, key=str):
            self._differs(Difference(table, missing.get(key), surplus.get(key)), names, check)

    def _differs(self, difference: Difference, names: Sequence[str], check: Check) -> None:
        table, expected, found = difference
        key = _key(table, expected or found or ())
        named = ", ".join(map(str, key))
        self._find(check, f"{table} ({named})", row_text(names, expected), row_text(names, found))
        if len(self.differences) < WRONG_MAX:
            self.differences.append(difference)

    async def _check_claims(self, page: Page) -> None:
        """Compares the sagas' records of legs in this cell with the leg table, which is authoritative."""
        rows = await self.connection.fetch(SQL["barriers"], [claim.leg_id for claim in page.claims])
        done = {(row["leg_id"], row["direction"]): (row["result"], row["event_id"]) for row in rows}
        for claim in page.claims:
            found = done.get((claim.leg_id, claim.direction))
            if found != (claim.result, claim.event_id):
                self._find(
                    Check.SAGA,
                    f"saga {claim.saga_id}, position {claim.position}: {claim.direction} of leg {claim.leg_id}",
                    f"{claim.result} by event {claim.event_id}",
                    "nothing was done" if found is None else f"{found[0]} by event {found[1]}",
                )

    async def _hold_back(self) -> None:
        """Limits the rate, so that other work of the machine proceeds."""
        if self.events_per_s:
            done = self._shadow.position - self._began
            ahead_s = self._began_s + done / self.events_per_s - asyncio.get_running_loop().time()
            if ahead_s > 0:
                await asyncio.sleep(ahead_s)

    # --- the end, at one moment -------------------------------------------------------------------------------------

    async def _end(self) -> Report:
        epoch, position = await self._head()
        while self._shadow.position < position:
            await self._replay(position)
            await self._shadow.flush()
        await self._shadow.flush()
        await self._shadow.seal()
        self.log.end(position)
        self._found([*self.log.taken_findings(), *schema_findings(await schema_of(self.connection))])
        await self._compare_states()
        await self._compare_house()
        await self._compare_house_snapshots()
        outcomes = OutcomeCheck(connection=self.connection, began=self._began, position=position, key=self.key)
        self._found([finding async for finding in outcomes.findings()])
        if self._began == 0:
            await self._check_books(position)
            await self.connection.execute(SQL["ended_full"], position)
        return Report(
            cell=self._shadow.fold.cell,
            epoch=epoch,
            from_position=self._began,
            position=position,
            full=self._began == 0,
            took_ms=0,
            findings_count=self.count.total(),
            findings=tuple(self.findings),
            states=tuple(self.states),
            house=tuple(self.house),
            rows_count=len(self.differences),
            mended_count=0,
            halted=tuple(sorted(self._shadow.fold.halted)),
            damaged_count=self.log.damaged_count,
        )

    async def _head(self) -> tuple[int, int]:
        [(epoch, position)] = await self.connection.fetch(SQL["head"])
        return epoch, position

    async def _compare_states(self) -> None:
        for number, (kind, table) in enumerate(PROJECTIONS.items(), start=1):
            rows = await self.connection.fetch(SQL["compare_states"], kind.value, WRONG_MAX)
            for row in rows:
                self._compare_state(kind, table, row)
            self.tell(Progress(stage="states", done=number, total=len(PROJECTIONS)))

    def _compare_state(self, kind: Kind, table: str, row: asyncpg.Record) -> None:
        states = row["state"], row["found"]
        same_row = (row["stream_version"], row["columns"]) == (row["found_version"], row["found_columns"])
        if same_row and None not in states and codec.same_state(kind, *states):
            return
        if self.log.damaged_count and (row["found_version"] or 0) > (row["stream_version"] or 0):
            # Surplus rows of the table may follow from the missing or damaged rows of the log.
            return
        expected = _state_text(row["stream_version"], row["columns"], row["state"])
        found = _state_text(row["found_version"], row["found_columns"], row["found"])
        self._find(Check.PROJECTION, f"{table} {row['id']}", expected, found)
        version = row["stream_version"] or 0
        self.states.append(WrongState(kind=kind, id=row["id"], stream_version=version, found=shown(found)))

    async def _compare_house(self) -> None:
        if self.log.damaged_count:
            # Damage to the log is not reported as damage to tables.
            return
        # Sums without the unreadable events are incomplete: report such a difference, but do not repair it.
        partial = bool(self._shadow.fold.halted)
        for account, currency, expected, found in await self.connection.fetch(SQL["compare_house"], WRONG_MAX):
            text = f"{expected}, without the events that cannot be read" if partial else str(expected)
            self._find(Check.HOUSE, f"house_balances {account} {currency}", text, str(found))
            if not partial:
                self.house.append(
                    WrongHouse(account=account, currency=currency, expected_minor=expected, found_minor=found)
                )

    async def _compare_house_snapshots(self) -> None:
        if self._began or self.log.damaged_count:
            return
        for row in await self.connection.fetch(SQL["wrong_house_snapshots"], WRONG_MAX):
            named = f"house_snapshots ({row['position']}): {row['account']} {row['currency']}"
            self._find(Check.SNAPSHOT, named, str(row["expected"]), str(row["found"]))
            self.house_snapshots.append(row["position"])

    async def _check_books(self, position: int) -> None:
        if self.log.damaged_count:
            # As above.
            return
        for number, (name, query) in enumerate(BOOKS.items(), start=1):
            # A value that cannot be read is one finding, and ends neither the snapshot nor the other checks.
            try:
                async with self.connection.transaction():
                    rows = await self.connection.fetch(query)
            except asyncpg.DataError as error:
                self._find(Check.BOOKS, name.replace("_", " "), "sums that can be made", str(error))
                continue
            for row in rows:
                self._find(Check.BOOKS, row_text(list(row.keys()), tuple(row)), "no such row", name.replace("_", " "))
            self.tell(Progress(stage="books", done=number, total=len(BOOKS)))
        for row in await self.connection.fetch(SQL["beyond"], position):
            self._find(Check.BOOKS, f"{row['name']} at position {row['position']}", f"1 to {position}", "beyond it")

    def _found(self, findings: Sequence[Finding]) -> None:
        for finding in findings:
            self._find(finding.check, finding.row, finding.expected, finding.found)

    def _find(self, check: Check, row: str, expected: str, found: str) -> None:
        self.count[check] += 1
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(check=check, row=shown(row), expected=shown(expected), found=shown(found)))


def _state_text(version: int | None, columns: str, state: str) -> str:
    return NOTHING if version is None else f"version {version}, {columns}, {state}"


# The columns of each primary key.
KEYS: dict[str, tuple[int, ...]] = {
    "account_entries": (0, 1, 2),
    "clearing_entries": (0, 1),
    "saga_legs": (0, 1),
    "external_references": (0,),
}


def _key(table: str, row: tuple[object, ...]) -> tuple[object, ...]:
    return tuple(row[place] for place in KEYS[table])
