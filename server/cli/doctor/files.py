"""Examines a process's settings and the files they name on this machine: keys, certificates, disk space."""

import shutil
import stat
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic_settings import SettingsConfigDict

from cells.store.unusable import CannotServe
from server.audit.build import checkpoint_file_of
from server.audit.keys import keys_of
from server.audit.memory import CheckpointFile
from server.cli.doctor.findings import Examined, Finding, State
from server.process.settings import ServerSettings
from server.shell.files import require_writable
from server.shell.identity.tls import TlsFiles, TlsInvalid, expires_at, read_pem
from server.shell.settings.host import HostSettings, SettingsInvalid, load_settings

EXPIRES_WARN = timedelta(days=30)
# The free share of a disk.
FREE_WARN, FREE_FAIL = 0.10, 0.03


class AnySettings(HostSettings):
    """Of a router, whose own settings are not needed here."""

    model_config = SettingsConfigDict(extra="ignore")


def load(config: Path) -> HostSettings:
    """From file and environment, as the process with that file would load them. Raises SettingsInvalid."""
    try:
        of_cell = "cell" in tomllib.loads(config.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        # The process that loads it reports the problem.
        of_cell = False
    return load_settings(ServerSettings if of_cell else AnySettings, ["--config", str(config)], program="doctor")


def examine_settings(config: Path) -> tuple[HostSettings | None, list[Finding]]:
    at = Examined(str(config))
    try:
        settings = load(config)
    except SettingsInvalid as problem:
        lines = str(problem).splitlines()
        return None, [at.fail("settings", line, "docs: python -m server --help") for line in lines]
    whose = settings.cell if isinstance(settings, ServerSettings) else "the router"
    return settings, [at.ok("settings", f"valid, of {whose}"), *_files(at, settings)]


def _files(at: Examined, settings: HostSettings) -> Iterator[Finding]:
    if settings.tls is not None:
        yield from _tls(at, settings.tls)
    elif settings.insecure_listen:
        yield at.warn("TLS", "off, and listening for other machines", "set tls_cert, tls_key and tls_ca")
    else:
        yield at.note("TLS", "off: on loopback, for development")
    for name in ("vault_key_file", "checkpoint_key_file", "smtp_password_file"):
        path = getattr(settings, name, None)
        if path is not None:
            yield from _secret(at, name, path)
    if settings.data is not None and settings.data.exists():
        yield room(at, settings.data)


def examine_checkpoint_file(settings: HostSettings, where: str) -> tuple[CheckpointFile | None, list[Finding]]:
    """The last checkpoint that the cell has signed, which reveals a restored database; None if there is none."""
    at, check = Examined(where), "state_dir"
    if not isinstance(settings, ServerSettings) or not _has_key(settings):
        return None, []
    try:
        keys = keys_of(settings)
        checkpoint_file = checkpoint_file_of(settings, keys) if keys is not None else None
        if checkpoint_file is not None:
            require_writable(checkpoint_file.path.parent, "the last checkpoint that the cell has signed")
    except CannotServe as problem:
        return None, [at.fail(check, str(problem), "docs/operations.md#what-a-cell-keeps-beside-its-database")]
    return checkpoint_file, [at.ok(check, str(checkpoint_file.path.parent))] if checkpoint_file is not None else []


def _has_key(settings: ServerSettings) -> bool:
    """Checks without creating a key."""
    made = settings.data / "checkpoint.key" if settings.data is not None else None
    return settings.checkpoint_key_file is not None or (made is not None and made.exists())


def _tls(at: Examined, files: TlsFiles) -> Iterator[Finding]:
    try:
        pem = read_pem(files)
    except TlsInvalid as problem:
        yield at.fail("TLS", str(problem), "docs/security.md")
        return
    yield expiry(at, "certificate", expires_at(pem.cert))
    yield expiry(at, "CA", expires_at(pem.ca))
    yield from _secret(at, "tls_key", files.key)


def expiry(at: Examined, what: str, when: datetime) -> Finding:
    left = when - datetime.now(UTC)
    detail, advice = (
        f"good until {when:%Y-%m-%d}, {left.days} days",
        "replace the file: the process takes the new one by itself",
    )
    return at.first(what, detail, (left < EXPIRES_WARN, State.WARN, detail, advice))


def _secret(at: Examined, name: str, path: Path) -> Iterator[Finding]:
    try:
        mode = path.stat().st_mode
    except OSError as problem:
        yield at.fail(name, f"{path}: {problem.strerror}", f"put it there, or change {name}")
        return
    open_to_all, detail = mode & (stat.S_IROTH | stat.S_IWOTH), f"{path} can be read by everybody here"
    yield at.first(name, str(path), (open_to_all, State.WARN, detail, f"chmod 600 {path}"))


def room(at: Examined, folder: Path) -> Finding:
    disk = shutil.disk_usage(folder)
    free = disk.free / disk.total
    detail = f"{disk.free / 2**30:,.1f} GiB free of {disk.total / 2**30:,.1f}, {free:.0%}"
    full, filling = free < FREE_FAIL, free < FREE_WARN
    return at.first(
        "disk",
        detail,
        (full, State.FAIL, detail, "make room now: docs/operations.md#full-disk"),
        (filling, State.WARN, detail, "make room: docs/operations.md#full-disk"),
    )
