"""A process that cannot serve ends within seconds, with one line that says why, and has led nothing: real processes."""

import asyncio
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import pytest

from server.cli.doctor.database import examine
from server.cli.doctor.findings import State
from server.shell.hosting.failures import DatabaseUnusable, explained, reaching, shown_dsn
from server.shell.postgres import database
from server.shell.postgres.database import migrate
from server.shell.postgres.embedded import EmbeddedPostgres
from server.shell.postgres.host import PostgresFailed
from tests.integration.database import ask
from tests.local_cells import until, until_async

CELL = ("server", "--cell", "us-east")
ROUTER = ("router",)
BOTH = pytest.mark.parametrize("program", [CELL, ROUTER], ids=["cell", "router"])
WITHIN_S = 20.0


class Ended(NamedTuple):
    code: int | None
    stderr: str

    @property
    def line(self) -> str:
        """The last one; what comes before is the process's log, in JSON."""
        return self.stderr.splitlines()[-1]


async def begun(program: tuple[str, ...], *flags: object) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *program, *map(str, flags)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


async def ended(program: tuple[str, ...], *flags: object) -> Ended:
    process = await begun(program, *flags)
    try:
        async with asyncio.timeout(WITHIN_S):
            _, said = await process.communicate()
    except TimeoutError:
        process.kill()
        raise
    return Ended(process.returncode, said.decode())


def assert_said(found: Ended, *parts: object) -> None:
    """In one line, after which there is nothing; and no trace of Python."""
    assert found.code == 1
    assert "Traceback" not in found.stderr
    for part in parts:
        assert str(part) in found.line


@contextmanager
def taken() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.fixture
async def fresh_dsn(cluster: EmbeddedPostgres) -> AsyncIterator[str]:
    """A database that nobody has migrated yet."""
    name = f"fresh_{uuid4().hex}"
    await cluster.ensure_database(name)
    yield cluster.dsn(name)
    await ask(cluster.dsn("postgres"), f'DROP DATABASE "{name}" WITH (FORCE)')


async def assert_never_led(program: tuple[str, ...], dsn: str) -> None:
    if program is CELL:
        assert await ask(dsn, "SELECT epoch FROM head") == [(0,)]


# --- listening comes before leading -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("program", "setting"), [(CELL, "listen"), (CELL, "metrics"), (ROUTER, "listen")])
async def test_a_port_that_is_taken(program: tuple[str, ...], setting: str, fresh_dsn: str) -> None:
    """It was a deaf leader: it had begun to lead before it found that nobody could call it, and did not end."""
    with taken() as port:
        address = f"127.0.0.1:{port}"
        found = await ended(program, "--dsn", fresh_dsn, f"--{setting}", address)
    assert_said(found, f"{setting}: cannot listen on {address}", "choose another address")
    await assert_never_led(program, fresh_dsn)


async def test_an_address_that_is_open_to_others(fresh_dsn: str) -> None:
    """In plain text it is listened on by those alone who say that they mean it."""
    found = await ended(CELL, "--dsn", fresh_dsn, "--listen", "0.0.0.0:0")
    assert_said(found, "listen: 0.0.0.0:0 can be reached from elsewhere", "insecure_listen=true")
    await assert_never_led(CELL, fresh_dsn)


# --- databases --------------------------------------------------------------------------------------------------------


@BOTH
async def test_a_database_that_is_not_there(program: tuple[str, ...]) -> None:
    """Which, as whom, and what to do; and no password."""
    found = await ended(program, "--dsn", "postgresql://ann:hidden@127.0.0.1:1/books")
    assert_said(found, "dsn: cannot use postgresql://ann@127.0.0.1:1/books", "refused", "is PostgreSQL running")
    assert "hidden" not in found.stderr


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """A server that says the same to whoever comes. Gives its DSN."""
    open_ones: set[asyncio.StreamWriter] = set()

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_ones.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError):
            while size := await reader.read(4):
                asked = await reader.readexactly(struct.unpack("!I", size)[0] - 4)
                if len(asked) == 4:
                    # Whether it speaks TLS: no.
                    writer.write(b"N")
                else:
                    writer.write(answer)
                    break
            # Until the other one says that it goes.
            await reader.read(1)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        open_ones.discard(writer)

    server = await asyncio.start_server(say, "127.0.0.1", 0)
    async with server:
        yield f"postgresql://ann:hidden@127.0.0.1:{server.sockets[0].getsockname()[1]}/books"
        await until(lambda: not open_ones)


