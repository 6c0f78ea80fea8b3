"""The `cellbook` command.

Exit codes: 0 all went well, 1 a check failed or something broke, 2 the command line or a file is wrong,
130 Ctrl-C. Reports go to stdout, everything else to stderr. With --json a failure is one JSON object on stderr:
`{"error": "..", "exit_code": 1}`; a command line that cannot be read is reported in words.
"""

import signal
from pathlib import Path
from typing import Annotated

import typer

from cells.audit.verify.command import main as verify_main
from lab.command import chaos, demo, replay, up
from server.cli import report
from server.cli.access import PLAIN, access_by_files, access_by_keys, choose_access, chosen_access
from server.cli.audit.command import app as audit
from server.cli.contact import app as contact
from server.cli.doctor.command import examined, healthy
from server.cli.doctor.command import tell as tell_findings
from server.cli.ending import EXIT_FAILED, EXIT_USAGE, failure, run
from server.cli.keys.command import app as keys
from server.cli.options import HERE, json_option, router_option
from server.cli.router import app as router_app
from server.cli.saga.command import app as saga
from server.cli.saga.worker import WorkerPlan, run_worker
from server.cli.witness import command as witness
from server.shell.identity.tls import TlsFiles
from server.shell.observability.logging import configure_logging

app = typer.Typer(
    help="Cellbook: an auditable ledger for marketplaces, in regional cells.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(chaos, name="chaos")
app.add_typer(saga, name="saga")
app.add_typer(contact, name="contact")
app.add_typer(audit, name="audit")
app.add_typer(router_app, name="router")
app.add_typer(keys, name="keys")
app.command("witness")(witness)
for command in (up, demo, replay):
    app.command()(command)

Json = Annotated[bool, json_option("Print one JSON object instead of a report.")]


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
        choose_access(access_by_files(TlsFiles(tls_cert, tls_key, tls_ca), token_file))
    elif tls_cert or tls_key or tls_ca or token_file:
        raise failure("--tls-cert, --tls-key and --tls-ca belong together; --token-file needs them", EXIT_USAGE)


@app.command("saga-worker")
def saga_worker(  # noqa: PLR0917 - as many options
    cell: Annotated[str, typer.Option("--cell", metavar="HOST:PORT[,..]", help="The cell's processes.")],
    task_queue: Annotated[
        str, typer.Option("--task-queue", envvar="CELLBOOK_TEMPORAL_TASK_QUEUE", help="cellbook-NAME of the cell.")
    ],
    address: Annotated[
        str, typer.Option("--temporal", metavar="HOST:PORT", envvar="CELLBOOK_TEMPORAL_ADDRESS")
    ] = "127.0.0.1:7233",
    namespace: Annotated[str, typer.Option("--namespace", envvar="CELLBOOK_TEMPORAL_NAMESPACE")] = "default",
    tls: Annotated[bool, typer.Option("--tls", envvar="CELLBOOK_TEMPORAL_TLS")] = False,
    tls_ca: Annotated[Path | None, typer.Option("--tls-ca", envvar="CELLBOOK_TEMPORAL_TLS_CA")] = None,
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", envvar="CELLBOOK_TEMPORAL_TLS_CERT")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", envvar="CELLBOOK_TEMPORAL_TLS_KEY")] = None,
) -> None:
    """Run a Temporal server's workflows for a cell with temporal_worker=apart, until Ctrl-C."""
    configure_logging("info")
    plan = WorkerPlan(
        cell=cell,
        task_queue=task_queue,
        temporal_address=address,
        temporal_namespace=namespace,
        temporal_tls=tls,
        temporal_tls_ca=tls_ca,
        temporal_tls_cert=tls_cert,
        temporal_tls_key=tls_key,
        access=chosen_access(),
    )
    run(run_worker(plan), codes={signal.SIGTERM: 0})


@app.command(
    "verify",
    # The verifier parses its own arguments: it is a separate program.
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
)
def verify(context: typer.Context) -> None:
    """Check an export, a proof or a checkpoint, offline: without a cell or a database."""
    raise typer.Exit(verify_main(context.args, program="cellbook verify"))


@app.command()
def doctor(
    router: Annotated[str, router_option("Ask this router, and every process that it lists.")] = "",
    config: Annotated[
        list[Path] | None,
        typer.Option("--config", metavar="FILE", help="A process's settings, its keys, disk and database; repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Examine processes, clocks, certificates, settings and databases; report problems and what to do.

    Without options it examines the router at its usual port. Exit code 1: something is wrong.
    """

    async def work() -> None:
        asked = router or ("" if config else HERE)
        findings = await examined(asked, config or (), chosen_access())
        tell_findings(findings, as_json=as_json)
        if not healthy(findings):
            raise typer.Exit(EXIT_FAILED)

    run(work())


def main() -> None:
    app()


if __name__ == "__main__":
    main()
