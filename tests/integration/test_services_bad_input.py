"""Bad input to every RPC of a cell: each is told which field and why, and nothing changes."""

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import reduce
from typing import NamedTuple
from uuid import UUID

import grpc.aio
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from cellbook.v1 import auction_pb2, contact_pb2, event_pb2, ledger_pb2, saga_pb2, settlement_pb2, types_pb2
from cells.domain.events import EVENT_TYPES
from server.policies import POLICIES
from server.services import ledger
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

A, B, C = (str(UUID(int=number)) for number in (1, 2, 3))
NIL = str(UUID(int=0))
ASSET, AUCTION = f"cells/{HERE}/assets/{A}", f"cells/{HERE}/auctions/{A}"
BIG = 2**63 - 1


def leg() -> settlement_pb2.Leg:
    pin = settlement_pb2.PinHold(user_id=A, auction_id=B, bid_id=C, amount=usd(5))
    return settlement_pb2.Leg(
        saga_id=A, leg="pin", generation=1, orchestrator=THERE, causation_id=B, user_id=C, pin_hold=pin
    )


DEPOSIT = ledger_pb2.DepositRequest(command_id=C, user_id=A, amount=usd(5), external_reference="r")
BID = auction_pb2.PlaceBidRequest(command_id=C, auction=AUCTION, bidder_user_id=A, amount=usd(5))

# How many items a batch may have.
BATCHES = {"BatchDeposit": 1_000, "BatchPlaceBids": 1_000, "BatchLegs": 100}

# One request for each RPC with which nothing is wrong in itself.
GOOD: dict[str, Message] = {
    "OpenAccount": ledger_pb2.OpenAccountRequest(command_id=C, user_id=A, home_epoch=1),
    "Deposit": DEPOSIT,
    "BatchDeposit": ledger_pb2.BatchDepositRequest(items=[DEPOSIT]),
    "Withdraw": ledger_pb2.WithdrawRequest(command_id=C, user_id=A, amount=usd(5), external_reference="r"),
    "Transfer": ledger_pb2.TransferRequest(command_id=C, from_user_id=A, to_user_id=B, amount=usd(5)),
    "Reserve": ledger_pb2.ReserveRequest(command_id=C, user_id=A, amount=usd(5)),
    "Capture": ledger_pb2.CaptureRequest(command_id=C, user_id=A, hold_id=B, to_user_id=C),
    "Release": ledger_pb2.ReleaseRequest(command_id=C, user_id=A, hold_id=B),
    "GetBalance": ledger_pb2.GetBalanceRequest(user_id=A),
    "GetAccount": ledger_pb2.GetAccountRequest(user_id=A),
    "GetCommand": ledger_pb2.GetCommandRequest(command_id=C),
    "RegisterAsset": auction_pb2.RegisterAssetRequest(command_id=C, owner_user_id=A),
    "GetAsset": auction_pb2.GetAssetRequest(name=ASSET),
    "CreateAuction": auction_pb2.CreateAuctionRequest(
        command_id=C, asset=ASSET, seller_user_id=A, opening_price=usd(5), end_time_ms=1
    ),
    "GetAuction": auction_pb2.GetAuctionRequest(name=AUCTION),
    "ListAuctions": auction_pb2.ListAuctionsRequest(),
    "PlaceBid": BID,
    "BatchPlaceBids": auction_pb2.BatchPlaceBidsRequest(items=[BID]),
    "CloseAuction": auction_pb2.CloseAuctionRequest(command_id=C, auction=AUCTION),
    "CancelAuction": auction_pb2.CancelAuctionRequest(command_id=C, auction=AUCTION),
    "ApplyLeg": settlement_pb2.ApplyLegRequest(leg=leg()),
    "CompensateLeg": settlement_pb2.CompensateLegRequest(leg=leg()),
    "BatchLegs": settlement_pb2.BatchLegsRequest(
        items=[settlement_pb2.LegRequest(apply=settlement_pb2.ApplyLegRequest(leg=leg()))]
    ),
    "GetSaga": saga_pb2.GetSagaRequest(saga_id=A),
    "ListSagas": saga_pb2.ListSagasRequest(),
    "WatchSaga": saga_pb2.WatchSagaRequest(saga_id=A),
    "RetrySaga": saga_pb2.RetrySagaRequest(saga_id=A),
    "AdvanceSaga": saga_pb2.AdvanceSagaRequest(saga_id=A),
    "PauseSaga": saga_pb2.PauseSagaRequest(command_id=C, saga_id=A),
    "ResumeSaga": saga_pb2.ResumeSagaRequest(command_id=C, saga_id=A),
    "CompensateSaga": saga_pb2.CompensateSagaRequest(command_id=C, saga_id=A),
    "SetContact": contact_pb2.SetContactRequest(user_id=A, name="Ann", email="ann@people.test"),
    "GetContact": contact_pb2.GetContactRequest(user_id=A),
    "EraseContact": contact_pb2.EraseContactRequest(user_id=A),
    "Subscribe": event_pb2.SubscribeRequest(),
}


