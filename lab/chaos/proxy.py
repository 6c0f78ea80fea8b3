"""For machines without network namespaces: a TCP proxy between two cells that can become a black hole.

While cut, it reads nothing and forwards nothing, but closes nothing either; it accepts new connections and never
answers them. To the cells that is a cable that broke somewhere on the way.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lab.chaos.links import FAR, NEAR, LinkKind
from lab.cluster import four
from lab.member import Member
from server.cli.options import LOOPBACK

CHUNK_BYTES = 64 * 1024


@dataclass(slots=True, eq=False)
class OneWay:
    """A listening port in front of one cell."""

    target: str = ""
    _server: asyncio.Server | None = None
    _whole: asyncio.Event = field(default_factory=asyncio.Event)
    _handlers: dict[asyncio.Task[None], asyncio.StreamWriter] = field(default_factory=dict)
    # Connections accepted while the link was cut: none of their data ever reached the other side.
    _dropped: set[asyncio.StreamWriter] = field(default_factory=set)

    async def listen(self) -> None:
        self._whole.set()
        self._server = await asyncio.start_server(self._accepted, LOOPBACK, 0)

    @property
    def address(self) -> str:
        if self._server is None:
            raise RuntimeError("the proxy does not listen yet")
        return f"{LOOPBACK}:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        self._whole.clear()

    def mend(self) -> None:
        self._whole.set()
        for writer in list(self._dropped):
            writer.transport.abort()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        ended = dict(self._handlers)
        for handler in ended:
            handler.cancel()
        await asyncio.gather(*ended, return_exceptions=True)
        # A handler that was cancelled before its first step has closed nothing.
        for writer in ended.values():
            writer.transport.abort()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.ensure_future(self._handled(reader, writer))
        self._handlers[handler] = writer
        handler.add_done_callback(self._handlers.pop)

    async def _handled(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError):
                await (self._joined(reader, writer) if self._whole.is_set() else self._swallowed(reader, writer))
        finally:
            writer.transport.abort()

    async def _joined(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self.target.rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        ways = (
            asyncio.ensure_future(self._passed_on(reader, far_writer)),
            asyncio.ensure_future(self._passed_on(far_reader, writer)),
        )
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            far_writer.transport.abort()

    async def _passed_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            chunk = await reader.read(CHUNK_BYTES)
            # Data in transit when the cable broke, including the end of the connection, arrives when it is restored.
            await self._whole.wait()
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


@dataclass(slots=True)
class ProxyLink:
    kind: LinkKind = LinkKind.PROXY
    made_of: str = "a TCP proxy each way on this machine"
    cut_by: str = "the proxies pass nothing on"
    _to_near: OneWay = field(default_factory=OneWay)
    _to_far: OneWay = field(default_factory=OneWay)

    async def prepare(self) -> None:
        await self._to_near.listen()
        await self._to_far.listen()

    def plan(self, folder: Path, ports: Sequence[int]) -> list[Member]:
        members = four(folder, ports)
        by_name = {member.name: member for member in members}
        self._to_near.target, self._to_far.target = by_name[NEAR].address, by_name[FAR].address
        _reroute(by_name[NEAR], FAR, self._to_far.address)
        _reroute(by_name[FAR], NEAR, self._to_near.address)
        return members

    async def connect(self, members: Sequence[Member]) -> None:
        """Nothing to do: the members already know the ports."""

    async def cut(self) -> None:
        self._to_near.cut()
        self._to_far.cut()

    async def mend(self) -> None:
        self._to_near.mend()
        self._to_far.mend()

    async def close(self) -> None:
        await self._to_near.close()
        await self._to_far.close()


def _reroute(member: Member, peer: str, address: str) -> None:
    peers = member.settings["peers"]
    if isinstance(peers, dict):
        peers[peer] = address
