"""Names and addresses: sealed in the database, told to those who may know, and forgotten for good."""

import asyncio
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from cellbook.v1 import contact_pb2
from cells.cell import Cell
from cells.domain.refusals import (
    FieldInvalid,
    NotPermitted,
    NotYourAccount,
    UserNotFound,
    WrongCell,
)
from server.contacts.erasures import Erasures, ErasuresInvalid
from server.contacts.refusals import ContactErased, ContactNotFound, ContactSealed, ContactsNotKept
from server.contacts.seals import KeyFileInvalid, Seal, key_in, new_key
from server.contacts.vault import Contact, Vault
from server.shell.postgres.database import Pool, open_pool
from tests.integration.database import CELL_ROLE, ask
from tests.integration.mail.contact_rig import ANN, Served, serve
from tests.integration.services_rig import HERE, OPERATOR, SHOP, THERE, as_user, refusal_of

AUDITOR = (("cellbook-principal", "auditor/audrey"),)


@pytest.fixture
async def pool(cell_dsn: str) -> AsyncIterator[Pool]:
    pool = await open_pool(cell_dsn, role=CELL_ROLE, application="contacts", size_max=4)
    yield pool
    await asyncio.wait_for(pool.close(), 10)


@pytest.fixture
def vault(pool: Pool, tmp_path: Path) -> Vault:
    return Vault(pool=pool, seal=Seal(new_key()), erasures=Erasures(tmp_path / "vault.erasures"))


# --- the vault ------------------------------------------------------------------------------------------------------


async def test_what_is_put_is_given_back_and_lies_sealed(vault: Vault, cell_dsn: str) -> None:
    """Each time under a new key; the database holds neither name nor address in the clear."""
    user_id = uuid4()
    await vault.put(user_id, ANN)
    [before] = await ask(cell_dsn, "SELECT sealed_key, name, email FROM contacts")
    await vault.put(user_id, ANN)
    [after] = await ask(cell_dsn, "SELECT sealed_key, name, email FROM contacts")
    assert await vault.get(user_id) == ANN
    assert all(one != other for one, other in zip(before, after, strict=True))
    assert not any(part in bytes(cell) for cell in after for part in (b"Ann", b"ann@", b"people"))


async def test_what_was_moved_or_changed_does_not_open(vault: Vault, cell_dsn: str) -> None:
    """Another person's row, another column, another key, one bit: never a wrong name."""
    ann, ben = uuid4(), uuid4()
    await vault.put(ann, ANN)
    await vault.put(ben, Contact(name="Ben", email="ben@people.test"))
    with pytest.raises(ContactSealed):
        await replace(vault, seal=Seal(new_key())).get(ann)
    for change in (
        """UPDATE contacts SET sealed_key = b.sealed_key, name = b.name, email = b.email
           FROM contacts b WHERE contacts.user_id = $1 AND b.user_id <> $1""",
        "UPDATE contacts SET name = email WHERE user_id = $1",
        "UPDATE contacts SET email = set_byte(email, 20, 255 - get_byte(email, 20)) WHERE user_id = $1",
    ):
        await vault.put(ann, ANN)
        await ask(cell_dsn, change, ann)
        with pytest.raises(ContactSealed):
            await vault.get(ann)


async def test_who_is_erased_is_gone_for_good(vault: Vault, cell_dsn: str) -> None:
    """Key and row are gone, and nobody can set them again."""
    user_id = uuid4()
    await vault.put(user_id, ANN)
    await vault.erase(user_id)
    assert await ask(cell_dsn, "SELECT * FROM contacts") == []
    with pytest.raises(ContactNotFound):
        await vault.get(user_id)
    with pytest.raises(ContactErased):
        await vault.put(user_id, ANN)
    await vault.erase(user_id)


async def test_a_restored_backup_is_erased_again(vault: Vault, cell_dsn: str) -> None:
    """What an older backup brings back goes at the next start: the file beside the key knows whom."""
    erased, other = uuid4(), uuid4()
    await vault.put(erased, ANN)
    await vault.put(other, ANN)
    await ask(cell_dsn, "CREATE TABLE backup AS TABLE contacts")
    await vault.erase(erased)
    await ask(cell_dsn, "TRUNCATE contacts, erasures")
    await ask(cell_dsn, "INSERT INTO contacts TABLE backup")
    assert await vault.get(erased) == ANN
    await vault.prepare()
    with pytest.raises(ContactNotFound):
        await vault.get(erased)
    with pytest.raises(ContactErased):
        await vault.put(erased, ANN)
    assert await vault.get(other) == ANN


