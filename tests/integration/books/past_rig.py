"""A story with everything in it, and what there was after each of its events, folded from the tables alone."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import UUID

from cells.domain.commands import Capture, Deposit, Release, Reserve, Transfer, Withdraw
from cells.domain.decision import State
from cells.domain.evolve import evolve
from cells.domain.refusals import Refused
from cells.domain.values import Kind, Money
from cells.encoding import codec
from cells.store.ports import EventRow
from cells.store.rows import event_of
from tests.integration.audit_rig import CELLS, Town
from tests.integration.database import records
from tests.local_cells import request

ALL = "SELECT * FROM event_store ORDER BY position"


@dataclass(slots=True)
class Truth:
    """One cell's log, and what it comes to at each of its positions."""

    rows: list[EventRow]
    # Position -> stream -> (state, version) of the streams that change there.
    changes: dict[int, tuple[UUID, State | None, int]] = field(default_factory=dict)
    kinds: dict[UUID, Kind] = field(default_factory=dict)

    def state(self, aggregate_id: UUID, position: int) -> tuple[State | None, int] | None:
        """After the stream's last event at or before `position`; None: there was none."""
        for at in range(position, 0, -1):
            if self.changes[at][0] == aggregate_id:
                return self.changes[at][1:]
        return None

    def sums(self, position: int) -> dict[tuple[str, str], int]:
        """What all postings come to, account by account."""
        sums: dict[tuple[str, str], int] = {}
        for row in self.rows[:position]:
            for line in codec.postings_of(row):
                sums[line.account, line.currency] = sums.get((line.account, line.currency), 0) + line.amount_minor
        return sums

    def balances(self, user_id: UUID, position: int) -> dict[str, tuple[int, ...]]:
        sums, owner = self.sums(position), f"users/{user_id}/"
        currencies = sorted({currency for account, currency in sums if account.startswith(owner)})
        buckets = ("available", "reserved", "pending")
        return {code: tuple(sums.get((owner + bucket, code), 0) for bucket in buckets) for code in currencies}

    def of(self, kind: Kind) -> list[UUID]:
        return [aggregate_id for aggregate_id, its in self.kinds.items() if its is kind]


async def truth(dsn: str) -> Truth:
    rows = [event_of(record) for record in await records(dsn, ALL)]
    told, states = Truth(rows), dict[UUID, State | None]()
    for row in rows:
        event = codec.event_of(row)
        states[row.aggregate_id] = evolve(states.get(row.aggregate_id), event, row.event_id)
        told.changes[row.position] = (row.aggregate_id, states[row.aggregate_id], row.stream_version)
        told.kinds[row.aggregate_id] = event.kind
    return told


async def story(town: Town, seed: int, steps: int = 60) -> list[UUID]:
    """Sales over all cells, and between them every way in which money moves. Users of the first cell."""
    rng = random.Random(seed)
    await town.sale(CELLS[0], CELLS[0], CELLS[0])
    await town.sale(CELLS[1], CELLS[0], CELLS[2])
    users = [await town.user(CELLS[0], 50_000) for _ in range(3)]
    cell, holds = town.cells[CELLS[0]].parts.cell, list[tuple[UUID, UUID]]()
    for command in _commands(rng, users, holds, steps):
        try:
            outcome = await cell.execute(request(command))
        except Refused:
            continue
        if isinstance(command, Reserve):
            holds.append((command.user_id, outcome.result.hold_id))
    await town.sale(CELLS[0], CELLS[1], CELLS[0])
    return users


def _commands(
    rng: random.Random, users: list[UUID], holds: list[tuple[UUID, UUID]], steps: int
) -> Iterator[Deposit | Reserve | Transfer | Withdraw | Capture | Release]:
    for step in range(steps):
        one, other = rng.sample(users, 2)
        amount = Money(rng.choice(["USD", "USD", "EUR"]), rng.randrange(1, 900))
        match rng.randrange(6):
            case 0:
                yield Transfer(from_user_id=one, to_user_id=other, amount=amount)
            case 1:
                yield Withdraw(user_id=one, amount=amount, external_reference=f"w{step}")
            case 2 | 3:
                yield Reserve(user_id=one, amount=amount, expire_time_ms=None)
            case 4 if holds:
                user_id, hold_id = holds.pop(rng.randrange(len(holds)))
                yield Capture(user_id=user_id, hold_id=hold_id, to_user_id=other, amount_minor=None)
            case 5 if holds:
                user_id, hold_id = holds.pop(rng.randrange(len(holds)))
                yield Release(user_id=user_id, hold_id=hold_id)
            case _:
                yield Deposit(user_id=one, amount=amount, external_reference=f"d{step}")
