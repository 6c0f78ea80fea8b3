"""A caller signs its command, the cell checks that, and the log proves it to anybody who has the caller's key."""

import json
import os
import re
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Sequence
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
from google.protobuf.message import Message

from cellbook.v1 import ledger_pb2, settlement_pb2
from cellbook.v1.ledger_pb2_grpc import add_LedgerServiceServicer_to_server
from cellbook.v1.settlement_pb2_grpc import add_SettlementServiceServicer_to_server
from cells.audit.export.exporter import Wanted
from cells.audit.proofs.checkpoint_signer import CheckpointSigner
from cells.audit.proofs.keys import SEED_BYTES, SigningKey
from cells.audit.reconcile.fold import Fold
from cells.audit.verify.callers import CallerCheck, Callers, callers_in
from cells.audit.verify.command import main as verify
from cells.audit.verify.export import check_export
from cells.audit.verify.note import LOG_KEY, Malformed
from cells.domain.commands import CreditPending, Deposit, Reserve
from cells.domain.record import replace
from cells.domain.values import LegId, Money
from cells.encoding import codec
from cells.store.ports import LegCall
from cells.store.unusable import CannotServe
from server.audit.signatures import caller_signatures
from server.cli.keys.authority import HOSTS, ISSUER, Authority, make_keys, settings_of
from server.process.policies import POLICIES
from server.services.audit_parts import Proofs
from server.services.ledger import LedgerServicer
from server.services.settlement import SettlementServicer
from server.shell.calls.guard import CallGuard
from server.shell.calls.statuses import of_status
from server.shell.hosting.host import GrpcHost
from server.shell.hosting.security import build_security
from server.shell.identity.callers import ON_BEHALF_CERTIFICATE_KEY, ON_BEHALF_KEY
from server.shell.identity.principal import parse_principal
from server.shell.identity.tls import Certificates
from server.wire.legs import leg_to_proto
from tests import golden
from tests.doubles.store import MemoryStore
from tests.integration.audit.proof_rig import until_signed
from tests.integration.services_rig import HERE, KEYS, THERE, Over, audit_parts, deposit_of, refusal_of, usd
from tests.integration.shell.shell_host import Pairs, settings_in
from tests.local_cells import DirectPeers, LocalCell, build_cell, leading, memory_cell, open_user, request, until

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

    async def send(self, name: str, request: Message, *metadata: tuple[str, str]) -> Any:  # noqa: ANN401 - any answer
        """The answer over a connection with the certificate `name`."""
        credentials = Certificates(self.authority.tls(name)).channel_credentials()
        async with grpc.aio.secure_channel(str(self.host.address), credentials) as channel:
            return await Over(channel).call(request, by=metadata or None)

    async def deposit(self, name: str, *metadata: tuple[str, str], batch: bool = False) -> list[Any]:
        """The authorities of what was deposited over a connection with the certificate `name`."""
        before, items = len(self.store.log), [self.request(), self.request()]
        await self.send(name, ledger_pb2.BatchDepositRequest(items=items) if batch else items[0], *metadata)
        return self.authorities(before)

    def request(self) -> ledger_pb2.DepositRequest:
        return deposit_of(self.user, 10)

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


PAGE = Path(__file__).parents[3] / "docs" / "clients.md"
CALLERS = callers_in(f"key {BANK.verifier}")


def page_program() -> Callable[[str, str, object], bytes]:
    """The function that docs/clients.md shows."""
    [program] = [
        text for text in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "def signature" in text
    ]
    names: dict[str, Any] = {}
    exec(program, names)  # noqa: S102 - the page's own
    found: Callable[[str, str, object], bytes] = names["signature"]
    return found


SIGNATURE = page_program()


def signed(bank: Bank) -> ledger_pb2.DepositRequest:
    asked = bank.request()
    asked.signature = SIGNATURE(BANK.text, "Deposit", asked)
    return asked


@pytest.fixture
async def bank(tmp_path: Path) -> AsyncIterator[Bank]:
    async with open_bank(tmp_path, ["Deposit"]) as opened:
        yield opened


async def problems(bank: Bank, callers: Callers = CALLERS) -> list[tuple[int, str]]:
    found = check_export(await bank.exported(), [KEYS.log.verifier], callers=CallerCheck(callers=callers))
    return [(each.position, each.text) for each in found.problems]


async def test_what_the_page_shows_is_taken_and_proves_the_deposit(bank: Bank, tmp_path: Path) -> None:
    """Alone, in a batch, with ids in another spelling; and a withdrawal. `cellbook verify` says how many there are."""
    taken = ledger_pb2.WithdrawRequest(
        command_id=str(uuid4()), user_id=str(bank.user), amount=usd(5), external_reference="out-1"
    )
    taken.signature = SIGNATURE(BANK.text, "Withdraw", taken)
    odd = signed(bank)
    odd.command_id, odd.user_id = odd.command_id.upper(), odd.user_id.upper()
    await bank.send("bank", odd)
    answer = await bank.send("bank", ledger_pb2.BatchDepositRequest(items=[signed(bank), signed(bank)]))
    assert [each.WhichOneof("result") for each in answer.results] == ["accepted"] * 2
    await bank.send("bank", taken)
    assert await problems(bank) == []
    [*_, said] = bank.authorities(0)
    assert b64decode(said.pop("signature")) == taken.signature
    assert said == bank.certificate("bank")
    export, callers = tmp_path / "export", tmp_path / "counting"
    export.write_bytes(b"".join(await bank.exported()))
    callers.write_text(f"key {BANK.verifier}")
    assert verify([str(export), "--key", str(KEYS.log.verifier), "--callers", str(callers)], program="verify") == 0


