"""A caller signs its command, the cell checks that, and the log proves it to anybody who has the caller's key."""

import json
import re
from base64 import b64decode
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from cellbook.v1 import ledger_pb2
from cellbook.v1.ledger_pb2_grpc import LedgerServiceStub
from cells.audit.verify.callers import CallerCheck, Callers, callers_in
from cells.audit.verify.command import main as verify
from cells.audit.verify.export import check_export
from cells.audit.verify.note import Malformed
from cells.domain.commands import Deposit
from cells.domain.record import replace
from cells.domain.values import Money
from cells.encoding import codec
from cells.store.unusable import CannotServe
from server.audit.signatures import caller_signatures
from server.shell.calls.statuses import of_status
from server.shell.identity.principal import parse_principal
from tests.integration.audit.bank_rig import BANK, Bank, open_bank
from tests.integration.services_rig import KEYS, refusal_of, usd
from tests.local_cells import request

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
    async with bank.channel("bank") as channel:
        stub = LedgerServiceStub(channel)
        await stub.Deposit(odd, timeout=10)
        answer = await stub.BatchDeposit(ledger_pb2.BatchDepositRequest(items=[signed(bank), signed(bank)]), timeout=10)
        assert [each.WhichOneof("result") for each in answer.results] == ["accepted"] * 2
        await stub.Withdraw(taken, timeout=10)
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
    async with bank.channel("bank") as channel:
        await LedgerServiceStub(channel).Deposit(signed(bank), timeout=10)
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
    async with bank.channel("bank") as channel:
        await LedgerServiceStub(channel).Deposit(signed(bank), timeout=10)
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
    async with bank.channel("bank") as channel:
        for asked in (amount, again, short, unknown, none):
            refused = await refusal_of(LedgerServiceStub(channel).Deposit(asked, timeout=10))
            reasons[asked.command_id] = refused.reason
        batch = ledger_pb2.BatchDepositRequest(items=[signed(bank), amount, none])
        answer = await LedgerServiceStub(channel).BatchDeposit(batch, timeout=10)
    wrong, odd, missing = "SIGNATURE_INVALID", "FIELD_INVALID", "SIGNATURE_MISSING"
    assert list(reasons.values()) == [wrong, wrong, odd, wrong, missing]
    refusals = [of_status(each.refused) for each in answer.results[1:]]
    assert [each and each.reason for each in refusals] == [wrong, missing]
    assert answer.results[0].HasField("accepted")


async def test_a_key_signs_for_its_own_principal_alone(bank: Bank) -> None:
    """A treasury whose key is not known cannot use another's signature."""
    bank.authority.certify("giro", parse_principal("treasury/giro"))
    async with bank.channel("giro") as channel:
        refused = await refusal_of(LedgerServiceStub(channel).Deposit(signed(bank), timeout=10))
    assert refused.reason == "SIGNATURE_INVALID"


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
