"""Events and states survive storage in a single form, and anybody can recompute the hash."""

import json
import re
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cells.domain.auction.asset import Asset
from cells.domain.events import EVENT_TYPES, AnyEvent, Deposited
from cells.domain.record import Struct
from cells.domain.values import Direction, Kind, LegId, LegTag, Money, Posting
from cells.encoding import codec
from cells.encoding.codec import UnknownEvent
from cells.encoding.schema import EXACT_INTEGER_MAX, Unencodable, decoder, encoder, record_encoder
from cells.requests import BY_CELL
from cells.store.ports import EventRow
from cells.writer.batch import vector_template
from tests.integration.rows import event_row
from tests.strategies import AMOUNTS, PATIENT, TEXT, values

LOG_FORMAT = Path(__file__).parents[2] / "docs" / "log-format.md"
LINES = st.lists(st.builds(Posting, account=TEXT, currency=TEXT, amount_minor=AMOUNTS), min_size=1, max_size=3)


def by_the_book(value: object) -> str:
    """The canonical form of docs/log-format.md, written a second time without the json module."""
    match value:
        case None | bool():
            return {None: "null", True: "true", False: "false"}[value]
        case int():
            return str(value)
        case str():
            short = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
            return '"' + "".join(short.get(c, c if c >= " " else f"\\u{ord(c):04x}") for c in value) + '"'
        case list():
            return "[" + ",".join(by_the_book(each) for each in value) + "]"
        case dict():
            keys = sorted(value, key=lambda key: key.encode())
            return "{" + ",".join(f"{by_the_book(key)}:{by_the_book(value[key])}" for key in keys) + "}"
        case _:
            raise AssertionError(value)


# --- events and states --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event_type", EVENT_TYPES)
@PATIENT
@given(data=st.data())
def test_every_event_survives(event_type: str, data: st.DataObject) -> None:
    """With and without postings; its text has only one form."""
    event: AnyEvent = data.draw(values(EVENT_TYPES[event_type]))
    lines = data.draw(st.just([]) | LINES)
    text = codec.encode_event(event, lines)
    assert codec.decode_event(event_type, event.version, text) == event
    content = json.loads(text)
    assert text == codec.recanonical(text) == by_the_book(content)
    assert content.get("postings", []) == [
        {"account": line.account, "currency": line.currency, "amount_minor": str(line.amount_minor)} for line in lines
    ]


@pytest.mark.parametrize("kind", codec.STATES)
@PATIENT
@given(data=st.data())
def test_every_state_survives(kind: Kind, data: st.DataObject) -> None:
    """Holds, bids, facts and legs included."""
    # For mypy a class whose metaclass it does not know is not hashable.
    of: Any = codec.STATES[kind]
    state = data.draw(values(of))
    text = codec.encode_state(state)
    assert codec.decode_state(kind, text) == state
    assert text == codec.recanonical(text) == by_the_book(json.loads(text))


@PATIENT
@given(data=st.data())
def test_an_order_of_keys_makes_no_other_text(data: st.DataObject) -> None:
    """Equal mappings have the same text, whatever their history."""
    mapping = data.draw(st.dictionaries(TEXT, TEXT, min_size=2))
    shuffled = dict(data.draw(st.permutations(list(mapping.items()))))
    encode = encoder(dict[str, str])
    assert encode(mapping) == encode(shuffled) == by_the_book(mapping)


def test_keys_are_ordered_by_themselves_not_by_their_escapes() -> None:
    """A quote sorts before a letter and a tab before a blank, however they are written."""
    assert encoder(dict[str, str])(
        {"a b": "", 'a"': "", "a": "", "a\t": "", "é": "", "z": "", "😀": "", "\ufffd": ""}
    ) == ('{"a":"","a\\t":"","a b":"","a\\"":"","z":"","é":"","\ufffd":"","😀":""}')


# --- versions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("event_type", "version"), [("NEVER_HEARD_OF", 1), ("DEPOSITED", 2), ("DEPOSITED", 0)])
def test_what_is_not_known_is_said_loudly(event_type: str, version: int) -> None:
    """A type or a version of a later release stops any reader of the stream."""
    with pytest.raises(UnknownEvent, match=f"{event_type} version {version}"):
        codec.decode_event(event_type, version, "{}")


def test_an_old_event_is_brought_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    """Version by version; if a step is missing, the event is unknown."""
    monkeypatch.setattr(Deposited, "version", 3)

    def first(old: dict[str, Any]) -> dict[str, Any]:
        return {**old, "external_reference": old["reference"]}

    def second(old: dict[str, Any]) -> dict[str, Any]:
        return {**old, "currency": old["currency"].upper()}

    monkeypatch.setitem(codec.UPCASTERS, ("DEPOSITED", 1), first)
    stored = '{"amount_minor":"5","currency":"usd","reference":"r"}'
    with pytest.raises(UnknownEvent, match="no way from 2 to 3"):
        codec.decode_event("DEPOSITED", 1, stored)
    monkeypatch.setitem(codec.UPCASTERS, ("DEPOSITED", 2), second)
    event = Deposited(currency="USD", amount_minor=5, external_reference="r")
    assert codec.decode_event("DEPOSITED", 1, stored) == event
    row = a_row()._replace(event_type="DEPOSITED", payload=stored, metadata='{"v":1}')
    assert codec.event_of(row) == event


