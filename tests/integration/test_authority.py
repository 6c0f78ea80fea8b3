"""Events name the proof under which they were made: a token, a certificate, or the cell itself."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import grpc.aio
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from cellbook.v1 import ledger_pb2, settlement_pb2
from cellbook.v1.ledger_pb2_grpc import LedgerServiceStub, add_LedgerServiceServicer_to_server
from cellbook.v1.settlement_pb2_grpc import SettlementServiceStub, add_SettlementServiceServicer_to_server
from cells.domain.commands import CreditPending, Reserve
from cells.domain.values import LegId, Money
from cells.memory import MemoryStore
from cells.ports import LegCall
from server.cli.keys.authority import HOSTS, ISSUER, Authority
from server.cli.keys.cluster import make_keys, settings_of
from server.policies import POLICIES
from server.services.ledger import LedgerServicer
from server.services.settlement import SettlementServicer
from server.shell.hosting import GrpcHost
from server.shell.identity import ON_BEHALF_CERTIFICATE_KEY, ON_BEHALF_KEY
from server.shell.interceptors import CallGuard
from server.shell.principal import parse_principal
from server.shell.security import build_security
from server.shell.tls import Certificates
from server.wire.legs import leg_to_proto
from tests.integration.services_rig import HERE, THERE, audit_parts, usd
from tests.integration.shell_host import Pairs, settings_in
from tests.local_cells import DirectPeers, memory_cell, open_user, request, until

BY_CELL = {"by": "cell"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bank:
    """A cell that wants proof of who calls, with one user."""

    store: MemoryStore
    authority: Authority
    host: GrpcHost
    user: UUID

    @asynccontextmanager
    async def channel(self, name: str) -> AsyncIterator[grpc.aio.Channel]:
        credentials = Certificates(self.authority.tls(name)).channel_credentials()
        async with grpc.aio.secure_channel(str(self.host.address), credentials) as channel:
            yield channel

    async def deposit(self, name: str, *metadata: tuple[str, str], batch: bool = False) -> list[Any]:
        """The authorities of what was deposited over a connection with the certificate `name`."""
        before = len(self.store.log)
        async with self.channel(name) as channel:
            stub = LedgerServiceStub(channel)
            if batch:
                asked = ledger_pb2.BatchDepositRequest(items=[self._deposit(), self._deposit()])
                await stub.BatchDeposit(asked, metadata=metadata, timeout=10)
            else:
                await stub.Deposit(self._deposit(), metadata=metadata, timeout=10)
        return self.authorities(before)

    def _deposit(self) -> ledger_pb2.DepositRequest:
        return ledger_pb2.DepositRequest(
            command_id=str(uuid4()), user_id=str(self.user), amount=usd(10), external_reference=str(uuid4())
        )

    def authorities(self, after: int) -> list[Any]:
        return [json.loads(row.metadata).get("authority") for row in self.store.log[after:]]

    def certificate(self, name: str) -> dict[str, str]:
        pem = self.authority.tls(name).cert.read_bytes()
        return {"by": "certificate", "sha256": x509.load_pem_x509_certificate(pem).fingerprint(hashes.SHA256()).hex()}

    def token(self, principal: str) -> tuple[Pairs, dict[str, Any]]:
        """To be sent, and how events name it."""
        made = self.authority.token(parse_principal(principal), valid=timedelta(hours=1))
        claims = jwt.decode(made, options={"verify_signature": False})
        kid = jwt.get_unverified_header(made)["kid"]
        named = {"by": "token", "issuer": ISSUER, "kid": kid, "jti": claims["jti"]}
        return (("authorization", f"Bearer {made}"),), named


@pytest.fixture
async def bank(tmp_path: Path) -> AsyncIterator[Bank]:
    authority = Authority(tmp_path / "keys")
    make_keys(authority, [HERE, THERE], HOSTS)
    authority.certify("bank", parse_principal("treasury/bank"))
    settings = settings_in(tmp_path, **settings_of(authority, HERE))
    security = build_security(settings, HERE)
    async with memory_cell(HERE) as (cell, store):
        user = await open_user(cell)
        guard = CallGuard(POLICIES, identity=security.identity)
        host = GrpcHost(settings, name=HERE, guard=guard, certificates=security.certificates)
        history = audit_parts(cell, store, DirectPeers()).history
        add_LedgerServiceServicer_to_server(LedgerServicer(cell, cell.time.clock, history), host.server)
        add_SettlementServiceServicer_to_server(SettlementServicer(cell, cell.time.clock), host.server)
        await host.start([])
        try:
            yield Bank(store=store, authority=authority, host=host, user=user)
        finally:
            await host.stop()


async def test_a_certificate_is_named(bank: Bank) -> None:
    """By its fingerprint, in each event of a batch."""
    assert await bank.deposit("bank", batch=True) == [bank.certificate("bank")] * 2


async def test_a_token_is_named(bank: Bank) -> None:
    """It decides, whatever the certificate of the connection is."""
    metadata, named = bank.token("treasury/giro")
    assert await bank.deposit("bank", *metadata) == [named]


async def test_a_call_that_another_process_of_the_cell_forwards_names_its_callers_certificate(bank: Bank) -> None:
    """As that process says; one that names none, or nonsense, leaves it open."""
    said = (ON_BEHALF_KEY, "treasury/bank")
    fingerprint = bank.certificate("bank")["sha256"]
    assert await bank.deposit(HERE, said, (ON_BEHALF_CERTIFICATE_KEY, fingerprint)) == [bank.certificate("bank")]
    assert await bank.deposit(HERE, said) == [None]
    assert await bank.deposit(HERE, said, (ON_BEHALF_CERTIFICATE_KEY, '"}')) == [None]


async def test_what_only_a_process_of_the_cell_may_say_is_not_believed_of_others(bank: Bank) -> None:
    """A caller's own word names no certificate."""
    said = (ON_BEHALF_CERTIFICATE_KEY, "ab" * 32)
    assert await bank.deposit("bank", said) == [bank.certificate("bank")]


async def test_a_leg_names_the_peer_that_asks_for_it(bank: Bank) -> None:
    """By the certificate of its connection."""
    action = CreditPending(
        user_id=bank.user, amount=Money("USD", 10), from_cell=THERE, auction_id=uuid4(), clearing_id=uuid4()
    )
    leg_id = LegId(uuid4(), "credit-in", 1)
    leg = LegCall(leg_id=leg_id, action=action, orchestrator=THERE, causation_id=uuid4(), user_id=bank.user)
    before = len(bank.store.log)
    async with bank.channel(THERE) as channel:
        asked = settlement_pb2.ApplyLegRequest(leg=leg_to_proto(leg))
        await SettlementServiceStub(channel).ApplyLeg(asked, timeout=10)
    assert bank.authorities(before) == [bank.certificate(THERE)]


async def test_what_the_cell_does_by_itself_says_so() -> None:
    """A timer's event is the cell's own; a command that nothing has proven names no authority."""
    async with memory_cell() as (cell, store):
        user = await open_user(cell, 100)
        soon_ms = cell.time.clock.wall_ms() + 50
        await cell.execute(request(Reserve(user_id=user, amount=Money("USD", 10), expire_time_ms=soon_ms)))
        await until(lambda: store.log[-1].event_type == "FUNDS_RELEASED")
        said = [json.loads(row.metadata).get("authority") for row in store.log]
    assert said == [*[None] * (len(said) - 1), BY_CELL]
