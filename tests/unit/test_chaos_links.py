"""The link that is cut: traffic through the proxy, and connections between the namespaces."""

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from lab.chaos import netns
from lab.chaos.links import FAR, NEAR, LinkKind, ProxyLink, Way
from lab.chaos.netns import CABLES, NetnsLink
from lab.command import NoSuchLink, chosen
from lab.listener import Listener

# How long the test listens for silence.
SILENCE_S = 0.2


class Line:
    """A connection through the proxy to an echo server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    def say(self, text: str) -> None:
        self.writer.write(f"{text}\n".encode())

    async def hear(self) -> str:
        return (await asyncio.wait_for(self._reader.readline(), 10)).decode().strip()

    async def is_silent(self) -> bool:
        try:
            await asyncio.wait_for(self._reader.readline(), SILENCE_S)
        except TimeoutError:
            return True
        return False

    async def is_gone(self) -> bool:
        """Waits for the end of the connection, orderly or not."""
        try:
            return await self.hear() == ""
        except ConnectionResetError:
            return True


@asynccontextmanager
async def proxied() -> AsyncIterator[Way]:
    echoes: set[asyncio.Task[None]] = set()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while line := await reader.readline():
                writer.write(line)
        writer.close()

    def taken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        echoes.add(asyncio.ensure_future(echo(reader, writer)))

    server = await asyncio.start_server(taken, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    proxy = Way(target=f"{host}:{port}")
    await proxy.listen()
    try:
        yield proxy
    finally:
        await proxy.close()
        await asyncio.gather(*echoes)
        server.close()


@asynccontextmanager
async def call(proxy: Way) -> AsyncIterator[Line]:
    host, _, port = proxy.address.rpartition(":")
    line = Line(*await asyncio.open_connection(host, int(port)))
    try:
        yield line
    finally:
        line.writer.close()
        with suppress(OSError):
            await line.writer.wait_closed()


async def test_what_is_said_into_a_cut_is_heard_when_it_is_mended() -> None:
    """During the cut nothing passes and nothing is closed, and no byte is lost or duplicated."""
    async with proxied() as proxy, call(proxy) as line:
        line.say("before")
        assert await line.hear() == "before"
        proxy.cut()
        line.say("during")
        assert await line.is_silent()
        proxy.mend()
        assert await line.hear() == "during"
        line.say("after")
        assert await line.hear() == "after"


async def test_a_call_into_a_cut_is_taken_and_never_answered() -> None:
    """As with a cut cable; when it is restored such a call is broken off, and the next one gets through."""
    async with proxied() as proxy:
        proxy.cut()
        async with call(proxy) as line:
            line.say("hello")
            assert await line.is_silent()
            proxy.mend()
            assert await line.is_gone()
        async with call(proxy) as line:
            line.say("hello")
            assert await line.hear() == "hello"


async def test_an_end_of_a_connection_is_heard_through_a_whole_link() -> None:
    """If one side closes the connection, the other side notices."""
    async with proxied() as proxy, call(proxy) as line:
        line.say("bye")
        assert await line.hear() == "bye"
        line.writer.write_eof()
        assert await line.is_gone()


async def test_only_the_two_ends_go_through_the_proxy(tmp_path: Path) -> None:
    """The third cell, the router and every client reach all others directly."""
    link = ProxyLink()
    await link.prepare()
    try:
        members = {member.name: member for member in link.plan(tmp_path, [1, 2, 3, 4])}
    finally:
        await link.close()
    addresses = {name: member.address for name, member in members.items()}
    detours = {
        (name, peer)
        for name, member in members.items()
        if isinstance(peers := member.settings.get("peers"), dict)
        for peer, address in peers.items()
        if address != addresses[peer]
    }
    assert detours == {(NEAR, FAR), (FAR, NEAR)}


def test_each_pair_of_cells_has_a_cable_of_its_own(tmp_path: Path) -> None:
    """A cell calls each other cell at the far end of their own cable, and is called there at no other address."""
    members = {member.name: member for member in NetnsLink().plan(tmp_path, [1, 2, 3, 4])}
    called = [
        (name, peer, address)
        for name, member in members.items()
        if isinstance(peers := member.settings.get("peers"), dict)
        for peer, address in peers.items()
    ]
    assert len({address for _, _, address in called}) == len(called) == 2 * len(CABLES)
    for name, peer, address in called:
        (cable,) = [cable for cable in CABLES if {end.name for end in cable.ends} == {name, peer}]
        assert address == f"{cable.address(peer)}:{netns.PORT}"
    assert len({member.address for member in members.values()}) == len(members)


def test_interfaces_have_names_that_the_kernel_takes() -> None:
    """At most 15 characters, each used once."""
    names = [
        word
        for line in netns._ours({"us-east": 1, "eu-west": 2, "ap-tokyo": 3})
        for before, word in zip(line.split(), line.split()[1:], strict=False)
        if before in {"add", "dev"} and line.startswith("link add")
    ]
    assert len(set(names)) == len(names) == 3 + 3 * len(CABLES)
    assert max(map(len, names)) <= 15


def test_without_namespaces_auto_takes_the_proxy_and_netns_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Either way the user is told why."""
    monkeypatch.setattr(netns, "obstacle", lambda: "that takes root")
    link = chosen(LinkKind.AUTO, entered_from="")
    assert link.kind is LinkKind.PROXY
    assert "that takes root" in link.made_of
    with pytest.raises(NoSuchLink, match="that takes root"):
        chosen(LinkKind.NETNS, entered_from="")


def test_not_everybody_may_make_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without root, or without the tools, nothing is attempted."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert netns.obstacle() == "that takes root"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert "not found" in netns.obstacle()


def test_the_machines_own_network_is_never_entered() -> None:
    """If it is called with the flag but not by `enter`, the command does not take this namespace for its own."""
    assert not netns.has_entered("")
    assert not netns.has_entered(netns._namespace())
    assert netns.has_entered("net:[1]")


# --- what a TCP server of ours leaves when it is closed ---------------------------------------------------------------


TIMEOUT_S = 5.0


@pytest.mark.parametrize("turns", range(6))
async def test_no_connection_outlives_the_server(turns: int) -> None:
    """Whether it is in its queue, being accepted or served when the server closes, so many turns of the loop later."""

    async def idle(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with Listener(idle) as listener:
        host, _, port = listener.address.rpartition(":")
        client = socket.create_connection((host, int(port)))
        for _turn in range(turns):
            await asyncio.sleep(0)
    with client:
        client.settimeout(0)
        async with asyncio.timeout(TIMEOUT_S):
            with suppress(ConnectionResetError):
                assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
