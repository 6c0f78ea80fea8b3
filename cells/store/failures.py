"""Classifies errors of PostgreSQL and of the connection: never possible, not now, or outcome unknown."""

from collections.abc import Awaitable
from typing import TypeVar

import asyncpg

from cells.domain.refusals import Unavailable
from cells.store.ports import CommitUnknown, Poisoned, StoreError, StoreUnavailable

T = TypeVar("T")

# The client's errors for a lost connection. If the server ends a session between two statements, asyncpg is sometimes
# left inside its own protocol, and reports the next statement as a bug of its own.
LOST = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError)
# SQLSTATE classes that blame the batch, not the moment.
AT_FAULT = frozenset({"22", "23"})
# Classes that blame a statement: a bug, or a database that was not migrated. Retrying does not help.
BUGS = frozenset({"0A", "2F", "42"}) | AT_FAULT
# The client's own encoding errors, for which the server would have reported class 22.
UNENCODABLE = (OverflowError, UnicodeError)
CANNOT_BE_ENCODED = "22000"


def poison(error: BaseException) -> Poisoned | None:
    """The error if the batch itself cannot be stored."""
    if isinstance(error, UNENCODABLE):
        return Poisoned(CANNOT_BE_ENCODED, str(error))
    if isinstance(error, asyncpg.PostgresError) and _sqlstate_class(error) in AT_FAULT:
        return Poisoned(error.sqlstate or "", str(error))
    return None


def lost(error: BaseException, *, committing: bool) -> CommitUnknown | StoreUnavailable | None:
    """The error if the batch was not written, or that is unknown."""
    if not isinstance(error, (*LOST, asyncpg.PostgresError)):
        return None
    # The connection may be lost, or the server shutting down, with the COMMIT already in its log.
    return (CommitUnknown if committing else StoreUnavailable)(_problem(error))


def passing(error: BaseException) -> StoreUnavailable | None:
    """The error if the same may succeed soon, when the server is back or has room again."""
    if isinstance(error, LOST) or (isinstance(error, asyncpg.PostgresError) and _sqlstate_class(error) not in BUGS):
        return StoreUnavailable(_problem(error))
    return None


def raise_as(meaning: StoreError | None, error: BaseException) -> None:
    if meaning is not None:
        raise meaning from error


def _sqlstate_class(error: asyncpg.PostgresError) -> str:
    return (error.sqlstate or "")[:2]


def _problem(error: BaseException) -> str:
    return str(error) or type(error).__name__


async def map_store_errors(answer: Awaitable[T]) -> T:
    """Maps a database that is away to the refusal that callers get. Raises Unavailable."""
    try:
        return await answer
    except StoreError as error:
        raise Unavailable(problem=str(error)) from error
