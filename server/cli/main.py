"""The `cellbook` command.

Exit codes: 0 all went well, 1 a check failed or something broke, 2 the command line or a file is wrong,
130 Ctrl-C. Reports go to stdout, everything else to stderr.
"""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from rich.markup import escape

from server.cli import report
from server.cli.bidfile import BidFileError, read_lots
from server.cli.client import ClientError, LedgerRefusal
from server.cli.cluster import DEFAULT_PORT_BASE, Cluster, ClusterError
from server.cli.demo import run_demo
from server.cli.market import Market
from server.cli.progress import Progress
from server.cli.replay import run_replay
from server.cli.run import Run, summary, tell
from server.cli.up import run_up
from server.shell.postgres_host import PostgresFailed

EXIT_FAILED = 1
EXIT_USAGE = 2

app = typer.Typer(
    help="Cellbook: an auditable ledger for marketplaces, in regional cells.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a report.")]
Data = Annotated[
    Path | None, typer.Option("--data", help="Keep data and logs in this folder. Default: a temporary one.")
]
Router = Annotated[
    str, typer.Option("--router", metavar="HOST:PORT", help="Play on what runs there, start nothing.")
]
PortBase = Annotated[
    int,
    typer.Option(
        "--port-base", min=1024, max=65_500, help="The router's port; the cells take the next three."
    ),
]


@app.command()
def up(data: Data = None, port_base: PortBase = DEFAULT_PORT_BASE, as_json: Json = False) -> None:
    """Run a router and three cells, each with its own PostgreSQL, until Ctrl-C."""
    _run(run_up(data, port_base, report.stdout(), as_json=as_json))


@app.command()
def demo(as_json: Json = False, data: Data = None, router: Router = "") -> None:
    """Play a small market over three cells, settle it, and check every cent."""
    _run(_market_run(run_demo, data, router, as_json=as_json))


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="CSV: auction, item, open_minor, bidder, bid_minor, ..")],
    as_json: Json = False,
    data: Data = None,
    router: Router = "",
) -> None:
    """Play recorded bids from FILE over three cells, settle them, and check every cent."""
    try:
        lots = read_lots(file)
    except BidFileError as error:
        raise _failure(str(error), EXIT_USAGE) from error
    play = partial(run_replay, lots)
    _run(_market_run(play, data, router, as_json=as_json))


def main() -> None:
    app()


async def _market_run(
    play: Callable[[Market, Progress], Awaitable[Run]], data: Path | None, router: str, *, as_json: bool
) -> None:
    started_s = time.monotonic()
    progress = Progress(report.stderr())
    async with _router(data, router, progress) as address, Market(address) as market:
        set_up_s = time.monotonic() - started_s
        run = await play(market, progress)
        summed = summary(run, market, started_s, set_up_s)
    if as_json:
        print(json.dumps(summed, indent=2))
    else:
        tell(run, report.stdout(), summed)
    if not run.held:
        failed = "; ".join(f"{check.name}: {check.detail}" for check in run.checks if not check.held)
        raise _failure(f"a check failed: {failed}", EXIT_FAILED)


@asynccontextmanager
async def _router(data: Path | None, router: str, progress: Progress) -> AsyncIterator[str]:
    """The address of the router to play on: the one named, or that of a cluster of our own."""
    if router:
        yield router
        return
    cluster = Cluster(data, port_base=None)
    with progress.stage("starting a router and three cells, each with its PostgreSQL", 0):
        await cluster.__aenter__()
    try:
        yield cluster.router
    finally:
        await cluster.stop()


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Runs `work` to its end, or until a signal; what was started is stopped either way."""
    try:
        uvloop.run(_until_signalled(work))
    except (ClusterError, ClientError, LedgerRefusal, PostgresFailed) as error:
        raise _failure(str(error), EXIT_FAILED) from error


async def _until_signalled(work: Coroutine[Any, Any, None]) -> None:
    """Raises typer.Exit with 128 + the signal's number when one came. A second one only hastens the stop."""
    task = asyncio.ensure_future(work)
    came: list[int] = []

    def stop(number: int) -> None:
        came.append(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        await task
    except asyncio.CancelledError:
        if not came:
            raise
        raise typer.Exit(128 + came[0]) from None


def _failure(message: str, code: int) -> typer.Exit:
    report.stderr().print(f"[red]cellbook:[/red] {escape(message)}", soft_wrap=True)
    return typer.Exit(code)


if __name__ == "__main__":
    main()
