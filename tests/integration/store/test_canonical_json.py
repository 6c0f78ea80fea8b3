"""What PostgreSQL gives back makes the very bytes again that the hash is over, whatever the event said."""

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
from hypothesis import given, settings
from hypothesis import strategies as st

from cells.domain.events import EVENT_TYPES, AnyEvent, PartyNotified
from cells.encoding import codec
from tests.integration.database import TIMEOUT_S, ask, opened
from tests.integration.rows import batch_on, event_row
from tests.strategies import PATIENT, values

LOG_FORMAT = Path(__file__).parents[3] / "docs" / "log-format.md"
NASTY = 'é e\u0301 漢字 😀 \U0010ffff \ufeff \u2028 \ufffd " \\ / \x01 \x1f \x7f \\u0000 \\ud800'


def test_every_payload_comes_back_the_same(cell_dsn: str) -> None:
    """Through jsonb and back, byte by byte: all kinds of events, any text, any amount."""
    # One connection for all the examples, in a loop of its own: an async test cannot be run over and over.
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(cell_dsn, timeout=TIMEOUT_S, command_timeout=TIMEOUT_S))

        @given(st.sampled_from(sorted(EVENT_TYPES)).flatmap(lambda name: values(EVENT_TYPES[name])))
        @settings(PATIENT, max_examples=400)
        def check(event: AnyEvent) -> None:
            payload = codec.encode_event(event, [])
            stored = runner.run(connection.fetchval("SELECT $1::jsonb", payload))
            assert codec.recanonical(stored) == payload

        check()
        runner.run(connection.close(timeout=TIMEOUT_S))


async def test_the_stored_order_is_not_the_canonical_one(cell_dsn: str) -> None:
    """Ablation: without making the text again the hashes would be wrong. PostgreSQL sorts short keys first."""
    row = event_row(1)
    async with opened(cell_dsn) as store:
        await store.append(batch_on(await store.claim(), row))
    stored = (await ask(cell_dsn, "SELECT payload::text FROM event_store"))[0][0]
    assert stored != row.payload
    assert codec.leaf_hash(row._replace(payload=stored)) != row.leaf_hash


async def test_an_auditor_recomputes_the_hashes_from_the_database_alone(cell_dsn: str) -> None:
    """With the program that the document gives, on rows as PostgreSQL prints them."""
    (program,) = re.findall(r"^```python\n(.*?)^```", LOG_FORMAT.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(program, names)  # noqa: S102 - the document's own
    moment = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
    rows = [
        event_row(
            position,
            PartyNotified(auction=NASTY, notice=NASTY[::-1], status="SENT") if position % 2 else None,
            recorded_at=moment + timedelta(microseconds=microseconds),
            causation_id=uuid4() if position % 3 else None,
            user_id=uuid4() if position % 4 else None,
        )
        for position, microseconds in enumerate((0, 1, 10, 100_000, 999_999, 120_000), 1)
    ]
    async with opened(cell_dsn) as store:
        await store.append(batch_on(await store.claim(), *rows))
    for time_zone in ("UTC", "Asia/Tokyo"):
        name = cell_dsn.split("?", 1)[0].rsplit("/", 1)[1]
        await ask(cell_dsn, f'ALTER DATABASE "{name}" SET timezone = "{time_zone}"')
        printed = await ask(cell_dsn, "SELECT to_jsonb(e)::text, leaf_hash FROM event_store e ORDER BY position")
        assert [names["leaf_hash"](json.loads(text)) for text, _ in printed] == [row.leaf_hash.hex() for row in rows]
        assert [stored for _, stored in printed] == [row.leaf_hash for row in rows]
