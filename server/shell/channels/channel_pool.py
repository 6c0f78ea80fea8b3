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
    _open_channels: dict[str, OpenChannel] = field(default_factory=dict)
    _looks: dict[str, BackgroundTask] = field(default_factory=dict)
    _closing: set[asyncio.Task[None]] = field(default_factory=set)

    def channel(self, name: str, endpoints: tuple[str, ...]) -> grpc.aio.Channel:
        opened, generation = self._open_channels.get(name), self.generation()
        if opened is None or opened.endpoints != endpoints or opened.generation != generation:
            if opened is not None:
                self._close_later(opened.channel)
            opened = self._open(name, endpoints, target_of(endpoints))
        if len(endpoints) > 1 and name not in self._looks and any(parse_address(each).is_name for each in endpoints):
            look = BackgroundTask(name="addresses", work=partial(self._look, name, opened), every_s=None)
            self._looks[name] = look
            look.start()
        return opened.channel

    def _open(self, name: str, endpoints: tuple[str, ...], target: str) -> OpenChannel:
        opened = self._open_channels[name] = OpenChannel(
            endpoints, self.generation(), target, self.open_channel(endpoints)
        )
        return opened

    async def _look(self, name: str, opened: OpenChannel) -> None:
        """A process that was restarted elsewhere keeps its name."""
        await asyncio.sleep(POLL_S)
        target = await asyncio.to_thread(target_of, opened.endpoints)
        del self._looks[name]
        if target != opened.target and self._open_channels.get(name) is opened:
            self._close_later(opened.channel)
            self._open(name, opened.endpoints, target)

    def forget(self, but: set[str]) -> None:
        """Closes the channels to all others."""
        for name in self._open_channels.keys() - but:
            self._close_later(self._open_channels.pop(name).channel)

    async def close(self) -> None:
        await asyncio.gather(*(look.stop() for look in self._looks.values()))
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await asyncio.gather(*(opened.channel.close() for opened in self._open_channels.values()))

    def _close_later(self, channel: grpc.aio.Channel) -> None:
        closing = asyncio.create_task(channel.close(CLOSE_GRACE_S))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
