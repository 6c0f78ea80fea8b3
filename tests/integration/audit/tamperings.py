"""What a superuser of a cell's database may do: each row of the table in docs/audit.md."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from cells.audit.proofs.keys import checkpoint_body
from cells.audit.verify.note import sequence_in
from cells.audit.verify.tree import Frontier
from cells.encoding.head_seal import HeadSeal
from tests.integration.audit.proof_rig import KEYS
from tests.integration.audit.superuser import Superuser, delete_and_close_the_gap, insert, swap_and_time
from tests.integration.audit.tamper_rig import Evil, passed
from tests.integration.books.test_reconcile import OF_ANOTHER, TENFOLD
from tests.integration.books.test_seals import APPENDED
from tests.integration.database import ask

NOT_AT_1 = "state::jsonb ->> 'cursor' <> '1'"
FIRST = "SELECT ctid FROM {} WHERE {} ORDER BY ctid LIMIT 1"
Make = Callable[[Evil], Awaitable[None]]


class Tampering(NamedTuple):
    what: str
    make: Make
    # Between the cell's end and its next start, not while it runs.
    down: bool = False
    # It changes more than rows.
    fresh: bool = False


def by(*statements: str) -> Make:
    async def make(evil: Evil) -> None:
        await evil.sql(*(statement.removesuffix(" RETURNING position") for statement in statements))

    return make


def event(change: str, position: int = 310) -> Make:
    return by(f"UPDATE event_store SET {change} WHERE position = {position}")  # noqa: S608 - our own


def row(table: str, change: str, where: str = "true") -> Make:
    """Of the first row."""
    return by(f"UPDATE {table} SET {change} WHERE ctid = ({FIRST.format(table, where)})")  # noqa: S608 - our own


def gone(table: str, where: str = "true") -> Make:
    return by(f"DELETE FROM {table} WHERE ctid = ({FIRST.format(table, where)})")  # noqa: S608 - our own


def unguarded(change: Callable[[Superuser], Awaitable[None]]) -> Make:
    async def make(evil: Evil) -> None:
        async with evil.unguarded() as hand:
            await change(hand)

    return make


def then(*makes: Make) -> Make:
    async def make(evil: Evil) -> None:
        for each in makes:
            await each(evil)

    return make


rehash = unguarded(lambda hand: hand.rehash())
retile = unguarded(lambda hand: hand.retile())
close_gap = unguarded(lambda hand: delete_and_close_the_gap(hand, 310))
insert_one = unguarded(lambda hand: insert(hand, 310))
swap_two = unguarded(lambda hand: swap_and_time(hand, 310))


async def append(evil: Evil) -> None:
    async with evil.unguarded() as hand:
        await hand.sql(APPENDED[0])
        await hand.rehash()
        await hand.sql("UPDATE head SET position = position + 1")


def cut(size: int) -> Make:
    async def make(evil: Evil) -> None:
        async with evil.unguarded() as hand:
            await hand.sql("DELETE FROM event_store WHERE position > $1", size)
            await hand.sql("UPDATE head SET position = $1", size)
            await hand.sql("DELETE FROM cosignatures WHERE size > $1", size)
            await hand.sql("DELETE FROM checkpoints WHERE size > $1", size)
            await hand.retile()

    return make


async def with_the_key(evil: Evil) -> None:
    """All checkpoints are signed anew, one more where the log is longer, and so is the seal of the head."""
    async with evil.unguarded() as hand:
        notes = dict(await hand.sql("SELECT size, note FROM checkpoints ORDER BY size"))
        await hand.sql("DELETE FROM cosignatures")
        await hand.sql("DELETE FROM checkpoints")
        leaves = await hand.sql("SELECT leaf_hash FROM event_store ORDER BY position")
        tree, number = Frontier(), 0
        for (leaf,) in leaves:
            tree.add(leaf)
            if tree.size in notes or tree.size == len(leaves):
                number = sequence_in(notes[tree.size]) if tree.size in notes else number + 1
                note = KEYS.log.note(checkpoint_body(KEYS.log.name, tree.size, tree.root(), number))
                await hand.sql("INSERT INTO checkpoints VALUES ($1, $2, $3, now())", tree.size, tree.root(), note)
        seal = HeadSeal(cell="us-east", key=KEYS.secret("head"), since=tree.size)
        sealed = seal.next(tree.size, []).seal
        await hand.sql("UPDATE head SET position = $1, sealed_since = $1, seal = $2", tree.size, sealed)


async def forged_checkpoint(evil: Evil) -> None:
    body = checkpoint_body(KEYS.log.name, 340, b"x" * 32)
    async with evil.unguarded() as hand:
        await hand.sql("INSERT INTO checkpoints VALUES (340, $1, $2, now())", b"x" * 32, KEYS.witness.note(body))


async def forget(evil: Evil) -> None:
    """What the cell keeps on its own disk is of the same age as the database."""
    evil.disk = [evil.base.notes[0]]


async def no_disk(evil: Evil) -> None:
    evil.disk = []


async def old(evil: Evil) -> None:
    await evil.swap(evil.base.old)


async def another_cells(evil: Evil) -> None:
    await evil.swap(evil.base.there)


def ddl(*statements: str) -> Make:
    async def make(evil: Evil) -> None:
        for statement in statements:
            await ask(evil.dsn, statement)

    return make


async def nothing(_: Evil) -> None:
    """Where nothing was done, nothing is noticed: else the table would prove nothing."""


async def pass_again(evil: Evil) -> None:
    """As every hour: it goes on from where the last one ended."""
    evil.found.reconcile |= await passed(evil.run, full=False)


POSTED = """UPDATE event_store SET payload = jsonb_set(payload, '{postings,0,amount_minor}', '"1"')
    WHERE position = (SELECT min(position) FROM event_store WHERE event_type = 'DEPOSITED')"""
ENTRY = "position = (SELECT min(position) FROM account_entries)"
REFUSAL = """outcome ? 'refused'"""

TAMPERINGS = (
    # --- events ---
    Tampering("a deposit tenfold, its postings with it", by(TENFOLD)),
    Tampering("the same, its hash made right", then(by(TENFOLD), rehash)),
    Tampering("the same, its hash and the tree made right", then(by(TENFOLD), rehash, retile)),
    Tampering("the postings of a deposit alone", by(POSTED)),
    Tampering("a payload's field", event("payload = payload || '{\"home_epoch\": 7}'")),
    Tampering("metadata: who asked for it", event('metadata = metadata || \'{"principal": "treasury/x"}\'')),
    Tampering("a stamp", event("hlc_physical = hlc_physical + 1")),
    Tampering("when it was recorded", event("recorded_at = recorded_at + INTERVAL '1 day'")),
    Tampering("a vector clock", event("vector_clock = vector_clock || '{\"eu-west\": 1}'")),
    Tampering("what caused it", event("causation_id = gen_random_uuid()")),
    Tampering("its type", event("event_type = 'ACCOUNT_LEFT'")),
    Tampering("its stream", by(OF_ANOTHER)),
    Tampering("JSON that no cell writes", event("payload = '{\"amount\": 1.5}'")),
    Tampering("the stored hash alone", event("leaf_hash = sha256('x')")),
    Tampering(
        "an event that no checkpoint covers yet, its hash made right",
        then(event("payload = payload || '{\"home_epoch\": 7}'", 353), rehash),
    ),
    Tampering("an event deleted", by("DELETE FROM event_store WHERE position = 310")),
    Tampering("an event deleted, the gap closed, hashes and tree made right", close_gap),
    Tampering("an event inserted, hashes and tree made right", insert_one),
    Tampering("two events swapped with their times, hashes and tree made right", swap_two),
    Tampering("an event appended, the head moved", append),
    Tampering("events cut off that no checkpoint covers", cut(350)),
    Tampering("events cut off with their checkpoints", cut(330)),
    # --- tree, checkpoints, cosignatures ---
    Tampering("a tile of the tree", row("log_tiles", "hashes = sha256('x') || substr(hashes, 33)")),
    Tampering("a tile's root", row("log_tiles", "root = sha256('x')")),
    Tampering("a tile deleted", gone("log_tiles")),
    Tampering(
        "a tile of a level that the tree does not have yet",
        by("INSERT INTO log_tiles SELECT 1, 0, hashes, root FROM log_tiles"),
    ),
    Tampering("the last checkpoint's text", row("checkpoints", "note = replace(note, '350', '351')", "size = 350")),
    Tampering("the last checkpoint's root", row("checkpoints", "root = sha256('x')", "size = 350")),
    Tampering(
        "the last checkpoint deleted",
        by("DELETE FROM cosignatures WHERE size = 350", "DELETE FROM checkpoints WHERE size = 350"),
    ),
    Tampering(
        "an earlier checkpoint deleted",
        by("DELETE FROM cosignatures WHERE size = 330", "DELETE FROM checkpoints WHERE size = 330"),
    ),
    Tampering("a checkpoint by another key", forged_checkpoint),
    Tampering(
        "a cosignature", row("cosignatures", "line = overlay(line PLACING '----' FROM length(line) - 20)", "size = 350")
    ),
    Tampering("all cosignatures deleted", by("DELETE FROM cosignatures")),
    # --- what follows from the log ---
    Tampering(
        "a user's balance",
        row(
            "accounts",
            "state = jsonb_set(state::jsonb, '{balances,USD,available_minor}', '\"1\"')",
            "state::jsonb->'balances' ? 'USD'",
        ),
    ),
    Tampering("an account deleted", gone("accounts", "state::jsonb->'balances' ? 'USD'")),
    Tampering(
        "an account invented",
        by("INSERT INTO accounts SELECT gen_random_uuid(), 1, state, has_expiry FROM accounts LIMIT 1"),
    ),
    Tampering(
        "a hold removed",
        row("accounts", "state = jsonb_set(state::jsonb, '{holds}', '{}')", "state::jsonb->'holds' <> '{}'"),
    ),
    Tampering("an auction's price", row("auctions", "state = jsonb_set(state::jsonb, '{opening_minor}', '\"1\"')")),
    Tampering(
        "who owns an asset", row("assets", "state = jsonb_set(state::jsonb, '{owner_id}', to_jsonb(gen_random_uuid()))")
    ),
    Tampering("whether a hold expires", row("accounts", "has_expiry = NOT has_expiry")),
    Tampering("when an auction ends, for its timer", row("auctions", "end_time_ms = 1")),
    Tampering("the list that an auction is in", row("auctions", "status = 'CANCELLED'")),
    Tampering("the cells that a saga is found by", row("sagas", "cells = ''")),
    # Of one that is not there already.
    Tampering("a saga's progress", row("sagas", "state = jsonb_set(state::jsonb, '{cursor}', '1')", NOT_AT_1)),
    Tampering("the house's fees", row("house_balances", "balance_minor = balance_minor + 1", "account = 'fees'")),
    Tampering("an account entry", row("account_entries", "available_after = available_after + 1", ENTRY)),
    Tampering("an account entry deleted", gone("account_entries", ENTRY)),
    Tampering("a clearing entry", row("clearing_entries", "amount_minor = amount_minor + 1")),
    Tampering("a clearing entry deleted", gone("clearing_entries")),
    Tampering("a leg's effect (barrier)", row("saga_legs", "result = 'TOMBSTONED'")),
    Tampering("a bank reference freed", gone("external_references")),
    Tampering(
        "balance, entry and fees together, as if money had come in",
        by(
            """UPDATE accounts SET state = jsonb_set(state::jsonb, '{balances,USD,available_minor}', '"900000"')
        WHERE id = (SELECT account_id FROM account_entries ORDER BY position LIMIT 1)""",
            """UPDATE account_entries SET available_after = 900000
            WHERE position = (SELECT min(position) FROM account_entries)""",
            "UPDATE house_balances SET balance_minor = balance_minor - 1 WHERE account = 'external'",
        ),
    ),
    # --- answers, snapshots, replay, head ---
    Tampering(
        "an accepted command's outcome turned into a refusal",
        row(
            "command_outcomes",
            'outcome = \'{"refused": {"reason": "BID_TOO_LOW", "facts": {}}}\'',
            "outcome ? 'accepted'",
        ),
    ),
    Tampering("an outcome deleted", gone("command_outcomes", "outcome ? 'accepted'")),
    Tampering(
        "an outcome invented",
        by(
            """INSERT INTO command_outcomes (command_id, fingerprint, outcome, position, hlc_physical, hlc_logical,
            recorded_at, principal) SELECT gen_random_uuid(), fingerprint, '{"accepted": {}}', position, hlc_physical,
            hlc_logical, recorded_at, principal FROM command_outcomes WHERE outcome ? 'accepted' LIMIT 1"""
        ),
    ),
    Tampering(
        "a stored refusal's reason",
        row("command_outcomes", "outcome = jsonb_set(outcome, '{refused,reason}', '\"NOT_PERMITTED\"')", REFUSAL),
    ),
    Tampering("a stored refusal deleted", gone("command_outcomes", REFUSAL)),
    Tampering(
        "a snapshot of an account",
        by(
            """INSERT INTO snapshots (aggregate_id, position, stream_version, kind, state, leaf_hash, seal)
        SELECT a.id, e.position, e.stream_version, 'account', replace(a.state, '_minor":"', '_minor":"9'),
               e.leaf_hash, e.leaf_hash
        FROM accounts a JOIN event_store e ON e.aggregate_id = a.id AND e.stream_version = a.stream_version
        WHERE a.state::jsonb->'balances' ? 'USD' LIMIT 1"""
        ),
    ),
    Tampering(
        "a snapshot of all sums",
        by(
            """INSERT INTO house_snapshots (position, balances, leaf_hash, seal)
        SELECT position, '{"fees":{"USD":"1000000"}}', leaf_hash, leaf_hash FROM event_store WHERE position = 300"""
        ),
    ),
    Tampering(
        "the replay that passes go on from, and the row with it",
        then(
            by(
                """UPDATE reconciled_states SET state = jsonb_set(state::jsonb, '{balances,USD,available_minor}', '"1"')
        WHERE id = (SELECT id FROM accounts WHERE state::jsonb->'balances' ? 'USD' ORDER BY id LIMIT 1)""",
                """UPDATE accounts SET state = jsonb_set(state::jsonb, '{balances,USD,available_minor}', '"1"')
        WHERE id = (SELECT id FROM accounts WHERE state::jsonb->'balances' ? 'USD' ORDER BY id LIMIT 1)""",
            ),
            pass_again,
        ),
    ),
    Tampering("how far passes have come", row("reconciled", "position = 350")),
    Tampering("the seal of the head removed", row("head", "seal = NULL")),
    Tampering("the head said to be signed further than it is", row("head", "sealed_since = position")),
    Tampering("the head's epoch raised", row("head", "epoch = epoch + 1, layout_epoch = epoch + 1")),
    Tampering("the head's promise about the clock", row("head", "hlc_bound_ms = 1")),
    Tampering("the cell's name", row("head", "cell = 'eu-west'")),
    # --- besides the log ---
    Tampering(
        "a copied event of another cell invented",
        by("""INSERT INTO moved_events SELECT 'eu-west', e.* FROM event_store e WHERE position = 10"""),
    ),
    Tampering(
        "mail invented",
        by(
            """INSERT INTO outbox (notice_id, user_id, notice, auction, currency, amount_minor)
        VALUES (gen_random_uuid(), gen_random_uuid(), 'won', '', 'USD', 1)"""
        ),
    ),
    Tampering(
        "an address put in",
        by("""INSERT INTO contacts (user_id, sealed_key, name, email) VALUES (gen_random_uuid(), '', '', '')"""),
    ),
    Tampering("a guard switched off", ddl("ALTER TABLE event_store DISABLE TRIGGER append_only"), fresh=True),
    Tampering(
        "a guard that lets through",
        ddl(
            """CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'"""
        ),
        fresh=True,
    ),
    Tampering("a right given to the cell's login", ddl("GRANT UPDATE ON event_store TO cellbook_cell"), fresh=True),
    Tampering(
        "a constraint dropped", ddl("ALTER TABLE accounts DROP CONSTRAINT accounts_no_bucket_below_zero"), fresh=True
    ),
    # --- while the cell is down ---
    Tampering(
        "while the cell is down: an event changed", event("payload = payload || '{\"home_epoch\": 7}'"), down=True
    ),
    Tampering("while the cell is down: the seal of the head removed", row("head", "seal = NULL"), down=True),
    Tampering("while the cell is down: an event appended, the head moved", append, down=True),
    Tampering("while the cell is down: an older copy of the database put back", old, down=True),
    Tampering("the same, and an older copy of the cell's disk", then(old, forget), down=True),
    Tampering("while the cell is down: another cell's database in its place", another_cells, down=True),
    # --- with the cell's key ---
    Tampering(
        "with the cell's key: an event changed, all made anew and signed",
        then(by(TENFOLD), rehash, retile, with_the_key),
    ),
    Tampering(
        "the same while the cell is down, its disk changed, too",
        then(by(TENFOLD), rehash, retile, with_the_key, no_disk),
        down=True,
    ),
    Tampering("with the cell's key: an event appended and signed", then(append, retile, with_the_key)),
    Tampering(
        "an event appended and signed while the cell is down, its disk changed, too",
        then(append, retile, with_the_key, no_disk),
        down=True,
    ),
)
