"""How our processes run and end: signals, exit code, and the line that says why."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from threading import Timer
from typing import Any

import structlog
import uvloop

from server.shell.hosting.failures import explained

EXIT_FAILED = 1
# A process that was told to end may take this much longer than the grace of its calls, for example if its database
# hangs; and at least as long as a mail under way and the last statements may take.
BEYOND_GRACE_S = 5.0
ENDING_LEAST_S = 10.0

log = structlog.get_logger()

# Call this once the process has been told to end: it starts the time limit.
told_to_end: ContextVar[Callable[[], None]] = ContextVar("told_to_end", default=lambda: None)


def run_process(main: Coroutine[Any, Any, None], *, program: str, drain_grace_ms: int) -> None:
    """Runs `main` to its end. If it fails and an operator can fix the cause, exits with code 1 and a line on stderr.

    SIGTERM and SIGINT end it in order, and in any case soon after the grace of its calls.
    """
    after_s = max(drain_grace_ms / 1_000 + BEYOND_GRACE_S, ENDING_LEAST_S)
    ending = Timer(after_s, _end_by_force, (after_s, program))
    ending.daemon = True
    try:
        with contextlib.suppress(KeyboardInterrupt):
            uvloop.run(_closing_on_sigterm(main, ending))
    except Exception as error:
        line = explained(error)
        if line is None:
            raise
        log.debug("process_failed", exc_info=True)
        sys.exit(f"{program}: {line}")
    finally:
        ending.cancel()


def _end_by_force(after_s: float, program: str) -> None:
    """Durable state is safe, as after any kill."""
    # Written directly: buffers or logging may be what hangs.
    problem = f"{program}: not ended {after_s:.0f} s after it was told to (does its database hang?): ended by force\n"
    os.write(sys.stderr.fileno(), problem.encode())
    os._exit(EXIT_FAILED)


async def _closing_on_sigterm(main: Coroutine[Any, Any, None], ending: Timer) -> None:
    """SIGTERM cancels `main`, so that everything it started is closed on the way out.

    This holds until the host runs; from then on SIGTERM drains it (GrpcHost.run_until_signalled).
    """

    def begin_to_end() -> None:
        # It may have begun already.
        with contextlib.suppress(RuntimeError):
            ending.start()

    told_to_end.set(begin_to_end)
    task = asyncio.ensure_future(main)
    loop = asyncio.get_running_loop()
    signalled = asyncio.Event()

    def close() -> None:
        signalled.set()
        begin_to_end()
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, close)
    try:
        await task
    except asyncio.CancelledError:
        if not signalled.is_set():
            raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
