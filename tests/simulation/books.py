"""The invariants over all cells, checked event by event at each commit, from the stored rows.

The checks do not use the cells' own code, with one exception: the fold of the log through `evolve`, with which the
projections are compared with.
"""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from cells.domain.evolve import evolve
from cells.domain.sagas.saga import Saga
from cells.domain.values import Kind, Ref
from cells.encoding import codec
from cells.store.ports import Batch, EventRow
from tests.doubles.store import MemoryStore
from tests.simulation.ground import HOSTILE, Broken, must
from tests.simulation.hostile import HostileBooks
from tests.simulation.user_bounds import UserBounds

# The legs that cannot be undone once taken, by each saga's name for them.
PIVOTS = frozenset({"ownership", "submit", "release", "receive", "notify", "arrive"})
# The debt of a hostile cell for what it has given: for the other cells it is the world outside.
OUTSIDE = f"clearing/{HOSTILE}"
TERMINAL = frozenset({"SAGA_COMPLETED", "SAGA_COMPENSATED"})
# The type of a saga's facts -> the legs that must have been taken when it is completed.
REQUIRED = {
    "SETTLEMENT_FACTS": ("pin", "escrow-out", "escrow-in", "credit-out", "credit-in", "ownership", "settle"),
    "REMOTE_BID_FACTS": ("reserve", "submit"),
    "RELEASE_FACTS": ("release",),
    "TRANSFER_FACTS": ("send", "receive"),
    # It may be given up.
    "NOTICE_FACTS": (),
    # The directory, which is told last, is not a cell.
    "MOVE_FACTS": ("announce", "depart", "arrive", "leave"),
}
# The legs of a hostile bidder's cell, which has no log: what is done there is known from the saga alone.
BIDDERS_LEGS = frozenset({"pin", "escrow-out", "release"})
# Reasons for which a settlement may compensate: its deadline, or a failpoint. A winner can pay, and the asset exists.
TURNS_BACK = frozenset({"DEADLINE_EXCEEDED", "REFUSED_BY_FAILPOINT", "CALLED_OFF"})


@dataclass(slots=True)
class CellBooks:
    """One cell, from its log."""

    position: int = 0
    stamp: tuple[int, int] = (0, 0)
    versions: dict[UUID, int] = field(default_factory=dict)
    # (account, currency) -> minor units: the sums of the postings.
    balances: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    states: dict[Ref, Any] = field(default_factory=dict)
    owners: dict[UUID, str] = field(default_factory=dict)
    epoch: int = 0


@dataclass(slots=True)
class LegBooks:
    action: UUID | None = None
    compensation: UUID | None = None


@dataclass(slots=True)
class SagaBooks:
    # The legs that must be taken before it is completed.
    required: tuple[str, ...]
    # With a hostile cell as a party, which answers what it likes.
    hostile: bool = False
    legs: dict[tuple[str, int], LegBooks] = field(default_factory=lambda: defaultdict(LegBooks))
    pivoted: bool = False
    compensated: bool = False
    ended: str = ""


