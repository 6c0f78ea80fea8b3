"""A person with an address, and an outbox that is emptied without long pauses."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from cells import background
from server.contacts.erasures import Erasures
from server.contacts.seals import Seal, new_key
from server.contacts.vault import Contact, Vault
from server.mail import sender as mail_senders
from server.mail.outbox import Outbox
from server.shell.postgres.database import open_pool
from tests.integration.database import CELL_ROLE
from tests.integration.mail.mail_rig import Post


@pytest.fixture
async def post(cell_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Post]:
    """Pauses of the mail sender are as short as a test likes them."""
    monkeypatch.setattr(background, "PAUSE_FIRST_S", 0.05)
    for name, pause_s in (("PAUSE_FIRST_S", 0.01), ("PAUSE_MAX_S", 0.05), ("AGAIN_S", 0.05), ("POLL_S", 0.2)):
        monkeypatch.setattr(mail_senders, name, pause_s)
    pool = await open_pool(cell_dsn, role=CELL_ROLE, application="mail", size_max=4)
    vault = Vault(pool=pool, seal=Seal(new_key()), erasures=Erasures(tmp_path / "vault.erasures"))
    ann = uuid4()
    await vault.put(ann, Contact(name="Ann Ómalley", email="ann@people.test", proven=True))
    yield Post(dsn=cell_dsn, vault=vault, outbox=Outbox(pool=pool), ann=ann)
    await asyncio.wait_for(pool.close(), 10)
