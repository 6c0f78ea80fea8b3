"""An address that nobody has proven gets one text, which nobody has written, only so often, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest

from cellbook.v1 import contact_pb2
from cells.domain.refusals import FieldInvalid
from server.contacts.refusals import CodeWrong, ConfirmationsExhausted, ContactNotFound
from server.contacts.vault import Contact
from server.mail import templates as letters
from server.mail.outbox import A_DAY_FOR_A_PERSON, A_DAY_FOR_AN_ADDRESS, Outbox
from tests.integration.database import ask
from tests.integration.mail.contact_rig import ANN, Served, serve
from tests.integration.mail.mail_rig import Post
from tests.integration.services_rig import SHOP, Pairs, as_user, refusal_of
from tests.local_cells import until
from tests.smtp_server import MailServer, mail_server

VICTIM = "victim@people.test"


@pytest.fixture
async def served(post: Post) -> AsyncIterator[Served]:
    async for each in serve(post.vault, post.outbox):
        yield each


def own(served: Served) -> Pairs:
    return as_user(served.ann)


async def queued(post: Post) -> list[str]:
    return [notice for (notice,) in await ask(post.dsn, "SELECT notice FROM outbox ORDER BY queued_at")]


def code_in(server: MailServer) -> str:
    return str(server.taken[-1].get_content()).splitlines()[4].strip()


async def test_an_address_gets_nothing_but_a_question_until_it_is_answered(post: Post, served: Served) -> None:
    """Then notices, and the code is in that mail alone."""
    async with mail_server() as server, post.carried(server.address):
        answer = await served.stub.SetContact(served.set(email=VICTIM), metadata=own(served))
        assert not answer.email_proven
        await until(lambda: len(server.taken) == 1)
        unwanted = await post.queued(served.ann)
        await post.becomes(unwanted, "NO_ADDRESS")
        await post.said(unwanted, "not confirmed")
        code = code_in(server)
        confirm = contact_pb2.ConfirmContactRequest(user_id=str(served.ann), code=code.lower())
        await served.stub.ConfirmContact(confirm, metadata=own(served))
        wanted = await post.queued(served.ann)
        await post.becomes(wanted, "SENT")
    assert [mail["Subject"] for mail in server.taken] == [letters.CONFIRMATION, "You have won an auction"]
    assert server.recipients == [VICTIM] * 2


async def test_nobody_chooses_a_word_of_the_question(post: Post, served: Served) -> None:
    """Neither name nor auction: but for the code it is the same for everybody."""
    async with mail_server() as server, post.carried(server.address):
        for name in ("Ann", "Pay Now"):
            await served.stub.SetContact(served.set(name=name, email=VICTIM), metadata=own(served))
            await until(lambda: len(server.taken) == (1 if name == "Ann" else 2))  # noqa: B023 - called at once
            code = await post.vault.code_of(served.ann)
            texts = [str(mail.get_content()).replace(code, "CODE") for mail in server.taken[-1:]]
            assert name not in server.taken[-1].as_string()
            assert all("CODE" in text for text in texts)


async def test_a_code_is_of_its_address_and_its_person(post: Post, served: Served) -> None:
    """A wrong one, an earlier one and another's prove nothing."""
    await served.stub.SetContact(served.set(email="first@people.test"), metadata=own(served))
    first = await post.vault.code_of(served.ann)
    await served.stub.SetContact(served.set(email=VICTIM), metadata=own(served))
    others = await post.vault.code_of(post.ann)
    for code in (first, others, "ABCDEFGHIJ", "x"):
        request = contact_pb2.ConfirmContactRequest(user_id=str(served.ann), code=code)
        assert isinstance(await refusal_of(served.stub.ConfirmContact(request, metadata=own(served))), CodeWrong)
    get = contact_pb2.GetContactRequest(user_id=str(served.ann))
    assert not (await served.stub.GetContact(get, metadata=own(served))).email_proven
    with pytest.raises(ContactNotFound):
        await post.vault.prove(uuid4(), first)


