"""A story of two cells in which everything happens that can, played on any store: every kind of event, in us-east."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from cells.domain.audit.events import Access, Mismatch
from cells.domain.commands import (
    ApplyLeg,
    CancelAuction,
    Capture,
    CloseAuction,
    Command,
    CompensateLeg,
    CompensateSaga,
    CreditPending,
    PauseSaga,
    PlaceBid,
    RebuildProjections,
    ReceiveTransfer,
    RecordAccesses,
    Release,
    ReportMismatches,
    Reserve,
    ResumeSaga,
    SkipLeg,
    Transfer,
    Withdraw,
)
from cells.domain.decision import LedgerPolicy
from cells.domain.moves.commands import BeginMove
from cells.domain.record import replace
from cells.domain.refusals import InsufficientFunds, Refused
from cells.domain.sagas.leg import LegMark
from cells.domain.sagas.saga_rules import leg_id_of
from cells.domain.values import Direction, LegId, Money
from cells.notices import Notice
from cells.requests import Outcome
from cells.store.ports import LegCall, PeerUnknown, Store
from tests.doubles.failpoints import holding
from tests.local_cells import (
    DirectPeers,
    FixedDirectory,
    LocalCell,
    Mailbox,
    build_cell,
    deposit,
    leading,
    open_auction,
    open_user,
    request,
    until_async,
)

HERE, AWAY = "us-east", "eu-west"


def usd(amount_minor: int) -> Money:
    return Money("USD", amount_minor)


@dataclass(slots=True)
class LossyPeers(DirectPeers):
    # Cells whose answers are lost on the way back.
    lost: set[str] = field(default_factory=set)
    # Cells that take no leg, and undo what they have not taken.
    deaf: set[str] = field(default_factory=set)

    async def request_leg(self, cell: str, call: LegCall, direction: Direction, *, timeout_s: float) -> LegMark:
        if cell in self.deaf and direction is Direction.ACTION:
            raise PeerUnknown(f"{cell} takes nothing")
        answer = await DirectPeers.request_leg(self, cell, call, direction, timeout_s=timeout_s)
        if cell in self.lost and direction is Direction.ACTION:
            raise PeerUnknown(f"the answer of {cell} was lost")
        return answer


class BrokenMail:
    async def notify(self, notice: Notice) -> str:
        raise OSError(f"no mail for {notice.user_id}")


@dataclass(slots=True, kw_only=True)
class Story:
    here: LocalCell
    away: LocalCell
    peers: LossyPeers
    ann: UUID
    ben: UUID
    directory: FixedDirectory
    carl: UUID

    async def do(self, command: Command, cell: LocalCell | None = None) -> Outcome:
        return await (cell or self.here).execute(request(command))

    async def tell(self) -> None:
        await self._payments()
        await self._auctions()
        await self._turned_back()
        await self._late_transfer()
        await self._unanswered_transfer()
        await self._legs_of_others()
        await self._audits()
        await self._moves()
        await self._moved_while_it_settles()

    async def _payments(self) -> None:
        await self.do(Withdraw(user_id=self.ann, amount=usd(500), external_reference=str(uuid4())))
        await self.do(Transfer(from_user_id=self.ann, to_user_id=self.ben, amount=usd(700)))
        await self.do(Transfer(from_user_id=self.ann, to_user_id=self.carl, amount=usd(900)))
        with suppress(InsufficientFunds):
            await self.do(Transfer(from_user_id=self.ann, to_user_id=self.ben, amount=usd(10**12)))
        for release in (True, False):
            held = await self.do(Reserve(user_id=self.ben, amount=usd(50), expire_time_ms=None))
            hold_id = held.result.hold_id
            if release:
                await self.do(Release(user_id=self.ben, hold_id=hold_id))
            else:
                await self.do(Capture(user_id=self.ben, hold_id=hold_id, to_user_id=self.ann, amount_minor=None))

    async def _auctions(self) -> None:
        """One that is won from away, and one that is called off."""
        lamp = await open_auction(self.here, self.ann)
        await self.bid(lamp, self.carl, 200, self.away)
        await self.bid(lamp, self.ben, 300, maximum_minor=350)
        await self.bid(lamp, self.carl, 310, self.away)
        await self.bid(lamp, self.carl, 400, self.away, maximum_minor=500)
        self.here.notifier = BrokenMail()
        await self.do(CloseAuction(auction_id=lamp, by_command=True))
        saga_id = await self._saga_at(lamp, "notify-seller")
        self.here.notifier = Mailbox()
        saga = (await self.here.saga(saga_id)).state
        await self.do(SkipLeg(leg_id=leg_id_of(saga, saga_id), failure_reason="NOTICE_NOT_SENT"))
        await self._ended(lamp)
        chair = await open_auction(self.here, self.ann)
        await self.bid(chair, self.ben, 300)
        await self.do(CancelAuction(auction_id=chair))

    async def _turned_back(self) -> None:
        """A settlement that cannot reach the seller, and is turned back by an operator."""
        writing_table = await open_auction(self.here, self.carl, seller_cell=AWAY)
        await self.bid(writing_table, self.ben, 600)
        self.peers.cut.add(AWAY)
        await self.do(CloseAuction(auction_id=writing_table, by_command=True))
        saga_id = await self._saga_at(writing_table, "credit")
        await self.do(PauseSaga(saga_id=saga_id, note="look"))
        await self.do(ResumeSaga(saga_id=saga_id, note="looked"))
        await self.do(CompensateSaga(saga_id=saga_id, note="enough"))
        self.peers.cut.clear()
        await self._ended(writing_table)

    async def _late_transfer(self) -> None:
        self.peers.cut.add(AWAY)
        with self._impatient(transfer_valid_ms=300):
            transfer = Transfer(from_user_id=self.ben, to_user_id=self.carl, amount=usd(11))
            late = asyncio.create_task(self.do(transfer))
            await asyncio.sleep(0.5)
        self.peers.cut.clear()
        with suppress(Refused):
            await late

    async def _unanswered_transfer(self) -> None:
        """It has arrived, and nobody knows: asked to undo it, the other end says so."""
        self.peers.lost.add(AWAY)
        transfer = Transfer(from_user_id=self.ben, to_user_id=self.carl, amount=usd(17), to_cell=AWAY)
        with self._impatient(transfer_valid_ms=300), suppress(Refused):
            await self.do(transfer)
        self.peers.lost.clear()

    async def _legs_of_others(self) -> None:
        """As sagas of the other cell ask for them."""
        leg = LegId(uuid4(), "credit-in", 1)
        credit = CreditPending(user_id=self.ann, auction_id=uuid4(), amount=usd(5), from_cell=AWAY, clearing_id=uuid4())
        await self.do(ApplyLeg(leg_id=leg, action=credit, orchestrator=AWAY))
        await self.do(CompensateLeg(leg_id=leg, action=credit, orchestrator=AWAY))
        await self.do(CompensateLeg(leg_id=LegId(uuid4(), "credit-in", 1), action=credit, orchestrator=AWAY))
        receive = ReceiveTransfer(
            user_id=self.ann,
            from_user_id=self.carl,
            amount=usd(6),
            from_cell=AWAY,
            clearing_id=uuid4(),
            valid_until_ms=self.here.time.clock.wall_ms() + 60_000,
        )
        await self.do(ApplyLeg(leg_id=LegId(uuid4(), "receive", 1), action=receive, orchestrator=AWAY))

    async def _moves(self) -> None:
        """Somebody moves away, and comes back."""
        eve = await open_user(self.here, 1_000, self.directory)
        await self._move(self.here, eve, AWAY)
        await self.away.execute(replace(request(deposit(eve, 7)), user_id=eve))
        await self._move(self.away, eve, HERE)
        self.peers.deaf.add(AWAY)
        with self._impatient(move_valid_ms=500), suppress(Refused):
            await self._move(self.here, eve, AWAY)
        self.peers.deaf.clear()

    async def _moved_while_it_settles(self) -> None:
        """The winner comes here from away, when the money is on its way already."""
        eve, vase = await open_user(self.away, 1_000, self.directory), await open_auction(self.here, self.ann)
        await self.bid(vase, eve, 200, self.away)
        with holding(self.here.engine.steps, "escrow-in"):
            await self.do(CloseAuction(auction_id=vase, by_command=True))
            await self._saga_at(vase, "escrow-in")
            await self._move(self.away, eve, HERE)
        await self._ended(vase)

    @contextmanager
    def _impatient(self, **policy: int) -> Iterator[None]:
        """What begins here meanwhile may not take long."""
        decider = self.here.writer._decider
        before, decider.policy = decider.policy, replace(decider.policy, **policy)
        yield
        decider.policy = before

    async def _move(self, cell: LocalCell, user_id: UUID, to: str) -> None:
        moving = request(BeginMove(user_id=user_id, to_cell=to, region=None))
        await cell.execute(replace(moving, user_id=user_id))

    async def _audits(self) -> None:
        """As an audit of the cell's own tables records them, with nothing to put right."""
        found = Mismatch(check="projection", row="accounts x", expected="one", found="another")
        position = self.here.time.durable_position
        await self.do(
            ReportMismatches(full=True, from_log_position=0, log_position=position, findings_count=1, findings=(found,))
        )
        await self.do(RebuildProjections(states=(), house=(), note="nothing"))
        read = Access(principal="auditor/anna", method="GetBalance", subject=str(uuid4()), minute_ms=1_764_288_000_000)
        await self.do(RecordAccesses(accesses=(read,)))

    async def bid(
        self,
        auction: UUID,
        bidder: UUID,
        amount_minor: int,
        cell: LocalCell | None = None,
        *,
        maximum_minor: int | None = None,
    ) -> None:
        maximum = None if maximum_minor is None else usd(maximum_minor)
        bid = PlaceBid(
            auction_id=auction, auction_cell=HERE, bidder_id=bidder, amount=usd(amount_minor), maximum=maximum
        )
        await self.do(bid, cell)

    async def _saga_at(self, auction: UUID, leg: str) -> UUID:
        """The settlement, once it has come to a leg here that does not go on by itself."""
        saga_id = (await self.here.auction(auction)).state.saga_id
        assert saga_id is not None

        async def there() -> bool:
            spec = (await self.here.saga(saga_id)).state.current
            return spec is not None and leg in spec.leg

        await until_async(there)
        return saga_id

    async def _ended(self, auction: UUID) -> None:
        saga_id = (await self.here.auction(auction)).state.saga_id
        assert saga_id is not None
        await until_async(lambda: self.here.saga(saga_id), lambda found: found.state.ended, timeout_s=30.0)

    async def unfinished_transfer(self) -> asyncio.Task[Outcome]:
        """Its other end cannot be reached; under way for as long as it may take."""
        self.peers.cut.add(AWAY)
        transfer = Transfer(from_user_id=self.ann, to_user_id=self.carl, amount=usd(13), to_cell=AWAY)
        task = asyncio.create_task(self.do(transfer))
        await until_async(self._in_flight)
        return task

    async def _in_flight(self) -> bool:
        return bool(self.here.engine is not None and self.here.engine.in_flight)


async def opened_story(stack: AsyncExitStack, here: Store, away: Store) -> Story:
    """Both cells lead until the stack is closed; everybody has money."""
    directory = FixedDirectory()
    peers = LossyPeers(directory=directory)
    policy = LedgerPolicy(transfer_valid_ms=60_000, move_valid_ms=60_000)
    cells = [
        build_cell(name, store, peers=peers, directory=directory, policy=policy)
        for name, store in ((HERE, here), (AWAY, away))
    ]
    await stack.enter_async_context(leading(*cells))
    ann, ben = await open_user(cells[0], 100_000, directory), await open_user(cells[0], 100_000, directory)
    carl = await open_user(cells[1], 100_000, directory)
    return Story(here=cells[0], away=cells[1], peers=peers, directory=directory, ann=ann, ben=ben, carl=carl)