async def test_a_deposit_that_nobody_has_asked_for_is_named(bank: Bank) -> None:
    """Written by one who has all of the cell's keys: its hashes, its place in the tree and the checkpoint are right.

    With no proof, with that of the bank's connection, and with the signature of another command: for another id, or for
    this id and another amount.
    """
    await bank.send("bank", signed(bank))
    genuine = json.loads(bank.store.log[-1].metadata)
    for_id, proof = UUID(genuine["command_id"]), codec.canonical(genuine["authority"])
    for command_id, authority in (
        (uuid4(), ""),
        (uuid4(), codec.canonical(bank.certificate("bank"))),
        (uuid4(), proof),
        (for_id, proof),
    ):
        command = Deposit(user_id=bank.user, amount=Money("USD", 1_000_000), external_reference=str(uuid4()))
        forged = request(command, command_id=command_id, fingerprint=b"")
        await bank.cell.execute(replace(forged, principal="treasury/bank", authority=authority))
    last, found = bank.cell.time.durable_position, await problems(bank)
    assert [position for position, _ in found] == [*range(last - 3, last + 1)]
    assert all(text.startswith("no caller: ") for _, text in found)
    assert ["has a key, and has not signed it" in text for _, text in found] == [True, True, False, False]
    assert ["has not signed this command, but another one" in text for _, text in found] == [False, False, True, True]


async def test_a_signature_counts_once(bank: Bank) -> None:
    """An event that is there twice, in every byte that was signed, was asked for once: in this log, and in all."""
    await bank.send("bank", signed(bank))
    [line] = [line for line in await bank.exported() if b'"DEPOSITED"' in line]
    event, check = json.loads(line)["event"], CallerCheck(callers=CALLERS, origin="cellbook/us-east")
    assert not check.problem(event)
    assert check.signed == 1
    assert "signed once, and is here once more" in check.problem({**event, "position": event["position"] + 1})
    check.origin = "cellbook/eu-west"
    assert "signed once, and is here once more" in check.problem(event)


async def test_tokens_and_certificates_count_where_they_are_known(tmp_path: Path) -> None:
    """For those who have no key; of an issuer, the keys that are named; and nobody is asked before a position."""
    async with open_bank(tmp_path) as bank:
        await bank.deposit("bank")
        metadata, named = bank.token("treasury/giro")
        await bank.deposit("bank", *metadata)
        fingerprint, token = bank.certificate("bank")["sha256"], f"token {named['issuer']} {named['kid']}"
        both = f"# who counts\n\ncertificate {fingerprint}\n{token}"
        assert await problems(bank, callers_in(both)) == []
        first, last = bank.cell.time.durable_position - 1, bank.cell.time.durable_position
        assert [at for at, _ in await problems(bank, callers_in(f"certificate {fingerprint}"))] == [last]
        assert [at for at, _ in await problems(bank, callers_in(token))] == [first]
        assert [at for at, _ in await problems(bank, callers_in(f"{token}s"))] == [first, last]
        assert [at for at, _ in await problems(bank, callers_in(f"since cellbook/us-east {last}"))] == [last]
        assert [at for at, _ in await problems(bank, callers_in(f"key {BANK.verifier}\n{both}"))] == [first]


async def test_a_wrong_signature_is_refused(bank: Bank) -> None:
    """For another amount, another command id, by another's key, of no form, and none at all where there must be one."""
    amount, again, short, unknown, none = (signed(bank) for _ in range(5))
    amount.amount.amount_minor += 1
    again.command_id = str(uuid4())
    short.signature = short.signature[:-1]
    unknown.signature = b"abcd" + unknown.signature[4:]
    none.signature = b""
    reasons = {}
    for asked in (amount, again, short, unknown, none):
        reasons[asked.command_id] = (await refusal_of(bank.send("bank", asked))).reason
    answer = await bank.send("bank", ledger_pb2.BatchDepositRequest(items=[signed(bank), amount, none]))
    wrong, odd, missing = "SIGNATURE_INVALID", "FIELD_INVALID", "SIGNATURE_MISSING"
    assert list(reasons.values()) == [wrong, wrong, odd, wrong, missing]
    refusals = [of_status(each.refused) for each in answer.results[1:]]
    assert [each and each.reason for each in refusals] == [wrong, missing]
    assert answer.results[0].HasField("accepted")


