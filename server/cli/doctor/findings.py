"""The findings of an examination."""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    OK = "ok"
    # Nothing is wrong, but it may be of interest.
    NOTE = "note"
    # It works, but may lose data some day.
    WARN = "warn"
    # It does not work, or does not hold its promise.
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`where`: a process, a database, a file. `advice`: what to do, if anything."""

    where: str
    check: str
    state: State
    detail: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Examined:
    """Makes findings about one place."""

    where: str

    def first(self, check: str, in_order: str, *cases: tuple[object, State, str, str]) -> Finding:
        """Of the first case that is true: its state, detail and advice. If none is, the check is in order."""
        for case, state, detail, advice in cases:
            if case:
                return Finding(where=self.where, check=check, state=state, detail=detail, advice=advice)
        return self.ok(check, in_order)

    def ok(self, check: str, detail: str) -> Finding:
        return Finding(where=self.where, check=check, state=State.OK, detail=detail)

    def note(self, check: str, detail: str, advice: str = "") -> Finding:
        return Finding(where=self.where, check=check, state=State.NOTE, detail=detail, advice=advice)

    def warn(self, check: str, detail: str, advice: str) -> Finding:
        return Finding(where=self.where, check=check, state=State.WARN, detail=detail, advice=advice)

    def fail(self, check: str, detail: str, advice: str) -> Finding:
        return Finding(where=self.where, check=check, state=State.FAIL, detail=detail, advice=advice)
