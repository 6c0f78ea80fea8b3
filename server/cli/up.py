"""`cellbook up`: a router and three cells that run until they are stopped."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from server.cli import report
from server.cli.cluster import CELLS, Cluster
from server.cli.progress import Progress
from server.cli.screen import literal


@asynccontextmanager
async def started(cluster: Cluster, progress: Progress) -> AsyncIterator[Cluster]:
    """The running cluster; progress is shown while it starts."""
    with progress.stage("starting a router and three cells, each with its PostgreSQL", 0):
        await cluster.__aenter__()
    try:
        yield cluster
    finally:
        await cluster.stop()


async def run_up(data: Path | None, port_base: int, *, as_json: bool, secure: bool) -> None:
    """Returns only by cancellation.

    Raises:
        ClusterError: it did not start, or one of its processes has ended unasked.
    """
    async with started(Cluster(data, port_base=port_base, secure=secure), Progress(report.stderr())) as cluster:
        if as_json:
            print(json.dumps(await _described(cluster)), flush=True)
        else:
            with report.stdout() as console:
                await _tell(cluster, console, kept=data is not None)
        raise await cluster.death()


async def _described(cluster: Cluster) -> dict[str, object]:
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


async def _tell(cluster: Cluster, console: Console, *, kept: bool) -> None:
    regions = {cell.name: cell.region for cell in CELLS}
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    for column in ("process", "region", "address", "metrics", "pid", "database"):
        table.add_column(column, overflow="fold", no_wrap=column != "database")
    for member in cluster.members:
        region = regions.get(member.name, "-")
        table.add_row(member.name, region, member.address, member.metrics, str(member.pid), literal(await member.dsn()))
    console.print(table)
    fate = "kept" if kept else "temporary: gone when this stops; --data DIR keeps it"
    console.print(f"\nData and logs: {cluster.folder} ({fate})", soft_wrap=True)
    how = f"cellbook --keys {cluster.keys}" if cluster.keys is not None else "cellbook"
    if cluster.keys is not None:
        console.print(f"For calls with a token and no certificate: {cluster.public}, whose CA is {cluster.keys}/ca.pem")
    console.print("Next, in another terminal:", f"  {how} demo --router {cluster.router}", sep="\n", soft_wrap=True)
    console.print(f"  {how} replay FILE --router {cluster.router}", soft_wrap=True)
    if cluster.keys is not None:
        console.print(f"  cellbook keys token {cluster.keys} service/shop", soft_wrap=True)
    console.print(f"  psql '{await cluster.members[1].dsn()}'", soft_wrap=True)
    console.print("Ctrl-C stops everything.")
