"""Where users and cells are, as the router reports it: homes on request, and the addresses of cells, which are kept.

While the router is away, all known addresses stay in use, however long that lasts: a cell checks whose home it is, and
answers WRONG_CELL with the epoch if the caller is wrong.
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import grpc
import grpc.aio
import structlog

from cellbook.v1 import router_pb2, router_pb2_grpc
from cells.background import note_failure
from cells.domain.moves.home import Home
from server.shell.channels.channel_pool import ChannelPool

log = structlog.get_logger()

# No cell has such a name.
ROUTER = "the router"
TIMEOUT_S = 3.0
WATCH_PAUSE_S = 1.0

# Statuses from grpc itself when nobody answered, or not in time; any other comes from the called process itself.
SILENCE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED})

Request = TypeVar("Request")
Response = TypeVar("Response")


class CallsRouter(Protocol):
    """Calls as somebody whom the router admits."""

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        to: str,
        timeout_s: float,
    ) -> Response: ...
    def metadata(self) -> Sequence[tuple[str, str]]: ...


def failed(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    """Nothing was sent; callers handle it like any call that ended so."""
    nothing = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(code, nothing, nothing, details)


def unavailable(details: str) -> grpc.aio.AioRpcError:
    return failed(grpc.StatusCode.UNAVAILABLE, details)


@dataclass(slots=True, kw_only=True)
class LocationCache:
    """To be closed. `routers` are the router's addresses; `static` are cells that it is not asked for.

    Raises:
        AioRpcError: from every method that asks the router: it does not answer (UNAVAILABLE), or refuses.
    """

    routers: tuple[str, ...]
    caller: CallsRouter
    # To the cells and to the router.
    channels: ChannelPool
    # Cell -> "host:port", or several with "+" between them.
    static: Mapping[str, str] = field(default_factory=dict)
    _listed: dict[str, tuple[str, ...]] = field(default_factory=dict)
    # Lookups of cells that do not answer: they may have moved.
    _looks: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    async def find(self, user: str) -> Home:
        """The user's home now. A refusal of the router says that there is no such user."""
        method = router_pb2_grpc.RouterServiceStub(self.router()).ResolveUser
        request = router_pb2.ResolveUserRequest(user_id=user)
        answer = await self._ask(method, request, f"the home of user {user} is not known here")
        self._listed.setdefault(answer.cell.name, tuple(answer.cell.endpoints))
        return Home(answer.home.cell, answer.home.epoch)

    async def list_cells(self) -> Mapping[str, Sequence[str]]:
        """The endpoints of all cells that the router lists now."""
        method = router_pb2_grpc.RouterServiceStub(self.router()).ListCells
        answer = await self._ask(method, router_pb2.ListCellsRequest(), "the addresses of the cells are not known here")
        self._learn(answer.cells)
        return {cell.name: cell.endpoints for cell in answer.cells}

    async def knows(self, cell: str) -> bool:
        """Whether there is a cell of that name."""
        if cell not in self.static and cell not in self._listed:
            await self.list_cells()
        return cell in self.static or cell in self._listed

    async def endpoints(self, cell: str) -> tuple[str, ...]:
        """The endpoints of all processes of the cell."""
        if cell in self.static:
            return tuple(self.static[cell].split("+"))
        if not await self.knows(cell) or not self._listed[cell]:
            raise unavailable(f"the address of {cell} is not known to the router")
        return self._listed[cell]

    async def channel(self, cell: str) -> grpc.aio.Channel:
        """A channel to the cell, over all its processes."""
        return self.channels.channel(cell, await self.endpoints(cell))

    async def any_cell(self) -> str:
        """A cell for requests that every cell refuses alike."""
        if not self._listed:
            await self.list_cells()
        if not self._listed:
            raise unavailable("the router knows no cell")
        return next(iter(self._listed))

    def look_again(self, cell: str) -> None:
        """Has the addresses looked up of a cell that does not answer, beside the calls, which are retried anyway."""
        if cell in self._listed and cell not in self.static and cell not in self._looks:
            self._looks[cell] = asyncio.create_task(self._look(cell))

    async def _look(self, cell: str) -> None:
        try:
            await self.list_cells()
        except grpc.aio.AioRpcError as error:
            log.info("peer_not_looked_up", peer=cell, problem=error.details())
        except Exception:  # noqa: BLE001 - the next call that fails has it looked up again
            note_failure("peer_addresses", peer=cell)
        finally:
            del self._looks[cell]

    async def watch(self) -> None:
        """Follows changes of the cells until the stream ends; without the router, they stay as they were."""
        stub = router_pb2_grpc.RouterServiceStub(self.router())
        metadata = self.caller.metadata()
        call = stub.WatchTopology(router_pb2.WatchTopologyRequest(), metadata=metadata, wait_for_ready=True)
        try:
            async for now in call:
                self._learn(now.cells)
        except grpc.aio.AioRpcError as error:
            log.debug("topology_not_watched", problem=error.details())
        finally:
            call.cancel()
        await asyncio.sleep(WATCH_PAUSE_S * random.uniform(0.5, 1.5))  # noqa: S311 - jitter

    def router(self) -> grpc.aio.Channel:
        """A channel to the router, over all of its processes."""
        if not self.routers:
            raise unavailable("no router is configured (setting `router`)")
        return self.channels.channel(ROUTER, self.routers)

    async def close(self) -> None:
        for look in self._looks.values():
            look.cancel()
        await asyncio.gather(*self._looks.values(), return_exceptions=True)
        await self.channels.close()

    async def _ask(self, method: Callable[..., Any], request: Any, unknown: str) -> Any:  # noqa: ANN401 - of any RPC
        try:
            return await self.caller.call(method, request, to="router", timeout_s=TIMEOUT_S)  # type: ignore[arg-type]
        except grpc.aio.AioRpcError as error:
            if error.code() not in SILENCE:
                raise
            raise unavailable(f"{unknown}, and the router does not answer: {error.details()}") from error

    def _learn(self, cells: Iterable[router_pb2.Cell]) -> None:
        """Removed cells are kept: a restored router may have forgotten a cell that still has users."""
        self._listed |= {cell.name: tuple(cell.endpoints) for cell in cells}