async def test_without_the_file_a_restored_backup_knows_the_erased(vault: Vault, cell_dsn: str) -> None:
    """Ablation: the database alone cannot tell."""
    user_id = uuid4()
    await vault.put(user_id, ANN)
    await ask(cell_dsn, "CREATE TABLE backup AS TABLE contacts")
    await vault.erase(user_id)
    await ask(cell_dsn, "TRUNCATE contacts, erasures")
    await ask(cell_dsn, "INSERT INTO contacts TABLE backup")
    vault.erasures.path.unlink()
    await vault.prepare()
    assert await vault.get(user_id) == ANN


async def test_the_file_is_mended_from_the_database(vault: Vault) -> None:
    """Lost, or older than the database: a start writes down whom it lacks. Erased twice, a person is there once."""
    first, second = uuid4(), uuid4()
    for user_id in (first, first, second):
        await vault.erase(user_id)
    assert len(vault.erasures.path.read_text().splitlines()) == 2
    vault.erasures.path.unlink()
    await vault.prepare()
    assert vault.erasures.noted() == {first, second}
    assert stat.S_IMODE(vault.erasures.path.stat().st_mode) == 0o600


def test_what_a_crash_has_left_of_a_line_does_not_count(tmp_path: Path) -> None:
    """It was never confirmed; the next erasure takes its place. A whole line without its end counts."""
    erasures = Erasures(tmp_path / "vault.erasures")
    people = [uuid4() for _ in range(3)]
    erasures.note(people[:1])
    whole = erasures.path.read_bytes()
    for cut in range(len(whole), 2 * len(whole) - 2):
        erasures.path.write_bytes((whole + whole)[:cut])
        assert erasures.noted() == {people[0]}
        erasures.note(people[1:2])
        assert erasures.path.read_bytes().startswith(whole)
        assert erasures.noted() == set(people[:2])
    erasures.path.write_bytes(whole.rstrip())
    erasures.note(people[2:])
    assert erasures.noted() == {people[0], people[2]}


@pytest.mark.parametrize("line", ["nobody", "{}", "[]", '{"user_id": "ann"}', '{"user_id": 7}', "\udcff"])
def test_a_file_of_erasures_that_is_none_is_said_to_be(tmp_path: Path, line: str) -> None:
    """By its line: nobody is to be known again because of a slip of the pen."""
    erasures = Erasures(tmp_path / "vault.erasures")
    erasures.note([uuid4()])
    with erasures.path.open("ab") as file:
        file.write(line.encode(errors="surrogateescape") + b"\n")
    with pytest.raises(ErasuresInvalid, match="line 2"):
        erasures.noted()


async def test_an_erasure_and_a_change_at_once_end_in_erasure(vault: Vault) -> None:
    """Whichever comes first."""
    people = [uuid4() for _ in range(20)]
    for user_id in people:
        await asyncio.gather(vault.put(user_id, ANN), vault.erase(user_id), return_exceptions=True)
    for user_id in people:
        with pytest.raises(ContactNotFound):
            await vault.get(user_id)


async def test_the_auditors_role_sees_none_of_it(vault: Vault, cell_dsn: str) -> None:
    """It reads events, which name nobody."""
    await vault.put(uuid4(), ANN)
    auditors = await open_pool(cell_dsn, role="cellbook_auditor", application="auditor", size_max=1)
    for table in ("confirmations", "contacts", "erasures", "erasures_elsewhere", "outbox"):
        with pytest.raises(Exception, match="permission denied"):
            await auditors.fetch(f"TABLE {table}")
    await asyncio.wait_for(auditors.close(), 10)


def test_a_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    """A second process takes the one that is there; a file that is none says how to make one."""
    path = tmp_path / "vault.key"
    key = key_in(path, make=True)
    assert key_in(path, make=True) == key_in(path, make=False) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("abc")
    with pytest.raises(KeyFileInvalid, match="openssl rand -hex 32"):
        key_in(path, make=True)
    with pytest.raises(KeyFileInvalid, match="No such file"):
        key_in(tmp_path / "other.key", make=False)


# --- the service ----------------------------------------------------------------------------------------------------


@pytest.fixture
async def served(vault: Vault) -> AsyncIterator[Served]:
    async for each in serve(vault):
        yield each


async def test_a_person_may_do_so_for_themselves(served: Served) -> None:
    """Set, get, erase; somebody else may not, nor may an auditor look."""
    own = as_user(served.ann)
    other = as_user(served.carl)
    get = contact_pb2.GetContactRequest(user_id=str(served.ann))
    erase = contact_pb2.EraseContactRequest(user_id=str(served.ann))
    await served.stub.SetContact(served.set(), metadata=own)
    assert (await served.stub.GetContact(get, metadata=own)).email == ANN.email
    assert isinstance(await refusal_of(served.stub.GetContact(get, metadata=other)), NotYourAccount)
    for role in (AUDITOR, OPERATOR):
        assert isinstance(await refusal_of(served.stub.GetContact(get, metadata=role)), NotPermitted)
    await served.stub.EraseContact(erase, metadata=OPERATOR)
    assert isinstance(await refusal_of(served.stub.GetContact(get, metadata=SHOP)), ContactNotFound)
    assert isinstance(await refusal_of(served.stub.SetContact(served.set(), metadata=own)), ContactErased)


