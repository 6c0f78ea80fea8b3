"""Marks of copied events, which keep their effects from happening twice, and the chain over one history's copies.

Legs that were taken, and references that were used up, at earlier homes are looked up in the user's history copy: an
arrival records only the copy's length and its last link.
"""

import json
from hashlib import sha256
from typing import NamedTuple
from uuid import UUID

from cells.domain.account.barrier import foreign_barrier_id, said_by
from cells.domain.refusals import FieldInvalid
from cells.domain.values import carried_kind, reference_ref
from cells.encoding import codec
from cells.store.ports import EventRow

REFERENCES = {"DEPOSITED": "deposit", "WITHDRAWN": "withdrawal"}
# Legs that may be undone long after they were taken, and legs that must not be taken again if a call from before an
# earlier departure arrives late.
LEGS = frozenset(
    {
        "HOLD_PINNED",
        "FUNDS_RELEASED",
        "ESCROW_SENT",
        "ESCROW_RETURNED",
        "PENDING_CREDITED",
        "PENDING_REVERSED",
        "PENDING_SETTLED",
        "PARTY_NOTIFIED",
        "REMOTE_TRANSFER_RECEIVED",
    }
)
# A user's own bids into other cells have ended before the departure.
OWN_LEG = "reserve"


class Mark(NamedTuple):
    """`kind`: "action" or "compensation" of the leg whose barrier is `id`, "reference" of that id, "" for no mark."""

    kind: str
    id: UUID | None


NO_MARK = Mark("", None)


def mark_of(row: EventRow) -> Mark:
    """The mark of an account event. Raises FieldInvalid if this cell must read the event and cannot."""
    if row.event_type not in LEGS and row.event_type not in REFERENCES:
        return NO_MARK
    try:
        return _reference(row) if row.event_type in REFERENCES else _leg(row)
    except (codec.UnknownEvent, AttributeError, LookupError, TypeError, ValueError) as error:
        problem = f"cannot be read: {type(error).__name__}"
        raise FieldInvalid(field="events.payload_json", problem=problem, value=row.event_type) from None


def link(before: bytes, leaf_hash: bytes) -> bytes:
    """The chain's next link; before the first event it is empty."""
    return sha256(before + leaf_hash).digest()


def _reference(row: EventRow) -> Mark:
    kind = carried_kind(REFERENCES[row.event_type], row.aggregate_id)
    return Mark("reference", reference_ref(kind, codec.event_of(row).external_reference).id)  # type: ignore[union-attr]


def _leg(row: EventRow) -> Mark:
    metadata = json.loads(row.metadata)
    tag = codec.leg_tag_in(metadata)
    if tag is None or tag.leg_id.leg == OWN_LEG:
        return NO_MARK
    # A leg is requested by the cell that drives its saga.
    orchestrator = metadata["principal"].removeprefix("peer/")
    said = said_by(codec.event_of(row), row.aggregate_id)
    return Mark(tag.direction.value, foreign_barrier_id(tag.leg_id, orchestrator, said))
