"""One cell is hostile, and it brings users: its own it may bring, nobody else's (docs/security.md)."""

import json
from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest

from cellbook.v1 import audit_pb2, event_pb2, move_pb2
from cells.domain.account.balance import Balance, EarlierHome, Hold
from cells.domain.moves.home import Home
from cells.domain.record import replace
from cells.domain.refusals import ExternalReferenceUsed, Unavailable
from cells.requests import Outcome
from server.wire.events import event_to_proto
from tests.integration.sagas.hostile_rig import SAGA, THIRD, apply, arrival, leg_of
from tests.integration.services_rig import AUDITOR, HERE, KEYS, PEER, SHOP, THERE, Rig, new_id, refusal_of, usd
from tests.local_cells import FixedDirectory, deposit, request

# --- users ----------------------------------------------------------------------------------------------------------


async def bring(
    rig: Rig, user_id: UUID, *events: event_pb2.Event, outcomes: Sequence[move_pb2.CarriedOutcome] = ()
) -> move_pb2.BringBaggageResponse:
    message = move_pb2.BringBaggageRequest(saga_id=str(SAGA), user_id=str(user_id), events=events, outcomes=outcomes)
    answer = await rig.channel.unary_unary(
        "/cellbook.v1.MoveService/BringBaggage",
        request_serializer=move_pb2.BringBaggageRequest.SerializeToString,
        response_deserializer=move_pb2.BringBaggageResponse.FromString,
    )(message, metadata=PEER)
    assert isinstance(answer, move_pb2.BringBaggageResponse)
    return answer


@pytest.mark.parametrize("whose", ["at home here", "at home in a third cell", "of nobody"])
async def test_no_cell_brings_a_user_who_is_at_home_elsewhere(rig: Rig, whose: str) -> None:
    """Neither the account nor a history, nor what became of commands; the directory says who may."""
    user_id = {"at home here": rig.ann}.get(whose, uuid4())
    if whose == "at home in a third cell":
        rig.directory.homes[user_id] = THIRD
    before, known = await rig.store.head(), dict(rig.store.kept_outcomes)
    refused = await refusal_of(apply(rig, leg_of(rig, arrival(user_id), "arrive")))
    assert (refused.reason, refused.final) == ("HOME_NOT_VOUCHED", False)
    assert (await refusal_of(bring(rig, user_id))).reason == "HOME_NOT_VOUCHED"
    assert (await rig.store.head()).position == before.position
    assert rig.store.kept_outcomes == known
    assert user_id not in rig.store.moved


@pytest.mark.parametrize("epoch", [1, 200])
async def test_a_home_is_not_left_under_any_epoch(rig: Rig, epoch: int) -> None:
    """Its own user a cell may bring, from the epoch under which the user is at home there."""
    refused = await refusal_of(apply(rig, leg_of(rig, arrival(rig.carl, epoch=epoch), "arrive")))
    assert refused.reason == "HOME_NOT_VOUCHED"
    assert (await apply(rig, leg_of(rig, arrival(rig.carl), "arrive"))).event_id


@pytest.mark.parametrize(("reserved", "held", "bid"), [(0, 7, 7), (7, 0, 0), (7, 7, 8)])
async def test_a_user_brings_no_hold_without_its_money(rig: Rig, reserved: int, held: int, bid: int) -> None:
    """Such a hold would back bids in this cell's auctions, and their settlements could neither go on nor back."""
    backed = {uuid4(): bid} if bid else {}
    holds = {uuid4(): Hold(currency="USD", amount_minor=held, bids_minor=backed, auction_cell=HERE)} if held else {}
    balances = {"USD": Balance(available_minor=100, reserved_minor=reserved)}
    arriving = replace(arrival(rig.carl), balances=balances, holds=holds)
    assert (await refusal_of(apply(rig, leg_of(rig, arriving, "arrive")))).reason == "FIELD_INVALID"


