"""The same work with TigerBeetle: `python -m tests.bench.peers.tiger ADDRESS`.

A hold is a pending transfer from the bidder to the auction, under the bid's id. A bid that outbids is a linked pair:
the old hold is voided and the new one made, or neither. TigerBeetle knows no highest bid: this client remembers it, and
has to be the only one.
"""

import asyncio
import sys
from collections import ChainMap
from collections.abc import Iterator, MutableMapping, Sequence

from tigerbeetle import (
    Account,
    AccountFlags,
    ClientSync,
    CreateAccountStatus,
    CreateTransferStatus,
    Transfer,
    TransferFlags,
)

from tests.bench.peers.work import ACCEPTED, FUNDS_MINOR, REUSED, Bid, Size, Totals, WorkFailed, serve

CLUSTER, LEDGER, CODE = 0, 1, 1
BANK = 1
USERS_FROM, AUCTIONS_FROM = 1 << 32, 1 << 33
# Of a request: TigerBeetle takes some more.
EVENTS_MAX = 8_000
# A voiding transfer has the bid's id but for this bit, which is set in every UUID's.
VOID_BIT = 1 << 63
# Of each auction the highest bid, whose hold is pending.
Highest = MutableMapping[int, Bid]


class TigerLedger:
    blocks = True

    def __init__(self, address: str) -> None:
        self.client = ClientSync(cluster_id=CLUSTER, replica_addresses=address)
        self.size = Size(users=0, auctions=0)
        self.highest: Highest = {}

    async def found(self, size: Size) -> None:
        self.size = size
        kept = AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS | AccountFlags.HISTORY
        users = [Account(id=USERS_FROM + number, ledger=LEDGER, code=CODE, flags=kept) for number in range(size.users)]
        others = [BANK, *(AUCTIONS_FROM + number for number in range(size.auctions))]
        accounts = [*users, *(Account(id=id_, ledger=LEDGER, code=CODE) for id_ in others)]
        deposits = [
            Transfer(
                id=user.id,
                debit_account_id=BANK,
                credit_account_id=user.id,
                amount=FUNDS_MINOR,
                ledger=LEDGER,
                code=CODE,
            )
            for user in users
        ]
        for first in range(0, len(accounts), EVENTS_MAX):
            results = self.client.create_accounts(accounts[first : first + EVENTS_MAX])
            if {result.status for result in results} != {CreateAccountStatus.CREATED}:
                raise WorkFailed(f"accounts were not made: {results[0]}")
        for first in range(0, len(deposits), EVENTS_MAX):
            if set(self.sent(deposits[first : first + EVENTS_MAX])) != {CreateTransferStatus.CREATED}:
                raise WorkFailed("deposits were not made")

    async def place(self, placed: Sequence[Bid]) -> list[str]:
        highest: Highest = ChainMap({}, self.highest)
        chains = [list(self.chain(bid, highest)) for bid in placed]
        statuses = iter(self.sent([transfer for chain in chains for transfer in chain]))
        outcomes = []
        for bid, chain in zip(placed, chains, strict=True):
            answers = {next(statuses) for _ in chain}
            if answers == {CreateTransferStatus.CREATED}:
                self.highest[bid.auction] = bid
                outcomes.append(ACCEPTED)
            else:
                outcomes.append(self.stored(bid))
        return outcomes

    def chain(self, bid: Bid, highest: Highest) -> Iterator[Transfer]:
        """None where the bid is too low."""
        held = highest.get(bid.auction)
        if held and bid.amount_minor <= held.amount_minor:
            return
        highest[bid.auction] = bid
        if held:
            yield Transfer(
                id=bid.command_id.int ^ VOID_BIT,
                pending_id=held.command_id.int,
                flags=TransferFlags.VOID_PENDING_TRANSFER | TransferFlags.LINKED,
            )
        yield Transfer(
            id=bid.command_id.int,
            debit_account_id=USERS_FROM + bid.bidder,
            credit_account_id=AUCTIONS_FROM + bid.auction,
            amount=bid.amount_minor,
            ledger=LEDGER,
            code=CODE,
            flags=TransferFlags.PENDING,
        )

    def sent(self, transfers: list[Transfer]) -> list[CreateTransferStatus]:
        results = self.client.create_transfers(transfers) if transfers else []
        if len(results) != len(transfers):
            raise WorkFailed(f"{len(results)} of {len(transfers)} transfers were answered")
        return [result.status for result in results]

    def stored(self, bid: Bid) -> str:
        """What became of a bid that was not made now."""
        for hold in self.client.lookup_transfers([bid.command_id.int]):
            same = (hold.debit_account_id, hold.credit_account_id, hold.amount) == (
                USERS_FROM + bid.bidder,
                AUCTIONS_FROM + bid.auction,
                bid.amount_minor,
            )
            return ACCEPTED if same else REUSED
        return "REFUSED"

    async def totals(self) -> Totals:
        users = self.accounts(USERS_FROM, self.size.users)
        auctions = self.accounts(AUCTIONS_FROM, self.size.auctions)
        held = dict.fromkeys(range(self.size.users), 0)
        for bid in self.highest.values():
            held[bid.bidder] += bid.amount_minor
        return Totals(
            available_minor=sum(each.credits_posted - each.debits_posted - each.debits_pending for each in users),
            reserved_minor=sum(each.debits_pending for each in users),
            highest_minor=sum(each.credits_pending for each in auctions),
            wrong_holds=sum(each.debits_pending != held[each.id - USERS_FROM] for each in users),
            accepted=None,
        )

    def accounts(self, first: int, how_many: int) -> list[Account]:
        ids = range(first, first + how_many)
        parts = (list(ids[start : start + EVENTS_MAX]) for start in range(0, how_many, EVENTS_MAX))
        return [account for part in parts for account in self.client.lookup_accounts(part)]


if __name__ == "__main__":
    asyncio.run(serve(TigerLedger(sys.argv[1])))
