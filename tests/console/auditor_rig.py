"""What the tests of the auditor's pages look at: a sale over three cells, and texts that would like to be scripts."""

import asyncio
from dataclasses import dataclass
from uuid import uuid4

import pytest

from cellbook.v1 import audit_pb2, event_pb2, ledger_pb2, types_pb2
from lab.market import POLL_S, Market, Person, Won
from server.cli.client import BANK, CellStubs, LedgerRefusal, new_command_id
from tests.console.rig import SCRIPT

AUDITOR = "auditor/cellbook"
CELL = "eu-west"
SIGNED_WITHIN_S = 60.0
REFERENCE = f"STATEMENT 7 {uuid4().hex} {SCRIPT}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """What was played: a settled sale over three cells, and a withdrawal that was refused."""

    sale: Won
    saga_id: str
    deposit: event_pb2.Event
    withdrawal_id: str

    @property
    def payer(self) -> Person:
        return self.sale.winner


async def signed(cell: CellStubs) -> None:
    """Waits until the cell has signed all that is in its log now."""
    position = 0
    async with asyncio.timeout(SIGNED_WITHIN_S):
        while True:
            try:
                reply = await cell.ask(cell.audit.GetCheckpoint, audit_pb2.GetCheckpointRequest())
            except LedgerRefusal as refusal:
                if refusal.reason != "NOT_SIGNED_YET":
                    raise
            else:
                position = position or reply.position
                if reply.last_size >= position:
                    return
            await asyncio.sleep(POLL_S)


async def play(market: Market) -> Books:
    sale = await market.won(
        SCRIPT, winner_cell=CELL, auction_cell="us-east", seller_cell="ap-tokyo", funds_minor=50_000, price_minor=700
    )
    saga_id = (await market.close(sale.auction)).saga_id
    ledger = market.cells[CELL].ledger
    money = types_pb2.Money(currency="USD", amount_minor=12_345)
    deposit = ledger_pb2.DepositRequest(
        command_id=new_command_id(), user_id=sale.winner.user_id, amount=money, external_reference=REFERENCE
    )
    await market.client.call(ledger.Deposit, deposit, BANK)
    too_much = types_pb2.Money(currency="USD", amount_minor=10**12)
    withdrawal = ledger_pb2.WithdrawRequest(
        command_id=new_command_id(), user_id=sale.winner.user_id, amount=too_much, external_reference="OUT 1"
    )
    with pytest.raises(LedgerRefusal):
        await market.client.call(ledger.Withdraw, withdrawal, BANK)
    await market.wait_until_quiet()
    await asyncio.gather(*map(signed, market.cells.values()))
    of_payer = event_pb2.EventFilter(event_types=["DEPOSITED"], aggregate_id=sale.winner.user_id)
    return Books(
        sale=sale,
        saga_id=saga_id,
        deposit=(await market.client.log(market.cells[CELL], of_payer))[-1],
        withdrawal_id=withdrawal.command_id,
    )
