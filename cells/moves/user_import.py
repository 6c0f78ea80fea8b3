"""A user who arrives from another cell: checks and stores the delivered data before the arrival is decided."""

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from cells.background import LeaderTask, in_background
from cells.domain.account.account import Account
from cells.domain.account.barrier import barrier_id
from cells.domain.audit.refusals import HomeNotVouched
from cells.domain.commands import ApplyLeg, CompensateLeg
from cells.domain.moves.commands import ArriveUser, LeaveUser
from cells.domain.moves.refusals import BaggageMissing, NotMovingThere
from cells.domain.record import replace
from cells.domain.refusals import FieldInvalid, Refused
from cells.domain.sagas.leg import LegResult
from cells.domain.values import Kind, Ref
from cells.home_cache import HomeCache
from cells.moves.user_bundle import Contacts, MovedEvent, MovedPlace, UserBundle
from cells.requests import CommandRequest, Outcome
from cells.store.failures import map_store_errors
from cells.store.ports import Clock, Store, StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Submit = Callable[[CommandRequest], Awaitable[Outcome]]

log = structlog.get_logger()

PAGE = 1_000
# A move takes seconds, and by default at most `move_valid_ms` (10 s), with some delay.
SAID_S = 30.0
# After this time without news a move has ended without an arrival.
STAGED_S = 3_600.0
SWEPT_MAX = 100
SWEEP_EVERY_S = 5.0


@dataclass(slots=True, kw_only=True)
class UserImport(LeaderTask):
    cell: str
    store: Store
    contacts: Contacts
    homes: HomeCache[UUID]
    clock: Clock

    async def check_departed(self, user_id: UUID, saga_id: UUID, *, to: str) -> None:
        """Raises NotMovingThere unless that move is taking, or has taken, the user to that cell."""
        ref = Ref(Kind.ACCOUNT, user_id)
        found = (await map_store_errors(self.store.load([ref]))).get(ref)
        account = found.state if found is not None else None
        move = account.move if isinstance(account, Account) and not account.is_here else None
        if move is None or (move.saga_id, move.to_cell) != (saga_id, to):
            raise NotMovingThere(user_id=str(user_id), cell=to)

    async def receive(self, bundle: UserBundle, *, peer: str) -> dict[str, int]:
        """Stores data of a user who is about to arrive from that cell. An empty call returns what is here.

        Raises HomeNotVouched, BaggageGap, FieldInvalid, Unavailable.
        """
        # Of many parts only some ask the directory. An arrival asks it anyway, by the epoch.
        home = self.homes.known(bundle.user_id, SAID_S)
        if home is None or home.cell != peer:
            await self.require_home(bundle.user_id, peer)
        for event in bundle.events:
            if event.cell == self.cell:
                problem = f"is of {self.cell}, which has its own log"
                raise FieldInvalid(field="events.cell", problem=problem, value=event.cell)
        return await map_store_errors(self.staged(bundle))

    async def staged(self, bundle: UserBundle) -> dict[str, int]:
        """Raises BaggageGap, StoreError."""
        if bundle.called_off:
            await self.store.give_up(bundle.user_id)
            return {}
        await self.store.stage(bundle.user_id, bundle.events, bundle.outcomes)
        return {} if bundle.events or bundle.outcomes else await self.store.held(bundle.user_id)

    @in_background("staged_history", every_s=SWEEP_EVERY_S, outages=(StoreError,))
    async def sweep(self) -> None:
        """Drops data of moves that have not arrived. If such a move continues, it delivers everything again."""
        for user_id in await self.store.stale(idle_s=STAGED_S, limit=SWEPT_MAX):
            while await self.store.drop_staged(user_id, idle_s=STAGED_S, at_most=PAGE):
                pass
            log.info("staged_history_dropped")

    async def require_home(self, user_id: UUID, peer: str, epoch: int | None = None) -> None:
        """Only the user's home may deliver data. The directory is asked each time, because users move."""
        # A move that has begun ends without the router: its last answer stays valid for a moment.
        home = await self.homes.home(user_id, fresh_s=0.0, stale_s=SAID_S)
        if home is None or not home.vouches(peer, home.epoch + 1 if epoch is None else epoch):
            cell, known = home or ("none", 0)
            raise HomeNotVouched(peer=peer, user_id=str(user_id), epoch=epoch or known + 1, cell=cell, known=known)

    async def earlier_events(self, user_id: UUID, *, after: MovedPlace | None, limit: int) -> list[MovedEvent]:
        """The copied history of the account from earlier homes."""
        return await map_store_errors(self.store.moved_events(user_id, after=after, limit=limit))

    async def take(self, request: CommandRequest, command: ApplyLeg | CompensateLeg, submit: "Submit") -> Outcome:
        """Executes a leg, together with the part of a move that is outside the log."""
        return await map_store_errors(self._take(request, command, submit))

    async def _take(self, request: CommandRequest, command: ApplyLeg | CompensateLeg, submit: "Submit") -> Outcome:
        action = command.action
        if isinstance(action, ArriveUser) and isinstance(command, ApplyLeg):
            return await self._taken_in(request, command, action, submit)
        if isinstance(action, LeaveUser) and isinstance(command, ApplyLeg):
            await self.contacts.forget(action.user_id)
        outcome = await submit(request)
        if isinstance(action, ArriveUser):
            if outcome.result.result is LegResult.APPLIED:
                await self.store.settle(action.user_id)
            await self._forget_unless_here(action.user_id)
        return outcome

    async def _taken_in(
        self, request: CommandRequest, command: ApplyLeg, action: ArriveUser, submit: "Submit"
    ) -> Outcome:
        """Decides the arrival once everything is here. Raises BaggageMissing, Refused."""
        barrier = Ref(Kind.LEG, barrier_id(command, self.cell))
        if (await self.store.load([barrier])).get(barrier) is None:
            await self.require_home(action.user_id, action.from_cell, action.epoch)
            await self.store.expect(action.user_id)
            action = await self._unpacked(action)
            await self.contacts.fetch(action.user_id, action.from_cell, command.leg_id.saga_id)
            request = replace(request, command=replace(command, action=action))
        try:
            outcome = await submit(request)
        except Refused as error:
            if error.final:
                await self._forget_unless_here(action.user_id)
            raise
        await self.store.settle(action.user_id)
        return outcome

    async def _forget_unless_here(self, user_id: UUID) -> None:
        """A failed move leaves nothing of the person here."""
        ref = Ref(Kind.ACCOUNT, user_id)
        found = (await self.store.load([ref])).get(ref)
        if found is None or (isinstance(found.state, Account) and found.state.has_left):
            await self.contacts.forget(user_id)

    async def _unpacked(self, action: ArriveUser) -> ArriveUser:
        """Adds the lengths of the copies here. Raises BaggageMissing. A stream has no gaps, so its length is enough."""
        copies, wanted = await self.store.copies(action.user_id), dict[str, int]()
        for home in action.earlier_homes:
            # The last of several stays has all events of the earlier ones.
            wanted[home.cell] = max(home.events, wanted.get(home.cell, 0))
        wanted.pop(self.cell, None)
        for cell, events in wanted.items():
            copy = copies.get(cell)
            found = copy.events if copy is not None and copy.marked else 0
            if found != events:
                raise BaggageMissing(user_id=str(action.user_id), cell=cell, wanted=events, found=found)
        return replace(action, history={cell: copies[cell].chain.hex() for cell in sorted(wanted)})
