"""The balances of each cell and the checks of the logs, computed by the client from the events alone."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise

from cellbook.v1 import event_pb2, ledger_pb2

Logs = Mapping[str, Sequence[event_pb2.Event]]

BUCKETS = ("available", "reserved", "pending")
USERS = "users/"
ESCROW = "escrow/"
CLEARING = "clearing/"
EXAMPLES_MAX = 3
IN_EACH_CELL = "money conserved in each cell"
OVER_ALL_CELLS = "money conserved over all cells"
ENTRIES_BALANCE = "postings of each event sum to zero"
CONSERVATION = frozenset({IN_EACH_CELL, OVER_ALL_CELLS, ENTRIES_BALANCE})


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
        books.append(Books(cell=cell))
        for event in events:
            books[-1].add(event)
    return books


def money_rows(books: Sequence[Books]) -> list[MoneyRow]:
    rows = []
    for own in books:
        for code in sorted(own.currencies):
            brought = {"deposited": own.deposited[code], "withdrawn": own.withdrawn[code]}
            amounts = {name: own.total(prefix, code) for name, prefix in PLACES.items()}
            rows.append(MoneyRow(cell=own.cell, currency=code, **brought, **amounts))
    return rows


def over_all(rows: Sequence[MoneyRow]) -> list[MoneyRow]:
    """One row per currency: the sum over all cells."""
    summed = []
    for currency in sorted({row.currency for row in rows}):
        own = [row for row in rows if row.currency == currency]
        sums = {name: sum(getattr(row, name) for row in own) for name in ("deposited", "withdrawn", *PLACES)}
        summed.append(MoneyRow(cell="all cells", currency=currency, **sums))
    return summed


def clearing_left(logs: Logs) -> dict[tuple[str, str, str], int]:
    """Money between cells: (clearing id, pair of cells, currency) -> minor units of legs without counterpart.

    A leg is one posting to clearing/{peer}; leg out and leg in record the same id and cancel each other.
    """
    legs: dict[tuple[str, str, str], int] = defaultdict(int)
    for event in chain.from_iterable(logs.values()):
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


# --- checks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """`detail` says what was checked, or what is wrong."""

    name: str
    held: bool
    detail: str


def found(name: str, wrong: Sequence[str], looked_at: str) -> Check:
    """A check that holds if nothing wrong was found."""
    if not wrong:
        return Check(name=name, held=True, detail=looked_at)
    more = f" and {len(wrong) - EXAMPLES_MAX} more" if len(wrong) > EXAMPLES_MAX else ""
    return Check(name=name, held=False, detail="; ".join(wrong[:EXAMPLES_MAX]) + more)


def check_log(logs: Logs, books: Sequence[Books]) -> list[Check]:
    """All checks that need only the logs of a system at rest. `books`: the balances of the logs."""
    return [
        positions_gapless(logs),
        hlc_rises(logs),
        causes_precede(logs),
        entries_balance(logs),
        never_overdrawn(books),
        cells_conserve(books),
        all_conserve(books),
        clearing_matched(logs),
        clearing_nets_to_zero(books),
        escrow_empty(books),
    ]


def positions_gapless(logs: Logs) -> Check:
    wrong = [
        f"{cell}: position {event.position} where {wanted} was due"
        for cell, events in logs.items()
        for wanted, event in enumerate(events, start=1)
        if event.position != wanted or event.cell != cell
    ]
    looked_at = ", ".join(f"{cell} 1..{len(events)}" for cell, events in logs.items())
    return found("positions without gaps", wrong, looked_at)


def hlc_rises(logs: Logs) -> Check:
    wrong = [
        f"{cell}/{event.position} is not after {cell}/{before.position}"
        for cell, events in logs.items()
        for before, event in pairwise(events)
        if stamp(event) <= stamp(before)
    ]
    return found("HLC strictly rising in each cell", wrong, _events(logs))


def causes_precede(logs: Logs) -> Check:
    """Every cause is in some cell's log, and has a lower HLC than its effect, whatever the cells' wall clocks."""
    every = {event.event_id: event for event in chain.from_iterable(logs.values())}
    wrong, crossing = [], 0
    for event in every.values():
        if not event.causation_id:
            continue
        cause = every.get(event.causation_id)
        if cause is None:
            wrong.append(f"{where(event)} is caused by {event.causation_id}, which is in no log")
        elif stamp(cause) >= stamp(event):
            wrong.append(f"{where(event)} is not after its cause {where(cause)}")
        else:
            crossing += cause.cell != event.cell
    return found("every cause is logged and older", wrong, f"{crossing} causes in another cell")


def entries_balance(logs: Logs) -> Check:
    wrong, count = [], 0
    for event in chain.from_iterable(logs.values()):
        sums: dict[str, int] = defaultdict(int)
        for posting in event.postings:
            sums[posting.currency] += posting.amount_minor
        wrong += [f"{where(event)} is off by {left} {code}" for code, left in sums.items() if left]
        count += len(event.postings)
    return found(ENTRIES_BALANCE, wrong, f"{count:,} postings")


def never_overdrawn(books: Sequence[Books]) -> Check:
    wrong = [line for own in books for line in own.overdrawn]
    count = sum(len(own.accounts) for own in books)
    return found("no user or escrow ever below zero", wrong, f"{count:,} accounts")


def cells_conserve(books: Sequence[Books]) -> Check:
    rows = money_rows(books)
    wrong = [
        f"{row.cell}: {row.deposited} in, {row.withdrawn} out, {row.inside} {row.currency} there"
        for row in rows
        if not row.held
    ]
    return found(IN_EACH_CELL, wrong, f"{len(rows)} cells and currencies")


def all_conserve(books: Sequence[Books]) -> Check:
    """With no money between cells, all money brought in is with users, in escrow or taken as fees."""
    rows = over_all(money_rows(books))
    wrong = [
        f"{row.currency}: {row.deposited - row.withdrawn} in, {row.users + row.escrow + row.fees} there"
        for row in rows
        if row.deposited - row.withdrawn != row.users + row.escrow + row.fees
    ]
    return found(OVER_ALL_CELLS, wrong, ", ".join(row.currency for row in rows))


def clearing_matched(logs: Logs) -> Check:
    left = clearing_left(logs)
    wrong = [f"{amount} {code} of {clearing_id} between {pair}" for (clearing_id, pair, code), amount in left.items()]
    return found("clearing legs matched one by one", wrong, "nothing in transit")


def clearing_nets_to_zero(books: Sequence[Books]) -> Check:
    """Between each pair of cells, one sent what the other received."""
    net: dict[tuple[str, str], int] = defaultdict(int)
    for own in books:
        for (account, currency), amount in own.accounts.items():
            if account.startswith(CLEARING):
                pair = " and ".join(sorted((own.cell, account.removeprefix(CLEARING))))
                net[pair, currency] += amount
    wrong = [f"{amount} {currency} between {pair}" for (pair, currency), amount in net.items() if amount]
    return found("clearing accounts net to zero", wrong, f"{len(net)} pairs and currencies")


def escrow_empty(books: Sequence[Books]) -> Check:
    wrong = [
        f"{own.cell} {account} holds {amount} {currency}"
        for own in books
        for (account, currency), amount in own.accounts.items()
        if account.startswith(ESCROW) and amount
    ]
    count = sum(account.startswith(ESCROW) for own in books for account, _ in own.accounts)
    return found("escrow empty at the end", wrong, f"{count} escrow accounts")


def balances_agree(
    books: Sequence[Books], reported: Mapping[str, Mapping[str, Mapping[str, ledger_pb2.Balance]]]
) -> Check:
    """Balances of the log equal those of GetBalance. `reported`: cell -> user id -> currency -> balance."""
    wrong, count = [], 0
    for own in books:
        answers = reported.get(own.cell, {})
        for (user_id, currency), buckets in own.user_balances().items():
            answer = answers.get(user_id, {}).get(currency, ledger_pb2.Balance())
            said = {bucket: getattr(answer, f"{bucket}_minor") for bucket in BUCKETS}
            count += 1
            if said != buckets:
                wrong.append(f"{own.cell} {user_id}: {said} {currency} told, {buckets} in the log")
    return found("balances told are those of the log", wrong, f"{count:,} balances")


def stamp(event: event_pb2.Event) -> tuple[int, int]:
    return event.hlc.physical_ms, event.hlc.logical


def order(event: event_pb2.Event) -> tuple[int, int, str, int]:
    """The order of all events of all cells: by HLC, then by cell."""
    return *stamp(event), event.cell, event.position


def where(event: event_pb2.Event) -> str:
    return f"{event.cell}/{event.position} {event.event_type}"


def _events(logs: Logs) -> str:
    return f"{sum(len(events) for events in logs.values()):,} events"
