"""Channels to others, one over all processes of each; where they have moved, or our certificate is a new one, anew."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import grpc.aio

# Calls in flight over a channel whose cell has moved elsewhere may still end there.
CLOSE_GRACE_S = 30.0


class Place(NamedTuple):
    endpoints: tuple[str, ...]
    generation: int
    channel: grpc.aio.Channel


def never_anew() -> int:
    """Without certificates there is one generation."""
    return 0


@dataclass(slots=True, kw_only=True)
class Places:
    """To be closed. `open_channel` opens one over several addresses of one cell, with what `generation` counts."""

    open_channel: Callable[[tuple[str, ...]], grpc.aio.Channel]
    generation: Callable[[], int] = never_anew
    _places: dict[str, Place] = field(default_factory=dict)
    _closing: set[asyncio.Task[None]] = field(default_factory=set)

    def channel(self, name: str, endpoints: tuple[str, ...]) -> grpc.aio.Channel:
        place, generation = self._places.get(name), self.generation()
        if place is None or place.endpoints != endpoints or place.generation != generation:
            if place is not None:
                self._close_later(place.channel)
            place = self._places[name] = Place(endpoints, generation, self.open_channel(endpoints))
        return place.channel

    def forget(self, but: set[str]) -> None:
        """Closes the channels to all others."""
        for name in self._places.keys() - but:
            self._close_later(self._places.pop(name).channel)

    async def close(self) -> None:
        for closing in self._closing:
            closing.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await asyncio.gather(*(place.channel.close() for place in self._places.values()))

    def _close_later(self, channel: grpc.aio.Channel) -> None:
        closing = asyncio.create_task(channel.close(CLOSE_GRACE_S))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