# --- values and types without a form ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hint", "minor", "value"),
    [
        (int, False, EXACT_INTEGER_MAX + 1),
        (int, False, -EXACT_INTEGER_MAX - 1),
        (int, False, True),
        (int, False, 1.0),
        (int, True, 1.5),
        (int, True, False),
        (int, True, "5"),
        (bool, False, 1),
    ],
)
def test_a_value_that_does_not_fit_is_refused(hint: type, value: object, *, minor: bool) -> None:
    """Nothing is rounded, and no boolean becomes a number."""
    with pytest.raises(Unencodable):
        encoder(hint, minor=minor)(value)


class Parcel(Struct, frozen=True, kw_only=True):
    price: Money
    fees_minor: tuple[int, ...]
    parts_minor: dict[UUID, int]
    fragile: bool


class Shipment(Struct, frozen=True, kw_only=True):
    parcels: tuple[Parcel, ...]


class Labelled(Struct, frozen=True, kw_only=True):
    type: str


@pytest.mark.parametrize("hint", [float, bytes, datetime, int | str, tuple[int, str], list[int], Labelled | Parcel])
def test_a_type_that_has_no_form_is_refused(hint: Any) -> None:  # noqa: ANN401
    """It is refused when it is compiled, before any value is encoded."""
    with pytest.raises(Unencodable):
        encoder(hint)


def test_a_field_cannot_be_named_as_the_postings() -> None:
    """Nor like any other key that is added beside the fields."""
    with pytest.raises(Unencodable, match="type"):
        record_encoder(Labelled, "type")


@PATIENT
@given(values(Money), st.lists(AMOUNTS), st.dictionaries(st.uuids(), AMOUNTS), st.booleans())
def test_amounts_are_strings_wherever_they_are(
    price: Money,
    fees: list[int],
    parts: dict[UUID, int],
    fragile: bool,  # noqa: FBT001 - drawn
) -> None:
    """In named tuples, sequences and mappings whose names say so, also nested."""
    parcel = Parcel(price=price, fees_minor=tuple(fees), parts_minor=parts, fragile=fragile)
    shipment = Shipment(parcels=(parcel, parcel))
    content, same = json.loads(encoder(Shipment)(shipment))["parcels"]
    assert content == same
    assert content["price"] == {"currency": price.currency, "amount_minor": str(price.amount_minor)}
    assert content["fees_minor"] == [str(each) for each in fees]
    assert content["parts_minor"] == {str(key): str(each) for key, each in parts.items()}
    assert decoder(Shipment)({"parcels": [content, same]}) == shipment


@pytest.mark.parametrize(
    "change",
    [
        {"amount_minor": 5},
        {"amount_minor": "05"},
        {"amount_minor": " 5"},
        {"amount_minor": "5.0"},
        {"amount_minor": "५"},
        {"currency": 5},
        {"currency": None},
        {"external_reference": ["r"]},
    ],
)
def test_a_stored_value_that_does_not_fit_is_refused(change: dict[str, object]) -> None:
    """A log that somebody else has written to is not silently accepted."""
    content = {"amount_minor": "5", "currency": "USD", "external_reference": "r", **change}
    with pytest.raises((TypeError, ValueError)):
        codec.decode_event("DEPOSITED", 1, json.dumps(content))


@pytest.mark.parametrize("number", ["1.0", "1e3", "NaN", "-Infinity"])
def test_stored_numbers_are_integers(number: str) -> None:
    """Other numbers would be read differently in another language."""
    for read in (codec.recanonical, lambda text: codec.decode_event("ACCOUNT_OPENED", 1, text)):
        with pytest.raises(ValueError, match="no integer"):
            read(f'{{"home_epoch":{number}}}')


def test_a_missing_field_is_no_default() -> None:
    """The event contains everything: a changed default must not change the past."""
    text = codec.encode_state(Asset(owner_id=uuid4(), owner_cell="us-east", description="", locked_by=None))
    assert '"locked_by":null' in text
    with pytest.raises(KeyError):
        codec.decode_state(Kind.ASSET, text.replace('"locked_by":null', '"x":null'))


# --- metadata, vector clock ---------------------------------------------------------------------------------------


@PATIENT
@given(st.uuids(), TEXT, st.integers(1, 9), st.uuids(), TEXT, st.integers(1, 9), st.sampled_from(Direction))
def test_metadata_is_canonical(
    command_id: UUID, principal: str, version: int, saga_id: UUID, leg: str, generation: int, direction: Direction
) -> None:
    """With the mark of a leg and without, with an authority and without."""
    plain = {"v": version, "command_id": str(command_id), "principal": principal}
    mark = {"saga_id": str(saga_id), "leg": leg, "generation": generation, "direction": direction.value}
    tag = LegTag(LegId(saga_id, leg, generation), direction)
    for leg_tag, content in ((None, plain), (tag, {**plain, "leg": mark})):
        text = codec.encode_metadata(version, command_id, principal, leg_tag)
        assert text == by_the_book(content)
        assert codec.version_of(a_row()._replace(metadata=text)) == version
        proven = codec.encode_metadata(version, command_id, principal, leg_tag, BY_CELL)
        assert proven == by_the_book({**content, "authority": {"by": "cell"}})


