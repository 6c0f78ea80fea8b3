"""Checking an export, line by line."""

import base64
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple

from .callers import CallerCheck
from .lines import canonical, event_in, parsed
from .note import UNREADABLE, Checkpoint, Malformed, Quorum, VerifierKey, checkpoint_in, number_problem, unbase64
from .tree import HASH_BYTES, TILE_WIDTH, Tree, is_consistent, leaf_hash

EXPORT = "export/1"
PROBLEMS_MAX = 1_000
# The names in each kind of line but the first and those of events.
KINDS = (
    {"tile", "hashes"}, {"consistency", "checkpoint"}, {"checkpoint"}, {"moved"}, {"outcome"}, {"end"}
)  # fmt: skip


class Problem(NamedTuple):
    """A difference from what was signed. `last` is 0 for a single position."""

    position: int
    last: int
    text: str

    def __str__(self) -> str:
        where = f"positions {self.position} to {self.last}" if self.last else f"position {self.position}"
        return f"{where}: {self.text}"


@dataclass(slots=True, kw_only=True)
class Findings:
    cell: str = ""
    first: int = 1
    last: int = 0
    root: str = ""
    checkpoints: int = 0
    # The events up to this position are signed by a key.
    signed: int = 0
    cosigned: tuple[tuple[str, int], ...] = ()
    # The witnesses that must cosign checkpoints, and the position up to which enough of them did; None: none must.
    quorum: Quorum | None = None
    witnessed: int = 0
    # Events that brought money in or out, by a caller's signature and by another proof; None: not checked.
    callers: tuple[int, int] | None = None
    whole: bool = False
    problems: list[Problem] = field(default_factory=list)

    def problem(self, position: int, text: str, last: int = 0) -> None:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(Problem(position, last if last > position else 0, text))


@dataclass(slots=True)
class Copies:
    """Events of other logs that users brought along: their number, and the last link of the chain over their hashes."""

    # User and cell -> the copies in the export, and those that the last arrival counts, with its position.
    _found: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)
    _said: dict[tuple[str, str], tuple[tuple[int, str], int]] = field(default_factory=dict)

    def add(self, cell: str, event: dict[str, Any], leaf_hash: str) -> None:
        key = str(event.get("aggregate_id")), cell
        events, chain = self._found.get(key, (0, ""))
        self._found[key] = events + 1, sha256(bytes.fromhex(chain + leaf_hash)).hexdigest()

    def arrived(self, position: int, event: dict[str, Any]) -> None:
        """Adds an arrival. Arrivals from before copies were bound are ignored."""
        payload = event["payload"]
        for cell, chain in payload.get("history", {}).items():
            events = max(home["events"] for home in payload["earlier_homes"] if home["cell"] == cell)
            self._said[event["aggregate_id"], cell] = (events, chain), position

    def problems(self) -> Iterator[tuple[int, str]]:
        """The positions of arrivals, and the differences of their copies."""
        for key, (said, position) in self._said.items():
            if self._found.get(key, (0, "")) != said:
                yield position, f"the {said[0]} events of {key[1]} that it counts are not those brought along"


