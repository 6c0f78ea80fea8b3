"""How our commands run and end: signals, exit codes and error messages."""

import asyncio
import json
import signal
import sys
from collections.abc import Coroutine, Mapping
from types import MappingProxyType
from typing import Any

import typer
import uvloop

from server.cli import report
from server.cli.client import CellNotListed, ClientError, LedgerRefusal
from server.cli.keys.authority import KeysInvalid
from server.cli.screen import literal
from server.shell.fields.texts import shown
from server.shell.hosting.failures import explained
from server.shell.identity.tls import TlsInvalid

EXIT_FAILED = 1
EXIT_USAGE = 2


class CommandError(Exception):
    """The command has failed: exit code 1. The message, of one line or more, is shown as it is."""


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
    except (CommandError, TlsInvalid, KeysInvalid) as error:
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