@pytest.mark.parametrize(
    ("name", "email"),
    [
        ("", ANN.email),
        (" ", ANN.email),
        ("x" * 201, ANN.email),
        ("Ann\r\nBcc: all@people.test", ANN.email),
        ("Ann\x00", ANN.email),
        (ANN.name, ""),
        (ANN.name, "ann"),
        (ANN.name, "ann@people.test, ben@people.test"),
        (ANN.name, "ann@people.test\r\nBcc: all@people.test"),
        (ANN.name, f"ann@{'x' * 260}"),
        (ANN.name, f"{'x' * 65}@people.test"),
        (ANN.name, "ann..jr@people.test"),
        (ANN.name, ".ann@people.test"),
        (ANN.name, "ann.@people.test"),
        (ANN.name, "ann@people..test"),
        (ANN.name, "ann@-people.test"),
        (ANN.name, '"ann"@people.test'),
        ("Ann\u2028Bcc: all@people.test", ANN.email),
        ("Ann\x85", ANN.email),
        ("\u202eAnn", ANN.email),
        (" Ann", ANN.email),
        ("=?utf-8?q?=0d=0aReply-To=3aboss=40evil.test?=", ANN.email),
        ("Ann, see https://evil.test", ANN.email),
        ("Ann evil.test", ANN.email),
        ("Ann EVIL.TEST", ANN.email),
        ("ann@evil.test", ANN.email),
        ("Call 0900 123456", ANN.email),
        ("<b>Ann</b>", ANN.email),
        (ANN.name, "=?utf-8?q?x=0d=0aBcc=3aboss?=@people.test"),
    ],
)
async def test_what_is_no_contact_is_refused_unrepeated(served: Served, name: str, email: str) -> None:
    """The refusal names the field, and not what was given: it goes into logs."""
    refused = await refusal_of(served.stub.SetContact(served.set(name=name, email=email), metadata=SHOP))
    assert isinstance(refused, FieldInvalid)
    assert refused.facts["value"] == "not shown"


@pytest.mark.parametrize(
    "name",
    [
        "J. R. R. Tolkien",
        "O'Malley",
        "Jean-Luc d\u2019Été",
        "ع\u200cض",
        "王小明",
        "Louis 14",
        "A.B. (Tom) Smith, Jr.",
    ],
)
async def test_names_of_people_are_taken(served: Served, name: str) -> None:
    """Of any script, with all that names have."""
    await served.stub.SetContact(served.set(name=name), metadata=SHOP)
    get = contact_pb2.GetContactRequest(user_id=str(served.ann))
    assert (await served.stub.GetContact(get, metadata=SHOP)).name == name


async def test_it_is_kept_at_home_alone(served: Served) -> None:
    """A user of another cell is sent there, a stranger is not known."""
    away = contact_pb2.SetContactRequest(user_id=str(served.carl), name="Carl", email="carl@people.test")
    refused = await refusal_of(served.stub.SetContact(away, metadata=SHOP))
    assert isinstance(refused, WrongCell)
    assert refused.facts["cell"] == THERE
    nobody = contact_pb2.EraseContactRequest(user_id=str(uuid4()))
    assert isinstance(await refusal_of(served.stub.EraseContact(nobody, metadata=SHOP)), UserNotFound)


async def test_an_erasure_of_a_user_who_left_meanwhile_goes_to_the_new_home(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The contact may have gone along before it was erased here: the caller is sent after it."""
    erase = Vault.erase

    async def left(*_: object) -> None:
        raise WrongCell(resource="", cell=THERE, here=HERE, epoch=2)

    async def erased_too_late(vault: Vault, user_id: UUID) -> None:
        await erase(vault, user_id)
        monkeypatch.setattr(Cell, "account", left)

    monkeypatch.setattr(Vault, "erase", erased_too_late)
    request = contact_pb2.EraseContactRequest(user_id=str(served.ann))
    assert isinstance(await refusal_of(served.stub.EraseContact(request, metadata=SHOP)), WrongCell)


async def test_without_a_key_nothing_is_kept() -> None:
    """And that is said."""
    async for bare in serve(None):
        assert isinstance(await refusal_of(bare.stub.SetContact(bare.set(), metadata=SHOP)), ContactsNotKept)
