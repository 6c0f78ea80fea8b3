"""The link between two cells that can be cut and restored, while all other links stay up.

A TCP proxy lets everything pass in each direction, or is stopped, slowed, or a black hole. While it is cut, it reads
nothing and forwards nothing, but closes nothing either; it accepts new connections and never answers them. To the
processes that is a cable that broke somewhere on the way.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import permutations
from pathlib import Path

from lab.cluster import CELLS, four
from lab.listener import Handle, Listener
from lab.member import Member

# The two regions whose link is cut. Each orchestrates sagas across it.
NEAR, FAR = "us-east", "eu-west"
ENDS = (NEAR, FAR)
CHUNK_BYTES = 64 * 1024
# A caller and a cell that it calls.
PAIRS = tuple(permutations([cell.name for cell in CELLS], 2))


class LinkKind(StrEnum):
    AUTO = "auto"
    NETNS = "netns"
    PROXY = "proxy"


@dataclass(slots=True)
class Link:
    """NEAR and FAR reach each other only through it. `made_of` and `cut_by` are for the report."""

    kind: LinkKind
    made_of: str
    cut_by: str

    async def prepare(self) -> None:
        """Called before the members are started."""

    def plan(self, folder: Path, ports: Sequence[int]) -> list[Member]:
        """The router and three cells."""
        raise NotImplementedError

    async def connect(self, members: Sequence[Member]) -> None:
        """Called when the members run."""

    async def cut(self) -> None:
        """From here on nothing passes either way, and neither side is notified."""

    async def mend(self) -> None:
        """Everything passes again."""

    async def close(self) -> None:
        """Removes what does not end with the processes."""


@dataclass(slots=True, eq=False)
class Way(Listener):
    """A listening port in front of one process."""

    handle: Handle = field(init=False)
    target: str = ""
    # Before each chunk.
    delay_s: float = 0.0
    # Set while requests, and answers, get through.
    _asked: asyncio.Event = field(default_factory=asyncio.Event)
    _answered: asyncio.Event = field(default_factory=asyncio.Event)
    _generation: int = 0
    # Connections accepted while the link was cut: none of their data ever reached the other side.
    _dropped: set[asyncio.StreamWriter] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.handle = self._connected

    async def listen(self) -> None:
        self.mend()
        await Listener.listen(self)

    def cut(self, *, answers: bool = True) -> None:
        """Nothing passes either way; without `answers`, answers still do."""
        self._asked.clear()
        if answers:
            self.mute()

    def mute(self) -> None:
        """Answers do not pass."""
        self._answered.clear()

    def mend(self) -> None:
        self._asked.set()
        self._answered.set()
        self.delay_s = 0.0
        for writer in list(self._dropped):
            writer.transport.abort()

    def forget(self) -> None:
        """As a firewall does: what the existing connections carry is swallowed, and new ones are whole."""
        self._generation += 1

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await (self._joined(reader, writer) if self._asked.is_set() else self._swallowed(reader, writer))

    async def _joined(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self.target.rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        ways = (
            asyncio.ensure_future(self._passed_on(reader, far_writer, self._asked)),
            asyncio.ensure_future(self._passed_on(far_reader, writer, self._answered)),
        )
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            far_writer.transport.abort()

    async def _passed_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, free: asyncio.Event) -> None:
        known = self._generation
        while True:
            chunk = await reader.read(CHUNK_BYTES)
            await asyncio.sleep(self.delay_s)
            # Data in transit when the cable broke, including the end of the connection, arrives when it is restored.
            await free.wait()
            if self._generation != known:
                if not chunk:
                    await asyncio.Event().wait()
                continue
            if not chunk:
                return
            writer.write(chunk)
            await writer.drain()

    async def _swallowed(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._dropped.add(writer)
        try:
            while await reader.read(CHUNK_BYTES):
                pass
        finally:
            self._dropped.discard(writer)


class Mesh:
    """A way for each pair of cells, or for some of them."""

    def __init__(self, pairs: Iterable[tuple[str, str]] = PAIRS) -> None:
        self.ways = {pair: Way() for pair in pairs}

    async def listen(self) -> None:
        for way in self.ways.values():
            await way.listen()

    def plan(self, folder: Path, ports: Sequence[int]) -> list[Member]:
        members = four(folder, ports)
        by_name = {member.name: member for member in members}
        for (caller, called), way in self.ways.items():
            way.target = by_name[called].address
            peers = by_name[caller].settings["peers"]
            if isinstance(peers, dict):
                peers[called] = way.address
        return members

    def between(self, one: str, other: str) -> tuple[Way, Way]:
        return self.ways[one, other], self.ways[other, one]

    def cut(self, one: str, other: str) -> None:
        for way in self.between(one, other):
            way.cut()

    def mend(self) -> None:
        for way in self.ways.values():
            way.mend()

    async def close(self) -> None:
        await asyncio.gather(*(way.close() for way in self.ways.values()))


@dataclass(slots=True)
class ProxyLink(Link):
    """For machines without network namespaces."""

    kind: LinkKind = LinkKind.PROXY
    made_of: str = "a TCP proxy each way on this machine"
    cut_by: str = "the proxies pass nothing on"
    _mesh: Mesh = field(default_factory=lambda: Mesh(permutations(ENDS, 2)))

    async def prepare(self) -> None:
        await self._mesh.listen()

    def plan(self, folder: Path, ports: Sequence[int]) -> list[Member]:
        return self._mesh.plan(folder, ports)

    async def cut(self) -> None:
        self._mesh.cut(*ENDS)

    async def mend(self) -> None:
        self._mesh.mend()

    async def close(self) -> None:
        await self._mesh.close()
