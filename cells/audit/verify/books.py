"""The trial balance of several cells as one: clearing between them is eliminated, movement by movement."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

CLEARING = "clearing/"


@dataclass(slots=True, kw_only=True)
class CellBooks:
    """One cell's log up to a cut."""

    cell: str
    position: int = 0
    # (account, currency) -> the sum of all postings; the buckets of all users are three accounts.
    sums: Counter[tuple[str, str]] = field(default_factory=Counter)
    # (peer, clearing id, currency) -> the amount sent minus the amount received by this cell.
    movements: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def add(self, payload: Mapping[str, Any]) -> None:
        """Adds the next event. A malformed payload raises any of the errors of reading it."""
        for line in payload.get("postings", ()):
            account, currency, amount_minor = line["account"], line["currency"], int(line["amount_minor"])
            self.sums[summed(account), currency] += amount_minor
            if account.startswith(CLEARING):
                self.movements[account.removeprefix(CLEARING), payload["clearing_id"], currency] += amount_minor
        self.position += 1


class InTransit(NamedTuple):
    """Money that one cell has sent and the other has not received at the cut."""

    clearing_id: str
    sender: str
    receiver: str
    currency: str
    amount_minor: int


class Consolidated(NamedTuple):
    # Without clearing accounts.
    sums: Mapping[tuple[str, str], int]
    in_transit: Sequence[InTransit]
    problems: Sequence[str]

    def totals(self) -> dict[str, tuple[int, int]]:
        """Currency -> the sum of all accounts, and the money in transit. The two add up to zero."""
        accounts, transit = Counter[str](), Counter[str]()
        for (_, currency), amount_minor in self.sums.items():
            accounts[currency] += amount_minor
        for each in self.in_transit:
            transit[each.currency] += each.amount_minor
        return {currency: (accounts[currency], transit[currency]) for currency in sorted({*accounts, *transit})}


def consolidated(cells: Sequence[CellBooks]) -> Consolidated:
    """Adds up cells that are cut at one moment. The problems name the sums that do not add up."""
    sums, problems = Counter[tuple[str, str]](), list[str]()
    for each in cells:
        for (account, currency), amount_minor in each.sums.items():
            if not account.startswith(CLEARING):
                sums[account, currency] += amount_minor
        problems += _unlike_accounts(each, {own.cell for own in cells})
    found = Consolidated({key: of for key, of in sorted(sums.items()) if of}, sorted(_in_transit(cells)), problems)
    problems += [
        f"movement {each.clearing_id}: {each.receiver} has received {-each.amount_minor} {each.currency} more than "
        f"{each.sender} has sent"
        for each in found.in_transit
        if each.amount_minor < 0
    ]
    problems += [
        f"all accounts in {currency} come to {own}, and {transit} is in transit: the sum is not zero"
        for currency, (own, transit) in found.totals().items()
        if own + transit
    ]
    return found


def _unlike_accounts(books: CellBooks, cells: set[str]) -> Iterator[str]:
    """Clearing accounts that differ from the movements with their cell, or whose cell is not among `cells`."""
    moved_by, unbalanced = Counter[tuple[str, str]](), set[tuple[str, str]]()
    for (peer, _, currency), amount_minor in books.movements.items():
        moved_by[peer, currency] += amount_minor
        if amount_minor:
            unbalanced.add((peer, currency))
    posted_by = {
        (account.removeprefix(CLEARING), currency): amount_minor
        for (account, currency), amount_minor in books.sums.items()
        if account.startswith(CLEARING)
    }
    for peer, currency in sorted({*moved_by, *posted_by}):
        moved, posted = moved_by[peer, currency], posted_by.get((peer, currency), 0)
        if peer not in cells and (posted or (peer, currency) in unbalanced):
            yield f"{books.cell}: {CLEARING}{peer} holds {posted} {currency}, and {peer} is not among the cells"
        elif moved != posted:
            yield f"{books.cell}: {CLEARING}{peer} holds {posted} {currency}, and its movements come to {moved}"


def _in_transit(cells: Sequence[CellBooks]) -> Iterator[InTransit]:
    sides: dict[tuple[str, str, str, str], Counter[str]] = {}
    for each in cells:
        for (peer, clearing_id, currency), amount_minor in each.movements.items():
            one, other = sorted((each.cell, peer))
            sides.setdefault((clearing_id, one, other, currency), Counter())[each.cell] += amount_minor
    for (clearing_id, one, other, currency), sent in sides.items():
        amount_minor = sent.total()
        if amount_minor:
            sender, receiver = (one, other) if sent[one] >= sent[other] else (other, one)
            yield InTransit(clearing_id, sender, receiver, currency, amount_minor)


def summed(account: str) -> str:
    """The account in a trial balance: the buckets of all users become three accounts."""
    return f"users/{account.rpartition('/')[2]}" if account.startswith("users/") else account
