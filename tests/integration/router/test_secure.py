"""A router that wants proof, with a cell that wants proof: what it passes on gets none of its own power."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import grpc
import grpc.aio
import pytest

from cellbook.v1 import ledger_pb2, router_pb2, saga_pb2, settlement_pb2, types_pb2
from cellbook.v1.ledger_pb2_grpc import LedgerServiceStub
from cellbook.v1.router_pb2_grpc import RouterServiceStub
from cellbook.v1.saga_pb2_grpc import SagaServiceStub
from cellbook.v1.settlement_pb2_grpc import SettlementServiceStub
from cells.cell import Cell
from router.__main__ import hosted
from router.client import Client
from router.routing import proxy
from router.settings import RouterSettings
from server.cli.keys.authority import AUDIENCE, HOSTS, Authority, make_keys, settings_of
from server.process.clock import CellClock
from server.process.policies import POLICIES
from server.shell.calls.guard import CallGuard
from server.shell.calls.statuses import refusal_in
from server.shell.hosting.host import GrpcHost
from server.shell.hosting.security import build_security
from server.shell.identity.principal import Principal, Role, parse_principal
from server.shell.settings.host import HostSettings
from tests.doubles.store import MemoryStore
from tests.integration.services_rig import HERE, THERE, add_services, audit_parts, new_id
from tests.local_cells import DirectPeers, FixedDirectory, build_cell, leading, until_async

Pairs = tuple[tuple[str, str], ...]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("keys"))
    make_keys(made, [HERE, THERE], HOSTS)
    made.certify("shop", Principal(role=Role.SERVICE, name="shop"))
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Town:
    authority: Authority
    cell: Cell
    router: GrpcHost

    def token(self, principal: str, users: tuple[str, ...] = (), audience: str = AUDIENCE) -> Pairs:
        made = self.authority.token(
            parse_principal(principal), valid=timedelta(hours=1), users=users, audience=audience
        )
        return (("authorization", f"Bearer {made}"),)

    @asynccontextmanager
    async def public(self) -> AsyncIterator[grpc.aio.Channel]:
        """As whoever has a token and nothing else."""
        credentials = grpc.ssl_channel_credentials((self.authority.folder / "ca.pem").read_bytes())
        async with grpc.aio.secure_channel(str(self.router.public_address), credentials) as channel:
            yield channel

    async def position(self) -> int:
        return (await self.cell.store.head()).position


@asynccontextmanager
async def secure_cell(authority: Authority, folder: Path) -> AsyncIterator[tuple[Cell, str]]:
    store, peers = MemoryStore(HERE), DirectPeers()
    cell = build_cell(HERE, store, peers=peers, directory=FixedDirectory())
    settings = HostSettings.model_validate({"data": folder, **settings_of(authority, HERE)})
    security = build_security(settings)
    guard = CallGuard(POLICIES, clock=CellClock(time=cell.time), identity=security.identity)
    host = GrpcHost(settings, name=HERE, guard=guard, certificates=security.certificates)
    add_services(cell, host.server, audit_parts(cell, store, peers))
    async with leading(cell):
        await host.start(["cellbook.v1.LedgerService"])
        try:
            yield cell, str(host.address)
        finally:
            guard.streams.end_all()
            await host.server.stop(1.0)


@pytest.fixture
async def town(dsn: str, authority: Authority, tmp_path: Path) -> AsyncIterator[Town]:
    async with secure_cell(authority, tmp_path) as (cell, address):
        settings = RouterSettings.model_validate(
            {
                "dsn": dsn,
                "cells": f"{HERE}=us={address}",
                "public_listen": "127.0.0.1:0",
                "drain_grace_ms": 1_000,
                **settings_of(authority, "router"),
            }
        )
        async with hosted(settings) as host:
            try:
                yield Town(authority=authority, cell=cell, router=host)
            finally:
                await host.stop()


async def denied(call: object) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call  # type: ignore[misc]
    refused = refusal_in(failed.value)
    assert refused is not None, failed.value
    return refused.reason


def deposit(user: str) -> ledger_pb2.DepositRequest:
    money = types_pb2.Money(currency="USD", amount_minor=100)
    return ledger_pb2.DepositRequest(command_id=new_id(), user_id=user, amount=money, external_reference=new_id())


async def test_tokens_travel_with_what_is_passed_on(town: Town) -> None:
    """Registered by a shop, paid in by a bank, looked at by the user, each by its own token; by nobody else's."""
    user = new_id()
    async with town.public() as channel:
        router, ledger = RouterServiceStub(channel), LedgerServiceStub(channel)
        request = router_pb2.RegisterUserRequest(user_id=user)
        assert await denied(router.RegisterUser(request, metadata=town.token(f"user/{user}"), timeout=10)) == (
            "NOT_PERMITTED"
        )
        await router.RegisterUser(request, metadata=town.token("service/shop"), timeout=10)
        assert await denied(ledger.Deposit(deposit(user), metadata=town.token("service/shop"))) == "NOT_PERMITTED"
        await ledger.Deposit(deposit(user), metadata=town.token("treasury/bank"), timeout=10)
        asked = ledger_pb2.GetBalanceRequest(user_id=user)
        for own in (town.token(f"user/{user}"), town.token("delegate/help", (user,))):
            answer = await ledger.GetBalance(asked, metadata=own, timeout=10)
            assert [each.available_minor for each in answer.balances] == [100]
        for other in (town.token(f"user/{new_id()}"), town.token("delegate/help", (new_id(),))):
            assert await denied(ledger.GetBalance(asked, metadata=other, timeout=10)) == "NOT_YOUR_ACCOUNT"


