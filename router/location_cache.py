"""A caller's routing knowledge: homes of users, processes of cells. Asked of the router once, then kept.

While the router is away, all known locations stay in use, however long that lasts: a cell checks whose home it is, and
answers WRONG_CELL with the epoch if the caller is wrong.
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import grpc
import grpc.aio
import structlog

from cellbook.v1 import router_pb2, router_pb2_grpc
from server.shell.calls.statuses import WRONG_CELL, refusal_in
from server.shell.channels.channel_pool import ChannelPool
from server.shell.channels.client import open_cell_channel

log = structlog.get_logger()

# No cell has such a name.
ROUTER = "the router"
HOMES_MAX = 200_000
RESOLVE_TIMEOUT_S = 3.0
WATCH_PAUSE_S = 1.0

# Statuses that mean the router did not answer; it has sent any other status itself.
_SILENCE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED})

Metadata = Sequence[tuple[str, str]]


class KnownHome(NamedTuple):
    cell: str
    # Of two homes, the one with the higher epoch is newer.
    epoch: int


def unavailable(details: str) -> grpc.aio.AioRpcError:
    """Nothing was sent; callers handle it like any UNAVAILABLE."""
    nothing = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, details)


@dataclass(slots=True, kw_only=True)
class LocationCache:
    """To be closed. `routers` are the router's addresses; `metadata` returns the caller's credentials for it."""

    routers: tuple[str, ...]
    metadata: Callable[[], Metadata] = tuple
    # User -> home; the one known longest comes first.
    homes: dict[str, KnownHome] = field(default_factory=dict)
    _endpoints: dict[str, tuple[str, ...]] = field(default_factory=dict)
    places: ChannelPool = field(default_factory=lambda: ChannelPool(open_channel=open_cell_channel))
    _asked: dict[str, asyncio.Task[KnownHome]] = field(default_factory=dict)

    @property
    def known(self) -> Mapping[str, KnownHome]:
        return self.homes

    # --- users ------------------------------------------------------------------------------------------------------

    async def home(self, user_id: str) -> KnownHome:
        """The user's home, from memory or from the router; concurrent requests for one user share one call.

        Raises:
            AioRpcError: it is not known here and the router does not answer, or says that there is no such user.
        """
        known = self.homes.get(user_id)
        return known if known is not None else await self._asked_for(user_id)

    async def corrected(self, user_id: str, tried: KnownHome, error: grpc.aio.AioRpcError) -> KnownHome | None:
        """The user's new home, if the cell that was tried says that it is not the home. None: the error stands."""
        refused = refusal_in(error)
        if refused is None or refused.reason != WRONG_CELL:
            return None
        return await self.corrected_by(user_id, tried, {name: str(value) for name, value in refused.facts.items()})

    async def corrected_by(self, user_id: str, tried: KnownHome, facts: dict[str, str]) -> KnownHome | None:
        """The same, from the facts of a WRONG_CELL."""
        if facts.get("resource", "").lower() != f"user {user_id}":
            # It concerns another user in the request, which cannot be corrected here.
            return None
        told = KnownHome(facts.get("cell", ""), int(facts.get("epoch", "0")))
        if told.epoch <= tried.epoch:
            # The cell's epoch is not newer than ours; the router decides which one is right.
            self.homes.pop(user_id, None)
            try:
                told = await self._asked_for(user_id)
            except grpc.aio.AioRpcError:
                self._keep(user_id, tried)
                return None
        else:
            self._keep(user_id, told)
        return told if told.cell != tried.cell else None

    async def _asked_for(self, user_id: str) -> KnownHome:
        asking = self._asked.get(user_id)
        if asking is None:
            asking = self._asked[user_id] = asyncio.create_task(self._resolve(user_id))
            asking.add_done_callback(lambda _: self._asked.pop(user_id, None))
        # A caller that gives up does not cancel the shared call.
        return await asyncio.shield(asking)

    async def _resolve(self, user_id: str) -> KnownHome:
        stub = router_pb2_grpc.RouterServiceStub(self.router())
        request = router_pb2.ResolveUserRequest(user_id=user_id)
        try:
            answer = await stub.ResolveUser(request, timeout=RESOLVE_TIMEOUT_S, metadata=self.metadata())
        except grpc.aio.AioRpcError as error:
            if error.code() not in _SILENCE:
                raise
            problem = f"user {user_id} is not known here yet, and the router does not answer: {error.details()}"
            raise unavailable(problem) from error
        self._endpoints.setdefault(answer.cell.name, tuple(answer.cell.endpoints))
        return self._keep(user_id, KnownHome(answer.home.cell, answer.home.epoch))

    def _keep(self, user_id: str, home: KnownHome) -> KnownHome:
        known = self.homes.pop(user_id, None)
        if known is not None and known.epoch > home.epoch:
            home = known
        elif len(self.homes) >= HOMES_MAX:
            self.homes.pop(next(iter(self.homes)))
        self.homes[user_id] = home
        return home

    def router(self) -> grpc.aio.Channel:
        """A channel to the router, over all of its processes."""
        return self.places.channel(ROUTER, self.routers)

    # --- cells ------------------------------------------------------------------------------------------------------

    async def channel(self, cell: str) -> grpc.aio.Channel:
        """A channel to the cell, over all its processes. Raises AioRpcError if its addresses cannot be found out."""
        if cell not in self._endpoints:
            await self._list()
        endpoints = self._endpoints.get(cell, ())
        if not endpoints:
            raise unavailable(f"the router knows no cell {cell!r}")
        return self.places.channel(cell, endpoints)

    async def any_cell(self) -> str:
        """A cell for requests that every cell refuses alike. Raises AioRpcError."""
        if not self._endpoints:
            await self._list()
        if not self._endpoints:
            raise unavailable("the router knows no cell")
        return next(iter(self._endpoints))

    async def watch(self) -> None:
        """Follows changes of the cells until the stream ends; without the router, they stay as they were."""
        stub = router_pb2_grpc.RouterServiceStub(self.router())
        call = stub.WatchTopology(router_pb2.WatchTopologyRequest(), metadata=self.metadata(), wait_for_ready=True)
        try:
            async for picture in call:
                self._learn(picture.cells)
        except grpc.aio.AioRpcError as error:
            log.debug("topology_not_watched", problem=error.details())
        finally:
            call.cancel()
        await asyncio.sleep(WATCH_PAUSE_S * random.uniform(0.5, 1.5))  # noqa: S311 - jitter

    async def close(self) -> None:
        for asking in self._asked.values():
            asking.cancel()
        await asyncio.gather(*self._asked.values(), return_exceptions=True)
        await self.places.close()

    async def _list(self) -> None:
        stub = router_pb2_grpc.RouterServiceStub(self.router())
        try:
            answer = await stub.ListCells(
                router_pb2.ListCellsRequest(), timeout=RESOLVE_TIMEOUT_S, metadata=self.metadata()
            )
        except grpc.aio.AioRpcError as error:
            if error.code() not in _SILENCE:
                raise
            raise unavailable(f"where the cells are is not known yet: {error.details()}") from error
        self._learn(answer.cells)

    def _learn(self, cells: Iterable[router_pb2.Cell]) -> None:
        """Removed cells are kept: a restored router may have forgotten a cell that still has users."""
        self._endpoints |= {cell.name: tuple(cell.endpoints) for cell in cells}
