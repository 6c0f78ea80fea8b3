"""The `cellbook` command.

Exit codes: 0 all went well, 1 a check failed or something broke, 2 the command line or a file is wrong,
130 Ctrl-C. Reports go to stdout, everything else to stderr. With --json a failure is one JSON object on stderr:
`{"error": "..", "exit_code": 1}`; a command line that cannot be read is reported in words.
"""

import json
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cells.audit.verify.command import main as verify_main
from server.cli import report
from server.cli.access import PLAIN, Access, access_by_files, access_by_keys, choose_access, chosen_access
from server.cli.audit.command import app as audit
from server.cli.bidfile import BidFileError, read_lots
from server.cli.chaos.command import NoSuchLink, chosen, run_cable_cut
from server.cli.chaos.links import Link, LinkKind
from server.cli.chaos.netns import ENTERED_FLAG
from server.cli.checks import Check
from server.cli.cluster import DEFAULT_PORT_BASE, Cluster
from server.cli.contact import app as contact
from server.cli.demo import run_demo
from server.cli.doctor.command import examined, healthy
from server.cli.doctor.command import tell as tell_findings
from server.cli.ending import EXIT_FAILED, EXIT_USAGE, failure, run
from server.cli.keys.command import app as keys
from server.cli.market import Market
from server.cli.options import json_option, router_option
from server.cli.progress import Progress
from server.cli.reach import reached
from server.cli.replay import run_replay
from server.cli.router import HERE
from server.cli.router import app as router_app
from server.cli.run import Run, summary, tell
from server.cli.saga.command import app as saga
from server.cli.saga.worker import WorkerPlan, run_worker
from server.cli.up import run_up, started
from server.cli.witness import command as witness
from server.shell.identity.tls import TlsFiles
from server.shell.observability.logging import configure_logging

Play = Callable[[Market, Progress], Awaitable[Run]]

app = typer.Typer(
    help="Cellbook: an auditable ledger for marketplaces, in regional cells.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

chaos = typer.Typer(
    help="Break something while it runs, and check that nothing is lost.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(chaos, name="chaos")
app.add_typer(saga, name="saga")
app.add_typer(contact, name="contact")
app.add_typer(audit, name="audit")
app.add_typer(router_app, name="router")
app.add_typer(keys, name="keys")
app.command("witness")(witness)

CUT_SECONDS = 27 * 60
CUT_SECONDS_LEAST = 10

Json = Annotated[bool, json_option("Print one JSON object instead of a report.")]
Data = Annotated[
    Path | None, typer.Option("--data", help="Keep data and logs in this folder. Default: a temporary one.")
]
Router = Annotated[
    str,
    router_option("Run on the idle cluster of this router; start nothing."),
]
Secure = Annotated[
    bool, typer.Option("--secure", help="With TLS and proof of identity for every call, with keys of its own.")
]
PortBase = Annotated[
    int,
    typer.Option(
        "--port-base",
        min=1024,
        max=65_500,
        help="The router's port; the cells take the next.",
    ),
]


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


@app.command()
def up(
    data: Data = None, port_base: PortBase = DEFAULT_PORT_BASE, as_json: Json = False, secure: Secure = False
) -> None:
    """Run a router and three cells until Ctrl-C."""
    # A supervisor ends it by SIGTERM, which is no failure.
    run(run_up(data, port_base, as_json=as_json, secure=secure), codes={signal.SIGTERM: 0})


@app.command()
def demo(as_json: Json = False, data: Data = None, router: Router = "", secure: Secure = False) -> None:
    """Run a small market and check every cent."""
    run(_market_run(run_demo, data, router, as_json=as_json, secure=secure))


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="CSV: auction, item, open_minor, bidder, bid_minor, ..")],
    as_json: Json = False,
    data: Data = None,
    router: Router = "",
    secure: Secure = False,
) -> None:
    """Play recorded bids and check every cent."""
    try:
        lots = read_lots(file)
    except BidFileError as error:
        raise failure(str(error), EXIT_USAGE) from error
    play = partial(run_replay, lots)
    run(_market_run(play, data, router, as_json=as_json, secure=secure))


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


@chaos.command("cable-cut")
def cable_cut(
    cut_seconds: Annotated[
        int, typer.Option("--cut-seconds", min=CUT_SECONDS_LEAST, help="How long the link is cut.")
    ] = CUT_SECONDS,
    link: Annotated[
        LinkKind,
        typer.Option("--link", help="netns: network namespaces, takes root; proxy: TCP proxies; auto: either."),
    ] = LinkKind.AUTO,
    data: Data = None,
    as_json: Json = False,
    entered_from: Annotated[str, typer.Option(ENTERED_FLAG, hidden=True)] = "",
) -> None:
    """Cut the link between two regions while 47 settlements need it, restore it, and check every cent."""
    try:
        cable = chosen(link, entered_from=entered_from)
    except NoSuchLink as error:
        raise failure(str(error), EXIT_USAGE) from error
    run(_cable_cut(cable, cut_seconds, data, as_json=as_json))


def main() -> None:
    app()


async def _cable_cut(link: Link, cut_seconds: int, data: Path | None, *, as_json: bool) -> None:
    verdict = await run_cable_cut(link, cut_seconds, data, as_json=as_json)
    _fail_unless_held(verdict.checks)


async def _market_run(play: Play, data: Path | None, router: str, *, as_json: bool, secure: bool) -> None:
    """Runs on the cluster of `router`, or on one of its own, and reports the result."""
    started_s = time.monotonic()
    progress = Progress(report.stderr())
    if router and secure:
        raise failure(
            "--secure is for a cluster that the command starts; use cellbook --keys DIR with --router", EXIT_USAGE
        )
    if router:
        # A wrong address, or a router with TLS, is reported at once and not after all retries.
        async with reached(router, chosen_access()):
            pass
        run, summed = await _played(play, router, chosen_access(), progress, started_s)
    else:
        async with started(Cluster(data, port_base=None, secure=secure), progress) as cluster:
            played = _played(play, cluster.router, cluster.access, progress, started_s)
            run, summed = await cluster.while_alive(played)
    if as_json:
        print(json.dumps(summed, indent=2))
    else:
        with report.stdout() as console:
            tell(run, console, summed)
    _fail_unless_held(run.checks)


def _fail_unless_held(checks: Sequence[Check]) -> None:
    failed = "; ".join(f"{check.name}: {check.detail}" for check in checks if not check.held)
    if failed:
        raise failure(f"a check failed: {failed}", EXIT_FAILED)


async def _played(
    play: Play, router: str, access: Access, progress: Progress, started_s: float
) -> tuple[Run, dict[str, object]]:
    set_up_s = time.monotonic() - started_s
    async with Market(router, access) as market:
        run = await play(market, progress)
        return run, summary(run, market, started_s, set_up_s)


if __name__ == "__main__":
    main()
