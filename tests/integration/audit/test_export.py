"""An export, and a cell made from it: everything is as it was, byte by byte, and the proofs hold."""

import json
import os
from base64 import b64decode
from contextlib import AsyncExitStack
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from cells.audit.export import restore as restore_module
from cells.audit.export.exporter import Wanted
from cells.audit.export.restore import RestoreRefused
from cells.audit.proofs.keys import new_keys
from cells.audit.proofs.store import PostgresProofs
from cells.audit.verify.export import Findings, check_export
from cells.audit.verify.tree import is_consistent, leaf_hash
from cells.domain.audit.refusals import EventNotFound
from cells.domain.commands import OpenAccount
from cells.domain.record import replace
from cells.domain.refusals import CommandIdReused, ExternalReferenceUsed
from cells.encoding.codec import canonical
from cells.store.outcomes import OutcomePlace
from cells.store.unusable import ImportUnfinished
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.doubles.store import MemoryStore
from tests.integration.audit.proof_rig import KEYS, export_of, exporter_of, in_order, proving, restored, restoring
from tests.integration.database import CELL, another, ask, opened
from tests.integration.story import AWAY, opened_story
from tests.local_cells import READER, available, deposit, request

TABLES = (
    "event_store", "account_entries", "clearing_entries", "saga_legs", "external_references", "moved_events",
    "accounts", "assets", "auctions", "sagas", "house_balances", "command_outcomes", "log_tiles",
)  # fmt: skip
# When a command that has ended had begun matters to exports of before its end alone.
ROWS = "SELECT (to_jsonb(t) - 'begun_position')::text FROM {table} t ORDER BY 1"


async def dump(dsn: str) -> dict[str, list[str]]:
    """Every row of what makes up a cell."""
    found = {table: [text for (text,) in await ask(dsn, ROWS.format(table=table))] for table in TABLES}
    found["checkpoints"] = [row for (row,) in await ask(dsn, "SELECT note FROM checkpoints ORDER BY size")]
    found["head"] = await ask(dsn, "SELECT cell, position, hlc_bound_ms, saga_engine, importing FROM head")
    return found


def check(lines: list[bytes]) -> Findings:
    return check_export(lines, [KEYS.log.verifier])


