"""What a cell that is not of this cluster could say in order: legs of its own sagas, checkpoints of its own log."""

from collections.abc import Sequence
from typing import Any

from cellbook.v1 import audit_pb2, settlement_pb2
from cells.audit.proofs.keys import SigningKey, checkpoint_body
from cells.audit.verify.note import LOG_KEY, origin_of
from tests.fuzz.messages import STRANGER, Maker

# Action -> the name that its leg has. No other leg is taken of another cell.
LEGS = {
    "pin_hold": "pin",
    "send_to_escrow": "escrow-out",
    "credit_pending": "credit-in",
    "settle_pending": "settle",
    "notify_party": "notify",
    "submit_bid": "submit",
    "release_bid": "release",
    "receive_transfer": "receive",
    "arrive_user": "arrive",
}
# In which field an action names the cell that asks.
CLAIMS = {
    "send_to_escrow": "to_cell",
    "credit_pending": "from_cell",
    "submit_bid": "bidder_cell",
    "receive_transfer": "from_cell",
    "arrive_user": "from_cell",
}
# The log of a cell that has done nothing but one thing, ever.
KEY = SigningKey(name=origin_of(STRANGER), kind=LOG_KEY, seed=b"\x07" * 32)
SIZE, ROOT = 1, b"\x07" * 32


def foreign_leg(maker: Maker, users: Sequence[str], arriving: Sequence[str]) -> settlement_pb2.Leg:
    """A leg that may be taken of us. Of `users`, who are at home where it is taken; `arriving` are at home with us."""
    rng, leg = maker.rng, maker.message(settlement_pb2.Leg.DESCRIPTOR)
    assert isinstance(leg, settlement_pb2.Leg)
    kind = rng.choice(list(LEGS))
    action: Any = getattr(leg, kind)
    action.CopyFrom(maker.message(action.DESCRIPTOR))
    leg.leg, leg.orchestrator, leg.generation = LEGS[kind], STRANGER, max(leg.generation, 1)
    if kind in CLAIMS:
        setattr(action, CLAIMS[kind], STRANGER)
    if kind == "notify_party":
        action.auction = f"cells/{STRANGER}/auctions/{maker.pool.new_id()}"
    if kind == "arrive_user":
        action.epoch = 2
    concerned = arriving if kind == "arrive_user" else users
    if concerned and "user_id" in action.DESCRIPTOR.fields_by_name:
        action.user_id = rng.choice(concerned)
    return leg


def settle_of(credited: settlement_pb2.Leg) -> settlement_pb2.Leg:
    """What comes after a credit: the sale is settled."""
    leg, credit = settlement_pb2.Leg(), credited.credit_pending
    leg.CopyFrom(credited)
    leg.leg = LEGS["settle_pending"]
    leg.settle_pending.CopyFrom(
        settlement_pb2.SettlePending(user_id=credit.user_id, auction_id=credit.auction_id, amount=credit.amount)
    )
    return leg


def checkpoint(*, old_size: int) -> audit_pb2.CosignRequest:
    """Asks a witness to sign that our log is as it was, which it has seen at `old_size`: 0, never."""
    body = checkpoint_body(KEY.name, SIZE, ROOT)
    return audit_pb2.CosignRequest(key=str(KEY.verifier), checkpoint=KEY.note(body), old_size=old_size)
