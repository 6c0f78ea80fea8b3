"""Members as copies of a process that has imported their programs already: a start takes a fraction of the CPU time.

A copy is forked, begins a session, and runs its program as `python -m` would. A PostgreSQL that it makes is a copy of
one that initdb has made. The commands `cellbook up` and `demo`, which other tests run, start theirs anew.
"""

import asyncio
import gc
import importlib
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any

from server.shell.postgres.embedded import EmbeddedPostgres

PROGRAMS = ("server.__main__", "router.__main__", "tests.doubles.cell")


@cache
def original() -> "subprocess.Popen[str]":
    """One for each process that runs tests; it ends with that process."""
    command = [sys.executable, "-u", "-P", "-m", __name__]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def ask(request: object) -> Any:  # noqa: ANN401 - JSON
    process = original()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


class Copy:
    """As much of a Popen as a member needs."""

    def __init__(self, command: Sequence[str], *, stdout: IO[bytes], env: Mapping[str, str], **_: object) -> None:
        arguments = command[command.index("-m") + 1 :]
        self.pid: int = ask({"arguments": arguments, "log": stdout.name, "environment": dict(env)})
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = ask(self.pid)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(command: Sequence[str], **options: Any) -> "Copy | subprocess.Popen[bytes]":  # noqa: ANN401 - as Popen's
    """A copy, unless something else has to run the program, as in a network of its own."""
    return Copy(command, **options) if command[0] == sys.executable else subprocess.Popen(command, **options)


def main() -> None:
    """Makes copies, and says how they have ended, until nobody asks any more. Returns in a copy too, at its end."""
    for name in PROGRAMS:
        importlib.import_module(name)
    for name in PROGRAMS:
        del sys.modules[name]
    folder = Path(tempfile.mkdtemp(prefix="cellbook-tests-", dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")))
    copy_clusters(folder)
    # Collecting garbage would write to the memory that the copies share.
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        if isinstance(request, int):
            ended, status = os.waitpid(request, os.WNOHANG)
            print(json.dumps(os.waitstatus_to_exitcode(status) if ended else None))
        elif not os.fork():
            become(**request)
            return
    shutil.rmtree(folder)


def copy_clusters(folder: Path) -> None:
    """Makes each new PostgreSQL a copy of the one in this folder: initdb takes six times the CPU time."""
    made = EmbeddedPostgres(folder / "data")
    # The server's user passes through it.
    folder.chmod(0o755)

    async def make() -> None:
        await made.start()
        await made.stop()

    def copied(copy: EmbeddedPostgres, *_: object) -> None:
        subprocess.run(["cp", "--archive", made.cluster, copy.cluster], check=True)

    asyncio.run(make())
    EmbeddedPostgres._initialize = copied  # type: ignore[assignment, method-assign]


def become(arguments: list[str], log: str, environment: dict[str, str]) -> None:
    os.setsid()
    # Not before: whoever knows the copy may end its session.
    print(os.getpid())
    for number, file in enumerate((os.devnull, log, log)):
        opened = os.open(file, os.O_RDWR | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
