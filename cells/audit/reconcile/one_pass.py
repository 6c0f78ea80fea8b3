"""One pass over a cell's tables: it replays the log and compares the tables with it, while the cell serves.

The replay resumes where the last pass ended, from states in its own tables; a full pass begins at the first event.
Events and the rows that follow from single events never change, so the pass reads them page by page. It ends in one
snapshot of the database: the last events, every present state and every sum, at one position of the log.
"""

import asyncio
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import asyncpg

from cells.audit.checks.log_check import LogCheck
from cells.audit.checks.outcome_check import outcome_findings
from cells.audit.checks.schema_check import schema_findings, schema_of
from cells.audit.reconcile.findings import (
    NOTHING,
    Check,
    Order,
    Progress,
    Report,
    Tell,
    WrongState,
    finding,
    row_text,
    shown,
)
from cells.audit.reconcile.fold import Fold, Page
from cells.audit.reconcile.replay_state import ReplayState
from cells.audit.verify.tree import TILE_WIDTH
from cells.domain.audit.events import CorrectedBalance
from cells.domain.audit.refusals import AuditUnderWay
from cells.domain.values import Kind
from cells.encoding import codec
from cells.sql import queries
from cells.store.ports import AccountEntryRow, ClearingEntryRow, LegRow, ReferenceRow
from cells.store.sessions import Connection

RowsAndTiles: TypeAlias = "tuple[list[asyncpg.Record], dict[int, bytes]]"
Row: TypeAlias = tuple[object, ...]

SQL = queries("cells.sql", "reconcile.sql")
BOOKS = queries("cells.sql", "books.sql")
PAGE = 5_000
# The last stretch of events is replayed within the snapshot.
LAST_STRETCH = 4 * PAGE
WRONG_MAX = 10_000


class Derived(NamedTuple):
    """A table of rows that follow from single events."""

    table: str
    columns: tuple[str, ...]
    check: Check
    # The places of the primary key's columns.
    key: tuple[int, ...]

    def key_of(self, row: Row) -> Row:
        return tuple(row[place] for place in self.key)


DERIVED = (
    Derived("account_entries", AccountEntryRow._fields, Check.ACCOUNT_ENTRY, (0, 1, 2)),
    Derived("clearing_entries", ClearingEntryRow._fields, Check.CLEARING_ENTRY, (0, 1)),
    Derived("saga_legs", LegRow._fields, Check.BARRIER, (0, 1)),
    Derived("external_references", ReferenceRow._fields, Check.REFERENCE, (0,)),
)
PROJECTIONS: dict[Kind, str] = {
    Kind.ACCOUNT: "accounts",
    Kind.ASSET: "assets",
    Kind.AUCTION: "auctions",
    Kind.SAGA: "sagas",
}


class Difference(NamedTuple):
    """A row of a derived table that is wrong (both), missing (no `found`) or surplus (no `expected`)."""

    table: str
    expected: Row | None
    found: Row | None


