"""The targets of channels, while processes come and go under their names."""

from collections.abc import AsyncIterator
from socket import gaierror

import pytest

from server.shell.channels import channel_pool
from server.shell.channels.channel_pool import ChannelPool
from server.shell.settings import addresses
from server.shell.settings.addresses import target_of
from tests.local_cells import until


class Channel:
    """Records only that it was closed."""

    def __init__(self) -> None:
        self.closed = False

    async def close(self, grace: float | None = None) -> None:
        self.closed = True


@pytest.fixture
async def opened() -> AsyncIterator[ChannelPool]:
    made = ChannelPool(open_channel=lambda _: Channel())  # type: ignore[arg-type, return-value]
    yield made
    await made.close()


def found(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
    """Resolves one name."""
    if host != "here":
        raise gaierror("unknown")
    return [(0, 0, 0, "", ("10.0.0.1", port))]


def test_a_name_that_is_away_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cell's other process is called; if none is known, gRPC reports it."""
    monkeypatch.setattr(addresses, "getaddrinfo", found)
    assert target_of(["away:1", "here:2"]) == "ipv4:10.0.0.1:2"
    assert target_of(["away:1", "gone:2"]) == "away:1"
    assert target_of(["away:1"]) == "away:1"


async def test_names_are_looked_up_again(opened: ChannelPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was restarted elsewhere is found: the next call uses a channel to it."""
    monkeypatch.setattr(channel_pool, "POLL_S", 0.0)
    targets = ["ipv4:10.0.0.1:1"]
    monkeypatch.setattr(channel_pool, "target_of", lambda _: targets[-1])
    endpoints = ("one:1", "two:1")
    first = opened.channel("us-east", endpoints)
    await until(lambda: not opened._looks)
    assert opened.channel("us-east", endpoints) is first
    targets.append("ipv4:10.0.0.2:1")
    await until(lambda: opened.channel("us-east", endpoints) is not first)
    await until(lambda: first.closed)  # type: ignore[attr-defined]


@pytest.mark.parametrize("endpoints", [("one:1",), ("10.0.0.1:1", "[::1]:1")])
async def test_nothing_is_looked_up_where_nothing_moves(opened: ChannelPool, endpoints: tuple[str, ...]) -> None:
    """A single name is resolved by gRPC itself, and addresses need no lookup."""
    opened.channel("us-east", endpoints)
    assert not opened._looks


async def test_a_new_certificate_opens_channels_anew() -> None:
    """A channel keeps the certificate that it was opened with: calls use a new channel, and the old is closed."""
    generation = [0]
    made = ChannelPool(open_channel=lambda _: Channel(), generation=lambda: generation[0])  # type: ignore[arg-type, return-value]
    first = made.channel("us-east", ("10.0.0.1:1",))
    assert made.channel("us-east", ("10.0.0.1:1",)) is first
    generation[0] += 1
    second = made.channel("us-east", ("10.0.0.1:1",))
    assert second is not first
    await until(lambda: first.closed)  # type: ignore[attr-defined]
    assert made.channel("us-east", ("10.0.0.1:1",)) is second
    await made.close()


async def test_a_process_that_is_gone_is_not_kept() -> None:
    """A channel that is not wanted is closed, and reopened when the process comes back."""
    made = ChannelPool(open_channel=lambda _: Channel())  # type: ignore[arg-type, return-value]
    kept, gone = made.channel("a", ("10.0.0.1:1",)), made.channel("b", ("10.0.0.2:1",))
    made.forget({"a"})
    await until(lambda: gone.closed)  # type: ignore[attr-defined]
    assert made.channel("a", ("10.0.0.1:1",)) is kept
    assert made.channel("b", ("10.0.0.2:1",)) is not gone
    await made.close()
