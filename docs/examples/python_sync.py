"""Ann in the US pays Ben in the EU, by plain gRPC and the router's one address.

    cellbook up                                   # in another terminal
    python docs/examples/python_sync.py 127.0.0.1:7400

With a cluster that wants proof: CELLBOOK_CA (a PEM file) and CELLBOOK_TOKEN, and the router's public port.
"""

import os
import sys
import time
from pathlib import Path
from uuid import uuid4

import grpc

from cellbook.v1 import ledger_pb2, router_pb2, types_pb2
from cellbook.v1.ledger_pb2_grpc import LedgerServiceStub
from cellbook.v1.router_pb2_grpc import RouterServiceStub
from server.shell.channels.options import OWN_CONNECTIONS, SERVICE_CONFIG  # both are in docs/clients.md

UNKNOWN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.ABORTED}


def channel_to(address: str) -> grpc.Channel:
    options = [OWN_CONNECTIONS, ("grpc.service_config", SERVICE_CONFIG)]
    if ca := os.environ.get("CELLBOOK_CA"):
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(Path(ca).read_bytes()), options)
    return grpc.insecure_channel(address, options)


def whoever(role: str) -> tuple[tuple[str, str], ...]:
    """Proof of who calls; in development a word is enough."""
    if token := os.environ.get("CELLBOOK_TOKEN"):
        return (("authorization", f"Bearer {token}"),)
    return (("cellbook-principal", f"{role}/example"),)


def transferred(ledger: LedgerServiceStub, request: ledger_pb2.TransferRequest) -> ledger_pb2.TransferResponse:
    """Asks again, with the same command_id, while nothing definite is known: it happens once."""
    give_up_s = time.monotonic() + 60
    while True:
        try:
            return ledger.Transfer(request, metadata=whoever("service"), timeout=10)
        except grpc.RpcError as error:
            if error.code() not in UNKNOWN or time.monotonic() > give_up_s:
                raise
            time.sleep(0.2)


def main(address: str) -> None:
    ann, ben = str(uuid4()), str(uuid4())
    with channel_to(address) as channel:
        router, ledger = RouterServiceStub(channel), LedgerServiceStub(channel)
        for user_id, region in ((ann, "us"), (ben, "eu")):
            request = router_pb2.RegisterUserRequest(user_id=user_id, region=region)
            home = router.RegisterUser(request, metadata=whoever("service"), timeout=10).home
            print(f"{user_id} is at home in {home.cell}")
        deposit = ledger_pb2.DepositRequest(
            command_id=str(uuid4()),
            user_id=ann,
            amount=types_pb2.Money(currency="USD", amount_minor=100_00),
            external_reference=f"statement/{uuid4()}",
        )
        ledger.Deposit(deposit, metadata=whoever("treasury"), timeout=10)
        payment = ledger_pb2.TransferRequest(
            command_id=str(uuid4()),
            from_user_id=ann,
            to_user_id=ben,
            amount=types_pb2.Money(currency="USD", amount_minor=12_50),
        )
        transferred(ledger, payment)
        # As after a lost answer: the same command, the same outcome, and no money moves.
        print(f"sent again, it was replayed: {transferred(ledger, payment).receipt.replayed}")
        for name, user_id in (("ann", ann), ("ben", ben)):
            asked = ledger_pb2.GetBalanceRequest(user_id=user_id)
            balances = ledger.GetBalance(asked, metadata=whoever("service"), timeout=10).balances
            print(f"{name} has {balances[0].available_minor} {balances[0].currency}")
        try:
            payment.command_id, payment.amount.amount_minor = str(uuid4()), 1_000_000
            ledger.Transfer(payment, metadata=whoever("service"), timeout=10)
        except grpc.RpcError as refusal:
            print(f"refused: {refusal.details()}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7400")
