"""The commands `cellbook up`, `demo`, `replay` and `chaos`."""

import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from lab.books import Check
from lab.chaos import netns
from lab.chaos.links import ENDS, FAR, NEAR, Link, LinkKind, ProxyLink
from lab.chaos.netns import NetnsLink
from lab.chaos.scenario import Timeline
from lab.chaos.scenario import play as play_scenario
from lab.chaos.verdict import Verdict
from lab.chaos.verdict import summary as summary_of_cut
from lab.cluster import CELLS, Cluster
from lab.demo import Run, run_demo, run_replay
from lab.lots import BidFileError, read_lots
from lab.market import Market
from lab.member import Member
from lab.report import section, summary, tell, tell_verdict
from server.cli import command as cli
from server.cli import report
from server.cli.access import Access, chosen_access
from server.cli.command import Json, failure, router_option, run, wrong_usage
from server.cli.reach import reached
from server.cli.screen import Screen, literal

Play = Callable[[Market], Awaitable[Run]]

chaos = typer.Typer(
    help="Break something while it runs, and check that nothing is lost.", no_args_is_help=True, rich_markup_mode=None
)

CUT_SECONDS = 27 * 60
CUT_SECONDS_LEAST = 10
HOLDS = "holds"

Data = Annotated[
    Path | None, typer.Option("--data", help="Keep data and logs in this folder. Default: a temporary one.")
]
Router = Annotated[str, router_option("Run on the idle cluster of this router; start nothing.")]
Secure = Annotated[
    bool, typer.Option("--secure", help="With TLS and proof of identity for every call, with keys of its own.")
]
PortBase = Annotated[
    int, typer.Option("--port-base", min=1024, max=65_500, help="The router's port; the cells take the next.")
]


def up(
    data: Data = None, port_base: PortBase = cli.DEFAULT_PORT_BASE, _json: Json = False, secure: Secure = False
) -> None:
    """Run a router, three cells and the console until Ctrl-C."""
    # A supervisor ends it by SIGTERM, which is no failure.
    run(run_up(data, port_base, secure=secure), codes={signal.SIGTERM: 0})


def demo(_json: Json = False, data: Data = None, router: Router = "", secure: Secure = False) -> None:
    """Run a small market and check every cent."""
    run(_market_run(run_demo, data, router, secure=secure))


def replay(
    file: Annotated[Path, typer.Argument(help="CSV: auction, item, open_minor, bidder, bid_minor, ..")],
    _json: Json = False,
    data: Data = None,
    router: Router = "",
    secure: Secure = False,
) -> None:
    """Play recorded bids and check every cent."""
    with wrong_usage(BidFileError):
        lots = read_lots(file)
    run(_market_run(partial(run_replay, lots), data, router, secure=secure))


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
    _json: Json = False,
    entered_from: Annotated[str, typer.Option(netns.ENTERED_FLAG, hidden=True)] = "",
) -> None:
    """Cut the link between two regions while 47 settlements need it, restore it, and check every cent."""
    with wrong_usage(NoSuchLink):
        cable = chosen(link, entered_from=entered_from)
    run(_cable_cut(cable, cut_seconds, data))


async def _market_run(play: Play, data: Path | None, router: str, *, secure: bool) -> None:
    """Runs on the cluster of `router`, or on one of its own, and reports the result."""
    started_s = time.monotonic()
    if router and secure:
        advice = "use cellbook --keys DIR with --router"
        raise failure(f"--secure is for a cluster that the command starts; {advice}", cli.EXIT_USAGE)
    if router:
        # A wrong address, or a router with TLS, is reported at once and not after all retries.
        async with reached(router, chosen_access()):
            pass
        run, summed = await _played(play, router, chosen_access(), started_s)
    else:
        async with Cluster(data, secure=secure) as cluster:
            run, summed = await cluster.while_alive(_played(play, cluster.router, cluster.access, started_s))
    report.show(lambda: summed, lambda console: tell(run, console, summed))
    _fail_unless_held(run.checks)


def _fail_unless_held(checks: Sequence[Check]) -> None:
    failed = "; ".join(f"{check.name}: {check.detail}" for check in checks if not check.held)
    if failed:
        raise failure(f"a check failed: {failed}", cli.EXIT_FAILED)


async def _played(play: Play, router: str, access: Access, started_s: float) -> tuple[Run, dict[str, object]]:
    set_up_s = time.monotonic() - started_s
    async with Market(router, access) as market:
        run = await play(market)
        return run, summary(run, market, started_s, set_up_s)


async def run_up(data: Path | None, port_base: int, *, secure: bool) -> None:
    """Returns only by cancellation.

    Raises:
        ClusterError: it did not start, or one of its processes has ended unasked.
    """
    async with Cluster(data, port_base=port_base, secure=secure, with_console=True) as cluster:
        described = await _described(cluster)
        report.show_line(described, partial(_tell, described=described, kept=data is not None))
        raise await cluster.death()


