"""The doctor at a real database."""

from server.cli.doctor.database import examine
from server.cli.doctor.findings import State
from tests.integration.database import CELL, ask

SURVIVES = "survives the server's loss"


async def states(dsn: str, cell: str = CELL) -> dict[str, State]:
    return {each.check: each.state for each in await examine(dsn, where="database", cell=cell)}


async def test_a_database_as_migrated(cell_dsn: str) -> None:
    """All but the replica is as it should be; and, for tests, the login is a superuser."""
    found = await states(cell_dsn)
    assert {check for check, state in found.items() if state is not State.OK} <= {SURVIVES, "role", "schema"}
    assert found["append-only"] is State.OK


async def test_what_was_done_to_it_is_found(cell_dsn: str) -> None:
    """By whoever could: a right too many, a trigger less, a setting of the database's own."""
    for query, check in (
        ("GRANT UPDATE (payload) ON event_store TO cellbook_cell", "append-only"),
        ("REVOKE UPDATE (payload) ON event_store FROM cellbook_cell", ""),
        ("GRANT TRUNCATE ON event_store TO cellbook_cell", "append-only"),
        ("REVOKE TRUNCATE ON event_store FROM cellbook_cell", ""),
        ("ALTER TABLE event_store DISABLE TRIGGER ALL", "append-only"),
        ("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); END $$",
         "synchronous_commit"),
    ):  # fmt: skip
        await ask(cell_dsn, query)
        assert not check or (await states(cell_dsn))[check] is State.FAIL, query


async def test_nobody_answers() -> None:
    """Said in a line, whatever the driver raises."""
    [finding] = await examine("postgresql://127.0.0.1:1/none", where="database", cell=CELL)
    assert (finding.check, finding.state) == ("connects", State.FAIL)
