"""The balances of each cell, computed by the client from the event log alone."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cellbook.v1 import event_pb2

Logs = Mapping[str, Sequence[event_pb2.Event]]

BUCKETS = ("available", "reserved", "pending")
USERS = "users/"
ESCROW = "escrow/"
CLEARING = "clearing/"


@dataclass(slots=True, kw_only=True)
class Books:
    """One cell's accounts, (account, currency) -> minor units, and its total deposits and withdrawals."""

    cell: str
    accounts: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    deposited: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    withdrawn: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    # Accounts that went below zero although they never may: "eu-west/17 escrow/.. at -5 USD".
    overdrawn: list[str] = field(default_factory=list)
    # Users who had their home here and moved away.
    left: set[str] = field(default_factory=set)

    def add(self, event: event_pb2.Event) -> None:
        for posting in event.postings:
            key = (posting.account, posting.currency)
            self.accounts[key] += posting.amount_minor
            if self.accounts[key] < 0 and posting.account.startswith((USERS, ESCROW)):
                left = f"{self.accounts[key]} {posting.currency}"
                self.overdrawn.append(f"{self.cell}/{event.position} {posting.account} at {left}")
        if event.event_type == "ACCOUNT_LEFT":
            self.left.add(event.aggregate_id)
        elif event.event_type == "ACCOUNT_ARRIVED":
            self.left.discard(event.aggregate_id)
        # Read from the payloads: taken from the postings, they would only be compared with themselves.
        if event.event_type in ("DEPOSITED", "WITHDRAWN"):
            moved = json.loads(event.payload_json)
            side = self.deposited if event.event_type == "DEPOSITED" else self.withdrawn
            side[moved["currency"]] += int(moved["amount_minor"])

    def total(self, prefix: str, currency: str) -> int:
        return sum(
            amount for (account, code), amount in self.accounts.items()
            if code == currency and account.startswith(prefix)
        )  # fmt: skip

    @property
    def currencies(self) -> set[str]:
        return {currency for _, currency in self.accounts} | set(self.deposited) | set(self.withdrawn)

    def users(self) -> set[str]:
        return {user_id for user_id, _ in self.user_balances()}

    def user_balances(self) -> dict[tuple[str, str], dict[str, int]]:
        """(user id, currency) -> bucket -> minor units."""
        users: dict[tuple[str, str], dict[str, int]] = {}
        for (account, currency), amount in self.accounts.items():
            if account.startswith(USERS):
                user_id, bucket = account.removeprefix(USERS).split("/")
                users.setdefault((user_id, currency), dict.fromkeys(BUCKETS, 0))[bucket] += amount
        return users


# The places of money, each with the accounts that count there.
PLACES = {"users": USERS, "escrow": ESCROW, "fees": "fees", "transit": "transit", "clearing": CLEARING}


@dataclass(frozen=True, slots=True, kw_only=True)
class MoneyRow:
    """The places of one currency's money in one cell."""

    cell: str
    currency: str
    deposited: int
    withdrawn: int
    users: int
    escrow: int
    fees: int
    transit: int
    # Sent to other cells, less received from them.
    clearing: int

    @property
    def inside(self) -> int:
        return sum(getattr(self, name) for name in PLACES)

    @property
    def held(self) -> bool:
        return self.deposited - self.withdrawn == self.inside


def add_up(logs: Logs) -> list[Books]:
    books = []
    for cell, events in logs.items():
        own = Books(cell=cell)
        for event in events:
            own.add(event)
        books.append(own)
    return books


def money_rows(books: Sequence[Books]) -> list[MoneyRow]:
    return [
        MoneyRow(
            cell=own.cell,
            currency=currency,
            deposited=own.deposited[currency],
            withdrawn=own.withdrawn[currency],
            **{name: own.total(prefix, currency) for name, prefix in PLACES.items()},
        )
        for own in books
        for currency in sorted(own.currencies)
    ]


def over_all(rows: Sequence[MoneyRow]) -> list[MoneyRow]:
    """One row per currency: the sum over all cells."""
    amounts = ("deposited", "withdrawn", *PLACES)
    return [
        MoneyRow(
            cell="all cells",
            currency=currency,
            **{name: sum(getattr(row, name) for row in rows if row.currency == currency) for name in amounts},
        )
        for currency in sorted({row.currency for row in rows})
    ]


def clearing_left(logs: Logs) -> dict[tuple[str, str, str], int]:
    """Money between cells: (clearing id, pair of cells, currency) -> minor units of legs without counterpart.

    A leg is one posting to clearing/{peer}; leg out and leg in record the same id and cancel each other.
    """
    legs: dict[tuple[str, str, str], int] = defaultdict(int)
    for events in logs.values():
        for event in events:
            for leg, amount_minor in clearing_legs(event):
                legs[leg] += amount_minor
    return {leg: amount for leg, amount in legs.items() if amount}


def clearing_legs(event: event_pb2.Event) -> Iterator[tuple[tuple[str, str, str], int]]:
    """The amounts that the event sends to other cells (positive) or receives, keyed as in `clearing_left`."""
    for posting in event.postings:
        if posting.account.startswith(CLEARING):
            clearing_id = json.loads(event.payload_json).get("clearing_id", f"none:{event.event_id}")
            pair = "|".join(sorted((event.cell, posting.account.removeprefix(CLEARING))))
            yield (clearing_id, pair, posting.currency), posting.amount_minor
