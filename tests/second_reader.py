"""A second reader of logs, written from docs/log-format.md alone: it imports nothing of the product.

It reads exports (lines) and databases (rows, as `to_jsonb` gives them), recomputes what is signed, adds up what is
booked, and compares the cells with each other: `python second_reader.py KEYS EXPORT...`.
"""

import base64
import datetime as dt
import hashlib
import json
import re
import struct
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, combinations_with_replacement
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
LOG, WITNESS = 1, 4
NEVER_NEGATIVE = re.compile(r"users/.*|escrow/.*|fees|transit")
SAGA_ENDS = {"SAGA_COMPLETED", "SAGA_COMPENSATED"}
OF_COPIES = {"cell", "mark", "mark_id", "chain"}
TABLES = ("event_store", "log_tiles", "checkpoints", "cosignatures", "moved_events")


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def root(leaves: Sequence[bytes]) -> bytes:
    """RFC 9162, section 2.1, with complete subtrees kept on a stack."""
    stack: list[tuple[int, bytes]] = []
    for leaf in leaves:
        size, node = 1, leaf
        while stack and stack[-1][0] == size:
            size, node = 2 * size, sha(b"\x01", stack.pop()[1], node)
        stack.append((size, node))
    if not stack:
        return sha()
    node = stack.pop()[1]
    while stack:
        node = sha(b"\x01", stack.pop()[1], node)
    return node


@dataclass
class Key:
    name: str
    kind: int
    public: bytes

    @property
    def id(self) -> bytes:
        return sha(self.name.encode(), b"\n", bytes([self.kind]), self.public)[:4]


def key_in(text: str) -> Key:
    name, number, content = text.strip().split("+", 2)
    raw = base64.b64decode(content, validate=True)
    key = Key(name, raw[0], raw[1:])
    if key.id.hex() != number:
        raise ValueError(f"the id of {name} is not its own")
    return key


@dataclass
class Checkpoint:
    origin: str
    size: int
    root: bytes
    sequence: int
    signed: bool = False
    # Witnesses, and what is wrong with signatures of keys that are known.
    cosigned: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)


def checkpoint_in(note: str, keys: Sequence[Key]) -> Checkpoint:
    body, _, tail = note.partition("\n\n")
    body += "\n"
    origin, size, root64, *extensions = body.splitlines()
    numbers = [line.split(" ")[1] for line in extensions if line.startswith("sequence ")]
    found = Checkpoint(origin, int(size), base64.b64decode(root64), int(numbers[0]) if numbers else 0)
    for line in tail.splitlines()[:64]:
        dash, name, content64 = line.split(" ")
        content = base64.b64decode(content64, validate=True)
        for key in keys:
            if dash != "\u2014" or (key.name, key.id) != (name, content[:4]):
                continue
            signature, message = content[4:], body.encode()
            if key.kind == WITNESS:
                at = struct.unpack(">Q", signature[:8])[0]
                signature, message = signature[8:], f"cosignature/v1\ntime {at}\n{body}".encode()
            try:
                Ed25519PublicKey.from_public_bytes(key.public).verify(signature, message)
            except InvalidSignature:
                found.wrong.append(f"checkpoint {size}: the signature of {name} is wrong")
                continue
            if key.kind == LOG and name == origin:
                found.signed = True
            elif key.kind == WITNESS and name != f"{origin}/witness":
                found.cosigned.add(name)
    return found


@dataclass
class Moved:
    cell: str
    event: dict[str, Any]
    leaf: bytes


