"""Channels to cells, one over all processes of each; where a cell's processes have moved, a new one."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import grpc.aio

# Calls in flight over a channel whose cell has moved elsewhere may still end there.
CLOSE_GRACE_S = 30.0


class Place(NamedTuple):
    endpoints: tuple[str, ...]
    channel: grpc.aio.Channel


@dataclass(slots=True, kw_only=True)
class Places:
    """To be closed. `open_channel` opens one over several addresses of one cell."""

    open_channel: Callable[[tuple[str, ...]], grpc.aio.Channel]
    _places: dict[str, Place] = field(default_factory=dict)
    _closing: set[asyncio.Task[None]] = field(default_factory=set)

    def channel(self, cell: str, endpoints: tuple[str, ...]) -> grpc.aio.Channel:
        place = self._places.get(cell)
        if place is None or place.endpoints != endpoints:
            if place is not None:
                self._close_later(place.channel)
            place = self._places[cell] = Place(endpoints, self.open_channel(endpoints))
        return place.channel

    async def close(self) -> None:
        for closing in self._closing:
            closing.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await asyncio.gather(*(place.channel.close() for place in self._places.values()))

    def _close_later(self, channel: grpc.aio.Channel) -> None:
        closing = asyncio.create_task(channel.close(CLOSE_GRACE_S))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
