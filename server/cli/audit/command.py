"""The command line of `cellbook audit`."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import typer

from cells.audit.verify.command import main as verify_main
from server.audit.keys import SigningKeysInvalid
from server.audit.restore import Where
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
from server.cli.ending import EXIT_USAGE, failure, run
from server.cli.options import HERE, json_option, router_option
from server.cli.reach import Reach, reached
from server.shell.observability.logging import configure_logging

Work = Callable[[Reach], Awaitable[None]]

app = typer.Typer(
    help="Answer an auditor's questions: where money came from, past balances, and whether the log is intact.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Router = Annotated[str, router_option("The router of the cells to ask.")]
Cell = Annotated[str, typer.Option("--cell", help="Ask this cell.")]
At = Annotated[str, typer.Option("--at", metavar="MOMENT", help=moment.HELP)]
User = Annotated[str, typer.Argument(metavar="USER", help="The user's id.")]
Json = Annotated[bool, json_option("Print JSON instead of tables.")]


# Otherwise typer turns a single command into the group itself.
@app.callback()
def audit() -> None:
    """Answer an auditor's questions (docs/audit.md)."""


@app.command("trace")
def trace_command(
    subject: Annotated[
        str, typer.Argument(help="Id of an event, command, saga, auction, asset or account; or a name.")
    ],
    limit: Annotated[int, typer.Option("--limit", min=1, max=2_000, help="The maximum number of events.")] = 500,
    router: Router = HERE,
    cell: Cell = "",
    as_json: Json = False,
) -> None:
    """Follow an object up to its causes and down to its effects, across all cells.

    Exit code 1 if the answer is incomplete: a cell is missing, an event was changed, or the limit was reached.
    """
    with_reach(router, cell, lambda reach: trace.run_trace(reach, subject, limit, as_json=as_json))


@app.command("balance")
def balance_command(user: User, at: At = "", router: Router = HERE, cell: Cell = "", as_json: Json = False) -> None:
    """Show a user's balance and the holds behind it."""
    with_reach(router, cell, lambda reach: past.run_balance(reach, user, at, as_json=as_json))


@app.command("balances")
def balances_command(at: At = "", router: Router = HERE, cell: Cell = "", as_json: Json = False) -> None:
    """Show the balances of all users and the house, and check that they add up."""
    with_reach(router, cell, lambda reach: balances.run_balances(reach, at, as_json=as_json))


@app.command("trial-balance")
def trial_command(at: At = "", router: Router = HERE, as_json: Json = False) -> None:
    """Add up all cells at one moment as one ledger: clearing is eliminated, money in transit is listed.

    Exit code 1 if a cell is missing or has not reached the moment, or something does not add up.
    """
    with_reach(router, "", lambda reach: trial.run_trial(reach, at, as_json=as_json))


@app.command("statement")
def statement_command(  # noqa: PLR0917 - as many options
    user: User,
    after: Annotated[str, typer.Option("--from", metavar="MOMENT", help="After this moment. " + moment.HELP)] = "",
    until: Annotated[str, typer.Option("--to", metavar="MOMENT", help="Up to and including this moment.")] = "",
    currency: Annotated[str, typer.Option("--currency", help="Only this currency: EUR")] = "",
    form: Annotated[statement.Form, typer.Option("--format", help="How to print it.")] = statement.Form.TABLE,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=10_000_000, help="The maximum number of movements.")
    ] = 100_000,
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
    """Show the state of an auction at a moment."""
    with_reach(router, "", lambda reach: past.run_auction(reach, name, at, as_json=as_json))


@app.command("asset")
def asset_command(
    name: Annotated[str, typer.Argument(help="cells/CELL/assets/UUID")],
    at: At = "",
    router: Router = HERE,
    as_json: Json = False,
) -> None:
    """Show the owner of an asset at a moment."""
    with_reach(router, "", lambda reach: past.run_asset(reach, name, at, as_json=as_json))


