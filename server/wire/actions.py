"""The actions of saga legs: each to and from its message, one pair per kind."""

from typing import assert_never
from uuid import UUID

from cellbook.v1 import settlement_pb2
from cells.domain.commands import (
    CreditPending,
    LegAction,
    NotifyParty,
    PayOutEscrow,
    PinHold,
    ReceiveEscrow,
    ReceiveTransfer,
    ReleaseBid,
    ReserveForBid,
    SendToEscrow,
    SendTransfer,
    SettlePending,
    SubmitBid,
    TransferOwnership,
)
from cells.domain.moves.commands import AnnounceMove, ArriveUser, DepartUser, LeaveUser, StopFlows, TellHome
from cells.domain.refusals import UnknownCurrency
from cells.domain.values import CURRENCY_EXPONENTS
from server.shell.fields.bounds import (
    AMOUNT_OR_NONE,
    SHOWN_MAX,
    TIME,
    invalid,
    number_in,
)
from server.wire.common import auction_name, money_to_proto, parse_cell, parse_money, parse_name, parse_uuid
from server.wire.moves import arrive_user_to_proto, parse_arrive_user
from server.wire.transfers import (
    parse_receive_transfer,
    parse_send_transfer,
    receive_transfer_to_proto,
    send_transfer_to_proto,
)

_NOTICES = {
    settlement_pb2.NOTICE_KIND_AUCTION_WON: "AUCTION_WON",
    settlement_pb2.NOTICE_KIND_ASSET_SOLD: "ASSET_SOLD",
    settlement_pb2.NOTICE_KIND_SETTLEMENT_FAILED_FOR_WINNER: "SETTLEMENT_FAILED_FOR_WINNER",
    settlement_pb2.NOTICE_KIND_SETTLEMENT_FAILED_FOR_SELLER: "SETTLEMENT_FAILED_FOR_SELLER",
}
_NOTICES_OUT = {notice: value for value, notice in _NOTICES.items()}


# --- to proto ---


def put_action(leg: settlement_pb2.Leg, action: LegAction) -> None:
    match action:
        case PinHold():
            leg.pin_hold.CopyFrom(_pin_hold_to_proto(action))
        case SendToEscrow():
            leg.send_to_escrow.CopyFrom(_send_to_escrow_to_proto(action))
        case ReceiveEscrow():
            leg.receive_escrow.CopyFrom(_receive_escrow_to_proto(action))
        case PayOutEscrow():
            leg.pay_out_escrow.CopyFrom(_pay_out_escrow_to_proto(action))
        case CreditPending():
            leg.credit_pending.CopyFrom(_credit_pending_to_proto(action))
        case TransferOwnership():
            leg.transfer_ownership.CopyFrom(_transfer_ownership_to_proto(action))
        case SettlePending():
            leg.settle_pending.CopyFrom(_settle_pending_to_proto(action))
        case NotifyParty():
            leg.notify_party.CopyFrom(_notify_party_to_proto(action))
        case ReserveForBid():
            leg.reserve_for_bid.CopyFrom(_reserve_for_bid_to_proto(action))
        case SubmitBid():
            leg.submit_bid.CopyFrom(_submit_bid_to_proto(action))
        case ReleaseBid():
            leg.release_bid.CopyFrom(_release_bid_to_proto(action))
        case SendTransfer():
            leg.send_transfer.CopyFrom(send_transfer_to_proto(action))
        case ReceiveTransfer():
            leg.receive_transfer.CopyFrom(receive_transfer_to_proto(action))
        case ArriveUser():
            leg.arrive_user.CopyFrom(arrive_user_to_proto(action))
        case AnnounceMove() | StopFlows() | DepartUser() | LeaveUser() | TellHome():
            raise TypeError(f"{type(action).__name__} is asked of no other cell")
        case _:
            assert_never(action)


def _pin_hold_to_proto(action: PinHold) -> settlement_pb2.PinHold:
    return settlement_pb2.PinHold(
        user_id=str(action.user_id),
        auction_id=str(action.auction_id),
        bid_id=str(action.bid_id),
        amount=money_to_proto(*action.amount),
    )


def _send_to_escrow_to_proto(action: SendToEscrow) -> settlement_pb2.SendToEscrow:
    return settlement_pb2.SendToEscrow(
        user_id=str(action.user_id),
        auction_id=str(action.auction_id),
        bid_id=str(action.bid_id),
        amount=money_to_proto(*action.amount),
        to_cell=action.to_cell,
        clearing_id=str(action.clearing_id),
    )


def _receive_escrow_to_proto(action: ReceiveEscrow) -> settlement_pb2.ReceiveEscrow:
    return settlement_pb2.ReceiveEscrow(
        auction_id=str(action.auction_id),
        amount=money_to_proto(*action.amount),
        from_cell=action.from_cell,
        clearing_id=str(action.clearing_id),
    )