def test_a_vector_clock_is_canonical() -> None:
    """This includes the one that the writer fills in for a whole batch."""
    clock = {"us-east": 12, "ap-tokyo": 3, "eu-west": 7}
    assert codec.canonical(clock) == '{"ap-tokyo":3,"eu-west":7,"us-east":12}'
    assert vector_template("us-east", {"eu-west": 7, "ap-tokyo": 3}) % 12 == codec.canonical(clock)


# --- the hash -----------------------------------------------------------------------------------------------------


def a_row() -> EventRow:
    event = Deposited(currency="USD", amount_minor=2**60, external_reference='"é😀"')
    return event_row(7, event, causation_id=uuid4(), user_id=uuid4())


@pytest.mark.parametrize("without", [(), ("causation_id",), ("user_id",), ("causation_id", "user_id")])
def test_leaf_bytes_are_the_row_as_canonical_json(without: tuple[str, ...]) -> None:
    """Every column but the hash; UUIDs as text, the time as microseconds, JSON as itself."""
    gaps: dict[str, Any] = dict.fromkeys(without)
    row = a_row()._replace(**gaps)
    content: dict[str, Any] = row._asdict()
    del content["leaf_hash"]
    content["recorded_at_us"] = 1_772_600_767_891_011
    del content["recorded_at"]
    for name, value in content.items():
        if isinstance(value, UUID):
            content[name] = str(value)
        elif name in {"payload", "metadata", "vector_clock"}:
            content[name] = json.loads(value)
    assert codec.leaf_bytes(row) == by_the_book(content).encode()
    assert codec.leaf_hash(row) == sha256(b"\x00" + by_the_book(content).encode()).digest()


def test_no_column_can_change_unnoticed() -> None:
    """Each of them is covered by the hash."""
    row, other = a_row(), a_row()
    changed: dict[str, Any] = {
        "position": 8,
        "event_type": "WITHDRAWN",
        "stream_version": 3,
        "hlc_physical": 1,
        "hlc_logical": 4,
        "vector_clock": '{"us-east":8}',
        "payload": "{}",
        "metadata": '{"v":2}',
        "recorded_at": row.recorded_at + timedelta(microseconds=1),
        **{
            name: getattr(other, name)
            for name in ("event_id", "aggregate_id", "causation_id", "correlation_id", "user_id")
        },
    }
    assert changed.keys() | {"leaf_hash"} == set(row._fields)
    for name, value in changed.items():
        assert codec.leaf_hash(row._replace(**{name: value})) != codec.leaf_hash(row), name


def test_text_that_utf_8_cannot_say_has_no_hash() -> None:
    """Half of a surrogate pair never reaches the log."""
    payload = codec.encode_event(Deposited(currency="USD", amount_minor=1, external_reference="\ud83d"), [])
    with pytest.raises(UnicodeEncodeError):
        codec.leaf_hash(a_row()._replace(payload=payload))


@PATIENT
@given(st.datetimes(timezones=st.just(UTC)))
def test_microseconds_are_exact(moment: datetime) -> None:
    """Also before 1970; without floats."""
    assert datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=codec.microseconds(moment)) == moment


# --- the document -------------------------------------------------------------------------------------------------


def blocks(kind: str) -> list[str]:
    """The fenced blocks of a kind in the document."""
    return re.findall(rf"^```{kind}\n(.*?)^```", LOG_FORMAT.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def test_the_documents_example_is_right() -> None:
    """From the printed row to its leaf and its hash: by our code, and by the document's description."""
    (columns,) = (json.loads(block) for block in blocks("json"))
    leaf, digest = (block.strip() for block in blocks("text"))
    row = EventRow(
        **{
            **columns,
            **{
                name: UUID(columns[name]) if columns[name] else None
                for name in ("event_id", "aggregate_id", "causation_id", "correlation_id", "user_id")
            },
            **{name: codec.canonical(columns[name]) for name in ("vector_clock", "payload", "metadata")},
            "recorded_at": datetime.fromisoformat(columns["recorded_at"]),
            "leaf_hash": bytes.fromhex(digest),
        }
    )
    assert codec.leaf_bytes(row) == leaf.encode()
    assert codec.leaf_hash(row) == row.leaf_hash
    assert sha256(b"\x00" + leaf.encode()).hexdigest() == digest
    assert codec.event_of(row).event_type == columns["event_type"]


def test_the_documents_program_recomputes_the_hash() -> None:
    """The few lines that it gives to an auditor need nothing of ours."""
    (program,) = blocks("python")
    (columns,) = (json.loads(block) for block in blocks("json"))
    _, digest = (block.strip() for block in blocks("text"))
    names: dict[str, Any] = {}
    exec(program, names)  # noqa: S102 - the document's own
    assert names["leaf_hash"](columns) == digest
