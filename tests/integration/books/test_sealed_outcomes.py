"""A stored answer that somebody has changed is named, also where it is a refusal, of which no event tells."""

from uuid import UUID, uuid4

import pytest

from cells.audit.reconcile.findings import Check
from cells.domain.commands import Transfer, Withdraw
from cells.domain.moves.commands import BeginMove
from cells.domain.refusals import InsufficientFunds
from cells.domain.values import Money
from cells.encoding.outcome_seal import OutcomeSeal
from cells.store.postgres import PostgresStore
from tests.integration.books.test_reconcile import about, reconciled
from tests.integration.database import ask
from tests.integration.moves.moves_rig import asked
from tests.integration.played import HERE, THERE, Played, serving
from tests.local_cells import deposit, request

KEY = b"a key that is in no database ...".ljust(32)


@pytest.fixture
async def sealed(played: Played) -> dict[str, UUID]:
    """What cells with a key have answered: a command of each kind, by what it came to."""
    commands = {name: uuid4() for name in ("accepted", "refused", "ended", "moved")}
    # Rows without a seal are of a version before, long ago.
    for dsn in played.dsns.values():
        await ask(dsn, "UPDATE command_outcomes SET recorded_at = recorded_at - INTERVAL '2 days'")
        await ask(dsn, "UPDATE schema_migrations SET applied_at = applied_at - INTERVAL '2 days'")
    async with serving(played.dsns) as town:
        town.directory.homes |= {played.ann: HERE, played.ben: HERE, played.carl: THERE}
        for cell in (town.here, town.there):
            assert isinstance(cell.store, PostgresStore)
            cell.store.outcome_seal = OutcomeSeal(KEY)
        await town.here.execute(request(deposit(played.ann, 7), command_id=commands["accepted"]))
        much = Withdraw(user_id=played.ann, amount=Money("USD", 2**40), external_reference="too much")
        with pytest.raises(InsufficientFunds):
            await town.here.execute(asked(much, played.ann, command_id=commands["refused"]))
        paid = Transfer(from_user_id=played.ben, to_user_id=played.carl, amount=Money("USD", 3), to_cell=THERE)
        await town.here.execute(request(paid, command_id=commands["ended"]))
        move = BeginMove(user_id=played.ann, to_cell=THERE, region=None)
        await town.here.execute(asked(move, played.ann, command_id=commands["moved"]))
        await town.quiet()
    return commands


async def test_answers_of_every_kind_are_sealed(played: Played, sealed: dict[str, UUID]) -> None:
    """Those of flows when they end, and those that a user brings along by the new home: no pass finds anything."""
    for dsn in played.dsns.values():
        assert (await reconciled(dsn, key=KEY)).findings == []
        assert (await reconciled(dsn, full=False, key=KEY)).findings == []
        assert (await ask(dsn, "SELECT count(*) FROM command_outcomes WHERE seal IS NOT NULL"))[0][0] >= 2
    for name, command_id in sealed.items():
        assert await ask(played.dsns[HERE], "SELECT 1 FROM command_outcomes WHERE command_id = $1", command_id), name
    query = "SELECT 1 FROM command_outcomes WHERE command_id = $1 AND cell = $2 AND seal IS NOT NULL"
    assert await ask(played.dsns[THERE], query, sealed["refused"], HERE)


READ = "SELECT outcome, position, hlc_physical, seal FROM command_outcomes WHERE command_id = $1"
WRITE = """UPDATE command_outcomes SET outcome = $2, position = $3, hlc_physical = $4, seal = $5
    WHERE command_id = $1"""
CHANGES = {
    "amount": """outcome = replace(outcome::text, '1099511627776', '5')::jsonb""",
    "text": """outcome = '{"refused": {"reason": "ALREADY_OPEN", "facts": {"user_id": "x"}}}'""",
    "result": """outcome = jsonb_set(outcome, '{accepted,more}', '"7"')""",
    "position": "position = position - 1",
    "stamp": "hlc_physical = hlc_physical + 1",
    "unsealed": "hlc_physical = hlc_physical + 1, seal = NULL",
    "of another": "seal = (SELECT seal FROM command_outcomes o WHERE o.seal <> c.seal LIMIT 1)",
}


TAMPERED = (
    ("refused", "amount"),
    ("refused", "text"),
    ("refused", "position"),
    ("refused", "unsealed"),
    ("accepted", "result"),
    ("accepted", "stamp"),
    ("ended", "result"),
    ("ended", "of another"),
    ("moved", "result"),
)


async def test_a_changed_answer_is_named(played: Played, sealed: dict[str, UUID]) -> None:
    """By a full pass, in each cell where it is kept, and by no pass that has no key."""
    for name, change in TAMPERED:
        found = 0
        for dsn in played.dsns.values():
            kept = await ask(dsn, READ, sealed[name])
            if not kept:
                continue
            found += 1
            await ask(dsn, f"UPDATE command_outcomes c SET {CHANGES[change]} WHERE command_id = $1", sealed[name])  # noqa: S608
            named = about(await reconciled(dsn, key=KEY), Check.OUTCOME)
            assert any(str(sealed[name]) in each and "seal" in each for each in named), (name, change, named)
            assert not any("seal" in each for each in about(await reconciled(dsn), Check.OUTCOME))
            await ask(dsn, WRITE, sealed[name], *kept[0])
        assert found, name
    for dsn in played.dsns.values():
        assert (await reconciled(dsn, key=KEY)).findings == []
