"""The command `cellbook chaos cable-cut`."""

import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console

from lab.chaos import netns
from lab.chaos.links import ENDS, FAR, NEAR, Link, LinkKind
from lab.chaos.netns import NetnsLink
from lab.chaos.proxy import ProxyLink
from lab.chaos.scenario import Timeline, play
from lab.chaos.verdict import Verdict, summary
from lab.cluster import Cluster, started
from lab.market import Market
from lab.member import Member
from lab.report import section, tell_verdict
from server.cli import report
from server.cli.progress import Progress
from server.cli.screen import Screen

HOLDS = "failpoints"


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


async def run_cable_cut(link: Link, cut_seconds: int, data: Path | None, *, as_json: bool) -> Verdict:
    """Plays the scenario on a cluster of its own, reports it and returns the verdict."""
    started_s = time.monotonic()
    timeline = Timeline(report.stderr() if as_json else Screen())
    timeline.say(f"the link between {NEAR} and {FAR}: {link.made_of}")
    async with _wired(link, data) as cluster:
        timeline.say("router, us-east, eu-west and ap-tokyo are up, each with its PostgreSQL")
        verdict = await cluster.while_alive(_played(cluster, link, cut_seconds, timeline))
    summed = summary(verdict, link, time.monotonic() - started_s)
    if as_json:
        print(json.dumps(summed, indent=2))
    else:
        with report.stdout() as console:
            _tell(verdict, console, summed)
    return verdict


@asynccontextmanager
async def _wired(link: Link, data: Path | None) -> AsyncIterator[Cluster]:
    def plan(folder: Path, ports: Sequence[int]) -> list[Member]:
        members = link.plan(folder, ports)
        for member in members:
            if member.name in ENDS:
                member.set_failpoints(f"@{member.folder / HOLDS}")
        return members

    try:
        await link.prepare()
        async with started(Cluster(data, port_base=None, plan=plan), Progress(report.stderr())) as cluster:
            await link.connect(cluster.members)
            yield cluster
    finally:
        await link.close()


async def _played(cluster: Cluster, link: Link, cut_seconds: int, timeline: Timeline) -> Verdict:
    holds = [member.folder / HOLDS for member in cluster.members if member.name in ENDS]
    for file in holds:
        # Left by an earlier run in the same folder.
        file.unlink(missing_ok=True)
    async with Market(cluster.router, cluster.access) as market:
        scenario = await play(market, link, holds, cut_seconds, timeline)
        verdict = Verdict(scenario)
        await verdict.reach(market)
        return verdict


def _tell(verdict: Verdict, console: Console, summed: dict[str, object]) -> None:
    section(console, "Checks, from what the cells answer and from their logs alone")
    tell_verdict(
        console,
        verdict.checks,
        f"{summed['in_flight']} in flight, cut for {summed['cut_seconds']:.0f} s, {summed['completed']} "
        f"completed and {summed['compensated']} compensated, all {summed['recovery_s']:.1f} s after the link's "
        f"return; {summed['double_effects']} double effects, {summed['events']:,} events; {summed['elapsed_s']:.0f} s.",
    )
