"""Moving users between cells. The move itself is a saga of the user's home; here it is asked for, and its end noted.

Which cell is home to a user is decided there, under an epoch: this directory is told by the cells, and goes by the
highest epoch that it has heard of.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID, uuid5

import asyncpg
import grpc.aio

from cellbook.v1 import move_pb2, move_pb2_grpc, saga_pb2, saga_pb2_grpc
from router.accounts import ROUTER, Accounts
from router.database import Database
from router.directory import Directory, Home, UserState
from router.refusals import CellTakesNobody, MoveNotFound, MoveUnknown, NoSuchCell, NotInRegion
from router.topology import Cell, CellState, LiveTopology
from server.shell.client import Caller
from server.shell.places import Places
from server.shell.queries import queries
from server.shell.refusals import AlreadyAtHome, Refused, UserNotFound, WrongCell
from server.shell.statuses import refusal_in

BEGIN_TIMEOUT_S = 15.0
ASK_TIMEOUT_S = 5.0
OPEN_TIMEOUT_S = 5.0
# A directory that was restored may have to follow a user through several homes.
HOPS_MAX = 4
IN_PROGRESS = "IN_PROGRESS"


class Wish(NamedTuple):
    """A move that was asked for."""

    user_id: UUID
    command_id: UUID
    from_cell: str
    to_cell: str
    residency: str


class Began(NamedTuple):
    wish: Wish
    saga_id: str
    # False: it is under way.
    done: bool


class MoveStore:
    """Of the directory's database: homes as cells tell them, and the last move of each user.

    Raises:
        DirectoryUnavailable: from every method.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = queries("router.sql", "moves.sql")

    async def adopt(self, user_id: UUID, cell: str, epoch: int, residency: str | None) -> bool:
        """Takes note of a home; False where one of that epoch or a higher one is known.

        Raises NotInRegion: the user is bound to another region, and the directory does not say otherwise by hearsay.
        """
        try:
            async with self._database.connection() as connection:
                tag = await connection.execute(self._sql["adopt"], user_id, cell, epoch, residency)
        except asyncpg.CheckViolationError:
            raise NotInRegion(user_id=str(user_id), cell=cell, residency=residency or "as it was") from None
        return bool(tag != "INSERT 0 0")

    async def find(self, user_id: UUID) -> Wish | None:
        async with self._database.connection() as connection:
            row = await connection.fetchrow(self._sql["move"], user_id)
        return None if row is None else Wish(*row)

    async def note(self, wish: Wish) -> None:
        async with self._database.connection() as connection:
            await connection.execute(
                self._sql["note_move"], wish.user_id, wish.command_id, wish.from_cell, wish.to_cell, wish.residency
            )

    async def users_of(self, cell: str, after: UUID, limit: int) -> Sequence[UUID]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(self._sql["users_of_cell"], cell, after, limit)
        return [row["user_id"] for row in rows]

    async def count_of(self, cell: str) -> int:
        async with self._database.connection() as connection:
            count: int = await connection.fetchval(self._sql["count_users_of_cell"], cell)
        return count