class Bad(NamedTuple):
    """The RPC's good request with `path` set to `value`; what is named is `field`, or `path` itself."""

    rpc: str
    path: str
    value: object
    reason: str = "FIELD_INVALID"
    field: str = ""


def ids() -> Iterator[Bad]:
    """Every field of a request that holds an id."""
    for rpc, good in GOOD.items():
        for field in good.DESCRIPTOR.fields:
            if field.name.endswith("_id"):
                for value in ("", "junk", NIL, A + "0", f"{{{A}}}", "\x00", "x" * 5_000):
                    yield Bad(rpc, field.name, value)


def amounts() -> Iterator[Bad]:
    """Every field of a request that holds money."""
    for rpc, good in GOOD.items():
        for field in good.DESCRIPTOR.fields:
            if field.message_type is types_pb2.Money.DESCRIPTOR:
                yield Bad(rpc, field.name, None)
                yield Bad(rpc, f"{field.name}.currency", "")
                yield Bad(rpc, f"{field.name}.currency", "x" * 5_000)
                for currency in ("XXX", "usd", "\x00"):
                    yield Bad(rpc, f"{field.name}.currency", currency, "UNKNOWN_CURRENCY")
                for amount_minor in (0, -1, -BIG - 1):
                    yield Bad(rpc, f"{field.name}.amount_minor", amount_minor, "AMOUNT_NOT_POSITIVE")


def names() -> Iterator[Bad]:
    """Every field of a request that names an asset or an auction."""
    for rpc, path, other in (
        ("GetAsset", "name", AUCTION),
        ("CreateAuction", "asset", AUCTION),
        ("GetAuction", "name", ASSET),
        ("PlaceBid", "auction", ASSET),
        ("CloseAuction", "auction", ASSET),
        ("CancelAuction", "auction", ASSET),
    ):
        good = str(getattr(GOOD[rpc], path))
        for value in ("", A, other, good + "/", good[:-1], good.replace(HERE, ""), good.replace(A, NIL)):
            yield Bad(rpc, path, value)


OTHERS = [
    Bad("OpenAccount", "home_epoch", 0),
    Bad("OpenAccount", "home_epoch", -1),
    Bad("OpenAccount", "home_epoch", BIG),
    *(Bad(rpc, "external_reference", value) for rpc in ("Deposit", "Withdraw") for value in ("", "x" * 201, "a\x00b")),
    # What is wrong with one item alone is in tests/integration/test_services_batches.py and test_leg_batches.py.
    *(Bad(rpc, "items", value) for rpc in BATCHES for value in (None, "too many")),
    Bad("Reserve", "expire_time_ms", -1),
    Bad("Reserve", "expire_time_ms", BIG),
    Bad("Capture", "amount_minor", 0, "AMOUNT_NOT_POSITIVE"),
    Bad("Capture", "amount_minor", -1, "AMOUNT_NOT_POSITIVE"),
    Bad("RegisterAsset", "description", "x" * 1_001),
    Bad("RegisterAsset", "description", "\x00"),
    Bad("CreateAuction", "increment_minor", -1),
    *(Bad("CreateAuction", "end_time_ms", value) for value in (0, -1, 2**47, BIG)),
    *(Bad("CreateAuction", "extension_ms", value) for value in (-1, BIG)),
    *(Bad("CreateAuction", "settlement_timeout_ms", value) for value in (-1, BIG)),
    Bad("ListAuctions", "state", 99),
    *(Bad(rpc, "page_size", -1) for rpc in ("ListAuctions", "ListSagas")),
    *(Bad(rpc, "page_token", "junk") for rpc in ("ListAuctions", "ListSagas")),
    Bad("ListSagas", "kind", 99),
    Bad("ListSagas", "states", [99]),
    Bad("ListSagas", "states", [1, 0]),
    Bad("ListSagas", "cell", "EU"),
    *(Bad("ListSagas", field, value) for field in ("started_from_ms", "started_before_ms") for value in (-1, BIG)),
    *(
        Bad(rpc, "note", value)
        for rpc in ("PauseSaga", "ResumeSaga", "CompensateSaga")
        for value in ("x" * 201, "a\x00b")
    ),
    *(
        Bad(rpc, "user_id", value)
        for rpc in ("SetContact", "GetContact", "EraseContact")
        for value in ("", "junk", NIL)
    ),
    Bad("SetContact", "name", ""),
    Bad("SetContact", "email", "ann"),
    Bad("Subscribe", "from_position", -1),
    Bad("Subscribe", "filter.event_types", ["NONSENSE"]),
    Bad("Subscribe", "filter.aggregate_id", "junk"),
    Bad("Subscribe", "filter.correlation_id", "junk"),
    Bad("Subscribe", "filter.user_id", NIL),
    *(
        Bad(rpc, path, value, reason, field)
        for rpc in ("ApplyLeg", "CompensateLeg")
        for path, value, reason, field in (
            ("leg.saga_id", "", "FIELD_INVALID", ""),
            ("leg.leg", "", "FIELD_INVALID", ""),
            ("leg.leg", "\x00", "FIELD_INVALID", ""),
            ("leg.generation", 0, "FIELD_INVALID", ""),
            ("leg.orchestrator", "EU", "FIELD_INVALID", ""),
            ("leg.pin_hold", None, "FIELD_INVALID", "leg.action"),
            ("leg.pin_hold.bid_id", "junk", "FIELD_INVALID", "bid_id"),
            ("leg.pin_hold.amount", None, "FIELD_INVALID", "amount"),
            ("leg.pin_hold.amount.amount_minor", -1, "AMOUNT_NOT_POSITIVE", "amount.amount_minor"),
        )
    ),
]
BAD = [*ids(), *amounts(), *names(), *OTHERS]


