"""A stream ends when what has proven its caller does: no token, key or certificate is good for longer by being used."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import grpc
import grpc.aio
import pytest

from cellbook.v1 import event_pb2
from cellbook.v1.event_pb2_grpc import EventServiceStub
from server.cli.keys import authority as authorities
from server.cli.keys.authority import HOSTS, Authority, make_keys
from server.shell.calls import streams
from server.shell.calls.statuses import refusal_in
from server.shell.identity import tokens
from server.shell.identity.principal import parse_principal
from tests.integration.shell.shell_host import Pairs
from tests.integration.shell.test_identity import House, housed

PATIENCE_S = 20.0


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """Looked after ten times as often as outside of tests."""
    monkeypatch.setattr(streams, "PROOF_CHECK_S", 0.1)
    made = Authority(tmp_path / "keys")
    make_keys(made, ["us-east"], HOSTS)
    return made


async def ending(channel: grpc.aio.Channel, metadata: Pairs = (), then: Callable[[], object] = lambda: None) -> str:
    """Why an endless stream ends that stands when `then` happens."""
    call = EventServiceStub(channel).Subscribe(event_pb2.SubscribeRequest(), metadata=metadata)
    for _ in range(3):
        await call.read()
    then()
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await asyncio.wait_for(call.read(), PATIENCE_S)
    refused = refusal_in(failed.value)
    assert (failed.value.code(), refused is not None) == (grpc.StatusCode.UNAUTHENTICATED, True)
    assert refused is not None
    return refused.message


def short(house: House, valid: timedelta) -> Pairs:
    made = house.authority.token(parse_principal("auditor/anna"), valid=valid)
    return (("authorization", f"Bearer {made}"),)


async def test_a_stream_ends_with_its_token(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its exp, and not before; one with a longer token goes on."""
    monkeypatch.setattr(tokens, "LEEWAY_S", 0.0)
    async with housed(tmp_path, authority) as house, house.door(public=True) as channel:
        house.events.wait = True
        lasting = EventServiceStub(channel).Subscribe(
            event_pb2.SubscribeRequest(), metadata=short(house, timedelta(hours=1))
        )
        await lasting.read()
        assert "expired" in await ending(channel, short(house, timedelta(seconds=2)))
        assert not lasting.done()
        lasting.cancel()


async def test_a_stream_ends_with_the_key_of_its_token(tmp_path: Path, authority: Authority) -> None:
    """As soon as the key set is read again without it."""
    async with housed(tmp_path, authority, jwt_refresh_s=1) as house, house.door(public=True) as channel:
        house.events.wait = True

        def retire() -> None:
            authority.rotate()
            authority.retire()

        async with house.security.running():
            assert "key that signed it" in await ending(channel, short(house, timedelta(hours=1)), retire)


async def test_a_stream_ends_with_its_certificate(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection stands; a call over it is refused, too."""
    monkeypatch.setattr(authorities, "VALID_DAYS", 3 / 86_400)
    authority.certify("olga", parse_principal("operator/olga"))
    async with housed(tmp_path, authority) as house, house.door("olga") as channel:
        house.events.wait = True
        assert "expired at" in await ending(channel)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await EventServiceStub(channel).Subscribe(event_pb2.SubscribeRequest()).read()
        refused = refusal_in(failed.value)
        assert refused is not None
        assert refused.reason == "CERTIFICATE_EXPIRED"
