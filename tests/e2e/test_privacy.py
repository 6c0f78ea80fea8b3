"""What is known of people stays where it belongs: looked for everywhere else, in a cluster that sends real mail."""

import asyncio
import json
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest

from cellbook.v1 import auction_pb2, contact_pb2
from cellbook.v1.contact_pb2_grpc import ContactServiceStub
from lab.cluster import CELLS
from lab.market import Person, Won
from server.cli.client import MARKET
from tests.e2e.cellbook_command import run
from tests.e2e.cluster import Town, town
from tests.local_cells import until, until_async
from tests.smtp_server import MailServer, mail_server

pytestmark = pytest.mark.e2e

# Found nowhere by chance.
WINNER, SELLER = "Wilhelmina-Canary", "Salvatore-Canary"
EVERY_TABLE = """
    SELECT quote_ident(relname) FROM pg_class
    WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1
"""


async def tell(here: Town, person: Person, name: str) -> None:
    address = here.member(person.cell).address
    access = here.cluster.access
    async with access.channel(address, ()) as channel:
        request = contact_pb2.SetContactRequest(
            user_id=person.user_id, name=name, email=f"{name.lower()}@people.test", email_proven=True
        )
        await ContactServiceStub(channel).SetContact(request, metadata=access.metadata(MARKET))


async def erase(here: Town, person: Person, temporary: Path) -> None:
    told = ("--router", here.cluster.router, "--yes", "--json")
    keys = ("--keys", here.cluster.keys) if here.cluster.keys is not None else ()
    ended = await run(*keys, "contact", "erase", person.user_id, *told, temporary=temporary)
    assert ended.code == 0, ended.stderr
    assert json.loads(ended.stdout) == {"user_id": person.user_id, "cell": person.cell, "erased": True}


async def everything(here: Town) -> dict[str, str]:
    """All that databases, logs and metrics of all processes say, by where."""
    said = {}
    for member in here.cluster.members:
        connection = await asyncpg.connect(await member.dsn())
        for (table,) in await connection.fetch(EVERY_TABLE):
            rows = await connection.fetch(f"SELECT t::text FROM {table} t")  # noqa: S608 - our own tables
            said[f"{member.name}/{table}"] = "\n".join(row[0] for row in rows)
        await connection.close()
        said[f"{member.name}/log"] = member.log.read_text()
        said[f"{member.name}/metrics"] = await asyncio.to_thread(scraped, member.metrics)
    return said


def scraped(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as reply:
        return str(reply.read().decode())


def on_disk(folder: Path, texts: Sequence[str]) -> list[str]:
    """Files that hold one of the texts: tables, write-ahead logs, PostgreSQL's own log, whatever is written later."""
    found = []
    for path in (each for each in folder.rglob("*") if each.is_file()):
        # PostgreSQL may have removed it since.
        with suppress(FileNotFoundError):
            content = path.read_bytes()
            found += [f"{path.relative_to(folder)}: {text}" for text in texts if text.encode() in content]
    return found


def spellings(name: str) -> list[str]:
    """As text, and as the hexadecimal digits that a byte column shows."""
    texts = [name, name.lower(), f"{name.lower()}@people.test"]
    return [*texts, *(text.encode().hex() for text in texts)]


async def sold(here: Town, server: MailServer, label: str) -> Won:
    """The mail server hangs until the sale is settled: it holds up nothing."""
    won = await here.won(label)
    await tell(here, won.winner, WINNER)
    await tell(here, won.auction.seller, SELLER)
    server.speaks.clear()
    await here.market.close(won.auction)
    await here.ended(won, auction_pb2.AUCTION_STATE_SETTLED)
    await until(lambda: server.connections == 2)
    assert server.taken == []
    server.speaks.set()
    await until(lambda: len(server.taken) == 2)
    return won


async def test_names_and_addresses_are_nowhere_but_in_the_mail(tmp_path: Path) -> None:
    """Two people trade and get mail; then one is erased, and trades on without a name."""
    async with mail_server() as server:
        settings = {"smtp": server.address, "smtp_tls": "none", "mail_from": "no-reply@market.test"}
        async with town(tmp_path, settings=settings) as here:
            won = await sold(here, server, "lamp")
            assert sorted(server.recipients) == [f"{name.lower()}@people.test" for name in (SELLER, WINNER)]
            said = await everything(here)
            assert len([place for place in said if place.endswith("/event_store")]) == len(CELLS)
            assert won.winner.user_id in said[f"{won.winner.cell}/event_store"]
            leaks = [
                f"{place}: {text}"
                for place, told in said.items()
                for name in (WINNER, SELLER)
                for text in spellings(name)
                if text in told
            ]
            assert not leaks
            names = [text for name in (WINNER, SELLER) for text in spellings(name)[:3]]
            assert await asyncio.to_thread(on_disk, tmp_path, [won.winner.user_id])
            assert not await asyncio.to_thread(on_disk, tmp_path, names)

            await erase(here, won.winner, tmp_path)
            assert won.winner.user_id not in (await everything(here))[f"{won.winner.cell}/contacts"]
            await here.assert_paid(won)
            await here.check()

            async def settled() -> bool:
                states = (await everything(here))[f"{won.winner.cell}/outbox"]
                return "SENDING" not in states and "QUEUED" not in states

            await until_async(settled)
