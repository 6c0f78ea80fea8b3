"""Events name the proof under which they were made: a token, a certificate, or the cell itself."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from cellbook.v1 import settlement_pb2
from cellbook.v1.settlement_pb2_grpc import SettlementServiceStub
from cells.audit.reconcile.fold import Fold
from cells.domain.commands import CreditPending, Reserve
from cells.domain.values import LegId, Money
from cells.store.ports import LegCall
from server.shell.identity.callers import ON_BEHALF_CERTIFICATE_KEY, ON_BEHALF_KEY
from server.wire.legs import leg_to_proto
from tests import golden
from tests.integration.audit.bank_rig import Bank, open_bank
from tests.integration.services_rig import HERE, THERE
from tests.local_cells import memory_cell, open_user, request, until

BY_CELL = {"by": "cell"}


@pytest.fixture
async def bank(tmp_path: Path) -> AsyncIterator[Bank]:
    async with open_bank(tmp_path) as opened:
        yield opened


async def test_a_certificate_is_named(bank: Bank) -> None:
    """By its fingerprint, in each event of a batch."""
    assert await bank.deposit("bank", batch=True) == [bank.certificate("bank")] * 2


async def test_a_token_is_named(bank: Bank) -> None:
    """It decides, whatever the certificate of the connection is."""
    metadata, named = bank.token("treasury/giro")
    assert await bank.deposit("bank", *metadata) == [named]


async def test_a_call_that_another_process_of_the_cell_forwards_names_its_callers_certificate(bank: Bank) -> None:
    """As that process says; one that names none, or nonsense, leaves it open."""
    said = (ON_BEHALF_KEY, "treasury/bank")
    fingerprint = bank.certificate("bank")["sha256"]
    assert await bank.deposit(HERE, said, (ON_BEHALF_CERTIFICATE_KEY, fingerprint)) == [bank.certificate("bank")]
    assert await bank.deposit(HERE, said) == [None]
    assert await bank.deposit(HERE, said, (ON_BEHALF_CERTIFICATE_KEY, '"}')) == [None]


async def test_what_only_a_process_of_the_cell_may_say_is_not_believed_of_others(bank: Bank) -> None:
    """A caller's own word names no certificate."""
    said = (ON_BEHALF_CERTIFICATE_KEY, "ab" * 32)
    assert await bank.deposit("bank", said) == [bank.certificate("bank")]


async def test_a_leg_names_the_peer_that_asks_for_it(bank: Bank) -> None:
    """By the certificate of its connection."""
    action = CreditPending(
        user_id=bank.user, amount=Money("USD", 10), from_cell=THERE, auction_id=uuid4(), clearing_id=uuid4()
    )
    leg_id = LegId(uuid4(), "credit-in", 1)
    leg = LegCall(leg_id=leg_id, action=action, orchestrator=THERE, causation_id=uuid4(), user_id=bank.user)
    before = len(bank.store.log)
    async with bank.channel(THERE) as channel:
        asked = settlement_pb2.ApplyLegRequest(leg=leg_to_proto(leg))
        await SettlementServiceStub(channel).ApplyLeg(asked, timeout=10)
    assert bank.authorities(before) == [bank.certificate(THERE)]


def test_events_without_an_authority_are_read_as_ever() -> None:
    """Those of earlier versions have the hashes that they had, and come to their states."""
    fold = Fold(cell=golden.CELL)
    page = fold.apply(golden.read().events)
    assert not fold.halted
    assert not page.findings
    said = ['"authority"' in line for line in golden.LOG.read_text().splitlines() if not line.startswith("state ")]
    assert (said[0], said[-1]) == (False, True)


async def test_what_the_cell_does_by_itself_says_so() -> None:
    """A timer's event is the cell's own; a command that nothing has proven names no authority."""
    async with memory_cell() as (cell, store):
        user = await open_user(cell, 100)
        soon_ms = cell.time.clock.wall_ms() + 50
        await cell.execute(request(Reserve(user_id=user, amount=Money("USD", 10), expire_time_ms=soon_ms)))
        await until(lambda: store.log[-1].event_type == "FUNDS_RELEASED")
        said = [json.loads(row.metadata).get("authority") for row in store.log]
    assert said == [*[None] * (len(said) - 1), BY_CELL]
