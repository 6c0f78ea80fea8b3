"""The command line of `cellbook audit`."""

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from cells.audit.verify.command import main as verify_main
from cells.store.unusable import CannotServe
from server.cli.audit import balances, books, evidence, export, past, proof, publish, statement, trace, trial
from server.cli.client import ClientError
from server.cli.command import EXIT_USAGE, HERE, PASSED_ON, Cell, Json, Router, failure, for_cells, run, wrong_usage
from server.shell.observability.logging import configure_logging

app = typer.Typer(
    help="Answer an auditor's questions: where money came from, past balances, and whether the log is intact.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Keys = Annotated[list[str], typer.Option("--key", help="A public key of the log or a witness, or a file of them.")]

COMMANDS: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
    "trace": trace.run_trace,
    "balance": past.run_balance,
    "balances": balances.run_balances,
    "trial-balance": trial.run_trial,
    "statement": statement.run_statement,
    "auction": past.run_auction,
    "asset": past.run_asset,
    "stream": past.run_stream,
    "accesses": past.run_accesses,
    "checkpoint": proof.run_checkpoint,
    "proof": proof.run_proof,
    "consistency": proof.run_consistency,
    "export": export.run_export,
    "reconcile": books.run_reconcile,
    "evidence": evidence.run_wanted,
    "rebuild": books.run_rebuild,
}
# A name says its cell; the others need every cell.
WITHOUT_CELL = frozenset({"trial-balance", "auction", "asset", "evidence"})
WITHOUT_JSON = frozenset({"proof", "consistency", "evidence"})

for name, work in COMMANDS.items():
    app.command(name)(for_cells(work, of_cell=name not in WITHOUT_CELL, as_json=name not in WITHOUT_JSON))


@app.command("key")
def key_command(
    file: Annotated[Path | None, typer.Option("--file", help="Read this key file, not a running cell.")] = None,
    router: Router = HERE,
    cell: Cell = "",
) -> None:
    """Print the public keys that verify a cell's checkpoints: its log's key and its witness key."""
    if file is None:
        for_cells(proof.run_keys)(router=router, cell=cell)
        return
    with wrong_usage(CannotServe):
        print("\n".join(proof.keys_in(file, cell)))


@app.command("new-key")
def new_key_command(
    cell: Annotated[str, typer.Argument(help="The cell that signs with it, or the name of the witness.")],
    file: Annotated[Path, typer.Argument(help="A new file, for the setting checkpoint_key_file.")],
    *,
    witness: Annotated[bool, typer.Option("--witness", help="Make the key of an outside `cellbook witness`.")] = False,
) -> None:
    """Make a cell's signing keys, and print the public ones."""
    with wrong_usage(CannotServe):
        print("\n".join(proof.make_witness_key(cell, file) if witness else proof.make_keys(cell, file)))


@app.command("publish")
def publish_command(
    folder: Annotated[Path, typer.Argument(help="A new or existing folder; a web server may serve it meanwhile.")],
    key: Keys,
    witnesses: Annotated[
        int, typer.Option("--require-witnesses", min=0, help="Publish only checkpoints that N of these signed.")
    ] = 0,
    router: Router = HERE,
    cell: Cell = "",
    _json: Json = False,
) -> None:
    """Write a log's checkpoint and the hashes of its tree for any web server (C2SP tlog-tiles); no events."""
    with wrong_usage(ClientError):
        keys = proof.keys_from(key, None)
    for_cells(publish.run_publish)(router=router, cell=cell, folder=folder, keys=keys, witnesses=witnesses)


@app.command("import")
def import_command(
    file: Annotated[Path, typer.Argument(help="An export of a whole log.")],
    data: Annotated[Path | None, typer.Option("--data", help="The cell's folder, its database empty.")] = None,
    dsn: Annotated[str, typer.Option("--dsn", help="Or the DSN of an empty database.")] = "",
    key: Annotated[list[str] | None, typer.Option("--key", help="A public key of the log, or a file of them.")] = None,
    _json: Json = False,
) -> None:
    """Make a cell's database from an export, before the cell starts. Everything in the export is verified."""
    if (data is None) == (not dsn):
        raise failure("say where to: --data FOLDER or --dsn DSN", EXIT_USAGE)
    with wrong_usage(ClientError):
        keys = proof.keys_from(key or (), data)
    configure_logging("warning")
    run(export.run_import(file, dsn, data, keys))


@app.command("verify", **PASSED_ON)
def verify_command(context: typer.Context) -> None:
    """Check a folder of evidence, offline, as `cellbook verify` does."""
    raise typer.Exit(verify_main(context.args, program="cellbook audit verify"))
