"""The legs of a transfer to a user of another cell, to and from their messages."""

from cellbook.v1 import settlement_pb2
from cells.domain.commands import ReceiveTransfer, SendTransfer
from server.shell.fields.bounds import (
    TIME,
    number_in,
)
from server.wire.common import money_to_proto, parse_cell, parse_money, parse_uuid


def send_transfer_to_proto(action: SendTransfer) -> settlement_pb2.SendTransfer:
    return settlement_pb2.SendTransfer(
        user_id=str(action.user_id),
        to_user_id=str(action.to_user_id),
        amount=money_to_proto(*action.amount),
        to_cell=action.to_cell,
        clearing_id=str(action.clearing_id),
    )


def receive_transfer_to_proto(action: ReceiveTransfer) -> settlement_pb2.ReceiveTransfer:
    return settlement_pb2.ReceiveTransfer(
        user_id=str(action.user_id),
        from_user_id=str(action.from_user_id),
        amount=money_to_proto(*action.amount),
        from_cell=action.from_cell,
        clearing_id=str(action.clearing_id),
        valid_until_ms=action.valid_until_ms,
    )


def parse_send_transfer(message: settlement_pb2.SendTransfer) -> SendTransfer:
    return SendTransfer(
        user_id=parse_uuid(message.user_id, "user_id"),
        to_user_id=parse_uuid(message.to_user_id, "to_user_id"),
        amount=parse_money(message.amount),
        to_cell=parse_cell(message.to_cell, "to_cell"),
        clearing_id=parse_uuid(message.clearing_id, "clearing_id"),
    )


def parse_receive_transfer(message: settlement_pb2.ReceiveTransfer) -> ReceiveTransfer:
    return ReceiveTransfer(
        user_id=parse_uuid(message.user_id, "user_id"),
        from_user_id=parse_uuid(message.from_user_id, "from_user_id"),
        amount=parse_money(message.amount),
        from_cell=parse_cell(message.from_cell, "from_cell"),
        clearing_id=parse_uuid(message.clearing_id, "clearing_id"),
        valid_until_ms=number_in(message.valid_until_ms, "valid_until_ms", TIME),
    )
