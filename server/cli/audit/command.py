"""The command line of `cellbook audit`."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import typer

from cells.audit.verify.command import main as verify_main
from server.cli.access import chosen_access
from server.cli.audit import (
    accesses,
    balances,
    books,
    evidence,
    export,
    moment,
    past,
    proof,
    publish,
    restore,
    statement,
    trace,
    trial,
)
from server.cli.audit.restore import keys_from
from server.cli.client import ClientError
from server.cli.cluster import DEFAULT_PORT_BASE, LOOPBACK
from server.cli.ending import EXIT_USAGE, failure, run
from server.cli.options import json_option, router_option
from server.cli.reach import Reach, reached
from server.keyfile import SigningKeysInvalid
from server.restore import Where
from server.shell.logging import configure_logging

Work = Callable[[Reach], Awaitable[None]]

app = typer.Typer(
    help="Ask what an auditor asks: where money came from, what there was and when, and whether it is true.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

HERE = f"{LOOPBACK}:{DEFAULT_PORT_BASE}"
Router = Annotated[str, router_option("The router of the cells to ask.")]
Cell = Annotated[str, typer.Option("--cell", help="Ask this cell.")]
At = Annotated[str, typer.Option("--at", metavar="MOMENT", help=moment.HELP)]
User = Annotated[str, typer.Argument(metavar="USER", help="The user's id.")]
Json = Annotated[bool, json_option("Print JSON instead of tables.")]


# Else typer makes a lone command the group itself.
@app.callback()
def audit() -> None:
    """Ask what an auditor asks (docs/audit.md)."""


@app.command("trace")
def trace_command(
    subject: Annotated[
        str, typer.Argument(help="Id of an event, command, saga, auction, asset or account; or a name.")
    ],
    limit: Annotated[int, typer.Option("--limit", min=1, max=2_000, help="At most so many events.")] = 500,
    router: Router = HERE,
    cell: Cell = "",
    as_json: Json = False,
) -> None:
    """Follow something up to its cause and down to its effects, across all cells.

    Exit code 1 where the answer is not whole: a cell is missing, an event was changed, or there is more than fits.
    """
    with_reach(router, cell, lambda reach: trace.run_trace(reach, subject, limit, as_json=as_json))


@app.command("balance")
def balance_command(user: User, at: At = "", router: Router = HERE, cell: Cell = "", as_json: Json = False) -> None:
    """Show what a user had, and the holds behind it."""
    with_reach(router, cell, lambda reach: past.run_balance(reach, user, at, as_json=as_json))


@app.command("balances")
def balances_command(at: At = "", router: Router = HERE, cell: Cell = "", as_json: Json = False) -> None:
    """Show what all users and the house had, and whether it adds up."""
    with_reach(router, cell, lambda reach: balances.run_balances(reach, at, as_json=as_json))


@app.command("trial-balance")
def trial_command(at: At = "", router: Router = HERE, as_json: Json = False) -> None:
    """Add up all cells at one moment as one ledger: clearing eliminated, what is in transit listed.

    Exit code 1 where a cell is missing or has not come to the moment, or something does not add up.
    """
    with_reach(router, "", lambda reach: trial.run_trial(reach, at, as_json=as_json))


@app.command("statement")
def statement_command(  # noqa: PLR0917 - as many options
    user: User,
    after: Annotated[str, typer.Option("--from", metavar="MOMENT", help="After this moment. " + moment.HELP)] = "",
    until: Annotated[str, typer.Option("--to", metavar="MOMENT", help="Up to this moment, itself included.")] = "",
    currency: Annotated[str, typer.Option("--currency", help="Of this currency alone: EUR")] = "",
    form: Annotated[statement.Form, typer.Option("--format", help="How to print it.")] = statement.Form.TABLE,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000_000, help="At most so many movements.")] = 100_000,
    router: Router = HERE,
    cell: Cell = "",
    as_json: Json = False,
) -> None:
    """Show each movement of an account with the balance before and after it. Exit code 0 only if it adds up."""
    chosen = statement.Form.JSON if as_json else form

    async def work(reach: Reach) -> None:
        await statement.run_statement(reach, user, after, until, currency, limit, chosen)

    with_reach(router, cell, work)


@app.command("auction")
def auction_command(
    name: Annotated[str, typer.Argument(help="cells/CELL/auctions/UUID")],
    at: At = "",
    router: Router = HERE,
    as_json: Json = False,
) -> None:
    """Show how an auction stood."""
    with_reach(router, "", lambda reach: past.run_auction(reach, name, at, as_json=as_json))


@app.command("asset")
def asset_command(
    name: Annotated[str, typer.Argument(help="cells/CELL/assets/UUID")],
    at: At = "",
    router: Router = HERE,
    as_json: Json = False,
) -> None:
    """Show who owned an asset."""
    with_reach(router, "", lambda reach: past.run_asset(reach, name, at, as_json=as_json))


@app.command("stream")
def stream_command(
    aggregate: Annotated[str, typer.Argument(metavar="ID", help="Of an account, asset, auction or saga.")],
    at: At = "",
    router: Router = HERE,
    cell: Cell = "",
    as_json: Json = False,
) -> None:
    """Replay all events of one account, asset, auction or saga, and compare what the cell keeps of it."""
    with_reach(router, cell, lambda reach: past.run_stream(reach, aggregate, at, as_json=as_json))


@app.command("accesses")
def accesses_command(
    user: Annotated[str, typer.Option("--user", metavar="USER", help="Of this user, and of all at once.")] = "",
    router: Router = HERE,
    cell: Cell = "",
    as_json: Json = False,
) -> None:
    """List which of the staff has read which account, contact or log, by the minute."""
    with_reach(router, cell, lambda reach: accesses.run_accesses(reach, user, as_json=as_json))


Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write it there, not to stdout.")]
Size = Annotated[
    int, typer.Option("--size", min=0, help="The checkpoint of that size; else the last that is cosigned.")
]


@app.command("checkpoint")
def checkpoint_command(
    size: Size = 0, out: Out = None, router: Router = HERE, cell: Cell = "", as_json: Json = False
) -> None:
    """What a cell has signed of its log. Keep it: against it, nothing before can be changed unnoticed."""
    with_reach(router, cell, lambda reach: proof.run_checkpoint(reach, size, out, as_json=as_json))


@app.command("proof")
def proof_command(
    position: Annotated[int, typer.Argument(min=1, help="Of the event, in the log of the cell.")],
    size: Size = 0,
    out: Out = None,
    router: Router = HERE,
    cell: Cell = "",
) -> None:
    """Prove that an event is in what was signed. `cellbook verify` checks it."""
    with_reach(router, cell, lambda reach: proof.run_proof(reach, position, size, out))


@app.command("consistency")
def consistency_command(
    old_size: Annotated[int, typer.Argument(min=1, help="Size of the earlier checkpoint.")],
    new_size: Annotated[int, typer.Argument(min=0, help="Of the later one; else the last that is cosigned.")] = 0,
    out: Out = None,
    router: Router = HERE,
    cell: Cell = "",
) -> None:
    """Prove that one checkpoint has grown out of another. `cellbook verify` checks it."""
    with_reach(router, cell, lambda reach: proof.run_consistency(reach, old_size, new_size, out))


@app.command("key")
def key_command(
    file: Annotated[Path | None, typer.Option("--file", help="Of this key file, not of a running cell.")] = None,
    router: Router = HERE,
    cell: Cell = "",
) -> None:
    """The public keys by which a cell's checkpoints are checked: of its log, and as a witness."""
    if file is None:
        with_reach(router, cell, proof.run_keys)
        return
    _print_keys(lambda: proof.keys_in(file, cell))


