"""Moving users between cells. The user's home cell runs the move as a saga; the router requests it and records its end.

The cells decide a user's home, under an epoch: they report to this directory, which uses the highest epoch that it has
received.

A move is stored under its caller and id before any cell is asked, with the home and epoch that it starts from, and
later with its answer. A repeated request gets that answer, wherever the user has moved since.
"""

from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from google.rpc import status_pb2

from cellbook.v1 import saga_pb2
from cells.domain.moves.home import Home
from cells.domain.moves.refusals import AlreadyAtHome, HomeChanged
from cells.domain.refusals import CommandIdReused, Refused, UserNotFound, WrongCell
from router.directory.registration import Accounts
from router.directory.topology import Cell, CellState, LiveTopology
from router.directory.users import Directory, UserEntry, UserState
from router.moves.calls import MoveCalls
from router.moves.store import Move, MoveRequest, MoveStore
from router.refusals import CellTakesNobody, MoveNotFound, MoveUnknown, NoSuchCell, NotInRegion
from server.shell.calls.statuses import of_status, to_status

BEGIN_TIMEOUT_S = 15.0
OPEN_TIMEOUT_S = 5.0
# A restored directory may have to follow a user through several homes.
HOPS_MAX = 4


class Began(NamedTuple):
    move: Move
    # False: it is under way.
    done: bool
    # It was answered before, and this is that answer.
    replayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    store: MoveStore
    directory: Directory
    accounts: Accounts
    topology: LiveTopology
    calls: MoveCalls

    async def move(self, request: MoveRequest, *, timeout_s: float | None) -> Began:
        """Returns when the user has arrived, or when the time is up with the move under way.

        Raises:
            CommandIdReused: the caller has asked for another move under this id.
            NoSuchCell, CellTakesNobody, NotInRegion, AlreadyAtHome, UserNotFound: nothing was done.
            Refused: the home cell's refusal: the move was called off, or another one is under way.
            MoveUnknown: the outcome is unknown; repeat the request under the same id to continue.
        """
        move = await self.store.find(request.principal, request.command_id) or await self._first(request)
        if move.request != request:
            raise CommandIdReused(command_id=str(request.command_id))
        if move.done:
            return Began(move, done=True, replayed=True)
        if move.refusal:
            refused = of_status(status_pb2.Status.FromString(move.refusal))
            raise refused or self._unknown(move, "it was refused for a reason that only a later version knows")
        return await self._driven(move, BEGIN_TIMEOUT_S if timeout_s is None else timeout_s * 0.9)

    async def saga_of(self, user_id: UUID) -> tuple[Move, saga_pb2.Saga | None]:
        """The last move of the user; None: its saga has not begun. Raises MoveNotFound, MoveUnknown."""
        move = await self.store.last_of(user_id)
        if move is None:
            raise MoveNotFound(user_id=str(user_id))
        return move, await self.calls.saga(move)

    async def _first(self, request: MoveRequest) -> Move:
        """Stores a new request, with the home that the user is to leave, or with its refusal."""
        try:
            home, residency = await self._home_to_leave(request)
        except Refused as refused:
            if not refused.stored:
                raise
            return await self.store.add(Move(request, "", 0, "", refusal=to_status(refused).SerializeToString()))
        return await self.store.add(Move(request, home.cell.name, home.epoch, residency))

    async def _home_to_leave(self, request: MoveRequest) -> tuple[UserEntry, str]:
        """The user's home, with its account open, and the residency after the move."""
        home, target = await self.directory.find(request.user_id), self.topology.now.cell(request.to_cell)
        if home is None:
            raise UserNotFound(user_id=str(request.user_id))
        residency = home.residency if request.region is None else request.region
        self._check_target(home, target, request.to_cell, residency)
        if home.state is UserState.OPENING:
            await self.accounts.open(home, timeout_s=OPEN_TIMEOUT_S)
            await self.directory.mark_open(home)
        return home, residency

    def _check_target(self, home: UserEntry, target: Cell | None, cell: str, residency: str) -> None:
        if target is None:
            raise NoSuchCell(cell=cell)
        if home.cell.name == cell:
            raise AlreadyAtHome(user_id=str(home.user_id), cell=cell)
        if residency not in {"", target.region}:
            raise NotInRegion(user_id=str(home.user_id), cell=cell, residency=residency)
        if target.state is not CellState.ACTIVE:
            raise CellTakesNobody(cell=cell, state=target.state.value)

    async def _driven(self, move: Move, timeout_s: float) -> Began:
        """Calls the user's home until the move is answered, and stores the answer."""
        for _ in range(HOPS_MAX):
            try:
                done = await self._begun(move, timeout_s)
            except (WrongCell, HomeChanged) as error:
                move = await self._redirected(move, error)
            except Refused as refused:
                if refused.stored:
                    await self.store.answer(move._replace(refusal=to_status(refused).SerializeToString()))
                raise
            else:
                move = move._replace(done=done)
                if done:
                    await self.store.answer(move)
                return Began(move, done=done)
        raise self._unknown(move, "the user moved again each time: send it again")

    async def _begun(self, move: Move, timeout_s: float) -> bool:
        """Whether the move is done. A former home may have forgotten the command, but never its saga.

        Raises as `MoveCalls.begin`; WrongCell and HomeChanged if it has not begun there and never will.
        """
        try:
            return await self.calls.begin(move, timeout_s)
        except (WrongCell, HomeChanged):
            saga = await self.calls.saga(move)
            if saga is None:
                raise
        if saga.state == saga_pb2.SAGA_STATE_COMPENSATED:
            raise self._unknown(move, f"saga {saga.saga_id} of it was called off: {saga.failure_reason}")
        return bool(saga.state == saga_pb2.SAGA_STATE_COMPLETED)

    async def _redirected(self, move: Move, error: WrongCell | HomeChanged) -> Move:
        """The user does not live where this directory believed."""
        user_id, home = move.request.user_id, Home.named_in(error.facts)
        await self.directory.adopt(user_id, home, None, by=move.from_cell)
        if home.cell == move.request.to_cell:
            refused = AlreadyAtHome(user_id=str(user_id), cell=home.cell)
            await self.store.answer(move._replace(refusal=to_status(refused).SerializeToString()))
            raise refused
        move = move._replace(from_cell=home.cell, from_epoch=home.epoch)
        await self.store.redirect(move)
        return move

    def _unknown(self, move: Move, problem: str) -> MoveUnknown:
        return MoveUnknown(user_id=str(move.request.user_id), cell=move.from_cell, problem=problem)
