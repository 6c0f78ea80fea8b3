"""What books and actors have in common."""

# The cell that nobody can trust; all others are honest.
HOSTILE = "mallory"


class Broken(AssertionError):
    """Something that must hold does not."""


def must(holds: object, problem: str, *facts: object) -> None:
    if not holds:
        raise Broken(f"{problem}: {', '.join(map(str, facts))}")
