"""The command line of `cellbook audit`."""

import inspect
from collections.abc import Awaitable, Callable
from inspect import Parameter
from pathlib import Path
from typing import Annotated

import typer

from cells.audit.verify.command import main as verify_main
from cells.store.unusable import CannotServe
from server.audit.restore import Where
from server.cli.access import chosen_access
from server.cli.audit import balances, books, evidence, export, past, proof, publish, statement, trace, trial
from server.cli.audit.ask import Json
from server.cli.client import ClientError
from server.cli.ending import EXIT_USAGE, failure, run
from server.cli.options import HERE, router_option
from server.cli.reach import reached
from server.shell.observability.logging import configure_logging

app = typer.Typer(
    help="Answer an auditor's questions: where money came from, past balances, and whether the log is intact.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Router = Annotated[str, router_option("The router of the cells to ask.")]
Cell = Annotated[str, typer.Option("--cell", help="Ask this cell.")]
Keys = Annotated[list[str], typer.Option("--key", help="A public key of the log or a witness, or a file of them.")]
REACH = Parameter("router", Parameter.KEYWORD_ONLY, default=HERE, annotation=Router)
OF_CELL = Parameter("cell", Parameter.KEYWORD_ONLY, default="", annotation=Cell)


# Otherwise typer turns a single command into the group itself.
@app.callback()
def audit() -> None:
    """Answer an auditor's questions (docs/audit.md)."""


def with_reach(work: Callable[..., Awaitable[None]], *, of_cell: bool = True) -> Callable[..., None]:
    """A command whose arguments are those of `work` besides the reach, and `--router` and `--cell`."""

    def command(*, router: str, cell: str = "", **options: object) -> None:
        async def reach_and_work() -> None:
            async with reached(router, chosen_access(), cell) as reach:
                await work(reach, **options)

        run(reach_and_work())

    _, *own = inspect.signature(work).parameters.values()
    parameters = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in own]
    last = len(own) - (bool(own) and own[-1].name == "as_json")
    parameters[last:last] = [REACH, OF_CELL] if of_cell else [REACH]
    # For typer, which reads the options here.
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    command.__doc__ = work.__doc__
    return command


COMMANDS: dict[str, Callable[..., Awaitable[None]]] = {
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

for name, work in COMMANDS.items():
    app.command(name)(with_reach(work, of_cell=name not in WITHOUT_CELL))


@app.command("key")
def key_command(
    file: Annotated[Path | None, typer.Option("--file", help="Read this key file, not a running cell.")] = None,
    router: Router = HERE,
    cell: Cell = "",
) -> None:
    """Print the public keys that verify a cell's checkpoints: its log's key and its witness key."""
    if file is None:
        with_reach(proof.run_keys)(router=router, cell=cell)
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
    except CannotServe as error:
        raise failure(str(error), EXIT_USAGE) from error


@app.command("publish")
def publish_command(  # noqa: PLR0917 - as many options
    folder: Annotated[Path, typer.Argument(help="A new or existing folder; a web server may serve it meanwhile.")],
    key: Keys,
    witnesses: Annotated[
        int, typer.Option("--require-witnesses", min=0, help="Publish only checkpoints that N of these signed.")
    ] = 0,
    router: Router = HERE,
    cell: Cell = "",
    as_json: Json = False,
) -> None:
    """Write a log's checkpoint and the hashes of its tree for any web server (C2SP tlog-tiles); no events."""
    try:
        keys = export.keys_from(key, None)
    except ClientError as error:
        raise failure(str(error), EXIT_USAGE) from error
    publishing = with_reach(publish.run_publish)
    publishing(router=router, cell=cell, folder=folder, keys=keys, witnesses=witnesses, as_json=as_json)


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
        keys = export.keys_from(key or (), data)
    except ClientError as error:
        raise failure(str(error), EXIT_USAGE) from error
    configure_logging("warning")
    run(export.run_import(file, Where(dsn, data), keys, as_json=as_json))


@app.command(
    "verify",
    # The verifier is a separate program and parses its own options.
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
)
def verify_command(context: typer.Context) -> None:
    """Check a folder of evidence, offline, as `cellbook verify` does."""
    raise typer.Exit(verify_main(context.args, program="cellbook audit verify"))