async def test_what_is_proven_stays_so_with_the_address(post: Post, served: Served) -> None:
    """Another name is no other address; another address is, and its first one again has to be proven anew."""
    await served.stub.SetContact(served.set(), metadata=own(served))
    await post.vault.prove(served.ann, await post.vault.code_of(served.ann))
    renamed = await served.stub.SetContact(served.set(name="Annette"), metadata=own(served))
    assert renamed.email_proven
    for email in (VICTIM, ANN.email):
        assert not (await served.stub.SetContact(served.set(email=email), metadata=own(served))).email_proven
    assert await queued(post) == ["CONFIRM_ADDRESS"] * 3


async def test_a_service_answers_for_an_address_and_nobody_else_may(post: Post, served: Served) -> None:
    """A shop that has asked itself says so; for a person it is no word to say."""
    request = contact_pb2.SetContactRequest(user_id=str(served.ann), name="Ann", email=VICTIM, email_proven=True)
    refused = await refusal_of(served.stub.SetContact(request, metadata=own(served)))
    assert isinstance(refused, FieldInvalid)
    assert refused.facts["field"] == "email_proven"
    assert (await served.stub.SetContact(request, metadata=SHOP)).email_proven
    assert await queued(post) == []


async def test_an_address_is_asked_only_so_often_a_day(post: Post) -> None:
    """By any person and in any spelling; the one too many changes nothing."""
    people = [uuid4() for _ in range(A_DAY_FOR_AN_ADDRESS + 2)]
    spellings = [VICTIM, "Victim@People.test", "victim+1@people.test", "victim+2@people.test", VICTIM]
    asking = post.outbox
    answers = [await put(post, user, email, asking) for user, email in zip(people, spellings, strict=True)]
    assert answers == [True] * A_DAY_FOR_AN_ADDRESS + [False] * 2
    assert await queued(post) == ["CONFIRM_ADDRESS"] * A_DAY_FOR_AN_ADDRESS
    with pytest.raises(ContactNotFound):
        await post.vault.get(people[-1])
    await ask(post.dsn, "UPDATE confirmations SET asked_at = asked_at - interval '25 hours'")
    assert await put(post, people[-1], VICTIM, asking)
    at_once = await asyncio.gather(*(put(post, uuid4(), "other@people.test", asking) for _ in range(20)))
    assert sum(at_once) == A_DAY_FOR_AN_ADDRESS


async def test_a_person_asks_only_so_often_a_day(post: Post) -> None:
    """However many addresses; all at once too."""
    user, asking = uuid4(), post.outbox
    addresses = [f"victim{number}@people.test" for number in range(A_DAY_FOR_A_PERSON + 3)]
    answers = await asyncio.gather(*(put(post, user, email, asking) for email in addresses))
    assert sum(answers) == A_DAY_FOR_A_PERSON
    assert len(await queued(post)) == A_DAY_FOR_A_PERSON


async def put(post: Post, user_id: UUID, email: str, asking: Outbox) -> bool:
    try:
        await post.vault.put(user_id, Contact(name="Ann", email=email), asking)
    except ConfirmationsExhausted:
        return False
    return True


async def test_a_question_goes_to_no_other_address_than_it_was_counted_for(post: Post) -> None:
    """Set twice before the first is sent, the second address gets one mail."""
    user, asking = uuid4(), post.outbox
    for email in ("first@people.test", VICTIM):
        await put(post, user, email, asking)
    async with mail_server() as server, post.carried(server.address) as mail_sender:
        await until(lambda: mail_sender.tally["SENT"] == 1 and mail_sender.tally["NO_ADDRESS"] == 1)
    assert server.recipients == [VICTIM]


async def test_what_an_older_version_puts_is_not_proven(post: Post) -> None:
    """It knows nothing of proofs, and runs beside this one during an upgrade."""
    row = await ask(post.dsn, "SELECT sealed_key, name, email FROM contacts WHERE user_id = $1", post.ann)
    assert (await post.vault.get(post.ann)).proven
    await post.vault.put(post.ann, Contact(name="Ann", email=VICTIM))
    theirs = await ask(post.dsn, "SELECT sealed_key, name, email FROM contacts WHERE user_id = $1", post.ann)
    await post.vault.put(post.ann, Contact(name="Ann", email=VICTIM, proven=True))
    older = "UPDATE contacts SET sealed_key = $2, name = $3, email = $4 WHERE user_id = $1"
    await ask(post.dsn, older, post.ann, *theirs[0])
    assert not (await post.vault.get(post.ann)).proven
    assert row != theirs