async def test_a_token_for_one_cell_gives_nothing_elsewhere(town: Town) -> None:
    """The router passes it on to any cell, where only its own takes it, and takes none of them itself."""
    user = new_id()
    here, there = (town.token("auditor/anna", audience=f"cellbook/{cell}") for cell in (HERE, THERE))
    asked = ledger_pb2.GetBalanceRequest(user_id=user)
    async with town.public() as channel:
        router, ledger = RouterServiceStub(channel), LedgerServiceStub(channel)
        await router.RegisterUser(router_pb2.RegisterUserRequest(user_id=user), metadata=town.token("service/shop"))
        await ledger.GetBalance(asked, metadata=here, timeout=10)
        assert await denied(ledger.GetBalance(asked, metadata=there, timeout=10)) == "TOKEN_INVALID"
        for token in (here, there):
            resolved = router.ResolveUser(router_pb2.ResolveUserRequest(user_id=user), metadata=token, timeout=10)
            assert await denied(resolved) == "TOKEN_INVALID"


LEG = settlement_pb2.ApplyLegRequest(leg=settlement_pb2.Leg(orchestrator="router", saga_id=str(uuid4())))


async def test_the_router_lends_nobody_its_power(town: Town) -> None:
    """Without a token what it may itself is denied, and legs whoever asks; nothing is written, no clock moves."""
    user, before, claimed_ms = new_id(), await town.position(), town.cell.time.clock.wall_ms() + 400
    opened = ledger_pb2.OpenAccountRequest(command_id=new_id(), user_id=user, home_epoch=1)
    pretence = (
        ("cellbook-principal", "router/router"),
        ("cellbook-cell", HERE),
        ("cellbook-hlc", str(claimed_ms << 16)),
    )
    async with town.public() as channel:
        ledger, legs = LedgerServiceStub(channel), SettlementServiceStub(channel)
        sagas = SagaServiceStub(channel)
        retry = saga_pb2.RetrySagaRequest(saga_id=new_id())
        assert await denied(ledger.OpenAccount(opened, metadata=pretence, timeout=10)) == "IDENTITY_MISSING"
        assert await denied(legs.ApplyLeg(LEG, metadata=pretence, timeout=10)) == "IDENTITY_MISSING"
        assert await denied(sagas.RetrySaga(retry, metadata=pretence, timeout=10)) == "IDENTITY_MISSING"
        for principal in ("operator/olga", "service/shop", f"user/{user}"):
            token = pretence + town.token(principal)
            assert await denied(legs.ApplyLeg(LEG, metadata=token, timeout=10)) == "NOT_PERMITTED"
    assert await town.position() == before
    # On a loaded machine the clock may have got there by itself.
    assert town.cell.time.hlc.last.physical_ms < claimed_ms or town.cell.time.clock.wall_ms() >= claimed_ms