@dataclass(slots=True, kw_only=True)
class Reconciler:
    """Call `run` once. The connection is exclusive, uses the cell's role, and has no command timeout."""

    connection: Connection
    order: Order = Order()  # noqa: RUF009 - frozen
    tell: Tell = lambda _: None
    # The wrong rows that no writer keeps: those of derived tables, and the positions of wrong snapshots, of states and
    # of the house's sums.
    differences: list[Difference] = field(default_factory=list)
    snapshots: list[int] = field(default_factory=list)
    house_snapshots: list[int] = field(default_factory=list)
    _report: Report = field(init=False)
    _log: LogCheck = field(init=False)
    _replayed: ReplayState = field(init=False)
    _began_s: float = 0.0

    async def run(self) -> Report:
        """Raises AuditUnderWay, and the errors of the database."""
        self._report = report = Report(cell=await self.connection.fetchval(SQL["cell"]))
        # Only one pass may run, because passes store their position.
        if not await self.connection.fetchval(SQL["only_one"]):
            raise AuditUnderWay(cell=report.cell)
        order, loop = self.order, asyncio.get_running_loop()
        self._began_s = loop.time()
        fold = Fold(cell=report.cell)
        self._replayed = ReplayState(connection=self.connection, fold=fold, key=order.replay_key)
        full = order.full or await self.connection.fetchval(SQL["full_is_due"], order.full_every_s)
        await self._replayed.open(full=full)
        if self._replayed.tampered:
            self._find(Check.REPLAY, "the replay that passes go on from", "as the last pass has left it", "changed")
        report.from_position = self._replayed.position
        report.full = report.from_position == 0
        self._log = LogCheck(report=report, signed_size=order.signed_size, signed_root=order.signed_root)
        await self._catch_up()
        # One snapshot, however long this takes and whatever is written meanwhile.
        async with self.connection.transaction(isolation="repeatable_read"):
            await self._end()
        report.took_ms = round((loop.time() - self._began_s) * 1_000)
        return report

    async def _catch_up(self) -> None:
        while True:
            head = await self.connection.fetchval(SQL["position"])
            if head - self._replayed.position <= LAST_STRETCH:
                return
            await self._replay(head)
            if self._replayed.is_large:
                async with self.connection.transaction():
                    await self._replayed.flush()

    # --- the replay -------------------------------------------------------------------------------------------------

    async def _replay(self, head: int) -> None:
        """Replays up to `head`, or until memory is full."""
        coming = self._events(head)
        while coming is not None and not self._replayed.is_large:
            rows, tiles = await coming
            first, last = self._replayed.position + 1, min(self._replayed.position + PAGE, head)
            events = self._log.read(rows, first, last, tiles)
            await self._replayed.load(events)
            self._replayed.fold.snapshots = dict(
                map(tuple, await self.connection.fetch(SQL["snapshots"], first - 1, last))
            )
            self._replayed.position = last
            # PostgreSQL reads the next page while this one is replayed.
            coming = self._events(head)
            await asyncio.sleep(0)
            page = self._replayed.fold.apply(events)
            self._report.add(page.findings)
            self.snapshots += page.wrong_snapshots
            page.unreadable |= set(range(first, last + 1)).difference(event.position for event in events)
            if coming is not None:
                await asyncio.wait([coming])
            await self._compare(page, first, last)
            began = self._report.from_position
            self.tell(Progress(stage="replay", done=last - began, total=head - began))
            await self._hold_back()

    def _events(self, head: int) -> "asyncio.Task[RowsAndTiles] | None":
        first = self._replayed.position
        if first >= head:
            return None
        return asyncio.create_task(self._fetch(first, min(first + PAGE, head)))

    async def _fetch(self, after: int, last: int) -> "RowsAndTiles":
        rows = await self.connection.fetch(SQL["events"], after, last)
        tiles = await self.connection.fetch(SQL["tiles"], after // TILE_WIDTH, (last - 1) // TILE_WIDTH)
        return rows, dict(map(tuple, tiles))

    async def _compare(self, page: Page, first: int, last: int) -> None:
        """Compares the rows that the page's events must have produced with the stored rows."""
        for derived in DERIVED:
            rows = await self.connection.fetch(SQL[derived.table], first - 1, last)
            expected: list[Row] = getattr(page, derived.table)
            found = [tuple(each) for each in rows]
            if found != expected:
                self._differ(derived, expected, found, page.unreadable)
        if page.claims:
            await self._check_claims(page)

    def _differ(self, derived: Derived, expected: list[Row], found: list[Row], unreadable: set[int]) -> None:
        """Pairs missing rows with wrong rows by key."""
        table, columns, check, _ = derived
        place = columns.index("position")
        missing = {derived.key_of(each): each for each in set(expected) - set(found)}
        surplus = {derived.key_of(each): each for each in set(found) - set(expected) if each[place] not in unreadable}
        for key in sorted({*missing, *surplus}, key=str):
            right, wrong = missing.get(key), surplus.get(key)
            self._find(
                check, f"{table} ({', '.join(map(str, key))})", row_text(columns, right), row_text(columns, wrong)
            )
            if len(self.differences) < WRONG_MAX:
                self.differences.append(Difference(table, right, wrong))

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
        if self.order.events_per_s:
            done = self._replayed.position - self._report.from_position
            ahead_s = self._began_s + done / self.order.events_per_s - asyncio.get_running_loop().time()
            if ahead_s > 0:
                await asyncio.sleep(ahead_s)

    # --- the end, at one moment -------------------------------------------------------------------------------------

    async def _end(self) -> None:
        report = self._report
        [(report.epoch, report.position)] = await self.connection.fetch(SQL["head"])
        while self._replayed.position < report.position:
            await self._replay(report.position)
            await self._replayed.flush()
        await self._replayed.flush()
        await self._replayed.seal()
        self._log.end(report.position)
        report.halted = sorted(self._replayed.fold.halted)
        report.add(schema_findings(await schema_of(self.connection)))
        await self._compare_states()
        # Damage to the log is not reported as damage to tables.
        if not report.damaged_count:
            await self._compare_house()
        if not report.damaged_count and report.full:
            await self._compare_house_snapshots()
        began, key = report.from_position, self.order.replay_key
        outcomes = outcome_findings(self.connection, began, report.position, key)
        report.add([found async for found in outcomes])
        if not report.damaged_count and report.full:
            await self._check_books()
        if report.full:
            await self.connection.execute(SQL["ended_full"], report.position)
        report.rows_count = len(self.differences)

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
        if self._report.damaged_count and (row["found_version"] or 0) > (row["stream_version"] or 0):
            # Surplus rows of the table may follow from the missing or damaged rows of the log.
            return
        expected = _state_text(row["stream_version"], row["columns"], row["state"])
        found = _state_text(row["found_version"], row["found_columns"], row["found"])
        self._find(Check.PROJECTION, f"{table} {row['id']}", expected, found)
        version = row["stream_version"] or 0
        self._report.states.append(WrongState(kind=kind, id=row["id"], stream_version=version, found=shown(found)))

    async def _compare_house(self) -> None:
        # Sums without the unreadable events are incomplete: report such a difference, but do not repair it.
        partial = bool(self._report.halted)
        for account, currency, expected, found in await self.connection.fetch(SQL["compare_house"], WRONG_MAX):
            text = f"{expected}, without the events that cannot be read" if partial else expected
            self._find(Check.HOUSE, f"house_balances {account} {currency}", text, found)
            if not partial:
                self._report.house.append(
                    CorrectedBalance(account=account, currency=currency, expected_minor=expected, found_minor=found)
                )

    async def _compare_house_snapshots(self) -> None:
        for row in await self.connection.fetch(SQL["wrong_house_snapshots"], WRONG_MAX):
            named = f"house_snapshots ({row['position']}): {row['account']} {row['currency']}"
            self._find(Check.SNAPSHOT, named, row["expected"], row["found"])
            self.house_snapshots.append(row["position"])

    async def _check_books(self) -> None:
        for number, (name, query) in enumerate(BOOKS.items(), start=1):
            rule = name.replace("_", " ")
            # A value that cannot be read is one finding, and ends neither the snapshot nor the other checks.
            try:
                async with self.connection.transaction():
                    rows = await self.connection.fetch(query)
            except asyncpg.DataError as error:
                self._find(Check.BOOKS, rule, "sums that can be made", error)
                continue
            for row in rows:
                self._find(Check.BOOKS, row_text(list(row.keys()), tuple(row)), "no such row", rule)
            self.tell(Progress(stage="books", done=number, total=len(BOOKS)))
        end = self._report.position
        for row in await self.connection.fetch(SQL["beyond"], end):
            self._find(Check.BOOKS, f"{row['name']} at position {row['position']}", f"1 to {end}", "beyond it")

    def _find(self, check: Check, row: str, expected: object, found: object) -> None:
        self._report.add([finding(check, row, expected, found)])


def _state_text(version: int | None, columns: str, state: str) -> str:
    return NOTHING if version is None else f"version {version}, {columns}, {state}"
