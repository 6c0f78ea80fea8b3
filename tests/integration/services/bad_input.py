"""Requests to every RPC of a cell: one with which nothing is wrong, and many with which something is."""

import os
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any, NamedTuple
from uuid import UUID

from google.protobuf.message import Message

from cellbook.v1 import (
    auction_pb2,
    audit_pb2,
    contact_pb2,
    event_pb2,
    ledger_pb2,
    move_pb2,
    operations_pb2,
    saga_pb2,
    settlement_pb2,
    types_pb2,
)
from cells.audit.proofs.keys import checkpoint_body, new_keys
from cells.audit.verify.note import origin_of
from tests.bounds import beyond, is_message, needs_bound
from tests.integration.services_rig import HERE, THERE, usd

A, B, C = (str(UUID(int=number)) for number in (1, 2, 3))
NIL = str(UUID(int=0))
ASSET, AUCTION = f"cells/{HERE}/assets/{A}", f"cells/{HERE}/auctions/{A}"
BIG = 2**63 - 1


def leg() -> settlement_pb2.Leg:
    pin = settlement_pb2.PinHold(user_id=A, auction_id=B, bid_id=C, amount=usd(5))
    return settlement_pb2.Leg(
        saga_id=A, leg="pin", generation=1, orchestrator=THERE, causation_id=B, user_id=C, pin_hold=pin
    )


def signed_request() -> audit_pb2.CosignRequest:
    """As the neighbour asks for its first cosignature."""
    keys, root = new_keys(THERE, os.urandom), bytes(32)
    body = checkpoint_body(origin_of(THERE), 1, root)
    return audit_pb2.CosignRequest(key=str(keys.log.verifier), checkpoint=keys.log.note(body))


# Of the served cell itself: the neighbour may not speak for it.
OTHER_KEY = str(new_keys(HERE, os.urandom).log.verifier)

DEPOSIT = ledger_pb2.DepositRequest(command_id=C, user_id=A, amount=usd(5), external_reference="r")
BID = auction_pb2.PlaceBidRequest(command_id=C, auction=AUCTION, bidder_user_id=A, amount=usd(5), maximum=usd(9))

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
    "WatchAuction": auction_pb2.WatchAuctionRequest(auction=AUCTION),
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
    "BeginMove": move_pb2.BeginMoveRequest(command_id=C, user_id=A, to_cell=THERE),
    "BringBaggage": move_pb2.BringBaggageRequest(saga_id=B, user_id=A),
    "HandOverContact": move_pb2.HandOverContactRequest(saga_id=B, user_id=A, public_key=bytes(32)),
    "EraseEarlierContact": move_pb2.EraseEarlierContactRequest(user_id=A),
    "ListEarlierEvents": move_pb2.ListEarlierEventsRequest(user_id=A),
    "SetContact": contact_pb2.SetContactRequest(user_id=A, name="Ann", email="ann@people.test"),
    "ConfirmContact": contact_pb2.ConfirmContactRequest(user_id=A, code="ABCDEFGHIJ"),
    "GetContact": contact_pb2.GetContactRequest(user_id=A),
    "EraseContact": contact_pb2.EraseContactRequest(user_id=A),
    "Trace": audit_pb2.TraceRequest(subject=A),
    "FindEvents": audit_pb2.FindEventsRequest(subject=A),
    "ListBalances": audit_pb2.ListBalancesRequest(),
    "ListHomes": audit_pb2.ListHomesRequest(),
    "GetTrialBalance": audit_pb2.GetTrialBalanceRequest(),
    "GetStatement": audit_pb2.GetStatementRequest(user_id=A),
    "CheckStream": audit_pb2.CheckStreamRequest(aggregate_id=A),
    "GetCheckpoint": audit_pb2.GetCheckpointRequest(),
    "GetInclusionProof": audit_pb2.GetInclusionProofRequest(position=1),
    "GetConsistencyProof": audit_pb2.GetConsistencyProofRequest(old_size=1),
    "Export": audit_pb2.ExportRequest(from_position=1),
    "Cosign": signed_request(),
    "AddCosignature": audit_pb2.AddCosignatureRequest(size=1, cosignature="\u2014 a b"),
    "Reconcile": audit_pb2.ReconcileRequest(),
    "RecordAccesses": audit_pb2.RecordAccessesRequest(accesses=[audit_pb2.ReadAccess(method="x", minute_ms=1)]),
    "ListClearing": audit_pb2.ListClearingRequest(peer=THERE),
    "Rebuild": audit_pb2.RebuildRequest(),
    "Subscribe": event_pb2.SubscribeRequest(),
    "ListUserEvents": event_pb2.ListUserEventsRequest(user_id=A),
    "GetCellStatus": operations_pb2.GetCellStatusRequest(),
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
                for value in ("", "junk", NIL, A + "0", f"({A})", "\x00", "x" * 5_000):
                    yield Bad(rpc, field.name, value)


