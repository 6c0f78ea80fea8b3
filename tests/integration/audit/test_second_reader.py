"""A second reader of logs, written from docs/log-format.md alone, agrees with ours on a played market, and where not.

Users move, auctions settle and turn back; every log is exported, and put into a database whose tables are read as well.
"""

import base64
import json
import os
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from uuid import UUID

import pytest
import pytest_asyncio

from cells.audit.proofs.keys import CellKeys, checkpoint_body, new_keys
from cells.audit.proofs.ports import SignedCheckpoint
from cells.audit.verify.export import Findings, check_export
from cells.audit.verify.note import Malformed, origin_of
from cells.audit.verify.tree import Frontier
from cells.domain.commands import PlaceBid, Transfer
from cells.domain.moves.commands import BeginMove
from cells.domain.record import replace
from cells.domain.sagas.saga import SagaState
from cells.domain.values import Money
from server.shell.postgres.embedded import EmbeddedPostgres
from tests import second_reader
from tests.doubles.failpoints import Failpoints
from tests.doubles.proofs import MemoryProofs
from tests.doubles.store import MemoryStore
from tests.integration.audit.proof_rig import exported, exporter_of, in_order, restoring
from tests.integration.database import another, ask
from tests.integration.rows import NOW
from tests.local_cells import open_auction, open_user, request, until_async
from tests.saga_world import AWAY, HERE, THIRD, World, world
from tests.second_reader import TABLES, Key, Log, check_cells, key_in, read_database, read_export

pytestmark = pytest.mark.asyncio(loop_scope="module")

CELLS = (HERE, AWAY, THIRD)
KEYS: dict[str, CellKeys] = {name: new_keys(name, os.urandom) for name in CELLS}
PUBLIC = [key.verifier for keys in KEYS.values() for key in (keys.log, keys.witness)]
READERS: list[Key] = [key_in(str(key)) for key in PUBLIC]
AT_S = 1_800_000_000


@dataclass(frozen=True, slots=True)
class Market:
    """The lines of the whole export of each cell."""

    lines: Mapping[str, list[bytes]]

    def logs(self) -> dict[str, Log]:
        return {name: read_export(lines, READERS) for name, lines in self.lines.items()}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def market() -> Market:
    async with world() as here:
        await play(here)
        await here.settled()
        return Market({name: await signed_export(name, here.stores[name]) for name in CELLS})


async def play(here: World) -> None:
    """Enough at home that a tile is full, sales over three cells, and users who move on while they are owed money."""
    for _ in range(130):
        await open_user(here.cells[HERE], 500, here.directory)
    ann, ben = [await open_user(here.cells[HERE], 2_000, here.directory) for _ in range(2)]
    carl = await open_user(here.cells[AWAY], 2_000, here.directory)
    auction = await here.sold(AWAY, THIRD)
    await here.becomes(auction, SagaState.COMPLETED)
    pay = Transfer(from_user_id=ann, to_user_id=ben, amount=Money("USD", 300))
    await here.cells[HERE].execute(request(pay))
    await here.cells[HERE].execute(request(replace(pay, to_user_id=carl, to_cell=AWAY)))
    for user, cells in ((ann, (HERE, AWAY, HERE, THIRD)), (carl, (AWAY, HERE)), (ben, (HERE, THIRD, AWAY, HERE))):
        for at, to in pairwise(cells):
            await move(here, user, at, to)
    auction = await open_auction(here.cells[HERE], await open_user(here.cells[HERE], 0, here.directory))
    bid = PlaceBid(auction_id=auction, auction_cell=HERE, bidder_id=ann, amount=Money("USD", 700))
    await here.cells[THIRD].execute(request(bid))
    await move(here, ann, THIRD, AWAY)
    await here.close(auction)
    await here.becomes(auction, SagaState.COMPLETED)
    await turned_back(here)