def refusing(code: str, problem: str) -> bytes:
    return message(b"E", b"SFATAL\0VFATAL\0C" + code.encode() + b"\0M" + problem.encode() + b"\0\0")


def of_version(version: str) -> bytes:
    """Lets everybody in."""
    fact = message(b"S", b"server_version\0" + version.encode() + b"\0")
    return message(b"R", b"\0\0\0\0") + fact + message(b"K", b"\0\0\0\1\0\0\0\1") + message(b"Z", b"I")


@BOTH
async def test_a_password_that_is_wrong(program: tuple[str, ...]) -> None:
    """What the server says, and what to do."""
    problem = 'password authentication failed for user "ann"'
    async with answering(refusing("28P01", problem)) as dsn:
        found = await ended(program, "--dsn", dsn)
    assert_said(found, "dsn: cannot use postgresql://ann@127.0.0.1:", problem, "check user and password")
    assert "hidden" not in found.stderr


@pytest.mark.parametrize(
    ("code", "problem", "advice"),
    [
        ("28000", 'no pg_hba.conf entry for host "::1"', "pg_hba.conf"),
        ("3D000", 'database "books" does not exist', "createdb"),
        ("53300", "sorry, too many clients already", "max_connections"),
        ("53100", "could not extend file", "make room"),
        ("25006", "cannot execute CREATE ROLE in a read-only transaction", "point the setting to the primary"),
        ("42501", "permission denied to create role", "migrate_dsn"),
    ],
)
async def test_each_problem_of_a_database_has_its_advice(code: str, problem: str, advice: str) -> None:
    """As the server says it, and what to do."""
    async with answering(refusing(code, problem)) as dsn:
        with pytest.raises(DatabaseUnusable) as caught, reaching("dsn", dsn):
            await migrate(dsn, "cells.sql")
    assert problem in str(caught.value)
    assert advice in str(caught.value)


async def test_a_server_that_is_starting_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut both start at once: no process ends for that, unless it takes too long."""
    monkeypatch.setattr(database, "STARTING_LOOK_S", 0.01)
    monkeypatch.setattr(database, "STARTING_MAX_S", 0.2)
    async with answering(refusing("57P03", "the database system is starting up")) as dsn:
        began_s = time.monotonic()
        with (
            pytest.raises(DatabaseUnusable, match="is starting up: it is starting, stopping or recovering"),
            reaching("dsn", dsn),
        ):
            await migrate(dsn, "cells.sql")
    assert time.monotonic() - began_s >= 0.2


@BOTH
async def test_a_server_of_a_version_that_is_not_supported(program: tuple[str, ...]) -> None:
    """It is said before anything is changed: it would have failed in the middle of a migration."""
    async with answering(of_version("15.18 (Debian)")) as dsn:
        found = await ended(program, "--dsn", dsn)
    assert_said(found, "is PostgreSQL 15.18", "16 to 18 are supported", "nothing was changed")


async def test_the_doctor_says_so_too() -> None:
    """Before it asks what an old server does not know."""
    async with answering(of_version("15.18 (Debian)")) as dsn:
        [found] = await examine(dsn, where="the database", cell="us-east")
    assert (found.check, found.state) == ("version", State.FAIL)
    assert "16 to 18 are supported" in found.detail


DEBIAN = Path("/usr/lib/postgresql")


@pytest.mark.skipif(os.geteuid() != 0, reason="another user runs it")
@pytest.mark.parametrize("version", ["15", "16", "17"])
async def test_each_version_that_can_be_had(version: str, tmp_path: Path) -> None:
    """Debian's own servers, where they are installed; the embedded one is 18, and runs all other tests."""
    programs = Path(os.environ.get(f"POSTGRES_{version}_BIN", DEBIAN / version / "bin"))
    if not (programs / "postgres").exists():
        pytest.skip(f"install postgresql-{version}, or let POSTGRES_{version}_BIN name its programs")
    async with debians(programs, tmp_path) as dsn:
        if version == "15":
            found = await ended(CELL, "--dsn", dsn)
            assert_said(found, "is PostgreSQL 15", "16 to 18 are supported", "nothing was changed")
            assert not await ask(dsn, "SELECT rolname FROM pg_roles WHERE rolname LIKE 'cellbook%'")
            return
        ready = tmp_path / "ready.json"
        process = await begun(CELL, "--dsn", dsn, "--ready-file", ready)
        await until_async(lambda: asyncio.sleep(0, ready.exists()), timeout_s=WITHIN_S)
        process.terminate()
        await process.communicate()
        assert process.returncode == 0