@app.command("new-key")
def new_key_command(
    cell: Annotated[str, typer.Argument(help="The cell that is to sign with it, or the name of the witness.")],
    file: Annotated[Path, typer.Argument(help="A new file: setting checkpoint_key_file.")],
    *,
    witness: Annotated[bool, typer.Option("--witness", help="Of a witness outside: for `cellbook witness`.")] = False,
) -> None:
    """Make the keys that a cell signs with, and print the public ones."""
    _print_keys(lambda: proof.make_witness_key(cell, file) if witness else proof.make_keys(cell, file))


def _print_keys(keys: Callable[[], list[str]]) -> None:
    try:
        for key in keys():
            print(key)
    except SigningKeysInvalid as error:
        raise failure(str(error), EXIT_USAGE) from error


@app.command("export")
def export_command(  # noqa: PLR0917 - as many options
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A new file; what is there of FILE.part goes on.")],
    first: Annotated[int, typer.Option("--from", min=1, help="The first position.")] = 1,
    last: Annotated[int, typer.Option("--to", min=0, help="The last position; else the head of the log.")] = 0,
    router: Router = HERE,
    cell: Cell = "",
    as_json: Json = False,
) -> None:
    """Write a cell's log to a file: to be checked by `cellbook verify`, and put back by `cellbook audit import`."""
    with_reach(router, cell, lambda reach: export.run_export(reach, out, first, last, as_json=as_json))


