"""Why a process does not serve a database, though it can be reached. Nothing of this passes by itself."""


class SagasOfAnotherEngine(Exception):
    """The sagas in flight are for another engine: this process must not lead."""

    def __init__(self, *, engine: str, wanted: str) -> None:
        super().__init__(
            f"the sagas in flight are the {engine} engine's, not the {wanted} one's: start this cell with "
            f"saga_engine={engine} again, stop it once SagaService.ListSagas names none that is RUNNING, COMMITTED or "
            f"COMPENSATING, then start it with saga_engine={wanted}"
        )


class ImportUnfinished(Exception):
    """Half a log is in it."""

    def __init__(self) -> None:
        super().__init__(
            "an export was being put back into this database and has not come to its end: run `cellbook audit import` "
            "with the same file again, or begin with an empty database"
        )
