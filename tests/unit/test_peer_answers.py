"""What a cell takes from another cell's answer to a leg, which may be hostile: it may go into this cell's log."""

import pytest
from google.rpc import error_details_pb2, status_pb2

from cellbook.v1 import settlement_pb2
from cells.domain.commands import CompensateLeg, PinHold
from cells.domain.refusals import InsufficientFunds, WrongCell
from cells.domain.sagas.leg import LegResult
from cells.domain.sagas.saga_events import LegTombstoned
from cells.domain.sagas.settlement import SETTLEMENT
from cells.domain.values import Direction, LegId
from cells.sagas.steps import user_in_refusal
from cells.store.ports import PeerUnknown
from server.peers import FACTS_MAX, _result
from server.shell.calls.statuses import DOMAIN, FACT_BYTES_MAX
from tests.unit.given import World, kinds, uid, usd
from tests.unit.sales import HERE, THERE

ACTION, COMPENSATION = Direction
APPLIED, UNDONE, TOMBSTONED = LegResult
SHORT = {"available_minor": "1", "needed_minor": "2", "currency": "USD"}
MOVED = {"resource": f"user {uid('ann')}", "cell": "eu-west", "here": "us-east"}


def answered(reason: str, facts: dict[str, str]) -> object:
    info = error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=facts)
    status = status_pb2.Status(message="no")
    status.details.add().Pack(info)
    return _result("mallory", settlement_pb2.LegResult(refused=status))


def test_facts_of_a_refusal_are_short_and_visible() -> None:
    """An event keeps them for ever: no megabytes, no zero byte that PostgreSQL cannot store."""
    refused = answered("INSUFFICIENT_FUNDS", {**SHORT, "note": "\x00" + "x" * 10_000})
    assert isinstance(refused, InsufficientFunds)
    note = str(refused.facts["note"])
    assert note.startswith("\\x00x")
    assert len(note.encode()) <= FACT_BYTES_MAX + len("…".encode())
    assert refused.facts["currency"] == "USD"


def test_a_home_that_a_cell_can_have_is_taken() -> None:
    assert isinstance(answered("WRONG_CELL", {**MOVED, "epoch": "2"}), WrongCell)


def test_a_home_of_no_user_moves_nobody() -> None:
    """It is no bug of this cell either, with a traceback for each attempt."""
    assert user_in_refusal(WrongCell(**MOVED)) == uid("ann")
    assert user_in_refusal(WrongCell(**{**MOVED, "resource": "user nobody"})) is None


@pytest.mark.parametrize(
    ("reason", "facts"),
    [
        ("INSUFFICIENT_FUNDS", SHORT | {f"more{number}": "" for number in range(FACTS_MAX)}),
        ("INSUFFICIENT_FUNDS", {}),
        ("NO_SUCH_REASON", {}),
        ("USER_MOVING", {"user_id": "ann", "to_cell": "eu-west"}),
        ("WRONG_CELL", {**MOVED, "epoch": "soon"}),
        ("WRONG_CELL", {**MOVED, "epoch": "-1"}),
        ("WRONG_CELL", {**MOVED, "epoch": str(2**53 + 1)}),
        ("WRONG_CELL", {**MOVED, "cell": "eu west"}),
        ("WRONG_CELL", {**MOVED, "cell": "x" * 1_000}),
    ],
)
def test_what_no_cell_answers_leaves_the_outcome_unknown(reason: str, facts: dict[str, str]) -> None:
    assert isinstance(answered(reason, facts), PeerUnknown)


@pytest.mark.parametrize(
    ("leg", "direction", "may"),
    [
        ("pin", ACTION, {APPLIED}),
        ("ownership", ACTION, {APPLIED}),
        # Found done, it turned the settlement forward again, with its legs undone.
        ("escrow-out", COMPENSATION, {UNDONE, TOMBSTONED}),
        ("ownership", COMPENSATION, {APPLIED, UNDONE, TOMBSTONED}),
    ],
)
def test_only_the_pivot_may_be_found_done(leg: str, direction: Direction, may: set[LegResult]) -> None:
    spec = next(each for each in SETTLEMENT.versions[1] if each.leg == leg)
    assert {result for result in LegResult if spec.may_answer(direction, result)} == may


def test_a_pin_of_a_user_who_is_unknown_here_has_nothing_to_undo() -> None:
    """An earlier home that lies about where its user has moved must not keep the asset locked for ever."""
    world = World(HERE)
    pin = PinHold(user_id=uid("nobody"), auction_id=uid("sale"), bid_id=uid("bid"), amount=usd(5))
    undo = CompensateLeg(leg_id=LegId(uid("saga"), "pin", 1), action=pin, orchestrator=THERE)
    assert kinds(world.when(undo)) == [LegTombstoned]
