"""The commands `cellbook up`, `demo`, `replay` and `chaos`."""

import json
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from lab.chaos.command import NoSuchLink, chosen, run_cable_cut
from lab.chaos.links import Link, LinkKind
from lab.chaos.netns import ENTERED_FLAG
from lab.checks import Check
from lab.cluster import CELLS, Cluster, started
from lab.demo import Run, run_demo, run_replay
from lab.lots import BidFileError, read_lots
from lab.market import Market
from lab.report import summary, tell
from server.cli import report
from server.cli.access import Access, chosen_access
from server.cli.ending import EXIT_FAILED, EXIT_USAGE, failure, run
from server.cli.options import DEFAULT_PORT_BASE, json_option, router_option
from server.cli.progress import Progress
from server.cli.reach import reached
from server.cli.screen import literal

Play = Callable[[Market, Progress], Awaitable[Run]]

chaos = typer.Typer(
    help="Break something while it runs, and check that nothing is lost.", no_args_is_help=True, rich_markup_mode=None
)

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


def up(
    data: Data = None, port_base: PortBase = DEFAULT_PORT_BASE, as_json: Json = False, secure: Secure = False
) -> None:
    """Run a router and three cells until Ctrl-C."""
    # A supervisor ends it by SIGTERM, which is no failure.
    run(run_up(data, port_base, as_json=as_json, secure=secure), codes={signal.SIGTERM: 0})


def demo(as_json: Json = False, data: Data = None, router: Router = "", secure: Secure = False) -> None:
    """Run a small market and check every cent."""
    run(_market_run(run_demo, data, router, as_json=as_json, secure=secure))


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


async def run_up(data: Path | None, port_base: int, *, as_json: bool, secure: bool) -> None:
    """Returns only by cancellation.

    Raises:
        ClusterError: it did not start, or one of its processes has ended unasked.
    """
    async with started(Cluster(data, port_base=port_base, secure=secure), Progress(report.stderr())) as cluster:
        told = await _described(cluster)
        if as_json:
            print(json.dumps(told), flush=True)
        else:
            with report.stdout() as console:
                _tell(console, told, kept=data is not None)
        raise await cluster.death()


async def _described(cluster: Cluster) -> dict[str, Any]:
    regions = {cell.name: cell.region for cell in CELLS}
    return {
        "router": cluster.router,
        "data": str(cluster.folder),
        **({"keys": str(cluster.keys), "public": cluster.public} if cluster.keys is not None else {}),
        "processes": [
            {
                "name": member.name,
                "region": regions.get(member.name, ""),
                "address": member.address,
                "pid": member.pid,
                "metrics": f"http://{member.metrics}/metrics",
                "dsn": await member.dsn(),
                "log": str(member.log),
            }
            for member in cluster.members
        ],
    }


def _tell(console: Console, told: dict[str, Any], *, kept: bool) -> None:
    columns = ("process", "region", "address", "metrics", "pid", "database")
    table = report.table(*columns)
    for column in table.columns:
        column.overflow, column.no_wrap = "fold", column.header != "database"
    for each in told["processes"]:
        metrics = each["metrics"].removeprefix("http://").removesuffix("/metrics")
        row = (each["name"], each["region"] or "-", each["address"], metrics, str(each["pid"]), literal(each["dsn"]))
        table.add_row(*row)
    console.print(table)
    fate = "kept" if kept else "temporary: gone when this stops; --data DIR keeps it"
    keys = told.get("keys")
    how = f"cellbook --keys {keys}" if keys else "cellbook"
    lines = [f"\nData and logs: {told['data']} ({fate})"]
    if keys:
        lines.append(f"For calls with a token and no certificate: {told['public']}, whose CA is {keys}/ca.pem")
    lines += [
        "Next, in another terminal:",
        f"  {how} demo --router {told['router']}",
        f"  {how} replay FILE --router {told['router']}",
        *([f"  cellbook keys token {keys} service/shop"] if keys else []),
        f"  psql '{told['processes'][1]['dsn']}'",
    ]
    console.print("\n".join(lines), soft_wrap=True)
    console.print("Ctrl-C stops everything.")