@pytest.fixture
async def played(cell_dsn: str, quick_probes: None) -> str:
    """A database in which much has happened; a transfer is still under way."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(opened(cell_dsn))
        story = await opened_story(stack, store, MemoryStore(AWAY))
        await story.tell()
        (await story.unfinished_transfer()).cancel()
    return cell_dsn


async def test_a_cell_is_restored_as_it_was(played: str, cluster: EmbeddedPostgres, template: str) -> None:
    """States, entries, legs, references, outcomes, tiles, checkpoints: row by row the same. It goes on from there."""
    async with proving(played) as rig:
        await rig.signed()
    before, lines = await dump(played), await export_of(played)
    found = check(lines)
    size = found.last
    assert not found.problems
    assert (found.signed, found.whole) == (size, True)
    assert any("in_progress" in row for row in before["command_outcomes"])
    async with another(cluster, template) as dsn:
        told = await restored(dsn, lines)
        after = await dump(dsn)
        for table in (*TABLES, "checkpoints"):
            assert after[table] == before[table], table
        assert (told.events, told.signed, told.root) == (size, size, found.root)
        assert told.outcomes == len(before["command_outcomes"])
        # The bound that was promised when the export was made.
        assert after["head"][0][:2] == before["head"][0][:2]
        async with proving(dsn) as rig:
            known = json.loads(
                next(row for row in before["command_outcomes"] if '"balance' in row or "accepted" in row)
            )
            status = await rig.cell.outcomes.status(UUID(known["command_id"]), READER)
            assert status.position == known["position"]
            await rig.write(3)
            grown = await rig.prover.consistency(size, (await rig.signed()).size)
            assert grown.old.text in b"".join(lines).decode().replace("\\n", "\n")
            assert is_consistent(size, grown.new.size, b64decode(found.root), grown.new.root, grown.path)


async def test_a_copied_history_is_bound_by_the_arrival_that_counts_it(played: str) -> None:
    """A superuser changes what a user has brought along, its hash made right: the arrival says so, offline."""
    async with proving(played) as rig:
        await rig.signed()
    lines = await export_of(played)
    assert not check(lines).problems
    events = [json.loads(line)["event"] for line in lines if line.startswith(b'{"event":')]
    arrival = next(event for event in events if event["event_type"] == "ACCOUNT_ARRIVED")
    mine = b'"aggregate_id":"' + arrival["aggregate_id"].encode()
    copied = [place for place, line in enumerate(lines) if line.startswith(b'{"moved":') and mine in line]
    changed = json.loads(lines[copied[0]])["moved"]
    changed["event"]["recorded_at_us"] += 1
    changed["leaf_hash"] = leaf_hash(canonical(changed["event"]).encode()).hex()
    line = canonical({"moved": changed}).encode() + b"\n"
    shorter = [each for place, each in enumerate(lines) if place != copied[-1]]
    for forged in ([*lines[: copied[0]], line, *lines[copied[0] + 1 :]], shorter):
        assert [problem.position for problem in check(forged).problems] == [arrival["position"]]


async def test_a_restored_cell_answers_commands_as_before(
    cell_dsn: str, cluster: EmbeddedPostgres, template: str
) -> None:
    """Sent again after the restore, a command is not done again; one under another request is still refused."""
    user = uuid4()
    command = request(deposit(user, 700, "r"), fingerprint=b"one")
    async with proving(cell_dsn) as rig:
        await rig.cell.execute(request(OpenAccount(user_id=user, home_epoch=1)))
        await rig.cell.execute(command)
        await rig.signed()
    async with another(cluster, template) as dsn:
        await restored(dsn, await export_of(cell_dsn))
        async with proving(dsn) as rig:
            again = await rig.cell.execute(command)
            assert again.replayed
            with pytest.raises(CommandIdReused):
                await rig.cell.execute(replace(command, fingerprint=b"two"))
            with pytest.raises(ExternalReferenceUsed):
                await rig.cell.execute(request(deposit(user, 700, "r")))
            assert await available(rig.cell, user) == 700


async def test_an_export_that_was_broken_off_goes_on(cell_dsn: str) -> None:
    """At any line, events and outcomes alike: put together it is, byte for byte, what would have come at once."""
    async with proving(cell_dsn) as rig:
        await rig.write(300)
        await rig.signed()
    whole = await export_of(cell_dsn)
    end = json.loads(whole[0])["to"]
    events = [place for place, line in enumerate(whole) if line.startswith(b'{"event"')]
    outcomes = [place for place, line in enumerate(whole) if line.startswith(b'{"outcome"')]
    for cut in (events[0], events[137], events[255], events[-1]):
        position = json.loads(whole[cut])["event"]["position"]
        rest = await export_of(cell_dsn, Wanted(from_position=position + 1, to_position=end, resumed=True, whole=True))
        again = [*whole[: cut + 1], *rest]
        # A tile is told once more, and a checkpoint that stood behind the event is not.
        assert not check(again).problems
        assert _kinds(again, "event", "outcome", "end") == _kinds(whole, "event", "outcome", "end")
    for cut in (outcomes[0], outcomes[-1]):
        last = json.loads(whole[cut])["outcome"]
        after = OutcomePlace(UUID(last["command_id"]), last["principal"])
        wanted = Wanted(from_position=end + 1, to_position=end, resumed=True, whole=True, after_command=after)
        assert [*whole[: cut + 1], *await export_of(cell_dsn, wanted)] == whole


def _kinds(lines: list[bytes], *kinds: str) -> list[bytes]:
    return [line for line in lines if line.startswith(tuple(f'{{"{kind}"'.encode() for kind in kinds))]


async def test_a_part_can_be_checked_alone(cell_dsn: str) -> None:
    """From a position on, and up to one: what came before is said by a few hashes, what came after by a proof."""
    async with proving(cell_dsn) as rig:
        for _ in range(4):
            await rig.write(75)
            await rig.signed()
        for first, last in ((1, 300), (2, 299), (150, 150), (257, 300), (1, 76), (76, 0)):
            found = check(await rig.exported(Wanted(from_position=first, to_position=last)))
            assert not found.problems
            assert (found.first, found.last, found.whole) == (first, last or 300, False)
            assert found.signed == found.last
        for first, last in ((1, 301), (302, 0), (0, 5), (7, 5), (2**62, 2**62)):
            with pytest.raises(EventNotFound):
                await rig.exported(Wanted(from_position=first, to_position=last))


async def test_a_command_that_has_ended_since_was_under_way_then(cell_dsn: str) -> None:
    """The export ends where it began to: what a saga did afterwards is not in it, and so its command has no end."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(opened(cell_dsn))
        story = await opened_story(stack, store, MemoryStore(AWAY))
        task = await story.unfinished_transfer()
        proofs = PostgresProofs(pool=store.reads)
        exporter = exporter_of(CELL, proofs)
        pieces = exporter.pieces(Wanted())
        lines = [(await anext(pieces)).lines]
        story.peers.cut.clear()
        outcome = await task
        lines = b"".join([*lines, *[piece.lines async for piece in pieces]]).splitlines(keepends=True)
    mine = next(
        line for line in lines if f'"command_id":"{outcome.command_id}"'.encode() in line and b"outcome" in line
    )
    assert json.loads(mine)["outcome"]["outcome"] == '{"in_progress":{}}'
    assert check(lines).last < outcome.position