@app.command("publish")
def publish_command(  # noqa: PLR0917 - as many options
    folder: Annotated[Path, typer.Argument(help="What is there goes on; a web server may serve it meanwhile.")],
    key: Annotated[list[str], typer.Option("--key", help="A public key of the log or a witness, or a file of them.")],
    witnesses: Annotated[
        int, typer.Option("--require-witnesses", min=0, help="Publish checkpoints that N of these have signed.")
    ] = 0,
    router: Router = HERE,
    cell: Cell = "",
    as_json: Json = False,
) -> None:
    """Write a log's checkpoint and the hashes of its tree for any web server (C2SP tlog-tiles); no events."""
    try:
        keys = keys_from(key, None)
    except ClientError as error:
        raise failure(str(error), EXIT_USAGE) from error
    with_reach(router, cell, lambda reach: publish.run_publish(reach, folder, keys, witnesses, as_json=as_json))


@app.command("import")
def import_command(
    file: Annotated[Path, typer.Argument(help="An export of a whole log.")],
    data: Annotated[Path | None, typer.Option("--data", help="The cell's folder, its database empty.")] = None,
    dsn: Annotated[str, typer.Option("--dsn", help="Or an empty database of one's own.")] = "",
    key: Annotated[list[str] | None, typer.Option("--key", help="A public key of the log, or a file of them.")] = None,
    as_json: Json = False,
) -> None:
    """Make a cell's database from an export, before the cell starts. Nothing in it is believed unverified."""
    if (data is None) == (not dsn):
        raise failure("say where to: --data FOLDER or --dsn DSN", EXIT_USAGE)
    try:
        keys = keys_from(key or (), data)
    except ClientError as error:
        raise failure(str(error), EXIT_USAGE) from error
    configure_logging("warning")
    run(restore.run_import(file, Where(dsn, data), keys, as_json=as_json))


@app.command("reconcile")
def reconcile_command(
    full: Annotated[bool, typer.Option("--full", help="From the first event on, not from the last time.")] = False,
    events_per_s: Annotated[
        int, typer.Option("--events-per-s", min=0, help="At most so many; 0: as fast as it goes.")
    ] = 0,
    router: Router = HERE,
    cell: Cell = "",
    as_json: Json = False,
) -> None:
    """Compare the tables of all cells with their logs, and their movements with each other, while they serve.

    Exit code 1 where anything is wrong, or a cell is missing.
    """
    with_reach(
        router,
        cell,
        lambda reach: books.run_reconcile(reach, full=full, events_per_s=events_per_s, as_json=as_json),
    )


@app.command("evidence")
def evidence_command(  # noqa: PLR0917 - as many options
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder; until it is complete, DIR.partial.")],
    sign_key: Annotated[Path, typer.Option("--sign-key", metavar="FILE", help="Signs the summary: audit new-key.")],
    seed: Annotated[str, typer.Option("--seed", help="Of the samples: what the auditor says.")],
    samples: Annotated[int, typer.Option("--sample", min=0, max=100_000, help="Events of each cell, proved.")] = 20,
    accounts: Annotated[int, typer.Option("--sample-accounts", min=0, max=100_000, help="Statements of each.")] = 3,
    named: Annotated[list[str] | None, typer.Option("--account", metavar="USER", help="A statement of it.")] = None,
    at: At = "",
    router: Router = HERE,
) -> None:
    """Write keys, checkpoints, exports, proofs, statements, reconciliation and trial balance to a folder.

    Exit code 1 where the folder could not be made, or where something in it is wrong.
    """

    async def work(reach: Reach) -> None:
        key = evidence.summary_key(sign_key)
        wanted = evidence.Wanted(at=at, seed=seed, samples=samples, accounts=accounts, named=named or (), key=key)
        await evidence.run_evidence(reach, folder, wanted)

    with_reach(router, "", work)


@app.command(
    "verify",
    # Its own to read: it is a program by itself.
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
)
def verify_command(context: typer.Context) -> None:
    """Check a folder of evidence, offline, as `cellbook verify` does."""
    raise typer.Exit(verify_main(context.args, program="cellbook audit verify"))


@app.command("rebuild")
def rebuild_command(
    note: Annotated[str, typer.Option("--note", help="Why, for the log: at most 200 characters.")] = "",
    router: Router = HERE,
    cell: Cell = "",
    as_json: Json = False,
) -> None:
    """Put the tables of a cell right from its log, while it serves. For operators.

    Exit code 1 where something is wrong that no rebuild puts right.
    """
    with_reach(router, cell, lambda reach: books.run_rebuild(reach, note, as_json=as_json))


def with_reach(router: str, cell: str, work: Work) -> None:
    async def reach_and_work() -> None:
        async with reached(router, chosen_access(), cell) as reach:
            await work(reach)

    run(reach_and_work())
