"""Checks of the logs, computed by the client from the events alone."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from cellbook.v1 import event_pb2, ledger_pb2
from lab.books import BUCKETS, ESCROW, Books, Logs, clearing_left, money_rows, over_all

EXAMPLES_MAX = 3
IN_EACH_CELL = "money conserved in each cell"
OVER_ALL_CELLS = "money conserved over all cells"
ENTRIES_BALANCE = "postings of each event sum to zero"
CONSERVATION = frozenset({IN_EACH_CELL, OVER_ALL_CELLS, ENTRIES_BALANCE})


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
    every = {event.event_id: event for events in logs.values() for event in events}
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
    wrong = []
    for events in logs.values():
        for event in events:
            sums: dict[str, int] = defaultdict(int)
            for posting in event.postings:
                sums[posting.currency] += posting.amount_minor
            wrong += [f"{where(event)} is off by {left} {code}" for code, left in sums.items() if left]
    count = sum(len(event.postings) for events in logs.values() for event in events)
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
    wrong = [
        f"{amount} {currency} of {clearing_id} between {pair}" for (clearing_id, pair, currency), amount in left.items()
    ]
    return found("clearing legs matched one by one", wrong, "nothing in transit")


def clearing_nets_to_zero(books: Sequence[Books]) -> Check:
    """Between each pair of cells, one sent what the other received."""
    net: dict[tuple[str, str], int] = defaultdict(int)
    for own in books:
        for (account, currency), amount in own.accounts.items():
            if account.startswith("clearing/"):
                pair = " and ".join(sorted((own.cell, account.removeprefix("clearing/"))))
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


def balances_agree(books: Sequence[Books], told: Mapping[str, Mapping[str, Mapping[str, ledger_pb2.Balance]]]) -> Check:
    """Balances of the log equal those of GetBalance. `told`: cell -> user id -> currency -> balance."""
    wrong, count = [], 0
    for own in books:
        answers = told.get(own.cell, {})
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