async def _described(cluster: Cluster) -> dict[str, Any]:
    regions = {cell.name: cell.region for cell in CELLS}
    return {
        "router": cluster.router,
        **({"console": f"http://{cluster.console.address}"} if cluster.console is not None else {}),
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


def _tell(console: Console, described: dict[str, Any], *, kept: bool) -> None:
    one_line = ("process", "region", "address", "metrics", "pid")
    table = report.table(*one_line, "database", no_wrap=one_line)
    for each in described["processes"]:
        metrics = each["metrics"].removeprefix("http://").removesuffix("/metrics")
        texts = (each["name"], each["region"] or "-", each["address"], metrics, each["pid"], each["dsn"])
        table.add_row(*map(literal, texts))
    console.print(table)
    fate = "kept" if kept else "temporary: gone when this stops; --data DIR keeps it"
    keys = described.get("keys")
    how = f"cellbook --keys {keys}" if keys else "cellbook"
    books = described.get("console", "pip install 'cellbook\\[console]' first")
    lines = [f"\nThe books in a browser: {books}", f"Data and logs: {described['data']} ({fate})"]
    if keys:
        lines.append(f"For calls with a token and no certificate: {described['public']}, whose CA is {keys}/ca.pem")
    lines += [
        "Next, in another terminal:",
        f"  {how} demo --router {described['router']}",
        f"  {how} replay FILE --router {described['router']}",
        *([f"  cellbook keys token {keys} service/shop"] if keys else []),
        f"  psql '{described['processes'][1]['dsn']}'",
    ]
    console.print("\n".join(lines), soft_wrap=True)
    console.print("Ctrl-C stops everything.")


# --- the cable cut --------------------------------------------------------------------------------------------------


class NoSuchLink(Exception):
    """The requested link cannot be made on this machine."""


def chosen(wanted: LinkKind, *, entered_from: str) -> Link:
    """The link to cut. For a link of namespaces the command re-executes itself in its own, and this does not return.

    Raises:
        NoSuchLink: the message says why.
    """
    if wanted is LinkKind.PROXY:
        return ProxyLink()
    if netns.has_entered(entered_from):
        return NetnsLink()
    obstacle = netns.obstacle()
    if not obstacle:
        netns.enter()
    if wanted is LinkKind.NETNS:
        raise NoSuchLink(f"no network namespaces here: {obstacle}; --link proxy does without")
    return ProxyLink(made_of=f"a TCP proxy each way (no network namespaces here: {obstacle})")


async def _cable_cut(link: Link, cut_seconds: int, data: Path | None) -> None:
    """Plays the scenario on a cluster of its own, and reports it."""
    started_s = time.monotonic()
    timeline = Timeline(report.stderr() if report.AS_JSON.get() else Screen())
    timeline.say(f"the link between {NEAR} and {FAR}: {link.made_of}")
    async with _wired(link, data) as cluster:
        timeline.say("router, us-east, eu-west and ap-tokyo are up, each with its PostgreSQL")
        verdict = await cluster.while_alive(_played_cut(cluster, link, cut_seconds, timeline))
    summed = summary_of_cut(verdict, link, time.monotonic() - started_s)
    report.show(lambda: summed, lambda console: _tell_cut(verdict, console, summed))
    _fail_unless_held(verdict.checks)


@asynccontextmanager
async def _wired(link: Link, data: Path | None) -> AsyncIterator[Cluster]:
    def plan(folder: Path, ports: Sequence[int]) -> list[Member]:
        members = link.plan(folder, ports)
        for member in members:
            if member.name in ENDS:
                member.module = "lab.cell"
                member.settings["hold_file"] = str(member.folder / HOLDS)
        return members

    try:
        await link.prepare()
        async with Cluster(data, plan=plan) as cluster:
            await link.connect(cluster.members)
            yield cluster
    finally:
        await link.close()


async def _played_cut(cluster: Cluster, link: Link, cut_seconds: int, timeline: Timeline) -> Verdict:
    holds = [member.folder / HOLDS for member in cluster.members if member.name in ENDS]
    for file in holds:
        # Left by an earlier run in the same folder.
        file.unlink(missing_ok=True)
    async with Market(cluster.router, cluster.access) as market:
        scenario = await play_scenario(market, link, holds, cut_seconds, timeline)
        verdict = Verdict(scenario)
        await verdict.reach(market)
        return verdict


def _tell_cut(verdict: Verdict, console: Console, summed: dict[str, object]) -> None:
    section(console, "Checks, from what the cells answer and from their logs alone")
    tell_verdict(
        console,
        verdict.checks,
        f"{summed['in_flight']} in flight, cut for {summed['cut_seconds']:.0f} s, {summed['completed']} "
        f"completed and {summed['compensated']} compensated, all {summed['recovery_s']:.1f} s after the link's "
        f"return; {summed['double_effects']} double effects, {summed['events']:,} events; {summed['elapsed_s']:.0f} s.",
    )