def _pay_out_escrow_to_proto(action: PayOutEscrow) -> settlement_pb2.PayOutEscrow:
    return settlement_pb2.PayOutEscrow(
        auction_id=str(action.auction_id),
        amount=money_to_proto(*action.amount),
        to_cell=action.to_cell,
        clearing_id=str(action.clearing_id),
    )


def _credit_pending_to_proto(action: CreditPending) -> settlement_pb2.CreditPending:
    return settlement_pb2.CreditPending(
        user_id=str(action.user_id),
        auction_id=str(action.auction_id),
        amount=money_to_proto(*action.amount),
        from_cell=action.from_cell,
        clearing_id=str(action.clearing_id),
    )


def _transfer_ownership_to_proto(action: TransferOwnership) -> settlement_pb2.TransferOwnership:
    return settlement_pb2.TransferOwnership(
        asset_id=str(action.asset_id),
        auction_id=str(action.auction_id),
        from_user_id=str(action.from_user_id),
        to_user_id=str(action.to_user_id),
        to_cell=action.to_cell,
    )


def _settle_pending_to_proto(action: SettlePending) -> settlement_pb2.SettlePending:
    return settlement_pb2.SettlePending(
        user_id=str(action.user_id),
        auction_id=str(action.auction_id),
        amount=money_to_proto(*action.amount),
        fee_minor=action.fee_minor,
    )


def _notify_party_to_proto(action: NotifyParty) -> settlement_pb2.NotifyParty:
    """The mail server's answer stays in the cell that asked it."""
    return settlement_pb2.NotifyParty(
        user_id=str(action.user_id),
        auction=action.auction,
        amount=money_to_proto(*action.amount),
        notice=_NOTICES_OUT[action.notice],
    )


def _reserve_for_bid_to_proto(action: ReserveForBid) -> settlement_pb2.ReserveForBid:
    return settlement_pb2.ReserveForBid(
        user_id=str(action.user_id),
        auction_id=str(action.auction_id),
        bid_id=str(action.bid_id),
        amount=money_to_proto(*action.amount),
    )


def _submit_bid_to_proto(action: SubmitBid) -> settlement_pb2.SubmitBid:
    return settlement_pb2.SubmitBid(
        auction_id=str(action.auction_id),
        bid_id=str(action.bid_id),
        bidder_user_id=str(action.bidder_id),
        bidder_cell=action.bidder_cell,
        amount=money_to_proto(*action.amount),
        valid_until_ms=action.valid_until_ms,
    )


def _release_bid_to_proto(action: ReleaseBid) -> settlement_pb2.ReleaseBid:
    return settlement_pb2.ReleaseBid(
        user_id=str(action.user_id),
        auction_id=str(action.auction_id),
        bid_id=str(action.bid_id),
        currency=action.currency,
    )


# --- from proto ---


def parse_action(leg: settlement_pb2.Leg) -> LegAction:
    which = leg.WhichOneof("action")
    match which:
        case None:
            raise invalid("leg.action", "is missing, or is not one known here")
        case "pin_hold":
            return _parse_pin_hold(leg.pin_hold)
        case "send_to_escrow":
            return _parse_send_to_escrow(leg.send_to_escrow)
        case "receive_escrow":
            return _parse_receive_escrow(leg.receive_escrow)
        case "pay_out_escrow":
            return _parse_pay_out_escrow(leg.pay_out_escrow)
        case "credit_pending":
            return _parse_credit_pending(leg.credit_pending)
        case "transfer_ownership":
            return _parse_transfer_ownership(leg.transfer_ownership)
        case "settle_pending":
            return _parse_settle_pending(leg.settle_pending)
        case "notify_party":
            return _parse_notify_party(leg.notify_party)
        case "reserve_for_bid":
            return _parse_reserve_for_bid(leg.reserve_for_bid)
        case "submit_bid":
            return _parse_submit_bid(leg.submit_bid)
        case "release_bid":
            return _parse_release_bid(leg.release_bid)
        case "send_transfer":
            return parse_send_transfer(leg.send_transfer)
        case "receive_transfer":
            return parse_receive_transfer(leg.receive_transfer)
        case "arrive_user":
            return parse_arrive_user(leg.arrive_user)
        case _:
            assert_never(which)


def _parse_user(text: str) -> UUID:
    return parse_uuid(text, "user_id")


def _parse_auction(text: str) -> UUID:
    return parse_uuid(text, "auction_id")


def _parse_bid(text: str) -> UUID:
    return parse_uuid(text, "bid_id")


def _parse_clearing(text: str) -> UUID:
    return parse_uuid(text, "clearing_id")