async def test_an_import_that_was_broken_off_goes_on(
    played: str, cluster: EmbeddedPostgres, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database is no cell's until it is complete; the same file, again, completes it."""
    monkeypatch.setattr(restore_module, "BATCH_EVENTS", 20)
    monkeypatch.setattr(restore_module, "BATCH_OUTCOMES", 7)
    async with proving(played) as rig:
        await rig.signed()
    lines, before = await export_of(played), await dump(played)
    async with another(cluster, template) as dsn:
        for cut in (30, 70, len(lines) - 5, len(lines) - 1):
            with pytest.raises(RestoreRefused, match="breaks off"):
                await restored(dsn, lines[:cut])
            with pytest.raises(ImportUnfinished, match="begin with an empty database"):
                async with opened(dsn):
                    pass
        await restored(dsn, lines)
        after = await dump(dsn)
        assert {**after, "head": []} == {**before, "head": []}
        async with opened(dsn):
            pass


async def test_what_is_no_whole_and_true_export_makes_no_cell(
    cell_dsn: str, cluster: EmbeddedPostgres, template: str
) -> None:
    """A part, one that was changed, one of another key, of another cell, of another log, or no export."""
    async with proving(cell_dsn) as rig:
        await rig.write(9)
        await rig.signed()
        part = await rig.exported(Wanted(to_position=5))
    lines = await export_of(cell_dsn)
    changed = [
        line.replace(b'"home_epoch":1', b'"home_epoch":2') if b'"position":4,' in line else line for line in lines
    ]
    async with another(cluster, template) as dsn:
        for wrong, why in (
            (part, "of a part of the log"),
            (changed, "position 4: changed"),
            ([*lines[:5], *lines[6:]], "position 4: missing: it was deleted"),
            ([], "nothing in it"),
            ([b"{}\n"], "no export"),
            ([lines[0].replace(b'"head"', b'"tail"')], "lacks what a cell is made from"),
        ):
            with pytest.raises(RestoreRefused, match=why):
                await restored(dsn, wrong)
    async with another(cluster, template) as dsn, restoring(dsn, keys=new_keys(CELL, os.urandom)) as restore:
        with pytest.raises(RestoreRefused, match="the keys given are"):
            await restore.run(in_order(lines))
    with pytest.raises(RestoreRefused, match="into an empty database"):
        await restored(cell_dsn, lines)


async def test_outcomes_that_are_kept_no_more_are_left_out(
    cell_dsn: str, cluster: EmbeddedPostgres, template: str
) -> None:
    """The cell would drop them on its first day; those of the last weeks get a place of their own."""
    async with proving(cell_dsn) as rig:
        await rig.write(2)
        await rig.signed()
    lines = await export_of(cell_dsn)
    for days, told in ((29, 2), (31, 0)):
        async with another(cluster, template) as dsn, restoring(dsn) as restore:
            restore.now += timedelta(days=days)
            assert (await restore.run(in_order(lines))).outcomes == told