@dataclass(slots=True, kw_only=True)
class ExportCheck:
    """Reads an export line by line. It grows two trees: of the computed hashes and of the stored hashes.

    If only the second tree has the signed root, the rows whose hashes differ are those that were changed.
    """

    keys: Sequence[VerifierKey]
    held: Sequence[Checkpoint] = ()
    # Whether a missing checkpoint is a problem: the events are valid without it.
    numbered: bool = True
    # The permitted callers of deposits and withdrawals; None: not checked.
    callers: CallerCheck | None = None
    found: Findings = field(default_factory=Findings)
    _origin: str = ""
    _tree: Tree = field(default_factory=Tree)
    _said: Tree = field(default_factory=Tree)
    # Whether a row is missing, or neither tree gave a signed root: no later root proves anything.
    _broken: bool = False
    _tiles: dict[int, bytes] = field(default_factory=dict)
    _stamp: tuple[int, int] = (0, 0)
    _ended: bool = False
    # Sizes of the checkpoints in the export, and how many came since the last one that enough witnesses have signed.
    _sizes: set[int] = field(default_factory=set)
    _unwitnessed: int = 0
    # The last checkpoint so far, from the export or held.
    _last: Checkpoint | None = None
    _balances: Counter[tuple[str, str]] = field(default_factory=Counter)
    _copies: Copies = field(default_factory=Copies)

    def read(self, line: bytes) -> dict[str, Any]:
        """The content of the line. Raises Malformed if reading cannot continue."""
        if self._ended:
            raise Malformed("there is more after the end of the export")
        if self._origin and line.startswith(b'{"event":'):
            return self._event(line)
        content = parsed(line)
        if self._origin:
            self._other(content)
        else:
            self._begin(content)
        return content

    def _begin(self, header: dict[str, Any]) -> None:
        if header.get("cellbook") != EXPORT or not isinstance(header.get("from"), int) or not header.get("origin"):
            raise Malformed(f"this is no export that this verifier knows: expected {EXPORT}")
        self._origin, self.found.cell = str(header["origin"]), str(header.get("cell"))
        if self.found.quorum is not None:
            self.found.quorum = self.found.quorum.outside(self._origin)
        if self.callers is not None:
            self.callers.origin = self._origin
        self.found.first = header["from"]
        self.found.last = size = self.found.first - 1
        peaks = [unbase64(peak, "a hash") for peak in header.get("prefix", ())]
        if size < 0 or len(peaks) != size.bit_count() or any(len(peak) != HASH_BYTES for peak in peaks):
            raise Malformed(f"from position {self.found.first} on, {size.bit_count()} hashes must say what came before")
        self._tree, self._said = Tree(size, [*peaks]), Tree(size, [*peaks])
        self._meet_held(size)

    def _event(self, line: bytes) -> dict[str, Any]:
        """The event; empty if it cannot be read or is in the wrong place."""
        expected = self.found.last + 1
        try:
            leaf, event, stored = event_in(line)
        except Malformed as error:
            self.found.problem(expected, str(error))
            self._broken, self.found.last = True, expected
            return {}
        position = event.get("position")
        if position != expected:
            self._misplaced(expected, position)
            return {}
        self.found.last = expected
        self._hashes(expected, leaf_hash(leaf), bytes.fromhex(stored))
        for check, unreadable in (
            (self._order, "an event without a clock"),
            (self._money, "postings that cannot be read"),
            (self._caller, "a caller that cannot be read"),
            (self._arrival, "an arrival that cannot be read"),
        ):
            try:
                for problem in check(event):
                    self.found.problem(expected, problem)
            except UNREADABLE:
                self.found.problem(expected, unreadable)
        self._meet_held(expected)
        return event

    def _misplaced(self, expected: int, position: object) -> None:
        self._broken = True
        if isinstance(position, int) and position > expected:
            self.found.problem(expected, "missing: it was deleted", position - 1)
            self.found.last = position
        else:
            self.found.problem(expected, f"here stands an event that says that it is at position {position}")

    def _hashes(self, position: int, computed: bytes, stored: bytes) -> None:
        tile, place = self._tiles.get((position - 1) // TILE_WIDTH), (position - 1) % TILE_WIDTH * HASH_BYTES
        noted = (tile[place : place + HASH_BYTES] if tile else b"") or stored
        self._tree.append(computed)
        self._said.append(noted)
        if computed not in {stored, noted}:
            self.found.problem(position, "changed: the event does not give the hash that was stored with it")
        elif computed != noted:
            self.found.problem(position, "changed, and its hash with it: the tree was made from another event")
        elif computed != stored:
            self.found.problem(position, "the hash that is stored with the event is not its own")

    def _order(self, event: dict[str, Any]) -> Iterator[str]:
        stamp, own = (int(event["hlc_physical"]), int(event["hlc_logical"])), event["vector_clock"].get(self.found.cell)
        if stamp <= self._stamp:
            yield "its time is not after that of the event before: they were reordered"
        if own != self.found.last:
            yield f"it says of itself that it is at position {own}: it was moved"
        self._stamp = max(stamp, self._stamp)

    def _money(self, event: dict[str, Any]) -> Iterator[str]:
        """Postings must sum to zero, and no user's bucket may become negative."""
        sums = Counter[str]()
        for line in event["payload"].get("postings", ()):
            account, currency, amount = line["account"], line["currency"], int(line["amount_minor"])
            sums[currency] += amount
            if self.found.first == 1 and account.startswith("users/"):
                self._balances[account, currency] += amount
                if self._balances[account, currency] < 0:
                    yield f"{account} would have {self._balances[account, currency]} {currency}"
        if any(sums.values()):
            yield f"its postings do not sum to zero: {dict(sums)}"

    def _arrival(self, event: dict[str, Any]) -> Iterator[str]:
        if event.get("event_type") == "ACCOUNT_ARRIVED":
            self._copies.arrived(self.found.last, event)
        yield from ()

    def _caller(self, event: dict[str, Any]) -> Iterator[str]:
        if self.callers is not None and (problem := self.callers.problem(event)):
            yield problem

    def _other(self, content: dict[str, Any]) -> None:
        if set(content) not in KINDS:
            raise Malformed(f"an unknown kind of line: {', '.join(content)[:80]}")
        match content:
            case {"tile": int(index), "hashes": str(hashes)}:
                self._tiles = {index: unbase64(hashes, "a tile")}
            case {"consistency": list(path), "checkpoint": str(note)}:
                self._reach(checkpoint_in(note, self.keys), [unbase64(step, "a hash") for step in path])
            case {"checkpoint": str(note)}:
                checkpoint = checkpoint_in(note, self.keys)
                if checkpoint.size != self.found.last and not self._broken:
                    raise Malformed(f"a checkpoint of size {checkpoint.size} after position {self.found.last}")
                self._sizes.add(checkpoint.size)
                self._meet(checkpoint)
            case {"moved": {"cell": str(cell), "event": dict(event), "leaf_hash": str(stored)}}:
                self._copies.add(cell, event, stored)
                if leaf_hash(canonical(event)).hex() != stored:
                    text = f"position {event.get('position')} of {cell}, brought along, does not give its hash"
                    self.found.problem(max(self.found.last, 1), text)
            case {"outcome": dict()}:
                pass
            case {"end": {"position": int(position), "root": str(root), "whole": bool(whole)}}:
                self._end(position, root, whole=whole)
            case _:
                raise Malformed(f"a line that cannot be read: {', '.join(content)[:80]}")

    # --- checkpoints ----------------------------------------------------------------------------------------------

    def _meet_held(self, position: int) -> None:
        """Compares a checkpoint kept elsewhere like one in the export."""
        for checkpoint in self.held:
            if checkpoint.size == position:
                self._meet(checkpoint)

    def _reach(self, checkpoint: Checkpoint, path: Sequence[bytes]) -> None:
        """Checks a checkpoint beyond the export: it must extend the exported events."""
        if path or checkpoint.size <= self.found.last:
            self._meet(checkpoint, path)
            return
        self._number(checkpoint)
        text = f"missing: a checkpoint of size {checkpoint.size} was signed, so they were there"
        self.found.problem(self.found.last + 1, text, checkpoint.size)

    def _meet(self, checkpoint: Checkpoint, path: Sequence[bytes] = ()) -> None:
        """Compares the events so far with a signed root. If it is over more events, `path` proves that it extends them.

        Raises Malformed.
        """
        found = self.found
        self._number(checkpoint)
        if checkpoint.origin != self._origin:
            raise Malformed(f"a checkpoint of {checkpoint.origin!r} in an export of {self._origin!r}")
        found.checkpoints += 1
        if self._broken:
            return
        computed, said = (
            is_consistent(found.last, checkpoint.size, tree.root(), checkpoint.root, path)
            for tree in (self._tree, self._said)
        )
        if computed:
            found.signed, found.cosigned = found.last, checkpoint.cosigned or found.cosigned
            self._witness(checkpoint)
        elif not said:
            self._broken = True
            text = (
                "in here events were changed, inserted, deleted or reordered, and the hashes with them: the log does "
                f"not give the root that was signed at size {checkpoint.size}"
            )
            found.problem(max(found.signed + 1, found.first), text, found.last)

    def _witness(self, checkpoint: Checkpoint) -> None:
        """Counts the cosignatures. Two checkpoints of one size, one exported and one held, count once per witness."""
        if self.found.quorum is None:
            return
        if self.found.quorum.met([name for name, _ in checkpoint.cosigned]):
            self.found.witnessed, self._unwitnessed = self.found.last, 0
        elif self.found.witnessed < self.found.last:
            self._unwitnessed += 1

    def _number(self, checkpoint: Checkpoint) -> None:
        """Checks that numbers start at 1 without a gap."""
        last, self._last = self._last, checkpoint
        if not self.numbered or (self.found.first > 1 if last is None else last.size == checkpoint.size):
            return
        before, first = (last.sequence, last.size + 1) if last is not None else (0, 1)
        if problem := number_problem(checkpoint.size, checkpoint.sequence, before):
            self.found.problem(first, problem, checkpoint.size)

    # --- the end --------------------------------------------------------------------------------------------------

    def _end(self, position: int, root: str, *, whole: bool) -> None:
        found = self.found
        self._ended, found.whole = True, whole and found.first == 1
        if found.whole:
            for arrival, text in self._copies.problems():
                found.problem(arrival, text)
        found.root = base64.b64encode(self._tree.root()).decode()
        if position != found.last:
            found.problem(found.last + 1, "missing: the export says that it holds it", position)
        elif not found.problems and root not in {"", found.root}:
            found.problem(position, f"the export says that its root is {root}, and it is {found.root}")
        for size in [each.size for each in self.held]:
            if found.first <= size <= found.last and size not in self._sizes:
                found.problem(size, f"a checkpoint of size {size} is held and is not in the export: it was deleted")
        self._check_witnessed()
        longest = max((checkpoint.size for checkpoint in self.held), default=0)
        if whole and longest > found.last:
            text = f"missing: a checkpoint of size {longest} is held, so they were there"
            found.problem(found.last + 1, text, longest)

    def _check_witnessed(self) -> None:
        """Checks that only the newest checkpoint still waits for its witnesses."""
        found = self.found
        if found.quorum is None or found.problems or (found.witnessed and self._unwitnessed <= 1):
            return
        first = max(found.witnessed + 1, found.first)
        found.problem(first, f"not witnessed: {found.quorum} must have signed, and have not", max(found.signed, first))

    def finish(self) -> Findings:
        """The findings. Call it after the last line."""
        if self.callers is not None:
            self.found.callers = (self.callers.signed, self.callers.proven)
        if not self._ended:
            self.found.problem(self.found.last + 1, "the export breaks off here: it was interrupted, or cut")
        return self.found


def check_export(
    lines: Iterable[bytes],
    keys: Sequence[VerifierKey],
    held: Sequence[Checkpoint] = (),
    quorum: Quorum | None = None,
    callers: CallerCheck | None = None,
) -> Findings:
    """The problems of an export by position. Raises Malformed if reading cannot continue."""
    check = ExportCheck(keys=keys, held=held, callers=callers, found=Findings(quorum=quorum))
    for line in lines:
        check.read(line)
    return check.finish()