async def test_a_key_signs_for_its_own_principal_alone(bank: Bank) -> None:
    """A treasury whose key is not known cannot use another's signature."""
    bank.authority.certify("giro", parse_principal("treasury/giro"))
    assert (await refusal_of(bank.send("giro", signed(bank)))).reason == "SIGNATURE_INVALID"


@pytest.mark.parametrize(
    "line",
    [
        "key nonsense",
        "keys x",
        "certificate 12",
        "since cellbook/us-east many",
        f"key {KEYS.witness.verifier}",
        "token a",
    ],
    # One of the lines holds a key that is new each time.
    ids=range(6),
)
def test_a_file_of_callers_that_says_nothing_clear_is_refused(line: str, tmp_path: Path) -> None:
    """By the verifier, and by a cell at its start."""
    with pytest.raises(Malformed):
        callers_in(line)
    (tmp_path / "callers").write_text(line)
    with pytest.raises(CannotServe, match="caller_keys_file"):
        caller_signatures(tmp_path / "callers", frozenset())
    assert verify([line, "--key", str(KEYS.log.verifier), "--callers", str(tmp_path / "callers")], program="v") == 2


def test_a_file_of_callers_that_is_not_there_ends_the_start(tmp_path: Path) -> None:
    """With the setting's name."""
    with pytest.raises(CannotServe, match="caller_keys_file: cannot read"):
        caller_signatures(tmp_path / "none", frozenset())


# --- events name the proof under which they were made ---


BY_CELL = {"by": "cell"}


@pytest.fixture
async def plain_bank(tmp_path: Path) -> AsyncIterator[Bank]:
    async with open_bank(tmp_path) as opened:
        yield opened


async def test_a_certificate_is_named(plain_bank: Bank) -> None:
    """By its fingerprint, in each event of a batch."""
    assert await plain_bank.deposit("bank", batch=True) == [plain_bank.certificate("bank")] * 2


async def test_a_token_is_named(plain_bank: Bank) -> None:
    """It decides, whatever the certificate of the connection is."""
    metadata, named = plain_bank.token("treasury/giro")
    assert await plain_bank.deposit("bank", *metadata) == [named]


async def test_a_call_that_another_process_of_the_cell_forwards_names_its_callers_certificate(plain_bank: Bank) -> None:
    """As that process says; one that names none, or nonsense, leaves it open."""
    said = (ON_BEHALF_KEY, "treasury/bank")
    fingerprint = plain_bank.certificate("bank")["sha256"]
    assert await plain_bank.deposit(HERE, said, (ON_BEHALF_CERTIFICATE_KEY, fingerprint)) == [
        plain_bank.certificate("bank")
    ]
    assert await plain_bank.deposit(HERE, said) == [None]
    assert await plain_bank.deposit(HERE, said, (ON_BEHALF_CERTIFICATE_KEY, '"}')) == [None]


async def test_what_only_a_process_of_the_cell_may_say_is_not_believed_of_others(plain_bank: Bank) -> None:
    """A caller's own word names no certificate."""
    said = (ON_BEHALF_CERTIFICATE_KEY, "ab" * 32)
    assert await plain_bank.deposit("bank", said) == [plain_bank.certificate("bank")]


async def test_a_leg_names_the_peer_that_asks_for_it(plain_bank: Bank) -> None:
    """By the certificate of its connection."""
    action = CreditPending(
        user_id=plain_bank.user, amount=Money("USD", 10), from_cell=THERE, auction_id=uuid4(), clearing_id=uuid4()
    )
    leg_id = LegId(uuid4(), "credit-in", 1)
    leg = LegCall(leg_id=leg_id, action=action, orchestrator=THERE, causation_id=uuid4(), user_id=plain_bank.user)
    before = len(plain_bank.store.log)
    await plain_bank.send(THERE, settlement_pb2.ApplyLegRequest(leg=leg_to_proto(leg)))
    assert plain_bank.authorities(before) == [plain_bank.certificate(THERE)]


def test_events_without_an_authority_are_read_as_ever() -> None:
    """Those of earlier versions have the hashes that they had, and come to their states."""
    fold = Fold(cell=golden.CELL)
    page = fold.apply(golden.read().events)
    assert not fold.halted
    assert not page.findings
    said = ['"authority"' in line for line in golden.LOG.read_text().splitlines() if not line.startswith("state ")]
    assert (said[0], said[-1]) == (False, True)


async def test_what_the_cell_does_by_itself_says_so() -> None:
    """A timer's event is the cell's own; a command that nothing has proven names no authority."""
    async with memory_cell() as (cell, store):
        user = await open_user(cell, 100)
        soon_ms = cell.time.clock.wall_ms() + 50
        await cell.execute(request(Reserve(user_id=user, amount=Money("USD", 10), expire_time_ms=soon_ms)))
        await until(lambda: store.log[-1].event_type == "FUNDS_RELEASED")
        said = [json.loads(row.metadata).get("authority") for row in store.log]
    assert said == [*[None] * (len(said) - 1), BY_CELL]