class Books:
    """Over all cells, in the order of their commits."""

    def __init__(self) -> None:
        self.cells: dict[str, CellBooks] = defaultdict(CellBooks)
        self.sagas: dict[UUID, SagaBooks] = {}
        # Movement between cells -> the amount in transit, and the amount sent.
        self.in_transit: dict[str, int] = {}
        self._set_out: dict[str, int] = {}
        self.hostile = HostileBooks()
        self.bids: set[UUID] = set()
        self.users = UserBounds()
        # Commands with an effect by their ids, and all by their cell: a tombstone blocks a leg only there.
        self.commands: set[str] = set()
        # Event -> its cell, position and stamp.
        self.events: dict[UUID, tuple[str, int, tuple[int, int]]] = {}

    def written(self, cell: str, batch: Batch) -> None:
        """Call this for every transaction, at once. Raises Broken."""
        books = self.cells[cell]
        books.epoch = batch.epoch
        must(batch.position_before == books.position, "a commit does not go on from the last", cell, books.position)
        commands = set()
        for row in batch.events:
            command = self._event(cell, books, row)
            commands.add(f"{cell}/{command}")
            # In all cells: the outcomes of commands move with their user.
            if row.event_type != "LEG_TOMBSTONED":
                commands.add(command)
        again = commands & self.commands
        must(not again, "a command was done twice", cell, again)
        self.commands |= commands
        for outcome in batch.outcomes:
            self.users.refusal(cell, batch.epoch, outcome)
        for entry in batch.account_entries:
            must(min(entry[6:]) >= 0, "a bucket is below zero", cell, entry)

    def _event(self, cell: str, books: CellBooks, row: EventRow) -> str:
        payload, metadata = json.loads(row.payload), json.loads(row.metadata)
        self._place(cell, books, row)
        must(row.event_id not in self.events, "an event id was given out twice", row.event_id)
        self.events[row.event_id] = (cell, row.position, books.stamp)
        if metadata["principal"] == f"peer/{HOSTILE}":
            self.hostile.written(cell, row, payload)
        elif "leg" in metadata:
            self._mark(row, metadata["leg"])
        if "postings" in payload:
            self._post(cell, books, payload)
        if row.event_type.startswith("SAGA_"):
            self._saga(row, payload)
        _hold_asset(books, row, payload)
        if row.event_type == "BID_PLACED" and row.event_id not in self.hostile.events:
            self.bids.add(UUID(payload["bid_id"]))
        event = codec.decode_event(row.event_type, metadata["v"], row.payload)
        ref = Ref(event.kind, row.aggregate_id)
        books.states[ref] = state = evolve(books.states.get(ref), event, row.event_id)
        if isinstance(state, Saga):
            self.users.flow(cell, books.epoch, row.aggregate_id, state)
        return str(metadata["command_id"])

    def _place(self, cell: str, books: CellBooks, row: EventRow) -> None:
        must(row.position == books.position + 1, "positions have a gap", cell, row.position)
        books.position = row.position
        version = books.versions.get(row.aggregate_id, 0) + 1
        must(row.stream_version == version, "stream versions have a gap", cell, row.position)
        books.versions[row.aggregate_id] = version
        stamp = (row.hlc_physical, row.hlc_logical)
        must(stamp > books.stamp, "the hybrid logical clock does not rise", cell, row.position, stamp, books.stamp)
        books.stamp = stamp
        vector = json.loads(row.vector_clock)
        must(vector[cell] == row.position, "the own entry of a vector clock is not the position", cell, row.position)
        for name, position in vector.items():
            reached = name == HOSTILE or position <= self.cells[name].position
            must(reached, "a vector clock names a position that nobody has reached", cell, row.position, name, position)
        if row.causation_id is not None and row.causation_id not in self.hostile.claimed:
            cause = self.events.get(row.causation_id)
            if cause is None:
                raise Broken(f"an effect comes before its cause: {cell}, {row.position}")
            must(stamp > cause[2], "an effect is stamped before its cause", cell, row.position, cause)
            must(vector.get(cause[0], 0) >= cause[1], "an effect knows nothing of its cause", cell, row.position, cause)

    def _post(self, cell: str, books: CellBooks, payload: dict[str, Any]) -> None:
        sums: dict[str, int] = defaultdict(int)
        for line in payload["postings"]:
            account, currency, amount = line["account"], line["currency"], int(line["amount_minor"])
            sums[currency] += amount
            books.balances[account, currency] += amount
            if account.startswith(("users/", "escrow/")):
                must(books.balances[account, currency] >= 0, "below zero", cell, account, currency)
            if account.startswith("clearing/") and account != OUTSIDE:
                self._move(cell, payload["clearing_id"], amount)
        must(not any(sums.values()), "postings do not sum to zero", cell, payload)

    def _move(self, cell: str, clearing_id: str, amount: int) -> None:
        """Money departs before it arrives, also on its way back, and never twice at a time."""
        left = self.in_transit.get(clearing_id, 0) + amount
        set_out = self._set_out.setdefault(clearing_id, amount)
        must(set_out > 0 and left in {0, set_out}, "money arrived that never set out", cell, clearing_id, left)
        self.in_transit[clearing_id] = left

    def _mark(self, row: EventRow, leg: dict[str, Any]) -> None:
        saga_id, name = UUID(leg["saga_id"]), leg["leg"]
        saga = self.sagas.get(saga_id)
        if saga is None:
            raise Broken(f"a leg of a saga that never began: {leg}")
        books = saga.legs[name, leg["generation"]]
        if leg["direction"] == "action":
            must(books.action is None, "a leg was taken twice", leg)
            must(books.compensation is None, "a leg was taken after it was undone", leg)
            must(not saga.compensated or name not in PIVOTS, "a saga's pivot came after its compensation", leg)
            books.action = row.event_id
            saga.pivoted = saga.pivoted or name in PIVOTS
        else:
            must(books.compensation is None, "a leg was undone twice", leg)
            must(not saga.pivoted, "compensation after the pivot", leg)
            books.compensation = row.event_id
            saga.compensated = True

    def _saga(self, row: EventRow, payload: dict[str, Any]) -> None:
        if row.event_type == "SAGA_STARTED":
            must(row.aggregate_id not in self.sagas, "a saga began twice", row.aggregate_id)
            required, hostile = REQUIRED[payload["facts"]["type"]], HOSTILE in payload["facts"].values()
            if hostile:
                required = tuple(leg for leg in required if leg not in BIDDERS_LEGS)
            self.sagas[row.aggregate_id] = SagaBooks(required=required, hostile=hostile)
        saga = self.sagas[row.aggregate_id]
        must(not saga.ended, "a saga went on after its end", row.aggregate_id, row.event_type)
        if row.event_type == "SAGA_COMPENSATION_STARTED" and saga.required is REQUIRED["SETTLEMENT_FACTS"]:
            reason = payload["failure_reason"]
            must(reason in TURNS_BACK, "a settlement turned back without need", row.aggregate_id, reason)
        if row.event_type == "SAGA_LEG_SKIPPED" or (saga.hostile and row.event_type == "SAGA_LEG_COMPLETED"):
            saga.pivoted = saga.pivoted or payload["leg"] in PIVOTS
        if row.event_type in TERMINAL:
            saga.ended = row.event_type
            completed = row.event_type == "SAGA_COMPLETED"
            must(saga.pivoted == completed, "a saga's end belies its pivot", row.aggregate_id)

    # --- at any moment ----------------------------------------------------------------------------------------------

    def total(self, *classes: str) -> int:
        """Over all cells: the sum of the accounts whose names begin with one of `classes`."""
        return sum(
            amount
            for books in self.cells.values()
            for (account, _), amount in books.balances.items()
            if (account if account == OUTSIDE else account.partition("/")[0]) in classes
        )

    def check_conserved(self) -> None:
        """All money from outside, and no other, is with users, in escrow, kept as fees, or in transit."""
        held = self.total("users", "escrow", "fees") + sum(self.in_transit.values())
        outside = self.total("external", OUTSIDE)
        must(held == -outside, "money is not conserved", held, outside)
        must(not self.total("transit"), "money is under way between two users of a cell")

    # --- at rest ----------------------------------------------------------------------------------------------------

    def check_store(self, cell: str, store: MemoryStore) -> None:
        """The projections equal a fold of the log, the sums equal those of the postings, and the hashes are right."""
        books = self.cells[cell]
        folded = {
            ref: (books.versions[ref.id], codec.encode_state(state))
            for ref, state in books.states.items()
            if state is not None
        }
        stored = {ref: (row.stream_version, row.state) for ref, row in store.projections.items()}
        must(stored == folded, "the projections are not the fold of the log", cell)
        own = ("users/", "escrow/")
        house = {key: amount for key, amount in books.balances.items() if amount and not key[0].startswith(own)}
        must({key: amount for key, amount in store.house.items() if amount} == house, "house accounts differ", cell)
        for row in store.log:
            must(codec.leaf_hash(row) == row.leaf_hash, "a leaf hash is wrong", cell, row.position)
        for ref, state in books.states.items():
            if ref.kind is Kind.ACCOUNT:
                _check_holds(books, ref.id, state)

    def check_settled(self) -> None:
        """Nothing is under way any more, and no effect is missing."""
        for saga_id, saga in self.sagas.items():
            must(saga.ended, "a saga has not ended", saga_id, saga)
            done = {name for (name, _), leg in saga.legs.items() if leg.action and not leg.compensation}
            if saga.ended == "SAGA_COMPENSATED":
                must(not done, "a leg was not undone", saga_id, done)
            else:
                must(done >= set(saga.required), "a leg was not taken", saga_id, done)
        moving = {clearing_id: amount for clearing_id, amount in self.in_transit.items() if amount}
        must(not moving, "money is still on its way", moving)
        must(not self.total("clearing"), "clearing does not net to zero")
        must(not self.total("escrow"), "money stays in escrow")
        for cell, books in self.cells.items():
            for (account, currency), amount in books.balances.items():
                if account.endswith("/pending"):
                    given = self.hostile.gifts.get((account.split("/")[1], "pending"), 0)
                    must(amount in {0, given}, "money stays pending", cell, account, currency)


