"""The command line of `cellbook audit`."""

from collections.abc import Awaitable, Callable
from typing import Annotated

import typer

from server.cli.access import chosen_access
from server.cli.audit import trace
from server.cli.cluster import DEFAULT_PORT_BASE, LOOPBACK
from server.cli.ending import run
from server.cli.reach import Reach, reached

Work = Callable[[Reach], Awaitable[None]]

app = typer.Typer(
    help="Ask what an auditor asks: where money came from, what there was and when, and whether it is true.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

HERE = f"{LOOPBACK}:{DEFAULT_PORT_BASE}"
Router = Annotated[str, typer.Option("--router", metavar="HOST:PORT", help="The router of the cells to ask.")]
Cell = Annotated[str, typer.Option("--cell", help="Ask this cell.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


# Else typer makes a lone command the group itself.
@app.callback()
def audit() -> None:
    """Ask what an auditor asks (docs/audit.md)."""


@app.command("trace")
def trace_command(
    subject: Annotated[
        str, typer.Argument(help="Id of an event, command, saga, auction, asset or account; or a name.")
    ],
    limit: Annotated[int, typer.Option("--limit", min=1, max=2_000, help="At most so many events.")] = 500,
    router: Router = HERE,
    cell: Cell = "",
    as_json: Json = False,
) -> None:
    """Follow something up to its cause and down to its effects, across all cells.

    Exit code 1 where the answer is not whole: a cell is missing, an event was changed, or there is more than fits.
    """
    with_reach(router, cell, lambda reach: trace.run_trace(reach, subject, limit, as_json=as_json))


def with_reach(router: str, cell: str, work: Work) -> None:
    async def reach_and_work() -> None:
        async with reached(router, chosen_access(), cell) as reach:
            await work(reach)

    run(reach_and_work())
