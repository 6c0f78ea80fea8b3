"""Connections from one address, and calls of nobody over one connection: both are bounded, and nobody else is cut."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from unittest.mock import Mock

import pytest

from server.shell.calls import connections
from server.shell.calls.connections import Connections
from server.shell.settings.addresses import Address, parse_address
from tests.integration.shell.half_open import HalfOpen, connected
from tests.integration.shell.shell_host import SERVICE, USER, Shell, running

BALANCE = "/cellbook.v1.LedgerService/GetBalance"
ME = (("cellbook-principal", f"user/{USER}"),)
PATIENCE_S = 20.0


def address_of(shell: Shell) -> Address:
    return parse_address(str(shell.host.address))


async def until_cut(attackers: list[HalfOpen], at_most: int) -> None:
    """Until no more than so many are connected."""
    async with asyncio.timeout(PATIENCE_S):
        while sum(not attacker.closed.is_set() for attacker in attackers) > at_most:  # noqa: ASYNC110 - each has its own
            await asyncio.sleep(0.02)


async def test_a_connection_of_nobody_is_cut(tmp_path: Path) -> None:
    """After so many denied calls, with what still waited on it; others go on, also one with a few bad calls."""
    async with running(tmp_path) as shell, connected(address_of(shell)) as bad, connected(address_of(shell)) as mixed:
        mixed.send(BALANCE, connections.DENIED_MAX // 2)
        bad.send(BALANCE, 10 * connections.DENIED_MAX)
        await asyncio.wait_for(bad.closed.wait(), PATIENCE_S)
        assert (await shell.balance(ME, PATIENCE_S)).user_id == USER
        assert not mixed.closed.is_set()


async def test_calls_of_somebody_make_up_for_calls_of_nobody(tmp_path: Path) -> None:
    """A client that passes on others' calls may have as many bad ones as good ones."""
    async with running(tmp_path) as shell, connected(address_of(shell)) as client:
        for _ in range(4):
            client.send(BALANCE, connections.DENIED_MAX // 2)
            client.send(BALANCE, connections.DENIED_MAX // 2, SERVICE, content=b"")
            async with asyncio.timeout(PATIENCE_S):
                while client.held:  # noqa: ASYNC110 - the server tells nobody
                    await asyncio.sleep(0.01)
        assert not client.closed.is_set()


async def test_one_address_does_not_take_all_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those beyond its share are cut, the newest first: the ones that it had go on."""
    monkeypatch.setattr(connections, "POLL_S", 0.1)
    async with running(tmp_path, address_connections_max=6) as shell, AsyncExitStack() as stack:
        assert (await shell.balance()).user_id == USER
        first = [await stack.enter_async_context(connected(address_of(shell))) for _ in range(4)]
        async with asyncio.timeout(PATIENCE_S):
            while len(shell.host._connections._known) < 5:  # noqa: ASYNC110 - a look is due
                await asyncio.sleep(0.02)
        more = [await stack.enter_async_context(connected(address_of(shell))) for _ in range(10)]
        await until_cut(more, 1)
        assert not any(attacker.closed.is_set() for attacker in first)
        assert (await shell.balance(timeout_s=PATIENCE_S)).user_id == USER


@pytest.mark.parametrize(
    ("peer", "remote"),
    [
        ("ipv4:10.0.0.1:5001", Address("10.0.0.1", 5001)),
        ("ipv6:%5B2001:db8::1%5D:5001", Address("2001:db8::1", 5001)),
        ("ipv6:[::ffff:10.0.0.1]:5001", Address("10.0.0.1", 5001)),
        ("unix:/tmp/x", None),
        ("", None),
    ],
)
def test_peers_are_named_as_grpc_names_them(peer: str, remote: Address | None) -> None:
    """One name for each, whichever family of addresses it came by."""
    assert connections._remote(peer) == remote


def test_what_is_counted_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection that was counted longest ago makes room."""
    monkeypatch.setattr(connections, "COUNTED_MAX", 3)
    bound = Connections(of_one_max=0)
    for port in (1, 2, 3, 1, 4):
        bound.denied(Mock(**{"auth_context.return_value": {}, "peer.return_value": f"ipv4:10.0.0.1:{port}"}))
    assert [address.port for address in bound._denied] == [3, 1, 4]


def test_who_has_a_certificate_is_not_cut() -> None:
    """A router passes on the calls of many, and some of theirs may be nobody's."""
    bound = Connections(of_one_max=0)
    for _ in range(2 * connections.DENIED_MAX):
        known = {"auth_context.return_value": {"x509_pem_cert": [b""]}, "peer.return_value": "ipv4:10.0.0.1:1"}
        bound.denied(Mock(**known))
    assert not bound._to_cut