async def test_without_the_mark_the_router_would_lend_it(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ablation: let in unproven and passed on unmarked, a call of nobody opens an account; and no more than that, as a

    router may no more.
    """

    async def anybody(*_: object) -> Principal:
        return Principal(role=Role.SERVICE, name="anybody")

    monkeypatch.setattr(proxy, "_FORWARDED", ())
    monkeypatch.setattr(proxy.ProxyingGuard, "_caller", anybody)
    opened = ledger_pb2.OpenAccountRequest(command_id=new_id(), user_id=new_id(), home_epoch=1)
    where = (("cellbook-cell", HERE),)
    async with town.public() as channel:
        ledger, legs = LedgerServiceStub(channel), SettlementServiceStub(channel)
        assert (await denied(ledger.OpenAccount(opened, timeout=10))) == "USER_NOT_FOUND"
        await ledger.OpenAccount(opened, metadata=where, timeout=10)
        assert await denied(legs.ApplyLeg(LEG, metadata=where, timeout=10)) == "NOT_PERMITTED"


async def test_what_callers_say_of_themselves_goes_nowhere(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cell would not read it; it does not even get there, nor does what only cells and routers say."""
    passed: list[tuple[str, str | bytes]] = []
    plain = proxy.passed_on

    def watched(sent: Iterable[tuple[str, str | bytes]], not_passed_on: AbstractSet[str]) -> proxy.Metadata:
        passed.extend(plain(sent, not_passed_on))
        return plain(sent, not_passed_on)

    monkeypatch.setattr(proxy, "passed_on", watched)
    said = (("cellbook-principal", "peer/eu-west"), ("cellbook-hlc", "1"), ("cellbook-forwarded", "0"), ("x", "y"))
    request = ledger_pb2.GetCommandRequest(command_id=new_id())
    token = town.token("service/shop")
    async with town.public() as channel:
        where = (("cellbook-cell", HERE),)
        assert await denied(LedgerServiceStub(channel).GetCommand(request, metadata=said + token + where)) == (
            "COMMAND_NOT_FOUND"
        )
    assert set(passed) == {("x", "y"), ("cellbook-forwarded", "1"), *token, *where}


async def test_the_smart_client_gets_in(town: Town) -> None:
    """With its certificate straight to the cell, as itself or as whom its token names."""
    user = new_id()
    asked = ledger_pb2.GetBalanceRequest(user_id=user)
    tls = town.authority.tls("shop")
    async with Client(str(town.router.address), tls=tls) as shop:
        await shop.router.RegisterUser(router_pb2.RegisterUserRequest(user_id=user))
        await shop.ledger.GetBalance(asked)
        assert await denied(shop.ledger.Deposit(deposit(user))) == "NOT_PERMITTED"
    token = town.token(f"user/{new_id()}")[0][1].removeprefix("Bearer ")
    async with Client(str(town.router.address), tls=tls, token=lambda: token) as other:
        # Not even where the user is at home.
        assert await denied(other.ledger.GetBalance(asked)) == "NOT_YOUR_ACCOUNT"


async def test_the_smart_client_takes_a_new_certificate(town: Town) -> None:
    """Where the files have changed it comes to the router, too, as whom they name now."""
    town.authority.certify("stall", Principal(role=Role.AUDITOR, name="anna"))
    registration = router_pb2.RegisterUserRequest(user_id=new_id())
    async with Client(str(town.router.address), tls=town.authority.tls("stall")) as stall:
        assert await denied(stall.router.RegisterUser(registration)) == "NOT_PERMITTED"
        town.authority.certify("stall", Principal(role=Role.SERVICE, name="stall"))

        async def registered() -> bool:
            try:
                await stall.router.RegisterUser(registration)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.PERMISSION_DENIED:
                    raise
                return False
            return True

        await until_async(registered)


async def test_cells_are_asked_by_what_they_know_the_router_for(town: Town) -> None:
    """The probes need no identity, and say that the cell serves."""
    async with town.public() as channel:
        router = RouterServiceStub(channel)
        async with asyncio.timeout(15):
            while True:
                listed = await router.ListCells(
                    router_pb2.ListCellsRequest(), metadata=town.token("auditor/anna"), timeout=10
                )
                if [cell.health for cell in listed.cells] == [router_pb2.CELL_HEALTH_SERVING]:
                    return
                await asyncio.sleep(0.1)
