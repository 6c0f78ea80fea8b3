"""Reasons not to serve a reachable database. None of them passes by itself."""


class CannotServe(Exception):
    """The process ends. The message is a line for the operator: the problem, the value, and what to do."""


class DatabaseOfAnotherCell(CannotServe):
    def __init__(self, *, found: str, wanted: str) -> None:
        super().__init__(
            f"dsn: this database belongs to cell {found}, not to {wanted}: let dsn lead to the one of {wanted}, or "
            f"start this process with cell={found}"
        )


class SagasOfAnotherEngine(CannotServe):
    """The sagas in flight belong to another engine: this process must not lead."""

    def __init__(self, *, engine: str, wanted: str) -> None:
        super().__init__(
            f"the sagas in flight are the {engine} engine's, not the {wanted} one's: start this cell with "
            f"saga_engine={engine} again, stop it once SagaService.ListSagas names none that is RUNNING, COMMITTED or "
            f"COMPENSATING, then start it with saga_engine={wanted}"
        )


class ImportUnfinished(CannotServe):
    """The database holds a part of an imported log."""

    def __init__(self) -> None:
        super().__init__(
            "an export was being put back into this database and has not come to its end: run `cellbook audit import` "
            "with the same file again, or begin with an empty database"
        )


class HeadNotProven(CannotServe):
    """It is unknown whether this cell wrote the last events."""

    def __init__(self, *, cell: str, position: int, since: int | None) -> None:
        events = f"events {since + 1} to {position}" if since is not None and since < position else f"event {position}"
        super().__init__(
            f"nothing proves that cell {cell} wrote {events} of its log: the seal of the head row does not fit. "
            "Somebody has written to the database past the cell, or the cell has another key than before. Keep a copy "
            "of the database, compare these events with the last export, and put back what was there "
            "(docs/operations.md). Only if they are as they should be, start the cell once with "
            f"CELLBOOK_ACCEPT_HEAD={position}"
        )