def amounts() -> Iterator[Bad]:
    """Every field of a request that holds money."""
    for rpc, good in GOOD.items():
        for field in good.DESCRIPTOR.fields:
            if field.message_type is types_pb2.Money.DESCRIPTOR:
                # A bid need not have a maximum.
                if field.name != "maximum":
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


# What no bound of a single field says: RPC, path, values.
_WRONG: list[tuple[str, str, Sequence[object]]] = [
    # What is wrong with one item alone is in test_services_batches.py and test_leg_batches.py beside this.
    *((rpc, "items", [None, "too many"]) for rpc in BATCHES),
    *((rpc, "external_reference", ["a\x00b"]) for rpc in ("Deposit", "Withdraw")),
    *((rpc, "note", ["a\x00b"]) for rpc in ("PauseSaga", "ResumeSaga", "CompensateSaga", "Rebuild")),
    ("GetContact", "reason", ["a\x00b"]),
    ("ListUserEvents", "page_token", ["junk", "AAAA"]),
    *((rpc, "page_token", ["junk"]) for rpc in ("ListAuctions", "ListSagas", "ListClearing")),
    ("ListEarlierEvents", "page_token", ["junk", "EU/1", f"{HERE}/-1", f"{HERE}/{10**40}"]),
    ("GetStatement", "page_token", ["junk", "AAAA", "\x00", "MS4yLjMuVVNE"]),
    ("ListBalances", "page_token", ["junk", "AAAA", "\x00"]),
    ("RegisterAsset", "description", ["\x00"]),
    ("ListAuctions", "state", [99]),
    ("ListSagas", "kind", [99]),
    ("ListSagas", "states", [[99], [1, 0]]),
    ("ListSagas", "cell", ["EU"]),
    ("BeginMove", "to_cell", ["EU", "x" * 40]),
    ("BeginMove", "region", ["x" * 40]),
    ("SetContact", "email", ["ann"]),
    ("Trace", "subject", ["junk", NIL, "cells/eu/sagas/1", f"cells/{HERE}/assets/junk", "deposits/", "withdrawals/ x"]),
    ("FindEvents", "subject", ["junk"]),
    *(("FindEvents", field, [["junk"]]) for field in ("causes", "effects_of")),
    ("Export", "resumption.after_command_id", ["junk"]),
    ("Cosign", "key", ["junk", OTHER_KEY]),
    ("Cosign", "checkpoint", ["junk", "\x00"]),
    ("Cosign", "path", [[b"short"], [b"x" * 32] * 129]),
    ("AddCosignature", "cosignature", ["a\nb", "\x00"]),
    ("ListClearing", "peer", ["EU", "\x00"]),
    ("ListClearing", "clearing_ids", [["junk"], [NIL]]),
    ("ListHomes", "after_user", ["x"]),
    *((rpc, "as_of", [types_pb2.AsOf()]) for rpc, good in GOOD.items() if "as_of" in good.DESCRIPTOR.fields_by_name),
    *(("GetStatement", field, [types_pb2.AsOf()]) for field in ("from", "to")),
    ("Subscribe", "filter.event_types", [["NONSENSE"]]),
    *(("Subscribe", f"filter.{field}", ["junk", NIL]) for field in ("aggregate_id", "correlation_id", "user_id")),
    *((rpc, "leg.leg", ["\x00"]) for rpc in ("ApplyLeg", "CompensateLeg")),
    *((rpc, "leg.orchestrator", ["EU"]) for rpc in ("ApplyLeg", "CompensateLeg")),
]
OTHERS = [
    *(Bad(rpc, path, value) for rpc, path, values in _WRONG for value in values),
    Bad("GetStatement", "currency", "XXX", "UNKNOWN_CURRENCY"),
    Bad("BringBaggage", "events", [event_pb2.Event()], field="events.position"),
    Bad("BringBaggage", "outcomes", [move_pb2.CarriedOutcome()], field="outcomes.command_id"),
    Bad("Export", "resumption.whole", value=True, field="to_position"),
    *(
        Bad("RecordAccesses", "accesses", [access], field=f"accesses.{field}")
        for access, field in (
            (audit_pb2.ReadAccess(minute_ms=1), "method"),
            (audit_pb2.ReadAccess(method="x", minute_ms=1, subject="x" * 97), "subject"),
            (audit_pb2.ReadAccess(method="x", minute_ms=1, principal="a\x00"), "principal"),
            (audit_pb2.ReadAccess(method="x", minute_ms=-1), "minute_ms"),
        )
    ),
    *(
        Bad(rpc, f"leg.pin_hold{path}", value, reason, field)
        for rpc in ("ApplyLeg", "CompensateLeg")
        for path, value, reason, field in (
            ("", None, "FIELD_INVALID", "leg.action"),
            (".bid_id", "junk", "FIELD_INVALID", "bid_id"),
            (".amount", None, "FIELD_INVALID", "amount"),
            (".amount.amount_minor", -1, "AMOUNT_NOT_POSITIVE", "amount.amount_minor"),
        )
    ),
]


