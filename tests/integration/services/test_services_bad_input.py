"""Bad input to every RPC of a cell: each is told which field and why, and nothing changes."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import grpc.aio
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from cellbook.v1 import (
    ledger_pb2,
    settlement_pb2,
)
from cells.domain.events import EVENT_TYPES
from server.process.policies import POLICIES
from server.services import ledger
from tests.bounds import good_action
from tests.integration.services.bad_input import BAD, BIG, GOOD, NIL, C, leg, request_of
from tests.integration.services_rig import (
    HERE,
    METHODS,
    THERE,
    Rig,
    new_id,
    path_of,
    refusal_of,
    serving,
    usd,
)


@asynccontextmanager
async def unchanged(rig: Rig) -> AsyncIterator[None]:
    """Nothing is written meanwhile: no event, no outcome, in neither cell."""
    before = [(await cell.store.head()).position for cell in (rig.cell, rig.there)]
    outcomes = len(rig.store.kept_outcomes)
    yield
    assert [(await cell.store.head()).position for cell in (rig.cell, rig.there)] == before
    assert len(rig.store.kept_outcomes) == outcomes


def test_every_rpc_is_tried() -> None:
    """The tables cover all RPCs of a cell, the policies too."""
    assert {path_of(rpc) for rpc in GOOD} == set(METHODS) == set(POLICIES)
    assert {bad.rpc for bad in BAD} == {rpc for rpc, good in GOOD.items() if good.DESCRIPTOR.fields}


async def test_bad_input_is_refused_by_field_and_changes_nothing() -> None:
    """Each bad field is named with a reason that clients can act on."""
    async with serving() as rig, unchanged(rig):
        for bad in BAD:
            refused = await refusal_of(rig.call(request_of(bad)))
            found = (refused.reason, refused.facts.get("field"))
            assert found == (bad.reason, bad.field or bad.path), (bad, refused)
            assert refused.final
            assert all(len(str(fact)) <= 80 for fact in refused.facts.values()), bad


async def test_a_change_would_be_noticed() -> None:
    """A deposit in between fails the check that nothing was written."""
    async with serving() as rig:
        good = ledger_pb2.DepositRequest(command_id=C, user_id=str(rig.ann), amount=usd(5), external_reference="r")
        with pytest.raises(AssertionError):
            async with unchanged(rig):
                await rig.call(good)


async def test_the_good_requests_are_good() -> None:
    """What the table changes was in order before: no good request is refused for a field."""
    async with serving() as rig:
        for rpc, request in GOOD.items():
            try:
                await rig.call(request)
            except grpc.aio.AioRpcError as error:
                assert error.code() is not grpc.StatusCode.INVALID_ARGUMENT, rpc  # noqa: PT017 - any other will do


# --- junk ---

TEXTS = ("", "junk", "\x00", "é" * 300, "x" * 5_000, NIL, "USD", "JPY", "DEPOSITED", "pin", THERE, "{}", "%s")
NUMBERS = (0, 1, -1, 5, 100, 2**31 - 1, -(2**31), 2**31, 2**32 - 1, 2**47, BIG, -BIG - 1)
ROUNDS = 40


class Junk:
    """Fills messages by their descriptors, with nonsense and with what exists."""

    def __init__(self, seed: int, existing: list[str]) -> None:
        self.random = random.Random(seed)
        self.texts = [*TEXTS, *existing * 3, *EVENT_TYPES]

    def message(self, descriptor: Descriptor) -> Message:
        message = GetMessageClass(descriptor)()
        # One of each oneof: setting another would take it away again.
        chosen = {oneof.name: self.random.choice(oneof.fields) for oneof in descriptor.oneofs}
        for field in descriptor.fields:
            rival = field.containing_oneof is not None and chosen[field.containing_oneof.name] is not field
            if rival or self.random.random() < 0.1:
                continue
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                key, value = (self.value(each) for each in field.message_type.fields)
                getattr(message, field.name)[key] = value
            elif field.is_repeated:
                values = [self.value(field) for _ in range(self.random.randrange(3))]
                getattr(message, field.name).extend(values)
            elif field.message_type is not None:
                getattr(message, field.name).CopyFrom(self.message(field.message_type))
            else:
                setattr(message, field.name, self.value(field))
        return message

    def value(self, field: FieldDescriptor) -> str | bytes | int | bool | Message:
        if field.message_type is not None:
            return self.message(field.message_type)
        if field.enum_type is not None:
            return self.random.choice((0, 1, 2, 99, -1))
        if field.type == FieldDescriptor.TYPE_STRING:
            return new_id() if self.random.random() < 0.2 else self.random.choice(self.texts)
        if field.type == FieldDescriptor.TYPE_BYTES:
            return self.random.randbytes(self.random.choice((0, 31, 32, 33)))
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return self.random.random() < 0.5
        if field.cpp_type == FieldDescriptor.CPPTYPE_UINT32:
            return self.random.choice([number for number in NUMBERS if 0 <= number < 2**32])
        bits = 32 if field.cpp_type == FieldDescriptor.CPPTYPE_INT32 else 64
        return self.random.choice([number for number in NUMBERS if -(2 ** (bits - 1)) <= number < 2 ** (bits - 1)])


async def code_of(rig: Rig, path: str, request: Message) -> grpc.StatusCode:
    try:
        await rig.call(request, timeout_s=2.0)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def existing(rig: Rig) -> list[str]:
    """Ids and names of things that there are."""
    auction = await rig.auction()
    await rig.bid(auction, rig.ben, 100)
    return [str(rig.ann), str(rig.ben), auction, auction.replace(HERE, THERE), HERE]


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.rsplit("/")[-1])
async def test_junk_is_never_an_internal_error(path: str, seed: int) -> None:
    """Whatever a well-formed message holds, the answer says what is wrong with it; and the cell goes on."""
    async with serving() as rig:
        junk = Junk(seed, await existing(rig))
        descriptor = METHODS[path].input_type
        requests = [GetMessageClass(descriptor)(), *(junk.message(descriptor) for _ in range(ROUNDS))]
        for request in requests:
            code = await code_of(rig, path, request)
            assert code not in {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}, request
        await rig.bid(await rig.auction(), rig.ben, 100)


async def test_an_internal_error_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ids that are not checked, the same junk gets INTERNAL."""
    monkeypatch.setattr(ledger, "parse_uuid", lambda text, _: UUID(text))
    path = path_of("GetBalance")
    async with serving() as rig:
        junk = Junk(1, [])
        codes = {await code_of(rig, path, junk.message(METHODS[path].input_type)) for _ in range(ROUNDS)}
    assert grpc.StatusCode.INTERNAL in codes


async def test_nearly_good_legs_are_never_an_internal_error() -> None:
    """Legs that are well formed, but of sagas that never were, are refused or taken; the cell goes on."""
    async with serving() as rig:
        auction = (await rig.auction()).rsplit("/", 1)[1]
        asset = (await rig.cell.auction(UUID(auction))).state.asset_id
        known = {"user_id": str(rig.ann), "bidder_user_id": str(rig.ben), "asset_id": str(asset)}
        known["auction_id"] = auction
        for field in settlement_pb2.Leg.DESCRIPTOR.oneofs_by_name["action"].fields:
            for path in (path_of("CompensateLeg"), path_of("ApplyLeg"), path_of("CompensateLeg")):
                request = GetMessageClass(METHODS[path].input_type)()
                made: settlement_pb2.Leg = request.leg  # type: ignore[attr-defined]
                made.MergeFrom(leg())
                made.saga_id = new_id()
                made.MergeFrom(good_action(field.name, known))
                code = await code_of(rig, path, request)
                assert code not in {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}, request
        await rig.bid(await rig.auction(), rig.ben, 100)
