"""An embedded PostgreSQL in a data folder: no installation, no TCP port, no password.

The server outlives the process that started it: a kill -9 of the owner loses nothing, and the next start adopts the
running server.

    data/postgres        the cluster (PGDATA) and, where the path is short enough, the socket
    data/postgres.lock   held by every process of the cluster for as long as any of them lives
    data/log             the server's log, a file a weekday
"""

import asyncio
import errno
import hashlib
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlencode

import asyncpg

from server.shell.files import sync_folder
from server.shell.postgres.host import (
    Host,
    PostgresFailed,
    host_for,
    make_reachable,
    recovery_sync,
    require_own_cluster,
)
from server.shell.postgres.processes import exists, first_number, is_postmaster, locked

SUPERUSER = "postgres"
PORT = 5432
DATABASE = "cellbook"
# A socket's path has at most 107 bytes on Linux and 103 on macOS.
SOCKET_PATH_BYTES_MAX = 103
_POLL_S = 0.02
_LOG_TAIL_LINES = 15
NO_ROOM = os.strerror(errno.ENOSPC)
_WRONG = re.compile(r"\b(FATAL|PANIC|ERROR|error|could not)\b")

StopMode = Literal["smart", "fast", "immediate"]
_STOP_SIGNALS: dict[str, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}

# Suited to a ledger on a laptop: few connections, rare checkpoints, everything durable.
DEFAULT_SETTINGS: Mapping[str, str] = {
    "max_connections": "60",
    "shared_buffers": "128MB",
    "max_wal_size": "4GB",
    "min_wal_size": "256MB",
    "checkpoint_timeout": "15min",
    "recovery_init_sync_method": recovery_sync(),
    # JIT compilation never pays for queries as short as ours.
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "log_lock_waits": "on",
    "logging_collector": "on",
    # Relative to the cluster: the server's working directory is that folder.
    "log_directory": "../log",
    # Keeps a week of logs: each day's file is overwritten a week later.
    "log_filename": "postgresql-%a.log",
    "log_truncate_on_rotation": "on",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
}
# Needed for an acknowledged commit to survive; given on the command line, above every configuration file.
DURABILITY: Mapping[str, str] = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
# Set here: changing one of these would break this class or its guarantee.
_RESERVED = frozenset({*DURABILITY, "listen_addresses", "unix_socket_directories", "port", "data_directory"})
# Errors of a connection while the server starts or stops; a wrong password or database is none of these.
_NOT_NOW = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.TooManyConnectionsError,
)


