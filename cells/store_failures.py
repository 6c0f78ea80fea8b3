"""What an error of PostgreSQL, or of the way to it, says of what was to be done: never, not now, or nobody knows."""

import asyncpg

from cells.ports import CommitUnknown, Poisoned, StoreError, StoreUnavailable

# What the loss of a connection looks like to the client. A session that the server ends between two statements leaves
# asyncpg somewhere in its own protocol at times: it then calls the next statement a bug of its own.
LOST = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError)
# Classes of SQLSTATE that say that the batch is at fault, and not the moment.
AT_FAULT = frozenset({"22", "23"})
# Classes that say that a statement is: a bug, or a database that was not migrated. To try again does not help.
BUGS = frozenset({"0A", "2F", "42"}) | AT_FAULT
# What the client's own encoding of a row says where the server would have said class 22.
UNENCODABLE = (OverflowError, UnicodeError)
CANNOT_BE_ENCODED = "22000"


def poison(error: BaseException) -> Poisoned | None:
    """Where the batch itself cannot be stored."""
    if isinstance(error, UNENCODABLE):
        return Poisoned(CANNOT_BE_ENCODED, str(error))
    if isinstance(error, asyncpg.PostgresError) and _sqlstate_class(error) in AT_FAULT:
        return Poisoned(error.sqlstate or "", str(error))
    return None


def lost(error: BaseException, *, committing: bool) -> CommitUnknown | StoreUnavailable | None:
    """Where the batch was not written, or nobody knows."""
    if not isinstance(error, (*LOST, asyncpg.PostgresError)):
        return None
    # The connection may be lost, or the server going away, with the COMMIT in its log already.
    return (CommitUnknown if committing else StoreUnavailable)(_problem(error))


def passing(error: BaseException) -> StoreUnavailable | None:
    """Where the same may succeed in a moment, when the server is back or has room again."""
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
