"""Ann in the US pays Ben in the EU, by the smart client: each call straight to the cell that it is for.

cellbook up                                   # in another terminal
python docs/examples/python_async.py 127.0.0.1:7400
"""

import asyncio
import sys
from uuid import uuid4

import grpc

from cellbook.v1 import event_pb2, ledger_pb2, router_pb2, types_pb2
from router.client import Client
from server.shell.calls.statuses import refusal_from

BANK = (("cellbook-principal", "treasury/example"),)


def usd(amount_minor: int) -> types_pb2.Money:
    return types_pb2.Money(currency="USD", amount_minor=amount_minor)


async def main(address: str) -> None:
    ann, ben = str(uuid4()), str(uuid4())
    async with Client(address, principal="service/example") as client:
        for user_id, region in ((ann, "us"), (ben, "eu")):
            await client.router.RegisterUser(router_pb2.RegisterUserRequest(user_id=user_id, region=region))
            print(f"{user_id} is at home in {(await client.home(user_id)).cell}")
        deposit = ledger_pb2.DepositRequest(
            command_id=str(uuid4()), user_id=ann, amount=usd(100_00), external_reference=f"statement/{uuid4()}"
        )
        await client.ledger.Deposit(deposit, metadata=BANK)
        payment = ledger_pb2.TransferRequest(
            command_id=str(uuid4()), from_user_id=ann, to_user_id=ben, amount=usd(12_50)
        )
        await client.ledger.Transfer(payment)
        # As after a lost answer: the same command, the same outcome, and no money moves.
        again = await client.ledger.Transfer(payment)
        print(f"sent again, it was replayed: {again.receipt.replayed}")
        for name, user_id in (("ann", ann), ("ben", ben)):
            balances = (await client.ledger.GetBalance(ledger_pb2.GetBalanceRequest(user_id=user_id))).balances
            print(f"{name} has {balances[0].available_minor} {balances[0].currency}")
        try:
            payment.command_id, payment.amount.amount_minor = str(uuid4()), 1_000_000
            await client.ledger.Transfer(payment)
        except grpc.aio.AioRpcError as error:
            refused = refusal_from(error)
            print(f"refused: {refused.reason if refused else 'nothing definite, ask again'}")
        await follow(client, ann)


async def follow(client: Client, user_id: str) -> None:
    """What has happened to somebody, from their cell's log: the past first, and then as it comes."""
    wanted = event_pb2.SubscribeRequest(filter=event_pb2.EventFilter(user_id=user_id))
    cell = (await client.home(user_id)).cell
    async for item in client.events.Subscribe(wanted, metadata=(("cellbook-cell", cell),)):
        if item.HasField("caught_up"):
            return
        print(f"{item.event.position}: {item.event.event_type}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7400"))
