"""Channels to other servers, one over all processes of each; reopened when they move or our certificate changes."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import grpc.aio

from cells.background import BackgroundTask
from server.shell.settings.addresses import parse_address, target_of

# Calls in flight over a channel whose cell has moved may still finish within this time.
CLOSE_GRACE_S = 30.0


# Several names are resolved again this often while in use; gRPC does so itself only for a single one.
POLL_S = 5.0


class OpenChannel(NamedTuple):
    endpoints: tuple[str, ...]
    generation: int
    # The addresses of the names when it was opened.
    target: str
    channel: grpc.aio.Channel


def never_anew() -> int:
    """Without certificates there is only one generation."""
    return 0


@dataclass(slots=True, kw_only=True)
class ChannelPool:
    """To be closed. `open_channel` opens a channel over all addresses of a cell; `generation` counts certificates."""

    open_channel: Callable[[tuple[str, ...]], grpc.aio.Channel]
    generation: Callable[[], int] = never_anew
    _places: dict[str, OpenChannel] = field(default_factory=dict)
    _looks: dict[str, BackgroundTask] = field(default_factory=dict)
    _closing: set[asyncio.Task[None]] = field(default_factory=set)

    def channel(self, name: str, endpoints: tuple[str, ...]) -> grpc.aio.Channel:
        place, generation = self._places.get(name), self.generation()
        if place is None or place.endpoints != endpoints or place.generation != generation:
            if place is not None:
                self._close_later(place.channel)
            place = self._open(name, endpoints, target_of(endpoints))
        if len(endpoints) > 1 and name not in self._looks and any(parse_address(each).is_name for each in endpoints):
            look = BackgroundTask(name="addresses", work=partial(self._look, name, place), every_s=None)
            self._looks[name] = look
            look.start()
        return place.channel

    def _open(self, name: str, endpoints: tuple[str, ...], target: str) -> OpenChannel:
        place = self._places[name] = OpenChannel(endpoints, self.generation(), target, self.open_channel(endpoints))
        return place

    async def _look(self, name: str, place: OpenChannel) -> None:
        """A process that was restarted elsewhere keeps its name."""
        await asyncio.sleep(POLL_S)
        target = await asyncio.to_thread(target_of, place.endpoints)
        del self._looks[name]
        if target != place.target and self._places.get(name) is place:
            self._close_later(place.channel)
            self._open(name, place.endpoints, target)

    def forget(self, but: set[str]) -> None:
        """Closes the channels to all others."""
        for name in self._places.keys() - but:
            self._close_later(self._places.pop(name).channel)

    async def close(self) -> None:
        await asyncio.gather(*(look.stop() for look in self._looks.values()))
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await asyncio.gather(*(place.channel.close() for place in self._places.values()))

    def _close_later(self, channel: grpc.aio.Channel) -> None:
        closing = asyncio.create_task(channel.close(CLOSE_GRACE_S))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
