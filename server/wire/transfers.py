"""The legs of a transfer to a user of another cell, to and from their messages."""

from cellbook.v1 import settlement_pb2
from cells.domain.commands import ReceiveTransfer, SendTransfer
from server.shell.bounds import (
    TIME,
    number_in,
)
from server.wire.common import cell_in, money_in, money_out, uuid_in


def send_transfer_out(action: SendTransfer) -> settlement_pb2.SendTransfer:
    return settlement_pb2.SendTransfer(
        user_id=str(action.user_id),
        to_user_id=str(action.to_user_id),
        amount=money_out(*action.amount),
        to_cell=action.to_cell,
        clearing_id=str(action.clearing_id),
    )


def receive_transfer_out(action: ReceiveTransfer) -> settlement_pb2.ReceiveTransfer:
    return settlement_pb2.ReceiveTransfer(
        user_id=str(action.user_id),
        from_user_id=str(action.from_user_id),
        amount=money_out(*action.amount),
        from_cell=action.from_cell,
        clearing_id=str(action.clearing_id),
        valid_until_ms=action.valid_until_ms,
    )


def send_transfer_in(message: settlement_pb2.SendTransfer) -> SendTransfer:
    return SendTransfer(
        user_id=uuid_in(message.user_id, "user_id"),
        to_user_id=uuid_in(message.to_user_id, "to_user_id"),
        amount=money_in(message.amount),
        to_cell=cell_in(message.to_cell, "to_cell"),
        clearing_id=uuid_in(message.clearing_id, "clearing_id"),
    )


def receive_transfer_in(message: settlement_pb2.ReceiveTransfer) -> ReceiveTransfer:
    return ReceiveTransfer(
        user_id=uuid_in(message.user_id, "user_id"),
        from_user_id=uuid_in(message.from_user_id, "from_user_id"),
        amount=money_in(message.amount),
        from_cell=cell_in(message.from_cell, "from_cell"),
        clearing_id=uuid_in(message.clearing_id, "clearing_id"),
        valid_until_ms=number_in(message.valid_until_ms, "valid_until_ms", TIME),
    )
