"""One process of a cell or a router: its settings, its log, its ready file, and how it is started and ended."""

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import ClassVar

from server.cli.command import CommandError
from server.cli.keys.authority import Settings
from server.shell.postgres.embedded import DATABASE, EmbeddedPostgres
from server.shell.settings.addresses import LOOPBACK

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 20.0
LOG_TAIL_LINES = 25
_POLL_S = 0.02
# Below the range from which systems take the ports of outgoing connections, so none of these is taken by chance.
_FREE_PORTS = range(20_000, 32_000)
_FREE_PORT_ATTEMPTS = 1000
# Set only here: a CELLBOOK_DSN meant for something else would give all four processes one database.
_OWN_SETTINGS = (
    "cell", "region", "listen", "dsn", "data", "router", "peers", "cells", "ready_file", "config",
    "public_listen", "public_url", "https_cert", "https_key", "keys",
    "tls_cert", "tls_key", "tls_ca", "jwt_keys", "jwt_issuer", "jwt_audience",
)  # fmt: skip


class ClusterError(CommandError):
    """The cluster did not start or did not stay up. The message says what to look at."""


@dataclass(slots=True, kw_only=True)
class Member:
    """One process of the cluster."""

    # Tests start copies of a process that has imported everything.
    launch: ClassVar[Callable[..., "subprocess.Popen[bytes]"]] = subprocess.Popen
    name: str
    module: str
    address: str
    folder: Path
    settings: Settings
    # Runs the process, for example in its own network. It must exec, so that the process keeps its id.
    runner: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    stop_timeout_s: float = STOP_TIMEOUT_S

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def ready_file(self) -> Path:
        return self.folder / "ready.json"

    @property
    def postgres(self) -> EmbeddedPostgres:
        return EmbeddedPostgres(self.folder)

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process is not None else None

    @property
    def metrics(self) -> str:
        """The metrics address of a member that is ready."""
        return str(json.loads(self.ready_file.read_text())["metrics"])

    async def dsn(self) -> str:
        """The DSN of the database of a member that is ready."""
        postgres = self.postgres
        await postgres.start()
        return postgres.dsn(DATABASE)

    def start(self) -> int:
        """Starts the process and returns its id."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ready_file.unlink(missing_ok=True)
        config = self.folder / "settings.toml"
        config.write_text(_toml({**self.settings, "ready_file": str(self.ready_file)}))
        with self.log.open("ab") as log:
            # Not asyncio's: if that were cancelled midway, an untracked process would be left.
            self.process = self.launch(
                [*self.runner, sys.executable, "-P", "-m", self.module, "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                # Ctrl-C in the terminal must reach only this process, which stops the members in order.
                start_new_session=True,
            )
        return self.process.pid

    def ended(self) -> int | None:
        """The exit code, once the process has ended."""
        return self.process.poll() if self.process is not None else None

    async def wait(self) -> int:
        while (code := self.ended()) is None:  # noqa: ASYNC110 - what is awaited is another process
            await asyncio.sleep(_POLL_S)
        return code

    async def wait_until_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Raises ClusterError when the process ends first or the time is up."""
        deadline_s = time.monotonic() + timeout_s
        while not self.ready_file.exists():
            if (code := self.ended()) is not None:
                raise self.failure(f"ended with {ending(code)} before it was ready")
            if time.monotonic() > deadline_s:
                raise self.failure(f"was not ready within {timeout_s:.0f} s")
            await asyncio.sleep(_POLL_S)

    async def stop(self) -> None:
        """Stops it by SIGTERM, then by a kill, then stops its database. Safe to call in any state."""
        if self.process is not None and self.ended() is None:
            self.process.terminate()
            try:
                async with asyncio.timeout(self.stop_timeout_s):
                    await self.wait()
            except TimeoutError:
                self.kill()
                await self.wait()
        await self.postgres.stop()
        self.ready_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """Kills the process and its group. Its PostgreSQL is not in that group: see stop."""
        if self.process is not None and self.ended() is None:
            os.killpg(self.process.pid, signal.SIGKILL)

    def failure(self, what: str) -> ClusterError:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        tail = "\n".join(f"    {line}" for line in lines[-LOG_TAIL_LINES:]) or "    (empty)"
        return ClusterError(f"{self.name} {what}. The end of its log, {self.log}:\n{tail}")


def ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on. Raises ClusterError."""
    free = filter(is_free, random.sample(_FREE_PORTS, _FREE_PORT_ATTEMPTS))
    if len(found := list(islice(free, count))) == count:
        return found
    raise ClusterError(f"no {count} free ports among {_FREE_PORTS.start} to {_FREE_PORTS.stop - 1}")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _environment() -> dict[str, str]:
    own = {f"CELLBOOK_{name.upper()}" for name in _OWN_SETTINGS}
    kept = {name: value for name, value in os.environ.items() if name.upper() not in own}
    # Our own import path and (-P) not the current folder, which may contain a `server` of its own.
    return {**kept, "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _toml(settings: Settings) -> str:
    """Strings, lists and tables of strings in JSON notation, which TOML reads the same way."""
    flat = [f"{name} = {json.dumps(value)}" for name, value in settings.items() if not isinstance(value, dict)]
    tables = [
        f"\n[{name}]\n" + "\n".join(f"{json.dumps(key)} = {json.dumps(text)}" for key, text in value.items())
        for name, value in settings.items()
        if isinstance(value, dict)
    ]
    return "# Written at each start.\n" + "\n".join([*flat, *tables]) + "\n"
