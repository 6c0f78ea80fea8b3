"""A look at a person's contact by support is an event in the log before the answer: who, at whom, when and why."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from unittest.mock import AsyncMock
from uuid import UUID

import pytest

from cellbook.v1 import contact_pb2
from cells.audit.accesses import MINUTE_MS
from cells.domain.refusals import FieldInvalid, NotLeading, Unavailable, WrongCell
from server.contacts.vault import Contact
from server.services import contacts
from tests.doubles.store import Fault, MemoryStore
from tests.integration.mail.contact_rig import ANN, Served, serve
from tests.integration.services_rig import SHOP, SUPPORT, as_user, refusal_of

REASON = "ticket 4711: the parcel came back"


class Shelf:
    """A vault with one contact. For each read, the number of looks that the log had at that moment."""

    def __init__(self) -> None:
        self.looks_before: list[int] = []
        self.log: MemoryStore | None = None

    async def get(self, _user_id: UUID) -> Contact:
        assert self.log is not None
        self.looks_before.append(len(looks_in(self.log)))
        return ANN


def looks_in(store: MemoryStore) -> list[dict[str, Any]]:
    payloads = [json.loads(row.payload) for row in store.log if row.event_type == "ACCESSES_RECORDED"]
    return [each for payload in payloads for each in payload["accesses"]]


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
async def served(shelf: Shelf) -> AsyncIterator[Served]:
    vault: Any = shelf
    async for each in serve(vault):
        shelf.log = store_of(each)
        yield each


def store_of(served: Served) -> MemoryStore:
    store = served.cell.store
    assert isinstance(store, MemoryStore)
    return store


Look = Callable[..., Awaitable[contact_pb2.GetContactResponse]]


@pytest.fixture
def look(served: Served) -> Look:
    async def look(reason: str = REASON, *, user_id: UUID | None = None, by: Any = SUPPORT) -> Any:  # noqa: ANN401
        request = contact_pb2.GetContactRequest(user_id=str(user_id or served.ann), reason=reason)
        return await served.stub.GetContact(request, metadata=by)

    return look


async def test_a_look_is_in_the_log_before_the_contact_is_read(served: Served, shelf: Shelf, look: Look) -> None:
    """Each look is an event of its own, under the caller's own name; nothing of the contact is in it."""
    for _ in range(2):
        assert (await look()).email == ANN.email
    assert shelf.looks_before == [1, 2]
    for found in looks_in(store_of(served)):
        minute_ms = found.pop("minute_ms")
        assert minute_ms % MINUTE_MS == 0
        assert 0 <= served.cell.time.clock.wall_ms() - minute_ms <= 2 * MINUTE_MS
        assert found == {
            "principal": "support/sue", "method": "GetContact", "subject": str(served.ann), "reason": REASON,
        }  # fmt: skip
    last = store_of(served).log[-1]
    assert json.loads(last.metadata)["principal"] == "support/sue"
    assert ANN.email not in last.payload + last.metadata


async def test_without_the_record_a_look_would_leave_no_trace(
    served: Served, shelf: Shelf, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the safeguard switched off, the test above fails."""
    monkeypatch.setattr(contacts, "record_look", AsyncMock())
    with pytest.raises(AssertionError):
        await test_a_look_is_in_the_log_before_the_contact_is_read(served, shelf, look)
    assert shelf.looks_before == [0, 0]


@pytest.mark.parametrize("reason", ["", "   ", "x" * 201, "ask ann@people.test", "+49 170 1234567", "a\x00b"])
async def test_support_says_why(served: Served, shelf: Shelf, look: Look, reason: str) -> None:
    """In an impersonal text of 1 to 200 characters; otherwise nothing is read and nothing recorded."""
    refused = await refusal_of(look(reason))
    assert isinstance(refused, FieldInvalid)
    assert refused.facts["field"] == "reason"
    assert not shelf.looks_before
    assert not looks_in(store_of(served))


async def test_a_look_that_cannot_be_recorded_is_not_answered(
    served: Served, shelf: Shelf, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database is away, or another process leads: the contact is not read. A standby forwards the call instead."""
    store_of(served).fail_next(Fault.UNAVAILABLE)
    assert isinstance(await refusal_of(look()), Unavailable)
    monkeypatch.setattr(served.cell.writer, "leading", False)
    assert isinstance(await refusal_of(look()), NotLeading)
    assert not shelf.looks_before
    assert not looks_in(store_of(served))


async def test_others_may_say_why(served: Served, look: Look) -> None:
    """Then their look is recorded as well; without a reason only staff is recorded, by the minute."""
    own = as_user(served.ann)
    for caller in (own, SHOP):
        await look("", by=caller)
    await served.cell.accesses.flush()
    assert not looks_in(store_of(served))
    await look(by=SHOP)
    assert [each["principal"] for each in looks_in(store_of(served))] == ["service/shop"]


async def test_a_look_at_a_user_of_another_cell_is_not_recorded_here(served: Served, look: Look) -> None:
    """It is refused with the home, which records it."""
    assert isinstance(await refusal_of(look(user_id=served.carl)), WrongCell)
    assert not looks_in(store_of(served))
