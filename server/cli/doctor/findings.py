"""What an examination has found."""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    OK = "ok"
    # Nothing is wrong, and somebody may want to know.
    NOTE = "note"
    # It works, and something may be lost by it one day.
    WARN = "warn"
    # It does not work, or what it promises does not hold.
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`where`: a process, a database, a file. `advice`: what to do, where something is to be done."""

    where: str
    check: str
    state: State
    detail: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Examined:
    """Makes findings of one place."""

    where: str

    def ok(self, check: str, detail: str) -> Finding:
        return Finding(where=self.where, check=check, state=State.OK, detail=detail)

    def note(self, check: str, detail: str, advice: str = "") -> Finding:
        return Finding(where=self.where, check=check, state=State.NOTE, detail=detail, advice=advice)

    def warn(self, check: str, detail: str, advice: str) -> Finding:
        return Finding(where=self.where, check=check, state=State.WARN, detail=detail, advice=advice)

    def fail(self, check: str, detail: str, advice: str) -> Finding:
        return Finding(where=self.where, check=check, state=State.FAIL, detail=detail, advice=advice)
