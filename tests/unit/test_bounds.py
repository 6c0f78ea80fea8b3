"""Every field of every request has a bound."""

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import example, given
from hypothesis import strategies as st

from cellbook.v1 import settlement_pb2, types_pb2
from cells.domain.refusals import FieldInvalid, Invalid
from server.shell.fields import bounds
from server.shell.fields.bounds import TABLE, Number, bound_of, number_in
from server.shell.fields.personal import personal_in
from server.shell.fields.texts import problem_of
from server.wire.legs import parse_action
from tests.bounds import ID, beyond, fields, good_action, messages, needs_bound, owner
from tests.strategies import PATIENT


def test_every_field_of_every_request_has_a_bound() -> None:
    """Texts, bytes, numbers and lists, of routers and cells; and every field in the table exists."""
    missing = [field.full_name for field in fields() if bound_of(owner(field), field.name) is None]
    assert not missing
    known = {name for field in fields() for name in (field.name, f"{owner(field)}.{field.name}")}
    assert not TABLE.keys() - known


def test_a_field_without_a_bound_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """For each kind: a text, bytes, a number, a list."""
    for name in ("note", "CarriedOutcome.fingerprint", "weight", "ArriveUser.holds"):
        with monkeypatch.context() as patch:
            patch.delitem(TABLE, name)
            with pytest.raises(AssertionError):
                test_every_field_of_every_request_has_a_bound()


def test_a_number_beyond_says_what_it_may_be() -> None:
    """The refusal has the field, the value, the bound, and the meaning of 0."""
    bound = Number(1_000, 604_800_000, "ms", "for the cell's setting")
    with pytest.raises(FieldInvalid) as refused:
        number_in(1, "settlement_timeout_ms", bound)
    assert str(refused.value) == (
        "settlement_timeout_ms: must be 0 (for the cell's setting) or 1,000 to 604,800,000 ms (got '1')"
    )
    assert [number_in(value, "f", bound) for value in (0, 1_000, 604_800_000)] == [0, 1_000, 604_800_000]


@PATIENT
@given(st.from_regex(r"\A[A-Za-z0-9_-]{1,40}\Z") | st.from_regex(r"\A[0-9-]{13,24}\Z"))
@example("4111-1111-1111-1111")
@example("x-4111-1111-1111-1111")
@example("DE89370400440532013000")
def test_a_plain_id_is_what_the_rules_let_through(text: str) -> None:
    """The fast check accepts only texts that the full check accepts."""
    if bounds._is_plain_id(text):
        assert problem_of(text, identifier=True) is None
        assert personal_in(text) is None


ACTIONS = settlement_pb2.Leg.DESCRIPTOR.oneofs_by_name["action"].fields[:]


@pytest.mark.parametrize("field", ACTIONS, ids=lambda field: field.name)
def test_a_peer_is_held_to_the_same_bounds(field: FieldDescriptor) -> None:
    """Each field of each leg, also nested: the refusal names it, and nothing is decided."""
    parse_action(good_action(field.name))
    for each in getattr(settlement_pb2.Leg(), field.name).DESCRIPTOR.fields:
        if not needs_bound(each) or each.is_repeated:
            continue
        for value in beyond(each):
            leg = good_action(field.name)
            setattr(getattr(leg, field.name), each.name, value)
            with pytest.raises(Invalid) as refused:
                parse_action(leg)
            assert refused.value.facts["field"] == each.name, value


def test_what_moves_is_counted() -> None:
    """Balances, holds, the bids behind each, earlier homes."""
    many = [settlement_pb2.MovedBid(bid_id=ID, amount_minor=1)] * 10_001
    hold = settlement_pb2.MovedHold(hold_id=ID, bids=many)
    for wrong in (
        settlement_pb2.ArriveUser(balances=[settlement_pb2.MovedBalance(currency="USD")] * 201),
        settlement_pb2.ArriveUser(holds=[settlement_pb2.MovedHold()] * 10_001),
        settlement_pb2.ArriveUser(holds=[hold]),
        settlement_pb2.ArriveUser(earlier_homes=[types_pb2.EarlierHome()] * 1_001),
    ):
        leg = settlement_pb2.Leg(arrive_user=wrong)
        leg.arrive_user.user_id, leg.arrive_user.from_cell, leg.arrive_user.epoch = ID, "eu-west", 2
        with pytest.raises(FieldInvalid, match="must have 0 to"):
            parse_action(leg)


def test_the_walk_reaches_what_is_nested() -> None:
    """For example a hold in an arrival in a leg in a batch; and the router's own requests."""
    names = {message.name for message in messages()}
    assert {"MovedBid", "HlcStamp", "CarriedOutcome", "EventFilter", "RegisterCellRequest"} <= names
    assert GetMessageClass(settlement_pb2.Leg.DESCRIPTOR) is settlement_pb2.Leg