def request_of(bad: Bad) -> Message:
    request = type(GOOD[bad.rpc])()
    request.CopyFrom(GOOD[bad.rpc])
    *outer, last = bad.path.split(".")
    holder = reduce(getattr, outer, request)
    if bad.value is None:
        holder.ClearField(last)
    elif bad.path == "items":
        items = getattr(holder, last)
        items.extend(BATCHES[bad.rpc] * [items[0]])
    elif isinstance(bad.value, list):
        getattr(holder, last).extend(bad.value)
    else:
        setattr(holder, last, bad.value)
    return request


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
    assert {bad.rpc for bad in BAD} == set(GOOD)


async def test_bad_input_is_refused_by_field_and_changes_nothing() -> None:
    """Each bad field is named with a reason that clients can act on."""
    async with serving() as rig, unchanged(rig):
        for bad in BAD:
            refused = await refusal_of(rig.call(path_of(bad.rpc), request_of(bad)))
            found = (refused.reason, refused.facts["field"])
            assert found == (bad.reason, bad.field or bad.path), (bad, refused)
            assert refused.final
            assert all(len(str(fact)) <= 80 for fact in refused.facts.values()), bad


async def test_a_change_would_be_noticed() -> None:
    """A deposit in between fails the check that nothing was written."""
    async with serving() as rig:
        good = ledger_pb2.DepositRequest(command_id=C, user_id=str(rig.ann), amount=usd(5), external_reference="r")
        with pytest.raises(AssertionError):
            async with unchanged(rig):
                await rig.call(path_of("Deposit"), good)


async def test_the_good_requests_are_good() -> None:
    """What the table changes was in order before: no good request is refused for a field."""
    async with serving() as rig:
        for rpc, request in GOOD.items():
            try:
                await rig.call(path_of(rpc), request)
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
            if field.is_repeated:
                values = [self.value(field) for _ in range(self.random.randrange(3))]
                getattr(message, field.name).extend(values)
            elif field.message_type is not None:
                getattr(message, field.name).CopyFrom(self.message(field.message_type))
            else:
                setattr(message, field.name, self.value(field))
        return message

    def value(self, field: FieldDescriptor) -> str | int | bool | Message:
        if field.message_type is not None:
            return self.message(field.message_type)
        if field.enum_type is not None:
            return self.random.choice((0, 1, 2, 99, -1))
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            return new_id() if self.random.random() < 0.2 else self.random.choice(self.texts)
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return self.random.random() < 0.5
        bits = 32 if field.cpp_type == FieldDescriptor.CPPTYPE_INT32 else 64
        return self.random.choice([number for number in NUMBERS if -(2 ** (bits - 1)) <= number < 2 ** (bits - 1)])


async def code_of(rig: Rig, path: str, request: Message) -> grpc.StatusCode:
    try:
        await rig.call(path, request, timeout_s=2.0)
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
    monkeypatch.setattr(ledger, "uuid_in", lambda text, _: UUID(text))
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
                made = leg()
                made.saga_id = new_id()
                getattr(made, field.name).CopyFrom(plausible(field.message_type, known))
                request.leg.CopyFrom(made)  # type: ignore[attr-defined]
                code = await code_of(rig, path, request)
                assert code not in {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}, request
        await rig.bid(await rig.auction(), rig.ben, 100)


def plausible(descriptor: Descriptor | None, known: dict[str, str]) -> Message:
    """A message of a leg's action in which every field is in order."""
    assert descriptor is not None
    message = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if field.message_type is not None:
            getattr(message, field.name).CopyFrom(usd(5))
        elif field.name.endswith("_id"):
            setattr(message, field.name, known.get(field.name, A))
        elif field.name.endswith("_cell"):
            setattr(message, field.name, THERE)
        elif field.name == "auction":
            setattr(message, field.name, AUCTION)
        elif field.name == "currency":
            setattr(message, field.name, "USD")
        else:
            setattr(message, field.name, 1)
    return message
