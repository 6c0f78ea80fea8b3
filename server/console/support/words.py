"""The events of an account, in words."""

import json
from typing import Any

from cellbook.v1 import event_pb2
from server.cli.texts import amount_text

# By type. {amount}, {released}, {fee}, {bid} and {total} are amounts of the payload with their currency.
WORDS = {
    "ACCOUNT_OPENED": "The account was opened.",
    "DEPOSITED": "{amount} came in from outside, reference {external_reference}.",
    "WITHDRAWN": "{amount} went out, reference {external_reference}.",
    "TRANSFER_SENT": "{amount} to user {to_user_id}.",
    "TRANSFER_RECEIVED": "{amount} from user {from_user_id}.",
    "REMOTE_TRANSFER_SENT": "{amount} to user {to_user_id} in {to_cell}.",
    "REMOTE_TRANSFER_RECEIVED": "{amount} from user {from_user_id} in {from_cell}.",
    "REMOTE_TRANSFER_RETURNED": "{amount} came back: the transfer {transfer_id} was not received.",
    "FUNDS_RESERVED": "{amount} reserved by hold {hold_id}.",
    "FUNDS_RELEASED": "{amount} of hold {hold_id} released.",
    "HOLD_CAPTURED": "{amount} of hold {hold_id} paid to user {to_user_id}, {released} released.",
    "HOLD_PINNED": "The winning bid {bid_id} is kept for its settlement {saga_id}.",
    "ESCROW_SENT": "{amount} of the winning bid {bid_id} paid to {to_cell}, {released} released.",
    "ESCROW_RETURNED": "{amount} of the winning bid {bid_id} came back: its settlement is being undone.",
    "PENDING_CREDITED": "{amount} for what was sold in auction {auction_id}, not yet settled.",
    "PENDING_REVERSED": "{amount} for auction {auction_id} taken back: its settlement is being undone.",
    "PENDING_SETTLED": "{amount} for auction {auction_id} settled, less a fee of {fee}.",
    "PARTY_NOTIFIED": "Notice {notice} about {auction}: {status}.",
    "ACCOUNT_MOVE_ANNOUNCED": "A move to {to_cell} began.",
    "ACCOUNT_MOVE_CALLED_OFF": "The move was called off.",
    "ACCOUNT_FLOWS_STOPPED": "Nothing new into other cells may begin until the move to {to_cell} is over.",
    "ACCOUNT_FLOWS_RESUMED": "The move does not go on: everything may begin again.",
    "ACCOUNT_DEPARTED": "The account is on its way to {to_cell}.",
    "BALANCE_DEPARTED": "{total} went along to {to_cell}.",
    "ACCOUNT_RETURNED": "The account came back: the move failed.",
    "BALANCE_RETURNED": "{total} came back from {from_cell}.",
    "ACCOUNT_LEFT": "The account is at home in {to_cell}.",
    "ACCOUNT_ARRIVED": "The account came from {from_cell}.",
    "BALANCE_ARRIVED": "{total} came along from {from_cell}.",
    "REFERENCES_CARRIED": "References of earlier homes came along.",
}
BID = "A bid of {bid} in an auction of {auction_cell}: {amount} more reserved."
BID_RELEASED = "Bid {bid_id} no longer counts: {amount} released."
_AMOUNTS = {"amount": "amount_minor", "released": "released_minor", "fee": "fee_minor", "bid": "bid_minor"}
_BUCKETS = ("available_minor", "reserved_minor", "pending_minor")


def words_of(event: event_pb2.Event) -> str:
    """One sentence; the event's type, if it is a newer one than this program."""
    payload: dict[str, Any] = json.loads(event.payload_json)
    template = WORDS.get(event.event_type, event.event_type)
    if payload.get("bid_id") and event.event_type in {"FUNDS_RESERVED", "FUNDS_RELEASED"}:
        template = BID if event.event_type == "FUNDS_RESERVED" else BID_RELEASED
    return template.format_map({**payload, **_amounts(payload)})


def _amounts(payload: dict[str, Any]) -> dict[str, str]:
    currency = str(payload.get("currency", ""))
    found = {said: payload[name] for said, name in _AMOUNTS.items() if payload.get(name) is not None}
    if all(bucket in payload for bucket in _BUCKETS):
        found["total"] = sum(int(payload[bucket]) for bucket in _BUCKETS)
    return {said: amount_text(int(amount_minor), currency) for said, amount_minor in found.items()}


def auctions_of(events: list[event_pb2.Event], cell: str) -> tuple[list[str], list[str]]:
    """The names of the auctions in which the account has bid, and of those in which it has sold; the last ones first.

    `cell` is the home: bids from before events named the auction's cell are taken to be in its auctions.
    """
    bid_in, sold_in = dict[str, None](), dict[str, None]()
    for event in events:
        payload = json.loads(event.payload_json)
        if event.event_type == "FUNDS_RESERVED" and payload.get("bid_id"):
            bid_in[f"cells/{payload.get('auction_cell') or cell}/auctions/{payload['hold_id']}"] = None
        elif event.event_type == "PENDING_CREDITED":
            sold_in[f"cells/{payload['from_cell']}/auctions/{payload['auction_id']}"] = None
    return list(bid_in), list(sold_in)
