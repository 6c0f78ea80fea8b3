"""Who moves into another region takes along what is theirs, and nothing of the people who paid them there.

Canaries: texts and amounts that are one person's alone are looked for in every table of the other cell.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from io import BytesIO
from uuid import UUID, uuid4

import pytest

from cells.cell import Cell
from cells.domain.commands import Capture, Deposit, RegisterAsset, Reserve, Transfer, Withdraw
from cells.domain.moves.commands import BeginMove
from cells.domain.record import replace
from cells.domain.refusals import InsufficientFunds, Refused
from cells.domain.values import Money
from cells.requests import CommandRequest, Outcome
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.integration.database import another, ask, connected, opened
from tests.local_cells import DirectPeers, FixedDirectory, build_cell, leading, open_user, request

HERE, AWAY = "us-east", "eu-west"
BALANCE, PAID, LEFT = 987_654, 4, 987_643
TABLES = "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"


@dataclass(frozen=True, slots=True)
class Pair:
    here: Cell
    away: Cell
    here_dsn: str
    away_dsn: str
    directory: FixedDirectory

    async def rows(self) -> dict[str, str]:
        """Of the tables of the cell away, partitions by the table that they are of."""
        found: dict[str, str] = {}
        async with connected(self.away_dsn) as connection:
            for (name,) in await connection.fetch(TABLES):
                content = BytesIO()
                await connection.copy_from_table(name, output=content)
                table = name.partition("_2")[0]
                found[table] = found.get(table, "") + content.getvalue().decode()
        return found


@pytest.fixture
async def pair(cluster: EmbeddedPostgres, template: str) -> AsyncIterator[Pair]:
    """Two cells, each on a database of its own."""
    peers, directory = DirectPeers(), FixedDirectory()
    async with AsyncExitStack() as stack:
        dsns = [await stack.enter_async_context(another(cluster, template)) for _ in range(2)]
        here, away = [
            build_cell(name, await stack.enter_async_context(opened(dsn, name)), peers=peers, directory=directory)
            for name, dsn in zip((HERE, AWAY), dsns, strict=True)
        ]
        await stack.enter_async_context(leading(here, away))
        yield Pair(here, away, dsns[0], dsns[1], directory)


def by_shop(command: object, user: UUID, command_id: UUID | None = None) -> CommandRequest:
    """A command for the user, as servicers make it."""
    return replace(request(command, command_id=command_id), user_id=user, fingerprint=bytes(32))  # type: ignore[arg-type]


async def refused(cell: Cell, command: CommandRequest) -> Refused:
    with pytest.raises(Refused) as error:
        await cell.execute(command)
    return error.value


async def test_nothing_of_a_payer_goes_along_with_the_payee(pair: Pair) -> None:
    """Balances, references, refusals, assets: the payee's own history names who paid how much, and no more."""
    here = pair.here
    ann, ben = await open_user(here, 0, pair.directory), await open_user(here, 0, pair.directory)
    paid, captured, refusal, asset = (uuid4() for _ in range(4))
    gave = Deposit(user_id=ann, amount=Money("USD", BALANCE), external_reference="canary-statement")
    await here.execute(by_shop(gave, ann))
    await here.execute(by_shop(Transfer(from_user_id=ann, to_user_id=ben, amount=Money("USD", PAID)), ann, paid))
    held = await here.execute(by_shop(Reserve(user_id=ann, amount=Money("USD", 7), expire_time_ms=None), ann))
    hold_id = held.result.hold_id
    await here.execute(by_shop(Capture(user_id=ann, hold_id=hold_id, to_user_id=ben, amount_minor=None), ann, captured))
    wish = Withdraw(user_id=ann, amount=Money("USD", 10**9), external_reference="canary-atm")
    assert isinstance(await refused(here, by_shop(wish, ann, refusal)), InsufficientFunds)
    await here.execute(by_shop(RegisterAsset(owner_id=ann, owner_cell=HERE, description="canary-lamp"), ann, asset))
    own = uuid4()
    assert isinstance(await refused(here, by_shop(replace(wish, user_id=ben), ben, own)), InsufficientFunds)
    await here.execute(by_shop(BeginMove(user_id=ben, to_cell=AWAY, region=None), ben))
    assert (await pair.away.account(ben)).state.balance("USD").available_minor == PAID + 7
    rows = await pair.rows()

    def tables_with(canary: object) -> set[str]:
        return {table for table, text in rows.items() if str(canary) in text}

    for canary in (BALANCE, BALANCE - PAID, LEFT, "canary", refusal, asset, hold_id):
        assert not tables_with(canary), canary
    # What the payee's own events say of who paid: they are leaves of a signed tree, and go along as they are.
    for known in (ann, paid, captured):
        assert tables_with(known) == {"moved_events"}
    # The search finds what is there.
    assert tables_with(own) == {"command_outcomes"}
    assert tables_with(ben) > {"moved_events", "event_store", "accounts"}


async def test_a_repeated_command_gets_its_first_answer_after_a_move(pair: Pair) -> None:
    """The cell and the position where it was reached, the stamp, the result: as if the user had stayed."""
    here, away = pair.here, pair.away
    ann, ben = await open_user(here, 1_000, pair.directory), await open_user(here, 0, pair.directory)
    for _ in range(20):
        await here.execute(by_shop(Deposit(user_id=ben, amount=Money("USD", 1), external_reference=str(uuid4())), ben))
    sent = [
        by_shop(Transfer(from_user_id=ann, to_user_id=ben, amount=Money("USD", PAID)), ann, uuid4()),
        by_shop(RegisterAsset(owner_id=ann, owner_cell=HERE, description="a lamp"), ann, uuid4()),
    ]
    first = [await here.execute(each) for each in sent]
    await here.execute(by_shop(BeginMove(user_id=ann, to_cell=AWAY, region=None), ann))
    assert [_without_mark(await away.execute(each)) for each in sent] == first
    assert {answer.cell for answer in first} == {HERE}
    # And on to where it came from, which knows it anyway; then it is away again, for the second time.
    for at, to in ((away, HERE), (here, AWAY)):
        await at.execute(by_shop(BeginMove(user_id=ann, to_cell=to, region=None), ann))
    assert [_without_mark(await away.execute(each)) for each in sent] == first


async def test_what_was_stored_without_its_sender_goes_along_with_it(pair: Pair) -> None:
    """The user's own events say who sent it and whose it was."""
    ann, ben = await open_user(pair.here, 1_000, pair.directory), await open_user(pair.here, 0, pair.directory)
    sent = by_shop(Transfer(from_user_id=ann, to_user_id=ben, amount=Money("USD", PAID)), ann, uuid4())
    first = await pair.here.execute(sent)
    await ask(pair.here_dsn, "UPDATE command_outcomes SET principal = '', user_id = NULL, in_stream = false")
    for user in (ben, ann):
        await pair.here.execute(by_shop(BeginMove(user_id=user, to_cell=AWAY, region=None), user))
        known = str(sent.command_id) in (await pair.rows())["command_outcomes"]
        assert known is (user is ann)
    assert _without_mark(await pair.away.execute(sent)) == first


def _without_mark(answer: Outcome) -> Outcome:
    assert answer.replayed
    return replace(answer, replayed=False)
