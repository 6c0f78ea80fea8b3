"""A leaf read whole gives the hash of the log format, whatever it holds, and the event if it is one as it is now."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cells.domain.event import postings
from cells.domain.events import EVENT_TYPES, AnyEvent
from cells.encoding import codec
from cells.encoding.leaves import ReadLeaf, Recorded, read_leaf
from cells.store.ports import EventRow
from tests.strategies import PATIENT, TEXT, values

STREAM = UUID(int=2)
METADATA = {"command_id": str(STREAM), "principal": "somebody", "v": 1}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(TEXT, JSON, max_size=5)


def read(event_type: str, clock: Any, payload: Any, metadata: Any) -> tuple[ReadLeaf, bytes]:  # noqa: ANN401 - any JSON
    """The leaf as read from a text in another order and spacing, and the hash that the log format gives its row."""
    texts = codec.canonical(clock), codec.canonical(payload), codec.canonical(metadata)
    ids = (1, UUID(int=1), event_type, STREAM, 3, None, UUID(int=4), 5, 6)
    row = EventRow(*ids, *texts, None, datetime(2026, 1, 2, tzinfo=UTC), b"")
    leaf = json.loads(codec.leaf_bytes(row))
    text = json.dumps(dict(reversed(leaf.items())), ensure_ascii=False, indent=1)
    return read_leaf(event_type, text), codec.leaf_hash(row)


@PATIENT
@given(columns=st.tuples(OBJECTS, OBJECTS, OBJECTS), event_type=st.sampled_from(["DEPOSITED", "MANNA_FELL"]))
def test_any_json_gives_the_hash_of_the_log_format(columns: tuple[dict[str, Any], ...], event_type: str) -> None:
    """The JSON columns hold what they hold: the leaf equals the slower method's."""
    leaf, leaf_hash = read(event_type, *columns)
    payload, metadata = columns[1:]
    assert (leaf.payload, leaf.version, leaf.leg) == (payload, metadata.get("v"), metadata.get("leg"))
    assert leaf.leaf_hash == leaf_hash


@pytest.mark.parametrize("event_type", EVENT_TYPES)
@PATIENT
@given(data=st.data())
def test_every_event_is_read_from_its_leaf(event_type: str, data: st.DataObject) -> None:
    """With its postings; or, if anything in it does not fit, as any other JSON with a hash of its own."""
    event: AnyEvent = data.draw(values(EVENT_TYPES[event_type]))
    lines = postings(event, STREAM)
    payload = json.loads(codec.encode_event(event, lines))
    leaf, leaf_hash = read(event_type, {"eu-west": 4}, payload, METADATA)
    assert isinstance(leaf.payload, Recorded)
    assert (leaf.payload.event, leaf.leaf_hash, leaf.version, leaf.leg) == (event, leaf_hash, 1, None)
    stored = [(line.account, line.currency, int(line.amount_minor)) for line in leaf.payload.postings or ()]
    assert stored == [tuple(line) for line in lines]
    name = data.draw(st.sampled_from([*payload, "beside"]))
    for changed in ({**payload, name: data.draw(JSON)}, {key: payload[key] for key in payload if key != name}):
        other, other_hash = read(event_type, {"eu-west": 4}, changed, METADATA)
        assert other.leaf_hash == other_hash
        assert (other_hash == leaf_hash) is (
            changed == payload and codec.canonical(changed) == codec.canonical(payload)
        )


@pytest.mark.parametrize(
    "payload",
    [{"home_epoch": 1.0}, {"home_epoch": "1"}, {"home_epoch": True}, {"home_epoch": 1, "postings": []}, {}],
    ids=str,
)
def test_what_is_nearly_the_same_has_another_hash(payload: dict[str, object]) -> None:
    """Equal to a lenient reader, but not the bytes that were written."""
    as_written, leaf_hash = read("ACCOUNT_OPENED", {}, {"home_epoch": 1}, METADATA)
    changed, changed_hash = read("ACCOUNT_OPENED", {}, payload, METADATA)
    assert as_written.leaf_hash == leaf_hash != changed_hash == changed.leaf_hash


def test_another_version_is_left_to_its_reader() -> None:
    leaf, leaf_hash = read("ACCOUNT_OPENED", {}, {"home_epoch": 1}, {**METADATA, "v": 2})
    assert (leaf.payload, leaf.version, leaf.leaf_hash) == ({"home_epoch": 1}, 2, leaf_hash)


@pytest.mark.parametrize("text", ["", "[]", "{}", "nonsense"])
def test_no_leaf_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_leaf("ACCOUNT_OPENED", text)
