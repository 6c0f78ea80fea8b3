"""The `cellbook` command.

Exit codes: 0 all went well, 1 a check failed or something broke, 2 the command line or a file is wrong,
130 Ctrl-C. Reports go to stdout, everything else to stderr. With --json a failure is one JSON object on stderr:
`{"error": "..", "exit_code": 1}`; a command line that cannot be read is reported in words.
"""

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

from cells.audit.verify.command import main as verify_main
from server.cli import report
from server.cli.access import PLAIN, access_by_files, access_by_keys, choose_access
from server.cli.command import EXIT_FAILED, EXIT_USAGE, PASSED_ON, failure

# Module and name: of functions, and of groups of commands.
COMMANDS = {
    "witness": "server.cli.witness:command",
    "up": "lab.command:up",
    "demo": "lab.command:demo",
    "replay": "lab.command:replay",
    "saga-worker": "server.cli.saga.worker:command",
    "doctor": "server.cli.doctor.command:doctor",
}
GROUPS = {
    "chaos": "lab.command:chaos",
    "saga": "server.cli.saga.command:app",
    "contact": "server.cli.contact:app",
    "audit": "server.cli.audit.command:app",
    "router": "server.cli.router:app",
    "keys": "server.cli.keys.command:app",
}


class Imported(TyperGroup):
    """Imports the commands that are used: all of them would take most of a second."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401 - typer hides their types
        place = COMMANDS.get(cmd_name) or GROUPS.get(cmd_name)
        if place is not None:
            self.add_command(imported(place, cmd_name))
        return super().get_command(ctx, cmd_name)


def imported(place: str, name: str) -> Any:  # noqa: ANN401 - as above
    module, _, attribute = place.partition(":")
    found = getattr(import_module(module), attribute)
    holder = typer.Typer(rich_markup_mode=None)
    if isinstance(found, typer.Typer):
        holder.add_typer(found, name=name)
    else:
        holder.command(name)(found)
    return get_group(holder).commands[name]


def to_be_imported() -> None:
    """Stands for a command until it is used."""


app = typer.Typer(
    cls=Imported,
    help="Cellbook: an auditable ledger for marketplaces, in regional cells.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for name in COMMANDS:
    app.command(name)(to_be_imported)


@app.callback()
def access(
    context: typer.Context,
    *,
    keys_folder: Annotated[
        Path | None,
        typer.Option("--keys", metavar="DIR", envvar="CELLBOOK_KEYS", help="Use the keys in a folder of `keys dev`."),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", envvar="CELLBOOK_TLS_CERT")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", envvar="CELLBOOK_TLS_KEY")] = None,
    tls_ca: Annotated[Path | None, typer.Option("--tls-ca", envvar="CELLBOOK_TLS_CA")] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file", envvar="CELLBOOK_TOKEN_FILE", help="Unset: the certificate identifies the caller."
        ),
    ] = None,
) -> None:
    """Cellbook: an auditable ledger for marketplaces, in regional cells."""
    # For this command only: a process that runs several starts each with fresh settings.
    context.call_on_close(lambda: choose_access(PLAIN))
    report.AS_JSON.set(False)
    if keys_folder is not None:
        choose_access(access_by_keys(keys_folder))
    elif tls_cert is not None and tls_key is not None and tls_ca is not None:
        from server.shell.identity.tls import TlsFiles  # noqa: PLC0415 - as in access_by_keys

        choose_access(access_by_files(TlsFiles(tls_cert, tls_key, tls_ca), token_file))
    elif tls_cert or tls_key or tls_ca or token_file:
        raise failure("--tls-cert, --tls-key and --tls-ca belong together; --token-file needs them", EXIT_USAGE)


@app.command("verify", **PASSED_ON)
def verify(context: typer.Context) -> None:
    """Check an export, a proof or a checkpoint, offline: without a cell or a database."""
    raise typer.Exit(verify_main(context.args, program="cellbook verify"))


@app.command("console", **PASSED_ON)
def console(context: typer.Context) -> None:
    """Show the books in a browser: a process of its own, which calls router and cells for its visitors."""
    try:
        process = import_module("server.console.__main__")
    except ModuleNotFoundError as missing:
        raise failure(f"the console needs {missing.name}: pip install 'cellbook[console]'", EXIT_FAILED) from None
    given = context.parent.params if context.parent is not None else {}
    flags = {"keys": "keys_folder", "tls-cert": "tls_cert", "tls-key": "tls_key", "tls-ca": "tls_ca"}
    before = [part for flag, name in flags.items() if given.get(name) for part in (f"--{flag}", str(given[name]))]
    process.main([*before, *context.args], program="cellbook console")


for name in GROUPS:
    app.command(name)(to_be_imported)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