async def test_the_parts_of_a_history_are_brought_by_one_look_at_the_directory(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Staging alone counts for nothing: the arrival asks again. A cell that is not the home is looked up each time."""
    asked: list[UUID] = []
    find, other = FixedDirectory.find, uuid4()

    async def counted(self: FixedDirectory, user_id: UUID) -> Home | None:
        asked.append(user_id)
        return await find(self, user_id)

    monkeypatch.setattr(FixedDirectory, "find", counted)
    for _ in range(3):
        await bring(rig, rig.carl)
    rig.directory.homes |= {rig.carl: THIRD, other: THIRD}
    await bring(rig, rig.carl)
    assert asked == [rig.carl]
    assert (await refusal_of(apply(rig, leg_of(rig, arrival(rig.carl), "arrive")))).reason == "HOME_NOT_VOUCHED"
    for user_id in (other, other, rig.carl):
        assert (await refusal_of(bring(rig, user_id))).reason == "HOME_NOT_VOUCHED"
    assert asked[1:] == [rig.carl, other, other, rig.carl]


async def test_a_move_ends_without_the_router(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it said when the user's first bundle came still counts for a while; of nobody else is anything believed."""
    await bring(rig, rig.carl)

    async def away(*_: object) -> None:
        raise Unavailable(problem="the router is away")

    monkeypatch.setattr(FixedDirectory, "find", away)
    stranger = leg_of(rig, arrival(uuid4()), "arrive", saga_id=uuid4())
    assert (await refusal_of(apply(rig, stranger))).reason == "UNAVAILABLE"
    assert (await apply(rig, leg_of(rig, arrival(rig.carl), "arrive"))).event_id


async def test_a_user_brings_no_history_of_this_cell(rig: Rig) -> None:
    """What happened here is in the log here, and nobody tells it anew."""
    row = rig.store.log[-1]._asdict()
    event = event_pb2.Event(cell=HERE, position=row["position"], event_id=str(row["event_id"]))
    assert (await refusal_of(bring(rig, rig.carl, event))).reason == "FIELD_INVALID"
    assert rig.carl not in rig.store.moved


@pytest.mark.parametrize("principal", ["service/shop", ""])
async def test_what_a_user_brings_answers_nobody_elses_command(rig: Rig, principal: str) -> None:
    """An outcome that was planted under an id that another user's command will have neither answers nor blocks it."""
    command_id = new_id()
    planted = move_pb2.CarriedOutcome(
        command_id=command_id,
        fingerprint=bytes(32),
        outcome_json='{"accepted":{}}',
        position=1,
        principal=principal,
        cell=THERE,
    )
    await bring(rig, rig.carl, outcomes=[planted])
    answer = await rig.ask("Reserve", command_id=command_id, user_id=rig.ann, amount=usd(7), by=SHOP)
    assert answer.hold_id
    assert not answer.receipt.replayed


async def test_what_a_user_brings_and_nobody_can_read_stops_no_other_command(rig: Rig) -> None:
    """The user's own command has no answer then; the others of its batch have theirs, and the cell still leads."""
    asked = request(deposit(rig.carl))
    asked = replace(asked, fingerprint=bytes(32), user_id=rig.carl)
    planted = move_pb2.CarriedOutcome(
        command_id=str(asked.command_id),
        fingerprint=asked.fingerprint,
        outcome_json='{"refused":{"facts":{},"reason":"OF_NO_VERSION"}}',
        position=1,
        principal=asked.principal,
        cell=THERE,
    )
    await bring(rig, rig.carl, outcomes=[planted])
    answers = await rig.cell.execute_all([asked, request(deposit(rig.ann))], deadline_s=None)
    assert [type(answer) for answer in answers] == [Unavailable, Outcome]
    assert rig.cell.writer.leading


async def test_what_a_user_brings_uses_up_nobody_elses_reference(rig: Rig) -> None:
    """Else a cell could have the bank told that money has come in already which never has."""
    history = [row for row in rig.there.store.log if row.aggregate_id == rig.carl]  # type: ignore[attr-defined]
    reference = json.loads(history[-1].payload)["external_reference"]
    await bring(rig, rig.carl, *(event_to_proto(row, THERE) for row in history))
    homes = (EarlierHome(THERE, 1, len(history)),)
    await apply(rig, leg_of(rig, replace(arrival(rig.carl), earlier_homes=homes), "arrive"))
    await rig.cell.execute(request(deposit(rig.ann, 5, reference)))
    with pytest.raises(ExternalReferenceUsed):
        await rig.cell.execute(request(deposit(rig.carl, 5, reference)))


async def test_contacts_go_to_the_cell_that_the_user_goes_to(rig: Rig) -> None:
    """Nobody's is handed over to a cell that asks for it without a move that this one has begun."""
    message = move_pb2.HandOverContactRequest(user_id=str(rig.ann), saga_id=str(SAGA), public_key=bytes(32))
    call = rig.channel.unary_unary(
        "/cellbook.v1.MoveService/HandOverContact",
        request_serializer=move_pb2.HandOverContactRequest.SerializeToString,
        response_deserializer=move_pb2.HandOverContactResponse.FromString,
    )(message, metadata=PEER)
    assert (await refusal_of(call)).reason == "NOT_MOVING_THERE"


# --- reads ----------------------------------------------------------------------------------------------------------


async def test_a_users_account_is_not_read_by_another_cell(rig: Rig) -> None:
    """A trace follows flows from cell to cell; the whole of an account no cell gets from another."""
    asked = audit_pb2.FindEventsRequest(subject=str(rig.ann))
    assert (await refusal_of(rig.call(asked, by=PEER))).reason == "NOT_PERMITTED"
    assert (await rig.call(asked, by=AUDITOR)).events


async def test_no_cell_has_the_log_of_another_witnessed(rig: Rig) -> None:
    """A witness signs what its own cell asks for: a second history of another's log finds no signature."""
    note = "cellbook/us-east\n1\nAAAA\n"
    asked = rig.ask("Cosign", key=str(KEYS.log.verifier), checkpoint=note, old_size=0, by=PEER)
    assert (await refusal_of(asked)).reason == "FIELD_INVALID"


async def test_what_is_between_two_cells_is_told_to_those_two(rig: Rig) -> None:
    """A cell lists no movements between this one and a third."""
    assert (await refusal_of(rig.ask("ListClearing", peer=THIRD, by=PEER))).reason == "NOT_PERMITTED"