@app.command("stream")
def stream_command(
    aggregate: Annotated[str, typer.Argument(metavar="ID", help="Id of an account, asset, auction or saga.")],
    at: At = "",
    router: Router = HERE,
    cell: Cell = "",
    as_json: Json = False,
) -> None:
    """Replay all events of one account, asset, auction or saga, and compare the cell's stored state with them."""
    with_reach(router, cell, lambda reach: past.run_stream(reach, aggregate, at, as_json=as_json))


@app.command("accesses")
def accesses_command(
    user: Annotated[str, typer.Option("--user", metavar="USER", help="Only reads of this user, or of all users.")] = "",
    router: Router = HERE,
    cell: Cell = "",
    as_json: Json = False,
) -> None:
    """List the reads of accounts, contacts and logs by staff, by the minute."""
    with_reach(router, cell, lambda reach: accesses.run_accesses(reach, user, as_json=as_json))


Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write to this file, not to stdout.")]
Size = Annotated[int, typer.Option("--size", min=0, help="Size of the checkpoint; by default the last cosigned one.")]


@app.command("checkpoint")
def checkpoint_command(
    size: Size = 0, out: Out = None, router: Router = HERE, cell: Cell = "", as_json: Json = False
) -> None:
    """Print a cell's signed checkpoint. Keep it: it reveals any later change to the events that it covers."""
    with_reach(router, cell, lambda reach: proof.run_checkpoint(reach, size, out, as_json=as_json))


@app.command("proof")
def proof_command(
    position: Annotated[int, typer.Argument(min=1, help="The event's position in the cell's log.")],
    size: Size = 0,
    out: Out = None,
    router: Router = HERE,
    cell: Cell = "",
) -> None:
    """Prove that a signed checkpoint covers an event. `cellbook verify` checks it."""
    with_reach(router, cell, lambda reach: proof.run_proof(reach, position, size, out))


@app.command("consistency")
def consistency_command(
    old_size: Annotated[int, typer.Argument(min=1, help="Size of the earlier checkpoint.")],
    new_size: Annotated[int, typer.Argument(min=0, help="Size of the later one; by default the last cosigned.")] = 0,
    out: Out = None,
    router: Router = HERE,
    cell: Cell = "",
) -> None:
    """Prove that one checkpoint extends another. `cellbook verify` checks it."""
    with_reach(router, cell, lambda reach: proof.run_consistency(reach, old_size, new_size, out))


@app.command("key")
def key_command(
    file: Annotated[Path | None, typer.Option("--file", help="Read this key file, not a running cell.")] = None,
    router: Router = HERE,
    cell: Cell = "",
) -> None:
    """Print the public keys that verify a cell's checkpoints: its log's key and its witness key."""
    if file is None:
        with_reach(router, cell, proof.run_keys)
        return
    _print_keys(lambda: proof.keys_in(file, cell))


@app.command("new-key")
def new_key_command(
    cell: Annotated[str, typer.Argument(help="The cell that signs with it, or the name of the witness.")],
    file: Annotated[Path, typer.Argument(help="A new file, for the setting checkpoint_key_file.")],
    *,
    witness: Annotated[bool, typer.Option("--witness", help="Make the key of an outside `cellbook witness`.")] = False,
) -> None:
    """Make a cell's signing keys, and print the public ones."""
    _print_keys(lambda: proof.make_witness_key(cell, file) if witness else proof.make_keys(cell, file))


def _print_keys(keys: Callable[[], list[str]]) -> None:
    try:
        for key in keys():
            print(key)
    except SigningKeysInvalid as error:
        raise failure(str(error), EXIT_USAGE) from error


@app.command("export")
def export_command(  # noqa: PLR0917 - as many options
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A new file; an existing FILE.part is resumed.")],
    first: Annotated[int, typer.Option("--from", min=1, help="The first position.")] = 1,
    last: Annotated[int, typer.Option("--to", min=0, help="The last position; by default the log's head.")] = 0,
    router: Router = HERE,
    cell: Cell = "",
    as_json: Json = False,
) -> None:
    """Write a cell's log to a file that `cellbook verify` checks and `cellbook audit import` restores."""
    with_reach(router, cell, lambda reach: export.run_export(reach, out, first, last, as_json=as_json))


