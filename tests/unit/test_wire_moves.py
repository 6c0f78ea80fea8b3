"""Events and outcomes that move with a user arrive as they were stored, with any text in them."""

from uuid import uuid4

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cells.domain.events import Deposited
from cells.domain.refusals import FieldInvalid
from cells.encoding import codec
from cells.moves.user_bundle import MovedEvent, UserBundle
from cells.store.ports import EventRow, OutcomeRow
from server.wire.moves import baggage_to_proto, parse_bundle
from tests.integration.rows import NOW, event_row
from tests.strategies import PATIENT, TEXT

USER = uuid4()
# Plain characters without a special meaning.
BACKSLASHES = "invoice \\u0000 4711"


def deposited(reference: str) -> EventRow:
    return event_row(1, Deposited(currency="USD", amount_minor=5, external_reference=reference), aggregate_id=USER)


def moved(row: EventRow, outcome: str) -> UserBundle:
    """The same as the new home reads it."""
    stored = OutcomeRow(uuid4(), bytes(32), outcome, 1, 1, 1, NOW, USER, "service/shop")
    sent = UserBundle(saga_id=uuid4(), user_id=USER, events=[MovedEvent("us-east", row)], outcomes=[stored])
    return parse_bundle(baggage_to_proto(sent), "us-east", NOW)


@PATIENT
@given(st.lists(st.sampled_from(["\\", "u0000", "\\u0000", "\\n", '"', "é"]), max_size=8).map("".join) | TEXT)
@example(BACKSLASHES)
@example("\\\\u0000")
def test_any_stored_text_moves(reference: str) -> None:
    """A backslash and four digits are five characters, not an escape."""
    row, outcome = deposited(reference), codec.canonical({"refused": {"reason": reference}})
    arrived = moved(row, outcome)
    assert [event.row for event in arrived.events] == [row]
    assert [each.outcome for each in arrived.outcomes] == [outcome]


@pytest.mark.parametrize("content", [{"a": "x\x00"}, {"a\x00": 1}, {"a": [{"b": ["\x00"]}]}])
def test_what_no_database_stores_is_refused_by_name(content: object) -> None:
    """A NUL, anywhere in a peer's JSON."""
    with pytest.raises(FieldInvalid) as refused:
        moved(deposited("r"), codec.canonical(content))
    assert refused.value.facts["field"] == "outcomes.outcome_json"
    assert "NUL" in str(refused.value)


def test_json_of_a_thousand_brackets_is_refused() -> None:
    """It is not an internal error."""
    sent = UserBundle(saga_id=uuid4(), user_id=USER, events=[MovedEvent("us-east", deposited("r"))], outcomes=[])
    request = baggage_to_proto(sent)
    request.events[0].payload_json = "[" * 100_000
    with pytest.raises(FieldInvalid, match="is no JSON"):
        parse_bundle(request, "us-east", NOW)
