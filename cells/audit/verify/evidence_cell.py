"""One cell's part of a folder of evidence: data that follows from its export, and the problems of the rest."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import add
from typing import Any

from .books import CellBooks
from .callers import CallerCheck
from .export import ExportCheck, Findings
from .lines import document
from .note import UNREADABLE, Checkpoint, Malformed, Quorum, VerifierKey
from .proof import ACCOUNTS, check_proof, picked, positions

BUCKETS = ("available", "reserved", "pending")
OPENED, LEFT = frozenset({"ACCOUNT_OPENED", "ACCOUNT_ARRIVED"}), "ACCOUNT_LEFT"
LINE_BYTES_MAX = 16 * 1024 * 1024

# For an account: (currency, position) -> the amounts that the event adds to each bucket.
Movements = dict[tuple[str, int], list[int]]


@dataclass(slots=True, kw_only=True)
class Reading:
    """Reads an export once. Everything but the findings is as of the checkpoint, and the books are as of the cut."""

    checkpoint: Checkpoint
    # Where the consolidated trial balance cuts this log, and the moment at which it cuts them all.
    cut: int
    moment: tuple[int, int]
    # Whether all events up to the cut, and no others, are of that moment or before.
    cut_right: bool = True
    # The users whose movements are wanted; empty: none.
    users: frozenset[str] = frozenset()
    books: CellBooks = field(init=False)
    # The sizes of all checkpoints in the export.
    sizes: list[int] = field(default_factory=list)
    # Users with an account here at any time, and users with one at the checkpoint.
    known: set[str] = field(default_factory=set)
    at_home: set[str] = field(default_factory=set)
    movements: dict[str, Movements] = field(default_factory=lambda: defaultdict(dict))

    def __post_init__(self) -> None:
        self.books = CellBooks(cell=self.checkpoint.origin.partition("/")[2])

    def add(self, event: Mapping[str, Any]) -> None:
        """Adds the next event. Raises Malformed."""
        try:
            self._add(event)
        except UNREADABLE:
            raise Malformed(f"position {event.get('position')} cannot be read") from None

    def _add(self, event: Mapping[str, Any]) -> None:
        position = event["position"]
        if (position <= self.cut) != ((int(event["hlc_physical"]), int(event["hlc_logical"])) <= self.moment):
            self.cut_right = False
        if position > self.checkpoint.size:
            return
        if position <= self.cut:
            self.books.add(event["payload"])
            self.books.position = position
        if event["event_type"] in OPENED:
            self.known.add(event["aggregate_id"])
            self.at_home.add(event["aggregate_id"])
        elif event["event_type"] == LEFT:
            self.at_home.discard(event["aggregate_id"])
        for line in event["payload"].get("postings", ()):
            if line["account"].startswith("users/"):
                _, user_id, bucket = line["account"].split("/")
                if user_id in self.users:
                    changes = self.movements[user_id].setdefault((line["currency"], position), [0, 0, 0])
                    changes[BUCKETS.index(bucket)] += int(line["amount_minor"])

    def sampled_accounts(self, seed: str, count: int) -> list[str]:
        """The sampled accounts, among the users who were at home here."""
        everybody = sorted(self.at_home)
        return [everybody[index] for index in picked(seed, self.checkpoint, ACCOUNTS, count, len(everybody))]


def read_export(
    lines: Iterable[bytes],
    reading: Reading,
    keys: Sequence[VerifierKey],
    held: Sequence[Checkpoint],
    quorum: Quorum | None,
    *,
    callers: CallerCheck | None = None,
) -> Findings:
    """Checks an export, and passes its events to `reading`. Raises Malformed."""
    check = ExportCheck(keys=keys, held=held, callers=callers, found=Findings(quorum=quorum))
    for line in lines:
        last = check.found.last
        content = check.read(line)
        # A line of another kind may say what it wants, but takes no position.
        if content and check.found.last != last:
            reading.add(content)
        elif set(content) == {"checkpoint"}:
            reading.sizes.append(check.found.last)
    return check.finish()


def sample_problems(
    lines: Sequence[bytes], keys: Sequence[VerifierKey], checkpoint: Checkpoint, seed: str, count: int
) -> Iterator[str]:
    """The problems of proofs, two lines each: they must cover exactly the events that the seed picks, in order."""
    wanted = positions(seed, checkpoint, count)
    found = []
    for first in range(0, len(lines), 2):
        try:
            proven = check_proof(lines[first : first + 2], keys)
        except Malformed as error:
            yield f"proof {first // 2 + 1}: {error}"
            continue
        if proven.checkpoint[:3] != checkpoint[:3] or proven.event is None:
            yield f"proof {first // 2 + 1} is by another checkpoint"
        else:
            found.append(proven.event["position"])
    if found != wanted:
        yield f"it holds the events at {found[:20]}, and the seed picks those at {wanted[:20]}"


def statement_problems(text: bytes, user_id: str, reading: Reading) -> Iterator[str]:
    """The differences between a statement and the export, movement by movement. Raises Malformed or UNREADABLE."""
    said = document(text)
    if (said["user_id"], int(said["to"]["position"])) != (user_id, reading.checkpoint.size):
        yield f"it is not of {user_id} up to position {reading.checkpoint.size}"
    changes: Movements = {
        (each["change"]["currency"], int(each["position"])): _buckets(each["change"]) for each in said["movements"]
    }
    if len(changes) < len(said["movements"]):
        yield "it has movements of the same event and currency twice"
    logged = reading.movements.get(user_id, {})
    for currency, position in sorted({*changes, *logged}):
        own, posted = changes.get((currency, position)), logged.get((currency, position))
        if own != posted:
            yield f"position {position}, {currency}: it says {own or 'nothing'}, and the event {posted or 'nothing'}"
    sums: dict[str, list[int]] = defaultdict(lambda: [0] * len(BUCKETS))
    for each in said["movements"]:
        currency = each["change"]["currency"]
        before, sums[currency] = sums[currency], [*map(add, sums[currency], _buckets(each["change"]))]
        if (_buckets(each["before"]), _buckets(each["after"])) != (before, sums[currency]):
            yield f"position {each['position']}, {currency}: its balances do not follow from the changes"
    sums.clear()
    for (currency, _), moved in logged.items():
        sums[currency] = [*map(add, sums[currency], moved)]
    closing = {each["closing"]["currency"]: _buckets(each["closing"]) for each in said["totals"]}
    if len(closing) < len(said["totals"]):
        yield "it has totals of the same currency twice"
    if closing != sums:
        yield f"it closes with {json.dumps(closing)}, and the postings come to {json.dumps(sums)}"


def _buckets(balance: Mapping[str, Any]) -> list[int]:
    return [int(balance[f"{bucket}_minor"]) for bucket in BUCKETS]
