"""The calls that a standby forwards, and the metadata sent with them."""

from collections.abc import Sequence
from typing import Any, cast
from unittest.mock import Mock

import pytest

from cellbook.v1 import ledger_pb2
from cells.domain.refusals import NotLeading
from server.shell.channels.client import cell_channels
from server.shell.channels.forwarding import ANSWER_HERE_KEY, LeaderForwarder
from server.shell.channels.location_cache import unavailable
from server.shell.identity.callers import ON_BEHALF_CERTIFICATE_KEY, ON_BEHALF_KEY, principal_of
from server.shell.identity.principal import PRINCIPAL_KEY, TOKEN_KEY, Principal, Role

METHOD = "/cellbook.v1.LedgerService/GetCommand"
SHOP = Principal(role=Role.SERVICE, name="shop")
CERTIFICATE = "ab" * 32
Sent = tuple[tuple[str, str], ...]


class Processes:
    """The addresses of a cell's processes, if known, and the number of lookups."""

    def __init__(self, *known: str) -> None:
        self.known = known
        self.asked: list[str] = []
        self.looked: list[str] = []

    async def endpoints(self, cell: str) -> Sequence[str]:
        self.asked.append(cell)
        if not self.known:
            raise unavailable("nobody lists them")
        return self.known

    def look_again(self, cell: str) -> None:
        self.looked.append(cell)


def forwarder(processes: Processes, *, proven: bool = False) -> LeaderForwarder:
    return LeaderForwarder(
        cell="us-east",
        locations=cast("Any", processes),
        channels=cell_channels(None),
        proven=proven,
        leader_wait_s=0.05,
    )


def context_of(*sent: tuple[str, str]) -> Mock:
    context = Mock()
    context.invocation_metadata.return_value = sent
    context.time_remaining.return_value = 10.0
    return context


@pytest.mark.parametrize(
    ("known", "sent", "asked"),
    [((), (), 2), (("127.0.0.1:1",), (), 2), (("127.0.0.1:1",), ((ANSWER_HERE_KEY, "1"),), 0)],
)
async def test_where_nobody_can_be_asked_the_refusal_stands(known: tuple[str, ...], sent: Sent, asked: int) -> None:
    """No process is listed, none leads in time, or the call was already forwarded; later calls look up again."""
    processes = Processes(*known)
    forwarding = forwarder(processes)
    refused = NotLeading(cell="us-east")
    try:
        for _ in range(2):
            with pytest.raises(NotLeading) as raised:
                await forwarding.unary(METHOD, ledger_pb2.GetCommandRequest(), context_of(*sent), SHOP, refused)
            assert raised.value is refused
    finally:
        await forwarding.close()
    assert processes.asked == processes.looked == ["us-east"] * asked


@pytest.mark.parametrize(
    ("proven", "sent", "goes"),
    [
        (
            True,
            {"traceparent": "00-1", PRINCIPAL_KEY: "operator/me"},
            {"traceparent": "00-1", ON_BEHALF_KEY: "service/shop"},
        ),
        (True, {TOKEN_KEY: "Bearer x", ON_BEHALF_KEY: "operator/me"}, {TOKEN_KEY: "Bearer x"}),
        (True, {ON_BEHALF_KEY: "operator/me"}, {ON_BEHALF_KEY: "service/shop"}),
        (False, {PRINCIPAL_KEY: "service/shop", "user-agent": "x"}, {PRINCIPAL_KEY: "service/shop"}),
    ],
)
async def test_who_has_called_goes_along(proven: bool, sent: dict[str, str], goes: dict[str, str]) -> None:  # noqa: FBT001
    """By the token, or by the principal that the certificate has proven; never by the caller's own claim."""
    forwarding = forwarder(Processes(), proven=proven)
    metadata = forwarding._metadata(context_of(*sent.items()), SHOP)
    assert dict(metadata) == {**goes, ANSWER_HERE_KEY: "1"}
    assert len(metadata) == len(goes) + 1


def test_the_certificate_of_the_caller_is_named() -> None:
    """The principal that it has proven is named, never one that the caller names."""
    shop = principal_of("cellbook://service/shop", CERTIFICATE)
    said = {ON_BEHALF_CERTIFICATE_KEY: "cd" * 32}
    assert dict(forwarder(Processes(), proven=True)._metadata(context_of(*said.items()), shop)) == {
        ON_BEHALF_KEY: "service/shop",
        ON_BEHALF_CERTIFICATE_KEY: CERTIFICATE,
        ANSWER_HERE_KEY: "1",
    }