@dataclass
class Log:
    cell: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    leaves: list[bytes] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    moved: list[Moved] = field(default_factory=list)
    outcomes: list[dict[str, Any]] = field(default_factory=list)
    # Level and place of a tile, and its hashes.
    tiles: dict[tuple[int, int], bytes] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    balances: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def root(self) -> str:
        return base64.b64encode(root(self.leaves)).decode()

    @property
    def signed(self) -> int:
        return max((each.size for each in self.checkpoints if each.size <= len(self.leaves)), default=0)

    def add(self, event: dict[str, Any], leaf: bytes, stored: bytes) -> None:
        position = len(self.events) + 1
        if event.get("position") != position:
            self.problems.append(f"position {position}: here stands {event.get('position')}")
        if leaf != stored:
            self.problems.append(f"position {position}: not the hash that is stored with it")
        self.events.append(event)
        self.leaves.append(leaf)


# --- reading ------------------------------------------------------------------------------------------------------


def read_export(lines: Iterable[bytes], keys: Sequence[Key]) -> Log:
    """Of a whole export."""
    log, end, notes = Log(), dict[str, Any](), list[tuple[str, int, object]]()
    for line in lines:
        content = json.loads(line)
        match content:
            case {"cellbook": "export/1", "cell": cell, "from": 1, "whole": True, "prefix": []}:
                log.cell = cell
            case {"event": event, "leaf_hash": stored}:
                text = line[len(b'{"event":') : line.rindex(b',"leaf_hash"')]
                log.add(event, sha(b"\x00", text), bytes.fromhex(stored))
                if text != canonical(event):
                    log.problems.append(f"position {len(log.events)}: not in canonical form")
            case {"moved": {"cell": cell, "event": event, "leaf_hash": stored}}:
                log.moved.append(Moved(cell, event, bytes.fromhex(stored)))
            case {"tile": place, "hashes": hashes}:
                log.tiles[0, place] = base64.b64decode(hashes)
            case {"checkpoint": note}:
                notes.append((note, len(log.events), content.get("consistency")))
            case {"outcome": outcome}:
                log.outcomes.append({**outcome, "outcome": json.loads(outcome["outcome"])})
            case {"end": {"position": int()}}:
                end = content["end"]
            case _:
                log.problems.append(f"a line of no kind: {line[:60]!r}")
    for note, at, consistency in notes:
        checkpoint = checkpoint_in(note, keys)
        log.checkpoints.append(checkpoint)
        if consistency is None and checkpoint.size != at:
            log.problems.append(f"a checkpoint of size {checkpoint.size} behind position {at}")
        if checkpoint.size > len(log.events) and not consistency:
            log.problems.append(f"positions up to {checkpoint.size} were signed, and are missing")
    if (end.get("position"), end.get("root")) != (len(log.events), log.root):
        log.problems.append(f"it does not end as it says: {end}")
    return checked(log)


def read_database(tables: Mapping[str, Sequence[dict[str, Any]]], cell: str, keys: Sequence[Key]) -> Log:
    """Of all rows of TABLES."""
    log = Log(cell)
    for row in sorted(tables["event_store"], key=lambda row: int(row["position"])):
        event = event_of(row)
        log.add(event, sha(b"\x00", canonical(event)), bytea(row["leaf_hash"]))
    for row in tables["moved_events"]:
        event = event_of({name: value for name, value in row.items() if name not in OF_COPIES})
        log.moved.append(Moved(row["cell"], event, bytea(row["leaf_hash"])))
    for row in tables["log_tiles"]:
        log.tiles[row["level"], row["place"]] = bytea(row["hashes"])
        if root([log.tiles[row["level"], row["place"]][at : at + 32] for at in range(0, 8_192, 32)]) != bytea(
            row["root"]
        ):
            log.problems.append(f"tile {row['place']} of level {row['level']}: its root is not its own")
    lines = defaultdict(list)
    for row in tables["cosignatures"]:
        lines[row["size"]].append(row["line"])
    for row in sorted(tables["checkpoints"], key=lambda row: int(row["size"])):
        checkpoint = checkpoint_in(row["note"] + "".join(lines[row["size"]]), keys)
        log.checkpoints.append(checkpoint)
        if (checkpoint.size, checkpoint.root) != (row["size"], bytea(row["root"])):
            log.problems.append(f"checkpoint {row['size']}: the row is not what was signed")
    return checked(log)