@app.command("publish")
def publish_command(  # noqa: PLR0917 - as many options
    folder: Annotated[Path, typer.Argument(help="A new or existing folder; a web server may serve it meanwhile.")],
    key: Annotated[list[str], typer.Option("--key", help="A public key of the log or a witness, or a file of them.")],
    witnesses: Annotated[
        int, typer.Option("--require-witnesses", min=0, help="Publish only checkpoints that N of these signed.")
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
    dsn: Annotated[str, typer.Option("--dsn", help="Or the DSN of an empty database.")] = "",
    key: Annotated[list[str] | None, typer.Option("--key", help="A public key of the log, or a file of them.")] = None,
    as_json: Json = False,
) -> None:
    """Make a cell's database from an export, before the cell starts. Everything in the export is verified."""
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
    full: Annotated[bool, typer.Option("--full", help="Start at the first event, not at the last pass.")] = False,
    events_per_s: Annotated[int, typer.Option("--events-per-s", min=0, help="The maximum rate; 0 means no limit.")] = 0,
    router: Router = HERE,
    cell: Cell = "",
    as_json: Json = False,
) -> None:
    """Compare the tables of all cells with their logs, and their movements with each other, while they serve.

    Exit code 1 if anything is wrong, or a cell is missing.
    """
    with_reach(
        router,
        cell,
        lambda reach: books.run_reconcile(reach, full=full, events_per_s=events_per_s, as_json=as_json),
    )


@app.command("evidence")
def evidence_command(  # noqa: PLR0917 - as many options
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder; DIR.partial until it is complete.")],
    sign_key: Annotated[Path, typer.Option("--sign-key", metavar="FILE", help="Key for the summary (audit new-key).")],
    seed: Annotated[str, typer.Option("--seed", help="The seed of the samples, chosen by the auditor.")],
    samples: Annotated[int, typer.Option("--sample", min=0, max=100_000, help="Events to prove, per cell.")] = 20,
    accounts: Annotated[int, typer.Option("--sample-accounts", min=0, max=100_000, help="Statements per cell.")] = 3,
    named: Annotated[list[str] | None, typer.Option("--account", metavar="USER", help="Add its statement.")] = None,
    at: At = "",
    router: Router = HERE,
) -> None:
    """Write keys, checkpoints, exports, proofs, statements, reconciliation and trial balance to a folder.

    Exit code 1 if the folder could not be made, or something in it is wrong.
    """

    async def work(reach: Reach) -> None:
        key = evidence.summary_key(sign_key)
        wanted = evidence.Wanted(at=at, seed=seed, samples=samples, accounts=accounts, named=named or (), key=key)
        await evidence.run_evidence(reach, folder, wanted)

    with_reach(router, "", work)


@app.command(
    "verify",
    # The verifier is a separate program and parses its own options.
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
)
def verify_command(context: typer.Context) -> None:
    """Check a folder of evidence, offline, as `cellbook verify` does."""
    raise typer.Exit(verify_main(context.args, program="cellbook audit verify"))


@app.command("rebuild")
def rebuild_command(
    note: Annotated[str, typer.Option("--note", help="The reason, for the log: at most 200 characters.")] = "",
    router: Router = HERE,
    cell: Cell = "",
    as_json: Json = False,
) -> None:
    """Repair the tables of a cell from its log, while it serves. For operators.

    Exit code 1 if something is wrong that a rebuild cannot repair.
    """
    with_reach(router, cell, lambda reach: books.run_rebuild(reach, note, as_json=as_json))


def with_reach(router: str, cell: str, work: Work) -> None:
    async def reach_and_work() -> None:
        async with reached(router, chosen_access(), cell) as reach:
            await work(reach)

    run(reach_and_work())