@asynccontextmanager
async def debians(programs: Path, folder: Path) -> AsyncIterator[str]:
    data, sockets = folder / "data", Path(f"/tmp/cellbook-{os.getpid()}")
    for each in (data, sockets):
        each.mkdir()
        os.chown(each, 65534, 65534)
    for above in folder.parents:
        above.chmod(above.stat().st_mode | 0o011) if above.owner() == "root" and above != Path("/") else None
    folder.chmod(0o755)

    def run(*command: object) -> None:
        subprocess.run(
            list(map(str, command)), check=True, capture_output=True, user=65534, group=65534, extra_groups=[], cwd="/"
        )

    await asyncio.to_thread(run, programs / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--no-sync")
    options = f"-c listen_addresses= -c unix_socket_directories={sockets}"
    log = data / "startup.log"
    await asyncio.to_thread(run, programs / "pg_ctl", "-D", data, "-l", log, "-o", options, "-w", "start")
    try:
        yield f"postgresql://postgres@/postgres?host={sockets}&port=5432"
    finally:
        await asyncio.to_thread(run, programs / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        sockets.rmdir()


async def test_the_database_of_another_cell(cell_dsn: str) -> None:
    """Which cell's it is."""
    await ask(cell_dsn, "INSERT INTO head (cell) VALUES ('eu-west')")
    found = await ended(CELL, "--dsn", cell_dsn)
    assert_said(found, "dsn: this database belongs to cell eu-west, not to us-east", "start this process with cell=")


# --- folders and disks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("PG_VERSION", "17\n", "is itself the data folder of a PostgreSQL"),
        ("postgres/PG_VERSION", "15\n", "was made by PostgreSQL 15, this is 18: upgrade it first"),
        ("postgres/notes.txt", "", "is no data folder of a PostgreSQL: move it"),
    ],
)
async def test_a_folder_of_another_postgres(file: str, content: str, said: str, tmp_path: Path) -> None:
    """Nothing in it is touched."""
    path = tmp_path / "data" / file
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(PostgresFailed, match=f"data: {tmp_path / 'data'}.*{said}"):
        await EmbeddedPostgres(tmp_path / "data").start()
    assert path.read_text() == content


@BOTH
async def test_a_folder_that_is_none(program: tuple[str, ...], tmp_path: Path) -> None:
    """The system's word, the path, and what to do."""
    (tmp_path / "file").write_text("")
    found = await ended(program, "--data", tmp_path / "file" / "data")
    assert_said(found, f"{tmp_path / 'file' / 'data'}: Not a directory", "or", "name another")


@pytest.mark.skipif(os.geteuid() != 0, reason="to mount a small disk takes root")
async def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """No room for a database: said in the first line, before what its own log says."""
    disk = tmp_path / "disk"
    disk.mkdir()
    small = await asyncio.create_subprocess_exec("mount", "-t", "tmpfs", "-o", "size=8M", "tmpfs", str(disk))
    if await small.wait() != 0:
        pytest.skip("nothing can be mounted here")
    try:
        found = await ended(CELL, "--data", disk / "data")
    finally:
        await (await asyncio.create_subprocess_exec("umount", "-l", str(disk))).wait()
    assert found.code == 1
    assert "Traceback" not in found.stderr
    [line] = [line for line in found.stderr.splitlines() if line.startswith("server: ")]
    assert "No space left on device" in line
    assert f"no room is left on the disk of {disk / 'data'}, make some" in line


# --- the words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        (
            "postgresql://ann:hidden@db.test:5433/books?sslmode=require&password=hidden",
            "postgresql://ann@db.test:5433/books",
        ),
        ("postgresql://ann@/books?host=/run/pg&port=7", "postgresql://ann@/run/pg:7/books"),
        ("postgresql:///books", "postgresql://localhost:5432/books"),
        ("host=db.test password=hidden", "the database"),
    ],
)
def test_no_password_is_shown(dsn: str, shown: str) -> None:
    """Where it leads and as whom, and no more."""
    assert shown_dsn(dsn) == shown


def test_a_bug_keeps_its_traceback() -> None:
    """What no operator can mend is no line: whoever mends it needs to know where it was."""
    assert explained(KeyError("x")) is None
    with pytest.raises(KeyError), reaching("dsn", "postgresql:///books"):
        raise KeyError("x")