def _parse_pin_hold(message: settlement_pb2.PinHold) -> PinHold:
    return PinHold(
        user_id=_parse_user(message.user_id),
        auction_id=_parse_auction(message.auction_id),
        bid_id=_parse_bid(message.bid_id),
        amount=parse_money(message.amount),
    )


def _parse_send_to_escrow(message: settlement_pb2.SendToEscrow) -> SendToEscrow:
    return SendToEscrow(
        user_id=_parse_user(message.user_id),
        auction_id=_parse_auction(message.auction_id),
        bid_id=_parse_bid(message.bid_id),
        amount=parse_money(message.amount),
        to_cell=parse_cell(message.to_cell, "to_cell"),
        clearing_id=_parse_clearing(message.clearing_id),
    )


def _parse_receive_escrow(message: settlement_pb2.ReceiveEscrow) -> ReceiveEscrow:
    return ReceiveEscrow(
        auction_id=_parse_auction(message.auction_id),
        amount=parse_money(message.amount),
        from_cell=parse_cell(message.from_cell, "from_cell"),
        clearing_id=_parse_clearing(message.clearing_id),
    )


def _parse_pay_out_escrow(message: settlement_pb2.PayOutEscrow) -> PayOutEscrow:
    return PayOutEscrow(
        auction_id=_parse_auction(message.auction_id),
        amount=parse_money(message.amount),
        to_cell=parse_cell(message.to_cell, "to_cell"),
        clearing_id=_parse_clearing(message.clearing_id),
    )


def _parse_credit_pending(message: settlement_pb2.CreditPending) -> CreditPending:
    return CreditPending(
        user_id=_parse_user(message.user_id),
        auction_id=_parse_auction(message.auction_id),
        amount=parse_money(message.amount),
        from_cell=parse_cell(message.from_cell, "from_cell"),
        clearing_id=_parse_clearing(message.clearing_id),
    )


def _parse_transfer_ownership(message: settlement_pb2.TransferOwnership) -> TransferOwnership:
    return TransferOwnership(
        asset_id=parse_uuid(message.asset_id, "asset_id"),
        auction_id=_parse_auction(message.auction_id),
        from_user_id=parse_uuid(message.from_user_id, "from_user_id"),
        to_user_id=parse_uuid(message.to_user_id, "to_user_id"),
        to_cell=parse_cell(message.to_cell, "to_cell"),
    )


def _parse_settle_pending(message: settlement_pb2.SettlePending) -> SettlePending:
    amount = parse_money(message.amount)
    fee_minor = number_in(message.fee_minor, "fee_minor", AMOUNT_OR_NONE)
    if fee_minor > amount.amount_minor:
        raise invalid("fee_minor", "is more than the amount", fee_minor)
    return SettlePending(
        user_id=_parse_user(message.user_id),
        auction_id=_parse_auction(message.auction_id),
        amount=amount,
        fee_minor=fee_minor,
    )


def _parse_notify_party(message: settlement_pb2.NotifyParty) -> NotifyParty:
    if message.notice not in _NOTICES:
        raise invalid("notice", "is not a value known here", message.notice)
    auction = parse_name(message.auction, "auction", "auctions")
    return NotifyParty(
        user_id=_parse_user(message.user_id),
        auction=auction_name(auction.cell, auction.id),
        amount=parse_money(message.amount),
        notice=_NOTICES[message.notice],
    )


def _parse_reserve_for_bid(message: settlement_pb2.ReserveForBid) -> ReserveForBid:
    return ReserveForBid(
        user_id=_parse_user(message.user_id),
        auction_id=_parse_auction(message.auction_id),
        bid_id=_parse_bid(message.bid_id),
        amount=parse_money(message.amount),
    )


def _parse_submit_bid(message: settlement_pb2.SubmitBid) -> SubmitBid:
    return SubmitBid(
        auction_id=_parse_auction(message.auction_id),
        bid_id=_parse_bid(message.bid_id),
        bidder_id=parse_uuid(message.bidder_user_id, "bidder_user_id"),
        bidder_cell=parse_cell(message.bidder_cell, "bidder_cell"),
        amount=parse_money(message.amount),
        valid_until_ms=number_in(message.valid_until_ms, "valid_until_ms", TIME),
    )


def _parse_release_bid(message: settlement_pb2.ReleaseBid) -> ReleaseBid:
    if message.currency not in CURRENCY_EXPONENTS:
        raise UnknownCurrency(field="currency", currency=message.currency[:SHOWN_MAX])
    return ReleaseBid(
        user_id=_parse_user(message.user_id),
        auction_id=_parse_auction(message.auction_id),
        bid_id=_parse_bid(message.bid_id),
        currency=message.currency,
    )
