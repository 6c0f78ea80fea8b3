"""How long a question about a long past takes, the first one too, in a store that has grown and in a young one."""

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from statistics import median
from uuid import uuid4

import grpc.aio
from google.protobuf.message import Message

from cellbook.v1 import ledger_pb2, types_pb2
from cellbook.v1.ledger_pb2_grpc import LedgerServiceStub
from lab.member import Member
from server.cli.client import new_command_id
from tests.bench.calls import AUDITOR, BANK, OPERATOR
from tests.bench.measure import Bench
from tests.bench.report import Figure, compared, quantile

NAME = "time_travel"
BATCH = 1_000
CALL_S = 30.0


@dataclass(slots=True, kw_only=True)
class Person:
    """A user with a long past, between two moments of the wall clock, in the cell at `address`."""

    address: str
    user_id: str
    began_ms: int = 0
    ended_ms: int = 0
    # Milliseconds that the first question of all took, right after the last event.
    first_ms: float = 0.0
    # Milliseconds that the same questions took where no hold was asked for.
    balances_ms: list[float] = field(default_factory=list)
    accounts_ms: list[float] = field(default_factory=list)


async def figure(bench: Bench, grown: Member, note: dict[str, str | int]) -> Figure:
    """`grown` serves the store that has grown."""
    async with bench.ground.postgres("young") as postgres, bench.ground.server("young-cell", postgres) as young:
        person, other = [await lived(bench, member.address) for member in (grown, young)]
        seconds = bench.scale.seconds
        values, yardsticks = await bench.in_turns(NAME, lambda: asked(person, seconds), lambda: asked(other, seconds))
    extra = {
        "user_events": bench.scale.past_events + 1,
        "balance_p50_ms": quantile(person.balances_ms, 0.5),
        "balance_p99_ms": quantile(person.balances_ms, 0.99),
        "first_ms": person.first_ms,
        "slowest_ms": max(person.first_ms, *person.accounts_ms),
        "p50_ms": quantile(person.accounts_ms, 0.5),
        "p99_ms": quantile(person.accounts_ms, 0.99),
    }
    return compared(NAME, "ms", values, "young", yardsticks, **extra, **note)


async def lived(bench: Bench, address: str) -> Person:
    """A new user, after so many deposits."""
    person, events = Person(address=address, user_id=str(uuid4())), bench.scale.past_events
    async with grpc.aio.insecure_channel(address) as channel:
        ledger = LedgerServiceStub(channel)
        opening = ledger_pb2.OpenAccountRequest(command_id=new_command_id(), user_id=person.user_id, home_epoch=1)
        await ledger.OpenAccount(opening, metadata=OPERATOR, timeout=CALL_S)
        person.began_ms = time.time_ns() // 1_000_000
        with bench.stage(f"a user with {events:,} events", events) as stage:
            for first in range(0, events, BATCH):
                items = [deposit(person.user_id, number) for number in range(first, min(first + BATCH, events))]
                request = ledger_pb2.BatchDepositRequest(items=items)
                reply = await ledger.BatchDeposit(request, metadata=BANK, timeout=CALL_S)
                assert all(result.HasField("accepted") for result in reply.results)
                stage.advance(len(items))
        person.ended_ms = time.time_ns() // 1_000_000
        question = ledger_pb2.GetAccountRequest(user_id=person.user_id, as_of=types_pb2.AsOf(time_ms=person.ended_ms))
        person.first_ms = await timed_ms(ledger.GetAccount, question)
    return person


def deposit(user_id: str, number: int) -> ledger_pb2.DepositRequest:
    return ledger_pb2.DepositRequest(
        command_id=new_command_id(),
        user_id=user_id,
        amount=types_pb2.Money(currency="USD", amount_minor=1 + number % 100),
        external_reference=f"{user_id}/{number}",
    )


async def asked(person: Person, seconds: float) -> float:
    """The median of questions one after the other, each for a moment of its own; in turns with holds and without."""
    took_ms: list[float] = []
    ends_s = time.monotonic() + seconds
    async with grpc.aio.insecure_channel(person.address) as channel:
        ledger = LedgerServiceStub(channel)
        while time.monotonic() < ends_s:
            as_of = types_pb2.AsOf(time_ms=random.randrange(person.began_ms, person.ended_ms))
            took_ms.append(
                await timed_ms(ledger.GetAccount, ledger_pb2.GetAccountRequest(user_id=person.user_id, as_of=as_of))
            )
            person.balances_ms.append(
                await timed_ms(ledger.GetBalance, ledger_pb2.GetBalanceRequest(user_id=person.user_id, as_of=as_of))
            )
    person.accounts_ms += took_ms
    return median(took_ms)


async def timed_ms(method: Callable[..., Awaitable[object]], request: Message) -> float:
    began_s = time.perf_counter()
    await method(request, metadata=AUDITOR, timeout=CALL_S)
    return (time.perf_counter() - began_s) * 1_000
