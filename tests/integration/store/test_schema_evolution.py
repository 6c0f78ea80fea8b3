"""A log in which every kind of event is in two versions: read, folded, traced, proved and restored as if it were one.

For the test, every kind has a second version: in the first, its fields had other names, and one more was there.
"""

import json
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cells.audit.checks.checked import checked
from cells.audit.proofs.checkpoint_signer import CheckpointSigner
from cells.audit.verify.export import check_export
from cells.audit.verify.tree import is_included
from cells.audit.verify.tree import leaf_hash as hash_of
from cells.domain.events import EVENT_TYPES, AnyEvent
from cells.domain.values import Kind, Ref
from cells.encoding import codec
from cells.encoding.codec import POSTINGS, UPCASTERS, UnknownEvent
from cells.store.ports import EventRow
from tests.doubles.proofs import MemoryProofs
from tests.doubles.store import MemoryStore
from tests.golden import RETIRED
from tests.integration.audit.proof_rig import KEYS, exported, exporter_of, proving, restored
from tests.integration.database import ask, opened
from tests.integration.story import AWAY, HERE, opened_story
from tests.invariants import PROJECTIONS
from tests.local_cells import build_cell, leading, until
from tests.strategies import PATIENT, values

Payload = dict[str, Any]


def older(payload: Payload) -> Payload:
    """How the first version said the same."""
    fields = {name if name == POSTINGS else f"old_{name}": value for name, value in payload.items()}
    return {**fields, "obsolete": "7"}


def newer(payload: Payload) -> Payload:
    """The upcaster of every kind."""
    return {name.removeprefix("old_"): value for name, value in payload.items() if name != "obsolete"}


@pytest.fixture(autouse=True)
def _two_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    for event_type, kind in EVENT_TYPES.items():
        monkeypatch.setattr(kind, "version", 2)
        monkeypatch.setitem(UPCASTERS, (event_type, 1), newer)


def as_stored(row: EventRow, version: int) -> EventRow:
    """The row as the program of that version would have written it."""
    payload, metadata = json.loads(row.payload), json.loads(row.metadata)
    row = row._replace(
        payload=codec.canonical(older(payload) if version == 1 else payload),
        metadata=codec.canonical({**metadata, "v": version}),
    )
    return row._replace(leaf_hash=codec.leaf_hash(row))


def mixed(rows: list[EventRow]) -> list[EventRow]:
    """Of each kind every other event is of the first version."""
    seen: Counter[str] = Counter()
    stored = []
    for row in rows:
        seen[row.event_type] += 1
        stored.append(as_stored(row, 1 + seen[row.event_type] % 2))
    return stored


@pytest.fixture
async def store(quick_probes: None) -> MemoryStore:
    """In which everything has happened twice, and each kind is there in both versions."""
    here = MemoryStore(HERE)
    async with AsyncExitStack() as stack:
        story = await opened_story(stack, here, MemoryStore(AWAY))
        await story.tell()
        await story.tell()
    here.log[:] = mixed(here.log)
    versions: defaultdict[str, set[int]] = defaultdict(set)
    for row in here.log:
        versions[row.event_type].add(codec.version_of(row))
    assert versions == {event_type: {1, 2} for event_type in EVENT_TYPES.keys() - RETIRED}
    return here


@given(st.data())
@pytest.mark.parametrize("event_type", sorted(EVENT_TYPES))
def test_each_kind_is_read_in_both_versions(event_type: str, data: st.DataObject) -> None:
    """Whatever it says. A version that is not known, or has no way to the present one, stops its reader."""
    event: AnyEvent = data.draw(values(EVENT_TYPES[event_type]))
    payload = codec.encode_event(event, [])
    old = codec.canonical(older(json.loads(payload)))
    assert codec.decode_event(event_type, 2, payload) == event == codec.decode_event(event_type, 1, old)
    for version in (0, 3):
        with pytest.raises(UnknownEvent):
            codec.decode_event(event_type, version, payload)


test_each_kind_is_read_in_both_versions = settings(PATIENT, max_examples=10)(test_each_kind_is_read_in_both_versions)


def test_without_its_upcaster_an_old_event_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ablation: and it is said which one."""
    monkeypatch.delitem(UPCASTERS, ("DEPOSITED", 1))
    with pytest.raises(UnknownEvent, match="DEPOSITED version 1: no way from 1 to 2"):
        codec.decode_event("DEPOSITED", 1, "{}")


async def test_two_versions_are_folded_proved_and_restored(store: MemoryStore, cell_dsn: str) -> None:
    """The export holds what was stored, and its hashes are over that; what is folded from it is the same state as

    that of the cell which wrote it all itself. The restored cell goes on.
    """
    proofs = MemoryProofs(store)
    cell = build_cell(HERE, store)
    checkpoint_signer = CheckpointSigner(
        store=proofs, time=cell.time, key=KEYS.log, checkpoint_file=None, events_max=1, pause_max_s=0.1
    )
    cell.tasks.append(checkpoint_signer)
    async with leading(cell):
        await until(lambda: checkpoint_signer.last is not None and checkpoint_signer.last.size == len(store.log))
    lines = await exported(exporter_of(HERE, proofs))
    found = check_export(lines, [KEYS.log.verifier])
    assert not found.problems
    assert found.signed == len(store.log)
    assert sum(b'"v":1}' in line and b'"obsolete":"7"' in line for line in lines) > len(store.log) / 3
    await restored(cell_dsn, lines)
    for kind, table in PROJECTIONS.items():
        rows = await ask(cell_dsn, f"SELECT id, state::text FROM {table}")  # noqa: S608
        folded = {Ref(kind, id_): codec.recanonical(state) for id_, state in rows}
        assert folded == {ref: row.state for ref, row in store.projections.items() if ref.kind is kind}
    async with proving(cell_dsn) as rig:
        await rig.write(1)
        await rig.signed()
        for position in range(1, len(store.log), 7):
            proof = await rig.prover.inclusion(position)
            row = store.log[position - 1]
            assert proof.event == codec.leaf_bytes(row)
            root, size = proof.checkpoint.root, proof.checkpoint.size
            assert is_included(hash_of(proof.event), position - 1, size, proof.path, root)


async def test_two_versions_are_read_and_traced(store: MemoryStore, cell_dsn: str) -> None:
    """Row by row from the database: nothing is wrong with any, and each is what it was in the first place."""
    proofs = MemoryProofs(store)
    await restored(cell_dsn, await exported(exporter_of(HERE, proofs)))
    async with opened(cell_dsn) as postgres:
        rows = await postgres.events(from_position=1, limit=10_000)
        assert rows == store.log
        assert [checked(row).problem for row in rows] == [""] * len(rows)
        user = next(row.aggregate_id for row in rows if row.event_type == "ACCOUNT_OPENED")
        ref = Ref(Kind.ACCOUNT, UUID(str(user)))
        assert (await postgres.load([ref])) == (await store.load([ref]))
