"""The doctor at a real database."""

import os
from pathlib import Path

import pytest

from cells.audit.proofs.keys import checkpoint_body
from server.audit.keys import signing_keys
from server.cli.access import Access
from server.cli.doctor.command import examined
from server.cli.doctor.database import examine
from server.cli.doctor.findings import Finding, State
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


async def test_a_database_from_an_old_backup(cell_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the settings of its cell alone, while nothing of it runs: it ends before what was signed."""
    for name in [name for name in os.environ if name.startswith("CELLBOOK_")]:
        monkeypatch.delenv(name)
    key = tmp_path / "checkpoint.key"
    signer = signing_keys(key, CELL, make=True).log
    config = tmp_path / "settings.toml"
    config.write_text(f'cell = "{CELL}"\ndsn = "{cell_dsn}"\ncheckpoint_key_file = "{key}"\n')

    async def age() -> Finding:
        found = await examined("", [config], Access())
        return next(each for each in found if each.check == "not an old one")

    assert (await age()).state is State.NOTE
    for size, state in ((0, State.OK), (7, State.FAIL)):
        body = checkpoint_body(signer.name, size, bytes(32))
        (tmp_path / f"{CELL}.checkpoint.last").write_text(signer.note(body))
        found = await age()
        assert found.state is state, found
    assert "this cell has signed its first 7 events" in found.detail
    config.write_text(f"{config.read_text()}state_dir = '/proc/none'\n")
    problems = {each.check for each in await examined("", [config], Access()) if each.state is State.FAIL}
    assert problems == {"state_dir"}


async def test_nobody_answers() -> None:
    """Said in a line, whatever the driver raises."""
    [finding] = await examine("postgresql://127.0.0.1:1/none", where="database", cell=CELL)
    assert (finding.check, finding.state) == ("connects", State.FAIL)