def beyond_bounds() -> Iterator[Bad]:
    """Every field of a request that has a bound, also in messages in it: each value just beyond it."""
    for rpc, good in GOOD.items():
        for path, field in bounded(good):
            for value in beyond(field):
                reason = OTHER_REASONS.get(field.name, "FIELD_INVALID")
                # The fields of a leg's action are named from the action on.
                yield Bad(rpc, path, value, reason, path.removeprefix("leg.pin_hold."))


def bounded(message: Message, path: str = "") -> Iterator[tuple[str, Any]]:
    descriptor: Any = message.DESCRIPTOR
    for field in descriptor.fields:
        # Of the actions of a leg, the one that it has; tests/unit/test_bounds.py tries them all.
        action = field.containing_oneof is not None and field.containing_oneof.name == "action"
        if needs_bound(field):
            yield f"{path}{field.name}", field
        elif is_message(field) and field.message_type.name != "Money" and (not action or message.HasField(field.name)):
            yield from bounded(getattr(message, field.name), f"{path}{field.name}.")


def personal() -> Iterator[Bad]:
    """Every text that goes into the log, saying who somebody is."""
    for rpc, good in GOOD.items():
        for field in ("external_reference", "description", "note", "reason"):
            if field in good.DESCRIPTOR.fields_by_name:
                for said in ("ann@people.test", "+49 170 1234567", "DE89370400440532013000", "4111 1111 1111 1111"):
                    yield Bad(rpc, field, said)


# Money has words of its own.
OTHER_REASONS = {"currency": "UNKNOWN_CURRENCY", "amount_minor": "AMOUNT_NOT_POSITIVE"}
BAD = [*ids(), *amounts(), *names(), *OTHERS, *beyond_bounds(), *personal()]


def request_of(bad: Bad) -> Message:
    request = type(GOOD[bad.rpc])()
    request.CopyFrom(GOOD[bad.rpc])
    *outer, last = bad.path.split(".")
    holder = reduce(getattr, outer, request)
    if bad.value is None:
        holder.ClearField(last)
    elif isinstance(bad.value, Message):
        getattr(holder, last).CopyFrom(bad.value)
    elif bad.path == "items":
        items = getattr(holder, last)
        items.extend(BATCHES[bad.rpc] * [items[0]])
    elif isinstance(bad.value, list):
        getattr(holder, last).extend(bad.value)
    else:
        setattr(holder, last, bad.value)
    return request
