"""Every way between two cells through a proxy of its own, each direction of which can be stopped or slowed."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path

from lab.chaos.proxy import CHUNK_BYTES, OneWay
from lab.cluster import CELLS, four
from lab.member import Member


@dataclass(eq=False)
class Way(OneWay):
    """Calls of one cell to another: `cut` stops what is asked, `mute` stops what is answered."""

    delay_s: float = 0.0
    _generation: int = 0
    _heard: asyncio.Event = field(default_factory=asyncio.Event)

    async def listen(self) -> None:
        self._heard.set()
        await super().listen()

    def mute(self) -> None:
        self._heard.clear()

    def mend(self) -> None:
        self._heard.set()
        self.delay_s = 0.0
        super().mend()

    def forget(self) -> None:
        """As a firewall does: what the connections that there are carry is swallowed, and new ones are whole."""
        self._generation += 1

    async def _joined(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self.target.rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        ways = (
            asyncio.ensure_future(self._passed(reader, far_writer, self._whole)),
            asyncio.ensure_future(self._passed(far_reader, writer, self._heard)),
        )
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            far_writer.transport.abort()

    async def _passed(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, free: asyncio.Event) -> None:
        known = self._generation
        while True:
            chunk = await reader.read(CHUNK_BYTES)
            await asyncio.sleep(self.delay_s)
            await free.wait()
            if self._generation != known:
                if not chunk:
                    await asyncio.Event().wait()
                continue
            if not chunk:
                return
            writer.write(chunk)
            await writer.drain()


class Mesh:
    """Six ways between three cells."""

    def __init__(self) -> None:
        self.ways = {pair: Way() for pair in permutations([cell.name for cell in CELLS], 2)}

    async def listen(self) -> None:
        for way in self.ways.values():
            await way.listen()

    def plan(self, folder: Path, ports: Sequence[int]) -> list[Member]:
        members = four(folder, ports)
        by_name = {member.name: member for member in members}
        for (caller, called), way in self.ways.items():
            way.target = by_name[called].address
            peers = by_name[caller].settings["peers"]
            assert isinstance(peers, dict)
            peers[called] = way.address
        return members

    def between(self, one: str, other: str) -> Iterator[Way]:
        yield self.ways[one, other]
        yield self.ways[other, one]

    def cut(self, one: str, other: str) -> None:
        for way in self.between(one, other):
            way.cut()
            way.mute()

    def mend(self) -> None:
        for way in self.ways.values():
            way.mend()

    async def close(self) -> None:
        await asyncio.gather(*(way.close() for way in self.ways.values()))
