"""A cell that wants proof of who calls, with one user, to whom a bank brings money."""

import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import grpc.aio
import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from cellbook.v1 import ledger_pb2
from cellbook.v1.ledger_pb2_grpc import LedgerServiceStub, add_LedgerServiceServicer_to_server
from cellbook.v1.settlement_pb2_grpc import add_SettlementServiceServicer_to_server
from cells.audit.export.exporter import Wanted
from cells.audit.proofs.checkpoint_signer import CheckpointSigner
from cells.audit.proofs.keys import SEED_BYTES, SigningKey
from cells.audit.verify.note import LOG_KEY
from server.audit.signatures import caller_signatures
from server.cli.keys.authority import HOSTS, ISSUER, Authority, make_keys, settings_of
from server.process.policies import POLICIES
from server.services.audit_parts import Proofs
from server.services.ledger import LedgerServicer
from server.services.settlement import SettlementServicer
from server.shell.calls.guard import CallGuard
from server.shell.hosting.host import GrpcHost
from server.shell.hosting.security import build_security
from server.shell.identity.principal import parse_principal
from server.shell.identity.tls import Certificates
from tests.doubles.store import MemoryStore
from tests.integration.audit.proof_rig import until_signed
from tests.integration.services_rig import HERE, THERE, audit_parts, usd
from tests.integration.shell.shell_host import Pairs, settings_in
from tests.local_cells import DirectPeers, LocalCell, build_cell, leading, open_user

BANK = SigningKey(name="treasury/bank", kind=LOG_KEY, seed=os.urandom(SEED_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bank:
    """A cell that wants proof of who calls, with one user."""

    cell: LocalCell
    store: MemoryStore
    proofs: Proofs
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
                asked = ledger_pb2.BatchDepositRequest(items=[self.request(), self.request()])
                await stub.BatchDeposit(asked, metadata=metadata, timeout=10)
            else:
                await stub.Deposit(self.request(), metadata=metadata, timeout=10)
        return self.authorities(before)

    def request(self) -> ledger_pb2.DepositRequest:
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

    async def exported(self) -> list[bytes]:
        """The lines of an export of the log, once all of it is signed."""
        [checkpoint_signer] = [task for task in self.cell.tasks if isinstance(task, CheckpointSigner)]
        await until_signed(checkpoint_signer)
        pieces = [piece.lines async for piece in self.proofs.exporter.pieces(Wanted())]
        return b"".join(pieces).splitlines(keepends=True)


@asynccontextmanager
async def open_bank(tmp_path: Path, signed_methods: Sequence[str] = ()) -> AsyncIterator[Bank]:
    authority, callers = Authority(tmp_path / "keys"), tmp_path / "callers"
    callers.write_text(f"key {BANK.verifier}\n")
    make_keys(authority, [HERE, THERE], HOSTS)
    authority.certify("bank", parse_principal("treasury/bank"))
    settings = settings_in(tmp_path, **settings_of(authority, HERE))
    security = build_security(settings, HERE)
    store, peers = MemoryStore(HERE), DirectPeers()
    cell = build_cell(HERE, store, peers=peers)
    audit, clock = audit_parts(cell, store, peers), cell.time.clock
    async with leading(cell):
        user = await open_user(cell)
        guard = CallGuard(POLICIES, identity=security.identity)
        host = GrpcHost(settings, name=HERE, guard=guard, certificates=security.certificates)
        signatures = caller_signatures(callers, frozenset(signed_methods))
        add_LedgerServiceServicer_to_server(LedgerServicer(cell, clock, audit.history, signatures), host.server)
        add_SettlementServiceServicer_to_server(SettlementServicer(cell, clock), host.server)
        await host.start([])
        try:
            yield Bank(cell=cell, store=store, proofs=audit.proofs, authority=authority, host=host, user=user)
        finally:
            store.gate.set()
            await host.stop()