class EmbeddedPostgres:
    """One PostgreSQL cluster in the folder `data`; a start here applies DEFAULT_SETTINGS and `settings`.

    Raises:
        ValueError: the caller may not choose one of the settings.
    """

    def __init__(self, data: Path, settings: Mapping[str, str] | None = None, *, start_timeout_s: float = 60.0) -> None:
        self._settings = {**DEFAULT_SETTINGS, **(settings or {})}
        if reserved := _RESERVED & self._settings.keys():
            raise ValueError(f"not for the caller to set: {', '.join(sorted(reserved))}")
        self.data = data.absolute()
        self.cluster = self.data / "postgres"
        self.log = self.data / "log"
        self._lock_path = self.data / "postgres.lock"
        self._start_timeout_s = start_timeout_s
        self._socket_dir: Path | None = None
        # True when `start` found the server running: another process may be using it.
        self.adopted = False

    async def start(self) -> None:
        """Makes the cluster if it is new, starts or adopts its server, and waits until it accepts connections.

        If cancelled, it leaves no server running that it has started itself.

        Raises:
            PostgresFailed: the server did not come up in time; the message ends with its log.
        """
        starting = asyncio.ensure_future(self._start_and_wait())
        try:
            self.adopted = not await asyncio.shield(starting)
        except OSError as problem:
            # For example a full disk, or a folder of another user.
            what = problem.filename or self.data
            raise PostgresFailed(
                f"data: {what}: {problem.strerror}: make room there or give this user the right to it, or let data "
                "name another folder"
            ) from problem
        except asyncio.CancelledError:
            # A thread cannot be interrupted; whether it has launched a server is known when it returns.
            with suppress(PostgresFailed):
                if await starting:
                    await self.stop()
            raise

    async def _start_and_wait(self) -> bool:
        """True if the server was launched here."""
        deadline_s = time.monotonic() + self._start_timeout_s
        launched = False
        while True:
            launched |= await asyncio.to_thread(self._start, deadline_s)
            problem = await self._connection_problem()
            if problem is None:
                return launched
            # The server is recovering, shutting down, or was adopted just before it died; the next round tells.
            if time.monotonic() > deadline_s:
                raise self._failure(f"the server of {self.cluster} accepts no connection: {problem}")
            await asyncio.sleep(_POLL_S)

    async def stop(self, mode: StopMode = "fast", *, timeout_s: float = 30.0) -> None:
        """Stops the server, if it runs, and waits until the last of its processes is gone.

        A server that has not stopped in time is stopped with "immediate", which is as safe as a power cut: the
        next start recovers from the log.
        """
        for attempt in dict.fromkeys((mode, "immediate")):
            if await asyncio.to_thread(self._stop, attempt, time.monotonic() + timeout_s):
                self._forget_socket_dir()
                return
        raise self._failure(f"the server of {self.cluster} (pid {self.pid}) did not stop in {2 * timeout_s:.0f} s")

    @property
    def pid(self) -> int | None:
        """The postmaster's process id, None when it does not run."""
        facts = self._pid_file()
        return facts[0] if facts is not None and is_postmaster(facts[0], self.cluster) else None

    def dsn(self, database: str, user: str = SUPERUSER) -> str:
        """The DSN for asyncpg and psql. Raises PostgresFailed before `start`."""
        if self._socket_dir is None:
            raise PostgresFailed(f"the server of {self.cluster} is not started")
        # Both are given, so that no PGHOST or PGPORT of the environment takes effect.
        where = urlencode({"host": str(self._socket_dir), "port": PORT}, safe="/")
        return f"postgresql://{quote(user, safe='')}@/{quote(database, safe='')}?{where}"

    async def database(self) -> str:
        """Starts the server, and makes our database unless it is there. Returns its DSN."""
        await self.start()
        await self.ensure_database(DATABASE)
        return self.dsn(DATABASE)

    async def ensure_database(self, name: str) -> None:
        """Makes the database unless it is there; several processes may ask at once."""
        connection = await asyncpg.connect(self.dsn("postgres"), timeout=30)
        try:
            create = await connection.fetchval(_query("create_database"), name)
            if create is not None:
                # Another process was quicker; the name lookup or the unique index reports it.
                with suppress(asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
                    await connection.execute(create)
        finally:
            await connection.close(timeout=10)

    def _start(self, deadline_s: float) -> bool:
        """Takes the lock and starts the server (True), or waits until the holder of the lock has a listening server."""
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        require_own_cluster(self.data, self.cluster)
        while True:
            with locked(self._lock_path) as lock_fd:
                if self._listening():
                    return False
                if lock_fd is not None:
                    self._launch(lock_fd, deadline_s)
                    return True
            if time.monotonic() > deadline_s:
                raise self._failure(f"processes of {self.cluster} are alive but none of them listens")
            time.sleep(_POLL_S)

    def _launch(self, lock_fd: int, deadline_s: float) -> None:
        host = host_for(self.cluster)
        self.log.mkdir(mode=0o700, exist_ok=True)
        for path in (self.log, self._lock_path):
            host.own(path)
        make_reachable(host, self.log)
        if not self.cluster.exists():
            self._initialize(host, lock_fd, deadline_s)
        socket_dir = self._make_socket_dir(host)
        self._drop_stale_pid_files(socket_dir)
        self._write_settings(host, socket_dir)
        startup_log = self.log / "startup.log"
        startup_log.unlink(missing_ok=True)
        durability = " ".join(f"-c {name}={value}" for name, value in DURABILITY.items())
        seconds = max(1, int(deadline_s - time.monotonic()))
        where = ["-D", str(self.cluster), "-l", str(startup_log)]
        command = ["pg_ctl", *where, "-o", durability, "-w", "-t", str(seconds), "start"]
        try:
            # The server inherits the lock, and with it every process that it forks.
            code, said = host.run(command, timeout_s=seconds + 5, pass_fds=(lock_fd,))
        except subprocess.TimeoutExpired:
            code, said = 1, "pg_ctl did not return"
        if code != 0:
            raise self._failure(f"PostgreSQL did not start in {self.cluster}: {said.strip()}")
        self._socket_dir = socket_dir

    def _initialize(self, host: Host, lock_fd: int, deadline_s: float) -> None:
        """Makes the cluster in a staging folder and renames it, so a killed start leaves no partial cluster.

        initdb syncs (some 60 ms): a synced commit would not survive on top of an unsynced catalog.
        """
        staging = self.data / "postgres.new"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(mode=0o700)
        host.own(staging)
        options = [
            "--auth=trust",
            "--encoding=UTF8",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--locale=C",
        ]
        try:
            # It inherits the lock, so a process that stops this cluster after its owner was killed waits for it too.
            code, said = host.run(
                ["initdb", "-D", staging, "-U", SUPERUSER, *options],
                timeout_s=max(1.0, deadline_s - time.monotonic()),
                pass_fds=(lock_fd,),
            )
        except subprocess.TimeoutExpired:
            code, said = 1, "it took too long"
        if code != 0:
            raise self._failure(f"initdb failed in {staging}: {_gist(said)}")
        staging.rename(self.cluster)
        sync_folder(self.data)

    def _write_settings(self, host: Host, socket_dir: Path) -> None:
        lines = {
            **self._settings,
            "listen_addresses": "",
            "port": str(PORT),
            "unix_socket_directories": str(socket_dir),
        }
        # Only the server's user (and root) may connect: there is no password.
        lines["unix_socket_permissions"] = "0700"
        text = "".join(f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in lines.items())
        ours = self.cluster / "cellbook.conf"
        ours.write_text(f"# Written at each start.\n{text}")
        host.own(ours)
        main = self.cluster / "postgresql.conf"
        include = f"include = '{ours.name}'"
        if include not in main.read_text():
            with main.open("a") as file:
                file.write(f"\n{include}\n")

    def _make_socket_dir(self, host: Host) -> Path:
        """The cluster's folder, which only its owner can enter; for a long or odd path, a short folder instead."""
        if _fits_a_socket(self.cluster):
            return self.cluster
        folder = next(candidate for candidate in self._short_folders() if _fits_a_socket(candidate))
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            host.own(folder)
        # Its name can be guessed and any user may write to /tmp, so a folder of another user would be a trap.
        found = folder.lstat()
        owner = os.geteuid() if host.uid is None else host.uid
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o077:
            raise PostgresFailed(f"{folder} is there already and not ours alone: remove it")
        return folder

    def _short_folders(self) -> tuple[Path, Path]:
        name = f"cellbook-{hashlib.sha256(bytes(self.cluster)).hexdigest()[:16]}"
        return Path(tempfile.gettempdir(), name), Path("/tmp", name)  # noqa: S108

    def _drop_stale_pid_files(self, socket_dir: Path) -> None:
        """Removes lock files of a dead server whose process id is taken, by another process or a zombie.

        PostgreSQL itself removes those whose process id is free, but takes any other process of its user for a
        postmaster. In a container, where ids are small and reused and zombies may not be reaped, that blocks the start
        after a crash. We hold the cluster's lock, so no process of the old server is alive.
        """
        for file in (self.cluster / "postmaster.pid", socket_dir / f".s.PGSQL.{PORT}.lock"):
            pid = first_number(file)
            if pid is not None and exists(pid) and not is_postmaster(pid, self.cluster):
                file.unlink(missing_ok=True)

    def _stop(self, mode: str, deadline_s: float) -> bool:
        if not self.data.exists():
            return True
        signalled = None
        while time.monotonic() < deadline_s:
            pid = self.pid
            if pid is not None and pid != signalled:
                with suppress(ProcessLookupError):
                    os.kill(pid, _STOP_SIGNALS[mode])
                signalled = pid
            with locked(self._lock_path) as lock_fd:
                if pid is None and lock_fd is not None:
                    return True
            time.sleep(_POLL_S)
        return False

    def _forget_socket_dir(self) -> None:
        self._socket_dir = None
        # By name: another process, since killed, may have started the server that is stopped here.
        for folder in self._short_folders():
            # The folder is not ours alone; keep it if it holds anything else.
            with suppress(OSError):
                folder.rmdir()

    def _pid_file(self) -> tuple[int, Path] | None:
        """Process id and socket folder as the running server wrote them; None if there is none."""
        try:
            lines = (self.cluster / "postmaster.pid").read_text().splitlines()
            return int(lines[0]), Path(lines[4])
        except (FileNotFoundError, NotADirectoryError, IndexError, ValueError):
            return None

    def _listening(self) -> bool:
        """Whether a server of this cluster answers on its socket; remembers the socket's folder if so."""
        facts = self._pid_file()
        if facts is None:
            return False
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            try:
                probe.connect(str(facts[1] / f".s.PGSQL.{PORT}"))
            except OSError:
                return False
        self._socket_dir = facts[1]
        return True

    async def _connection_problem(self) -> Exception | None:
        try:
            connection = await asyncpg.connect(self.dsn("postgres"), timeout=5)
        except (OSError, TimeoutError, *_NOT_NOW) as problem:
            return problem
        await connection.close(timeout=5)
        return None

    def _failure(self, what: str) -> PostgresFailed:
        tail = self._log_tail()
        full = f": no room is left on the disk of {self.data}, make some" if NO_ROOM in f"{what}{tail}" else ""
        return PostgresFailed(f"data: {' '.join(what.split())}{full}\n{tail}")

    def _log_tail(self) -> str:
        files = sorted(self.log.glob("*.log"), key=lambda file: file.stat().st_mtime)
        lines = [f"{file.name}: {line}" for file in files for line in file.read_text(errors="replace").splitlines()]
        return "\n".join(lines[-_LOG_TAIL_LINES:]) or f"(no log in {self.log})"


def _gist(said: str) -> str:
    """The error in a program's output."""
    lines = said.strip().splitlines()
    return " ".join([line for line in lines if _WRONG.search(line)] or lines[-1:])


def _query(name: str) -> str:
    return resources.files("server.shell.postgres").joinpath("sql", f"{name}.sql").read_text()


def _fits_a_socket(folder: Path) -> bool:
    """Whether the path is short enough, and has no character with a meaning in a settings file or a list of hosts."""
    path = str(folder / f".s.PGSQL.{PORT}")
    return len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX and re.fullmatch(r"[\w/.+-]+", path, re.ASCII) is not None
