"""How commands are made, run and ended: shared options, signals, exit codes and error messages."""

import asyncio
import inspect
import json
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from inspect import Parameter
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

import typer
import uvloop

from server.cli import report
from server.cli.access import chosen_access
from server.cli.client import CellNotListed, Client, ClientError, LedgerRefusal
from server.cli.reach import reached
from server.cli.screen import literal
from server.shell.fields.texts import shown
from server.shell.hosting.failures import explained
from server.shell.settings.addresses import LOOPBACK, parse_address

EXIT_FAILED = 1
EXIT_USAGE = 2
# Where `cellbook up` has its router; its cells take the ports that follow.
DEFAULT_PORT_BASE = 7400
HERE = f"{LOOPBACK}:{DEFAULT_PORT_BASE}"

# For a program of its own, which parses its own options.
PASSED_ON: dict[str, Any] = {
    "add_help_option": False,
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
}

First = TypeVar("First")


class CommandError(Exception):
    """The command has failed: exit code 1. The message, of one line or more, is shown as it is."""


# --- options --------------------------------------------------------------------------------------------------------


def router_option(help_text: str) -> Any:  # noqa: ANN401 - as typer's own
    """`--router HOST:PORT`, or several addresses joined by +. An invalid address is wrong usage: exit code 2."""
    return typer.Option("--router", metavar="HOST:PORT", help=help_text, callback=_checked)


def _checked(param: typer.CallbackParam, text: str) -> str:
    if text == param.default:
        return text
    try:
        for endpoint in text.split("+"):
            parse_address(endpoint)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: {error}") from None
    return text


def _choose_json(chosen: bool) -> bool:
    report.AS_JSON.set(chosen)
    return chosen


# With it failures are JSON on stderr, too. The report knows whether it was chosen.
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a report.", callback=_choose_json)]
Router = Annotated[str, router_option("The router to ask.")]
Cell = Annotated[str, typer.Option("--cell", help="Ask this cell alone.")]

_ROUTER = Parameter("router", Parameter.KEYWORD_ONLY, default=HERE, annotation=Router)
_CELL = Parameter("cell", Parameter.KEYWORD_ONLY, default="", annotation=Cell)
_JSON = Parameter("as_json", Parameter.KEYWORD_ONLY, default=False, annotation=Json)


# --- commands -------------------------------------------------------------------------------------------------------


def for_router(work: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A command that calls a router: `work` gets a Client, and has its other arguments as options."""
    return _command(work, lambda router: Client(router, chosen_access()), [_ROUTER, _JSON])


def for_cells(
    work: Callable[..., Coroutine[Any, Any, None]], *, of_cell: bool = True, as_json: bool = True
) -> Callable[..., None]:
    """A command that calls cells: `work` gets a Reach. The options `--cell` and `--json` may be left out."""
    shared = [_ROUTER, *([_CELL] if of_cell else []), *([_JSON] if as_json else [])]
    return _command(work, lambda router, cell="": reached(router, chosen_access(), cell), shared)


def _command(
    work: Callable[..., Coroutine[Any, Any, None]],
    connect: Callable[..., AbstractAsyncContextManager[First]],
    shared: list[Parameter],
) -> Callable[..., None]:
    def command(**options: object) -> None:
        where = {each.name: options.pop(each.name) for each in shared if each.name in options}
        where.pop(_JSON.name, None)

        async def connect_and_work() -> None:
            async with connect(**where) as connected:
                await work(connected, **options)

        run(connect_and_work())

    _, *own = inspect.signature(work).parameters.values()
    parameters = [*(each.replace(kind=Parameter.KEYWORD_ONLY) for each in own), *shared]
    # For typer, which reads the options here.
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    command.__doc__, command.__name__ = work.__doc__, work.__name__
    return command


# --- the run and its end --------------------------------------------------------------------------------------------


def run(work: Coroutine[Any, Any, None], codes: Mapping[int, int] = MappingProxyType({})) -> None:
    """Runs `work` to its end, or until a signal; everything that was started is stopped either way.

    A signal ends the process with its code in `codes`, else 128 + its number; a second one speeds up the stop.
    """
    try:
        signalled = uvloop.run(_until_signalled(work))
    except CellNotListed as error:
        raise failure(str(error), EXIT_USAGE) from error
    except (ClientError, LedgerRefusal) as error:
        # Text from another process is shown as one line, however many it has.
        raise failure(shown(str(error)), EXIT_FAILED) from error
    except CommandError as error:
        raise failure(str(error), EXIT_FAILED) from error
    except Exception as error:
        line = explained(error)
        if line is None:
            raise
        raise failure(line, EXIT_FAILED) from error
    if signalled:
        raise typer.Exit(codes.get(signalled, 128 + signalled))


async def _until_signalled(work: Coroutine[Any, Any, None]) -> int:
    """The number of the first signal received, 0 if none."""
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
        return came[0]
    return 0


@contextmanager
def wrong_usage(*kinds: type[Exception]) -> Iterator[None]:
    """Exceptions of these kinds are wrong usage: exit code 2."""
    try:
        yield
    except kinds as problem:
        raise failure(str(problem), EXIT_USAGE) from problem


def failure(message: str, code: int) -> typer.Exit:
    """Reports it on stderr: as a JSON object if the command was asked for JSON."""
    if report.AS_JSON.get():
        print(json.dumps({"error": message, "exit_code": code}), file=sys.stderr)
    else:
        report.stderr().print(failure_text(message), soft_wrap=True)
    return typer.Exit(code)


def failure_text(message: str) -> str:
    """Indents further lines, so that none of them looks like a message of ours."""
    first, *further = map(literal, message.split("\n"))
    return "\n".join([f"[red]cellbook:[/red] {first}", *(f"  {line.strip()}" for line in further)])