class WatchedStore(MemoryStore):
    """A store in memory that reports every commit to the books."""

    def __init__(self, cell: str, books: Books) -> None:
        super().__init__(cell)
        self._books = books
        self._writing_epoch = 0

    async def append(self, batch: Batch) -> None:
        self._writing_epoch = batch.epoch
        await super().append(batch)

    def _write(self, batch: Batch) -> None:
        epochs = (self._writing_epoch, self._epoch)
        must(epochs[0] == epochs[1], "a deposed leader wrote", self._cell, *epochs)
        super()._write(batch)
        self._books.written(self._cell, batch)


def _hold_asset(books: CellBooks, row: EventRow, payload: dict[str, Any]) -> None:
    """An asset has one holder, and only the holder gives it away."""
    if row.event_type == "ASSET_REGISTERED":
        books.owners[row.aggregate_id] = payload["owner_id"]
    elif row.event_type == "OWNERSHIP_TRANSFERRED":
        must(books.owners[row.aggregate_id] == payload["from_user_id"], "an asset was given away by another", row)
        books.owners[row.aggregate_id] = payload["to_user_id"]


def _check_holds(books: CellBooks, user_id: UUID, account: Any) -> None:  # noqa: ANN401 - any state
    for currency, balance in account.balances.items():
        held = sum(hold.amount_minor for hold in account.holds.values() if hold.currency == currency)
        must(balance.reserved_minor == held, "a reserved bucket is not the sum of its holds", user_id, currency)
        for bucket in ("available", "reserved", "pending"):
            posted = books.balances.get((f"users/{user_id}/{bucket}", currency), 0)
            must(getattr(balance, f"{bucket}_minor") == posted, "a balance is not the sum of its postings", user_id)
