"""Ends the processes of a cluster if its owner is killed and cannot end them itself.

The owner starts the reaper as a process and sends it JSON lines through a pipe: what to end, and finally that all is
done. If the pipe closes without that last line, the owner is gone.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

GRACE_S = 20.0
_POLL_S = 0.05


class Reaper:
    """The owner's side: one process that outlives a kill -9 of this one."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "lab.reaper"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )

    def watch(self, folder: Path, *, pid: int | None = None) -> None:
        """Registers the folder of a PostgreSQL, and the process that it belongs to, unless that is the owner."""
        self._tell(folder=str(folder), **({"pid": pid} if pid is not None else {}))

    def inherit(self, folder: Path) -> None:
        """Registers a temporary folder, which is removed after all processes have ended."""
        self._tell(remove=str(folder))

    def dismiss(self) -> None:
        """Everything has been ended; the reaper has nothing left to do."""
        self._tell(done=True)
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process.wait()

    def _tell(self, **what: object) -> None:
        if self._process.stdin is not None:
            # The reaper may have been killed: the owner still ends everything itself.
            with suppress(BrokenPipeError):
                self._process.stdin.write(json.dumps(what).encode() + b"\n")
                self._process.stdin.flush()


def main() -> None:
    orders = [json.loads(line) for line in sys.stdin]
    if not any("done" in what for what in orders):
        asyncio.run(_end_all(orders))


async def _end_all(orders: list[dict[str, str]]) -> None:
    # Imported here, because it is seldom needed.
    from server.shell.postgres.embedded import EmbeddedPostgres  # noqa: PLC0415

    pids = [int(what["pid"]) for what in orders if "pid" in what]
    _signal(pids, signal.SIGTERM)
    give_up = time.monotonic() + GRACE_S
    while time.monotonic() < give_up and any(map(_lives, pids)):  # noqa: ASYNC110 - they are other processes
        await asyncio.sleep(_POLL_S)
    _signal(pids, signal.SIGKILL)
    for what in orders:
        if "folder" in what:
            await EmbeddedPostgres(Path(what["folder"])).stop()
    for what in orders:
        if "remove" in what:
            shutil.rmtree(what["remove"], ignore_errors=True)


def _signal(pids: list[int], number: int) -> None:
    for pid in filter(_lives, pids):
        with suppress(ProcessLookupError):
            os.killpg(pid, number)


def _lives(pid: int) -> bool:
    """Whether it exists, leads its own group (unlike a process that reused its id), and is not a zombie."""
    try:
        if os.getpgid(pid) != pid:
            return False
    except ProcessLookupError:
        return False
    # In many containers nobody reaps orphans, so dead processes stay listed. Systems without /proc reap them.
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


if __name__ == "__main__":
    main()
