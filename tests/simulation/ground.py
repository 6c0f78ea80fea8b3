"""Shared by books and actors."""

# The untrusted cell; all others are honest.
HOSTILE = "mallory"


class Broken(AssertionError):
    """An invariant is violated."""


def must(holds: object, problem: str, *facts: object) -> None:
    if not holds:
        raise Broken(f"{problem}: {', '.join(map(str, facts))}")