@dataclass(slots=True, kw_only=True)
class Moves:
    """To be closed."""

    store: MoveStore
    directory: Directory
    accounts: Accounts
    topology: LiveTopology
    # Over all processes of a cell, to the one that leads.
    places: Places
    _caller: Caller = field(default_factory=lambda: Caller(ROUTER))

    async def move(
        self, user_id: UUID, cell: str, residency: str | None, command_id: UUID, *, timeout_s: float | None
    ) -> Began:
        """Returns when the user is at home there, or the time is up with the move under way.

        Raises:
            NoSuchCell, CellTakesNobody, NotInRegion, AlreadyAtHome, UserNotFound: nothing was done.
            Refused: what the user's home has said: the move was called off, or another one is under way.
            MoveUnknown: nothing is known of it; asked again under the same id, it goes on.
        """
        wish = await self.store.find(user_id)
        if wish is None or wish.command_id != command_id:
            wish = await self._new_wish(user_id, cell, residency, command_id)
        for _ in range(HOPS_MAX):
            await self.store.note(wish)
            try:
                return await self._begun(wish, BEGIN_TIMEOUT_S if timeout_s is None else timeout_s * 0.9)
            except WrongCell as error:
                wish = await self._followed(wish, error)
        raise MoveUnknown(user_id=str(user_id), cell=wish.from_cell, problem="the user moves faster than we ask")

    async def saga_of(self, user_id: UUID) -> tuple[Wish, saga_pb2.Saga | None]:
        """The last move of the user; None: its saga has not begun. Raises MoveNotFound, MoveUnknown."""
        wish = await self.store.find(user_id)
        if wish is None:
            raise MoveNotFound(user_id=str(user_id))
        stub = saga_pb2_grpc.SagaServiceStub(self._channel(wish.from_cell))
        request = saga_pb2.GetSagaRequest(saga_id=str(_saga_id(wish)))
        try:
            answer = await self._caller.call(stub.GetSaga, request, to=wish.from_cell, timeout_s=ASK_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return wish, None
            raise _unavailable(wish, error) from error
        return wish, answer.saga

    async def close(self) -> None:
        await self.places.close()

    async def _new_wish(self, user_id: UUID, cell: str, residency: str | None, command_id: UUID) -> Wish:
        home, target = await self.directory.find(user_id), self.topology.now.cell(cell)
        if home is None:
            raise UserNotFound(user_id=str(user_id))
        bound = home.residency if residency is None else residency
        self._check_target(home, target, cell, bound)
        if home.state is UserState.OPENING:
            await self.accounts.open(home, timeout_s=OPEN_TIMEOUT_S)
            await self.directory.mark_open(home)
        return Wish(user_id, command_id, home.cell.name, cell, bound)

    def _check_target(self, home: Home, target: Cell | None, cell: str, residency: str) -> None:
        if target is None:
            raise NoSuchCell(cell=cell)
        if home.cell.name == cell:
            raise AlreadyAtHome(user_id=str(home.user_id), cell=cell)
        if residency not in {"", target.region}:
            raise NotInRegion(user_id=str(home.user_id), cell=cell, residency=residency)
        if target.state is not CellState.ACTIVE:
            raise CellTakesNobody(cell=cell, state=target.state.value)

    async def _begun(self, wish: Wish, timeout_s: float) -> Began:
        """Raises WrongCell, Refused, MoveUnknown."""
        stub = move_pb2_grpc.MoveServiceStub(self._channel(wish.from_cell))
        request = move_pb2.BeginMoveRequest(
            command_id=str(wish.command_id), user_id=str(wish.user_id), to_cell=wish.to_cell, region=wish.residency
        )
        try:
            answer = await self._caller.call(stub.BeginMove, request, to=wish.from_cell, timeout_s=timeout_s)
        except grpc.aio.AioRpcError as error:
            refused = refusal_in(error)
            if refused is not None and refused.reason == IN_PROGRESS:
                return Began(wish, str(_saga_id(wish)), done=False)
            if isinstance(refused, WrongCell) or (refused is not None and refused.final):
                raise refused from error
            raise _unavailable(wish, error) from error
        return Began(wish, answer.saga_id, done=True)

    async def _followed(self, wish: Wish, error: WrongCell) -> Wish:
        """The user is not at home where this directory believed."""
        cell, epoch = str(error.facts["cell"]), int(error.facts.get("epoch", 0))
        await self.store.adopt(wish.user_id, cell, epoch, None)
        if cell == wish.to_cell:
            raise AlreadyAtHome(user_id=str(wish.user_id), cell=cell)
        return wish._replace(from_cell=cell)

    def _channel(self, name: str) -> grpc.aio.Channel:
        cell = self.topology.now.cell(name)
        if cell is None:
            raise NoSuchCell(cell=name)
        return self.places.channel(name, cell.endpoints)


def _saga_id(wish: Wish) -> UUID:
    """As the user's home names it."""
    return uuid5(wish.user_id, f"move/{wish.command_id}")


def _unavailable(wish: Wish, error: grpc.aio.AioRpcError) -> Refused:
    told = f"{error.code().name}: {error.details()}"
    return MoveUnknown(user_id=str(wish.user_id), cell=wish.from_cell, problem=told)