def event_of(row: Mapping[str, Any]) -> dict[str, Any]:
    event = {name: value for name, value in row.items() if name not in {"leaf_hash", "recorded_at"}}
    passed = dt.datetime.fromisoformat(row["recorded_at"]) - EPOCH
    return {**event, "recorded_at_us": passed // dt.timedelta(microseconds=1)}


def bytea(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("\\x"))


# --- checking one log ---------------------------------------------------------------------------------------------


def checked(log: Log) -> Log:
    for problems in (order(log), tree(log), signatures(log), books(log), histories(log)):
        log.problems += problems
    return log


def order(log: Log) -> Iterator[str]:
    versions: Counter[str] = Counter()
    stamp = (0, 0)
    for position, event in enumerate(log.events, 1):
        versions[event["aggregate_id"]] += 1
        if event["stream_version"] != versions[event["aggregate_id"]]:
            yield f"position {position}: version {event['stream_version']} of its stream"
        before, stamp = stamp, (event["hlc_physical"], event["hlc_logical"])
        if stamp <= before:
            yield f"position {position}: its stamp does not rise"
        if event["vector_clock"].get(log.cell) != position:
            yield f"position {position}: not by its own clock"


def tree(log: Log) -> Iterator[str]:
    """Level 0 are leaves; above are the roots of the full tiles below."""
    for (level, place), hashes in log.tiles.items():
        width = 256**level
        expected = [
            root(log.leaves[at * width : (at + 1) * width])
            for at in range(place * 256, place * 256 + len(hashes) // 32)
        ]
        if b"".join(expected) != hashes:
            yield f"tile {place} of level {level} is of another tree"


def signatures(log: Log) -> Iterator[str]:
    last = None
    for each in log.checkpoints:
        yield from each.wrong
        if not each.signed or each.origin != f"cellbook/{log.cell}":
            yield f"checkpoint {each.size} is not signed by the log"
        if each.size <= len(log.leaves) and root(log.leaves[: each.size]) != each.root:
            yield f"checkpoint {each.size}: the events do not give its root"
        expected = last.sequence + 1 if last else 1
        if each.sequence != expected and (each.sequence or expected > 1):
            yield f"checkpoint {each.size} has number {each.sequence}, not {expected}"
        last = each


def books(log: Log) -> Iterator[str]:
    for position, event in enumerate(log.events, 1):
        sums: Counter[str] = Counter()
        touched = set()
        for posting in event["payload"].get("postings", ()):
            account, currency, amount = posting["account"], posting["currency"], int(posting["amount_minor"])
            sums[currency] += amount
            log.balances[account, currency] += amount
            touched.add((account, currency))
        if any(sums.values()):
            yield f"position {position}: postings do not sum to zero"
        for account, currency in touched:
            if NEVER_NEGATIVE.fullmatch(account) and log.balances[account, currency] < 0:
                yield f"position {position}: {account} falls below zero"
    if any(amount for (account, _), amount in log.balances.items() if account == "transit"):
        yield "money stays in transit"


def histories(log: Log) -> Iterator[str]:
    """The copies that users have brought along, as their last arrivals count and chain them."""
    copies: dict[tuple[str, str], dict[int, Moved]] = defaultdict(dict)
    for moved in log.moved:
        if sha(b"\x00", canonical(moved.event)) != moved.leaf:
            yield f"position {moved.event['position']} of {moved.cell}, brought along: not its hash"
        copies[moved.event["aggregate_id"], moved.cell][moved.event["stream_version"]] = moved
    user_import = {event["aggregate_id"]: event for event in log.events if event["event_type"] == "ACCOUNT_ARRIVED"}
    for user, event in user_import.items():
        stays: dict[str, int] = {}
        for home in event["payload"]["earlier_homes"]:
            stays[home["cell"]] = max(home["events"], stays.get(home["cell"], 0))
        stays.pop(log.cell, None)
        for cell, events in stays.items():
            there, link = copies.get((user, cell), {}), b""
            if not set(range(1, events + 1)) <= set(there):
                yield f"{user} has brought {len(there)} events from {cell}, not {events}"
                continue
            for version in range(1, events + 1):
                link = sha(link, there[version].leaf)
            if event["payload"].get("history", {}).get(cell, link.hex()) != link.hex():
                yield f"the history that {user} has brought from {cell} is another"


# --- all cells ----------------------------------------------------------------------------------------------------


def check_cells(logs: Mapping[str, Log]) -> list[str]:
    """The problems between the cells, all of whose logs are given up to one cut."""
    # Of each stream, whether it ends as that of a saga does.
    ended = {event["aggregate_id"]: event["event_type"] in SAGA_ENDS for log in logs.values() for event in log.events}
    problems = [
        f"position {moved.event['position']} of {moved.cell} is not what {name} has of it"
        for name, log in logs.items()
        for moved in log.moved
        if moved.cell in logs and logs[moved.cell].leaves[moved.event["position"] - 1] != moved.leaf
    ]
    sides = {name: sides_of(log) for name, log in logs.items()}
    for one, other in combinations_with_replacement(sorted(logs), 2):
        mine = sides[one].get(other, {})
        theirs = sides[other].get(one, {}) if one != other else {}
        for movement in sorted({*mine, *theirs}):
            what = f"movement {movement} of {one} and {other}"
            problems += [
                f"{what}: {each}" for each in _matched(mine.get(movement, []), theirs.get(movement, []), ended)
            ]
    return problems


def sides_of(log: Log) -> dict[str, dict[str, list[tuple[str, int, str]]]]:
    """By peer and movement: currency, amount and saga of each posting."""
    found: dict[str, dict[str, list[tuple[str, int, str]]]] = defaultdict(lambda: defaultdict(list))
    for event in log.events:
        for posting in event["payload"].get("postings", ()):
            if posting["account"].startswith("clearing/"):
                leg, payload = event["metadata"].get("leg") or {}, event["payload"]
                saga = leg.get("saga_id") or payload.get("saga_id") or ""
                line = posting["currency"], int(posting["amount_minor"]), saga
                found[posting["account"].removeprefix("clearing/")][event["payload"]["clearing_id"]].append(line)
    return found


def _matched(
    mine: Sequence[tuple[str, int, str]], theirs: Sequence[tuple[str, int, str]], ended: Mapping[str, bool]
) -> Iterator[str]:
    if len({currency for currency, _, _ in (*mine, *theirs)}) > 1:
        yield "several currencies"
    sums = []
    for side in (mine, theirs):
        running = list(accumulate(amount for _, amount, _ in side))
        sums.append(running[-1] if running else 0)
        if len(set(running) - {0}) > 1:
            yield "postings that do not take each other back"
    if sum(sums):
        sagas = {saga for _, _, saga in (*mine, *theirs) if saga}
        if not any(ended.get(saga) is False for saga in sagas) or sum(sums) < 0 or 0 not in sums:
            yield f"{sums[0]} and {sums[1]}, and nothing is on its way"


def main(arguments: Sequence[str]) -> int:
    keys = [key_in(line) for line in Path(arguments[0]).read_text("utf-8").splitlines() if line and line[0] != "#"]
    logs = {}
    for name in arguments[1:]:
        with Path(name).open("rb") as file:
            log = read_export(file, keys)
        logs[log.cell] = log
    told: dict[str, Any] = {
        name: {"last": len(log.events), "root": log.root, "signed": log.signed, "problems": log.problems}
        for name, log in logs.items()
    }
    told["between"] = check_cells(logs)
    print(json.dumps(told, indent=2))
    return int(any(log.problems for log in logs.values()) or bool(told["between"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