async def turned_back(here: World) -> None:
    """The winner has paid, and moves twice before the sale fails: the money comes back to the last home."""
    auction = await here.won(AWAY, HERE)
    state = (await here.cells[HERE].auction(auction)).state
    assert state.highest_bid is not None
    winner = state.highest_bid.bidder_id
    async with here.held(auction, "ownership"):
        await move(here, winner, AWAY, THIRD)
        for cell in here.cells.values():
            cell.failpoints = Failpoints(frozenset({"refuse/ownership/action"}))
    await here.becomes(auction, SagaState.COMPENSATED)


async def move(here: World, user: UUID, at: str, to: str) -> None:
    command = replace(request(BeginMove(user_id=user, to_cell=to, region=None)), user_id=user)
    await here.cells[at].execute(command)
    await until_async(lambda: here.cells[at].home_of(user), lambda found: found == to)


async def signed_export(name: str, store: MemoryStore) -> list[bytes]:
    """With three checkpoints, each cosigned by the other cells."""
    proofs, frontier, keys = MemoryProofs(store), Frontier(), KEYS[name]
    size = len(store.log)
    for sequence, end in enumerate((size // 3, size // 2, size), 1):
        while frontier.size < end:
            first = frontier.size
            await proofs.add_tiles(frontier.add(await proofs.leaf_hashes(first, min(end, first + frontier.room()))))
        body = checkpoint_body(keys.log.name, end, frontier.root(), sequence)
        await proofs.add_checkpoint(SignedCheckpoint(end, frontier.root(), keys.log.note(body), NOW))
        for other in CELLS:
            if other != name:
                await proofs.add_cosignature(end, other, KEYS[other].witness.cosign(body, AT_S), NOW)
    return await exported(exporter_of(name, proofs))


def ours(lines: list[bytes]) -> Findings:
    return check_export(lines, PUBLIC)


# --- exports ------------------------------------------------------------------------------------------------------


async def test_both_readers_agree(market: Market) -> None:
    """On all logs: no problems, the same roots, sizes, signatures and witnesses; and nothing is lost between cells."""
    logs = market.logs()
    for name, log in logs.items():
        found = ours(market.lines[name])
        assert (log.problems, [*map(str, found.problems)]) == ([], [])
        assert (log.cell, len(log.events), log.root, log.signed) == (name, found.last, found.root, found.signed)
        assert {each.sequence for each in log.checkpoints} == {1, 2, 3}
        assert log.checkpoints[-1].cosigned == {witness for witness, _ in found.cosigned}
        assert len(log.checkpoints[-1].cosigned) == 2
    assert check_cells(logs) == []
    assert (0, 0) in logs[HERE].tiles
    assert (0, len(logs[HERE].events) // 256) in logs[HERE].tiles
    assert logs[HERE].moved
    kinds = {event["event_type"] for log in logs.values() for event in log.events}
    assert {"ACCOUNT_ARRIVED", "ACCOUNT_LEFT", "SAGA_COMPLETED", "SAGA_COMPENSATED", "ESCROW_RETURNED"} <= kinds
    assert {next(iter(each["outcome"])) for log in logs.values() for each in log.outcomes} >= {"accepted"}


async def test_it_is_a_program_of_its_own(market: Market, tmp_path: Path) -> None:
    """That knows nothing of the product: from another folder, with isolated imports."""
    (tmp_path / "keys").write_text("\n".join(map(str, PUBLIC)))
    for name, lines in market.lines.items():
        (tmp_path / name).write_bytes(b"".join(lines))
    command = [sys.executable, "-I", second_reader.__file__, "keys", *CELLS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["between"] == []


def event_at(lines: list[bytes], position: int) -> int:
    return next(
        at
        for at, line in enumerate(lines)
        if line.startswith(b'{"event"') and f'"position":{position},'.encode() in line
    )


def changed(lines: list[bytes]) -> None:
    at = event_at(lines, 9)
    lines[at] = lines[at].replace(b'"recorded_at_us":1', b'"recorded_at_us":2')


def changed_with_its_hash(lines: list[bytes]) -> None:
    changed(lines)
    at = event_at(lines, 9)
    text = lines[at][len(b'{"event":') : lines[at].rindex(b',"leaf_hash"')]
    lines[at] = lines[at].replace(lines[at][-67:-3], second_reader.sha(b"\x00", text).hex().encode())


def removed(lines: list[bytes]) -> None:
    del lines[event_at(lines, 9)]


def swapped(lines: list[bytes]) -> None:
    one, two = event_at(lines, 9), event_at(lines, 10)
    lines[one], lines[two] = lines[two], lines[one]


def checkpoint_removed(lines: list[bytes]) -> None:
    del lines[[at for at, line in enumerate(lines) if line.startswith(b'{"checkpoint"')][1]]


def flipped(lines: list[bytes], name: str) -> None:
    """The last letters of the signature by this key in the first checkpoint."""
    at = next(at for at, line in enumerate(lines) if line.startswith(b'{"checkpoint"'))
    content = json.loads(lines[at])
    head, signature, rest = content["checkpoint"].partition(f"\u2014 {name} ")
    flip = "A" if rest[20] != "A" else "B"
    content["checkpoint"] = f"{head}{signature}{rest[:20]}{flip}{rest[21:]}"
    lines[at] = second_reader.canonical(content) + b"\n"


def tile_changed(lines: list[bytes]) -> None:
    """The hash of the ninth event, in the tree that is said to have been signed."""
    at = next(at for at, line in enumerate(lines) if line.startswith(b'{"hashes"'))
    content = json.loads(lines[at])
    hashes = bytearray(base64.b64decode(content["hashes"]))
    hashes[8 * 32] ^= 1
    content["hashes"] = base64.b64encode(hashes).decode()
    lines[at] = second_reader.canonical(content) + b"\n"


def tail_cut(lines: list[bytes]) -> None:
    """With an end that says so."""
    last = len(ours(lines).problems) or ours(lines).last
    at = event_at(lines, last)
    end = json.loads(lines[-1])
    end["end"]["position"] = last - 1
    outcomes = [line for line in lines[at:-1] if line.startswith(b'{"outcome"')]
    log = read_export([*lines[:at], lines[-1]], READERS)
    end["end"]["root"] = log.root
    lines[at:] = [*lines[at + 1 : at + 2], *outcomes, second_reader.canonical(end) + b"\n"]


def copy_changed(lines: list[bytes]) -> None:
    at = next(at for at, line in enumerate(lines) if line.startswith(b'{"moved"'))
    lines[at] = lines[at].replace(b'"recorded_at_us":1', b'"recorded_at_us":2')


TAMPERINGS: dict[str, Callable[[list[bytes]], None]] = {
    "changed": changed,
    "changed with its hash": changed_with_its_hash,
    "removed": removed,
    "swapped": swapped,
    "a checkpoint removed": checkpoint_removed,
    "a signature": partial(flipped, name=origin_of(HERE)),
    "a cosignature": partial(flipped, name=f"{origin_of(AWAY)}/witness"),
    "a tile": tile_changed,
    "the tail cut": tail_cut,
    "a copy": copy_changed,
}


@pytest.mark.parametrize("tamper", TAMPERINGS.values(), ids=TAMPERINGS)
async def test_both_readers_find_what_was_changed(market: Market, tamper: Callable[[list[bytes]], None]) -> None:
    """Each by itself."""
    lines = [*market.lines[HERE]]
    tamper(lines)
    assert lines != market.lines[HERE]
    assert read_export(lines, READERS).problems
    with suppress(Malformed):
        assert ours(lines).problems


async def test_at_every_cut_nothing_is_lost_between_cells(market: Market) -> None:
    """Money on its way is told from money lost; and one movement's id has come to belong to two pairs of cells."""
    logs = market.logs()
    stamps = sorted((event["hlc_physical"], event["hlc_logical"]) for log in logs.values() for event in log.events)
    for cut in random.Random(1).sample(stamps, 60):
        assert check_cells({name: until(log, cut) for name, log in logs.items()}) == []
    pairs: dict[str, set[frozenset[str]]] = defaultdict(set)
    for name, log in logs.items():
        for peer, movements in second_reader.sides_of(log).items():
            for movement in movements:
                pairs[movement].add(frozenset({name, peer}))
    assert max(map(len, pairs.values())) >= 2


def until(log: Log, cut: tuple[int, int]) -> Log:
    events = [event for event in log.events if (event["hlc_physical"], event["hlc_logical"]) <= cut]
    return Log(log.cell, events, log.leaves)


async def test_what_is_between_two_cells_is_compared(market: Market) -> None:
    """A receipt that is dropped, or is of another amount; and a copy that is not the other log's event."""
    logs = market.logs()
    received = [
        event
        for event in logs[AWAY].events
        if any(
            posting["account"].startswith("clearing/") and posting["amount_minor"].startswith("-")
            for posting in event["payload"].get("postings", ())
        )
    ]
    assert received
    for event in random.Random(1).sample(received, min(5, len(received))):
        whole = logs[AWAY].events
        logs[AWAY].events = [each for each in whole if each is not event]
        assert check_cells(logs)
        other = json.loads(json.dumps(event).replace('"amount_minor": "-', '"amount_minor": "-1'))
        logs[AWAY].events = [other if each is event else each for each in whole]
        assert check_cells(logs)
        logs[AWAY].events = whole
    assert check_cells(logs) == []
    logs[HERE].moved[0].leaf = bytes(32)
    assert check_cells(logs)


# --- databases ----------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture(loop_scope="module")
async def database(cluster: EmbeddedPostgres, template: str, market: Market) -> AsyncIterator[str]:
    """The export put back, its triggers off."""
    async with another(cluster, template) as dsn:
        async with restoring(dsn, keys=KEYS[HERE]) as restore:
            await restore.run(in_order(market.lines[HERE]))
        for table in TABLES:
            await ask(dsn, f"ALTER TABLE {table} DISABLE TRIGGER USER")
        yield dsn


async def read(dsn: str) -> Log:
    rows = {table: await ask(dsn, f"SELECT to_jsonb(t)::text FROM {table} t") for table in TABLES}  # noqa: S608
    return read_database({table: [json.loads(row) for (row,) in found] for table, found in rows.items()}, HERE, READERS)


async def test_the_tables_say_what_the_export_says(market: Market, database: str) -> None:
    """And a superuser's changes are found in them."""
    export, log = read_export(market.lines[HERE], READERS), await read(database)
    assert log.problems == []
    assert (log.root, log.signed, log.events, log.balances) == (
        export.root,
        export.signed,
        export.events,
        export.balances,
    )
    assert [each.cosigned for each in log.checkpoints] == [each.cosigned for each in export.checkpoints]
    assert {each.leaf for each in log.moved} == {each.leaf for each in export.moved}
    assert check_cells({**market.logs(), HERE: log}) == []
    for change, undo in (
        ("UPDATE event_store SET payload = payload || '{\"x\": 1}' WHERE position = 9", "payload = payload - 'x'"),
        ("UPDATE event_store SET leaf_hash = sha256('x') WHERE position = 9", ""),
    ):
        await ask(database, change)
        assert (await read(database)).problems
        if undo:
            await ask(database, f"UPDATE event_store SET {undo} WHERE position = 9")  # noqa: S608
            assert (await read(database)).problems == []


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM event_store WHERE position = 9",
        "DELETE FROM moved_events WHERE stream_version = 1",
        "UPDATE moved_events SET payload = payload || '{\"x\": 1}' WHERE stream_version = 1",
        "UPDATE log_tiles SET hashes = set_byte(hashes, 0, 255 - get_byte(hashes, 0))",
        "UPDATE cosignatures SET line = replace(line, 'A', 'B')",
        "WITH gone AS (DELETE FROM cosignatures) UPDATE checkpoints SET root = sha256('x')",
        "UPDATE checkpoints SET note = replace(note, 'sequence 2', 'sequence 1')",
    ],
)
async def test_what_a_superuser_has_done_is_found(database: str, change: str) -> None:
    """In any of the tables."""
    await ask(database, change)
    assert (await read(database)).problems
