"""Explains in one line what keeps a process from serving: the problem, the value, and what to do next."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit

import asyncpg

from cells.domain.refusals import Unavailable
from cells.store.ports import StoreError
from cells.store.unusable import CannotServe

__all__ = ["CannotServe", "DatabaseUnusable", "explained", "reaching", "shown_dsn"]

FULL = "make room, or enlarge the disk: docs/operations.md#full-disk"
DSN_EXPECTED = "expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
# Advice by the class of a database error; the first match counts.
_ADVICE: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    (
        (asyncpg.InvalidPasswordError,),
        "the server refuses this login: check user and password in the setting, and pg_hba.conf there",
    ),
    (
        (asyncpg.InvalidAuthorizationSpecificationError,),
        "the server does not allow this login: check the user in the setting, and pg_hba.conf there",
    ),
    ((asyncpg.InvalidCatalogNameError,), "make the database (createdb), or correct its name in the setting"),
    (
        (asyncpg.InsufficientPrivilegeError,),
        "give this login the right, or set migrate_dsn to one that may make roles and tables: docs/operations.md",
    ),
    ((asyncpg.ReadOnlySQLTransactionError,), "this is a replica: point the setting to the primary"),
    ((asyncpg.DiskFullError,), FULL),
    ((asyncpg.TooManyConnectionsError,), "raise max_connections there, or end what holds the connections"),
    (
        (
            asyncpg.CannotConnectNowError,
            asyncpg.OperatorInterventionError,
            asyncpg.PostgresConnectionError,
            # asyncpg raises this for a session that ends between two statements.
            asyncpg.InternalClientError,
        ),
        "it is starting, stopping or recovering: start this process again in a moment, and read its log",
    ),
    ((asyncpg.PostgresError, StoreError, Unavailable), "is it the database of this process? Its own log says more"),
    ((asyncpg.InterfaceError,), DSN_EXPECTED),
    ((OSError, TimeoutError), "is PostgreSQL running and listening there? Start it, or correct the setting"),
)
_DATABASE_ERRORS = tuple({kind for kinds, _ in _ADVICE for kind in kinds})


class DatabaseUnusable(CannotServe):
    """The database cannot be reached, or is not one for this process."""


@contextmanager
def reaching(setting: str, dsn: str) -> Iterator[None]:
    """Wraps work with the database that `setting` names, and raises DatabaseUnusable if it fails."""
    try:
        urlsplit(dsn).port  # noqa: B018 - raises for what is none
    except ValueError as error:
        raise DatabaseUnusable(f"{setting}: {error}: {DSN_EXPECTED}") from None
    try:
        yield
    except _DATABASE_ERRORS as error:
        advice = next(advice for kinds, advice in _ADVICE if isinstance(error, kinds))
        problem = _one_line(error)
        raise DatabaseUnusable(f"{setting}: cannot use {shown_dsn(dsn)}: {problem}: {advice}") from error


def shown_dsn(dsn: str) -> str:
    """The DSN's address and user, without any password."""
    try:
        parts = urlsplit(dsn)
        asked = parse_qs(parts.query)
        host = asked.get("host", [parts.hostname or "localhost"])[0]
        port = asked.get("port", [str(parts.port or 5432)])[0]
    except ValueError:
        return "the database"
    user = f"{parts.username}@" if parts.username else ""
    return f"{parts.scheme}://{user}{host}:{port}{parts.path}" if parts.scheme else "the database"


def explained(error: BaseException) -> str | None:
    """One line for a failure that an operator can fix; None: a bug, which needs the traceback."""
    if isinstance(error, CannotServe):
        return str(error)
    if isinstance(error, sqlite3.Error):
        return f"snapshot: cannot be used ({error}): check the file and its disk, or remove it: it is made anew"
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return f"{error.filename or 'a file'}: {error.strerror}: {FULL}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}: give this process the right to it, or name another place"
    return None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
