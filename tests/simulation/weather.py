"""What goes wrong, and how often: drawn once a seed, so that each seed is good at finding something else."""

import random
from dataclasses import dataclass, fields, replace
from enum import StrEnum

# What a peer that is in trouble answers, instead of doing what it was asked or of telling that it was done.
TROUBLES = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "INTERNAL", "garbage")


# Those that one cell may have to ask of another, and may have to take back.
REMOTE_LEGS = ("pin", "escrow-out", "credit-in", "submit", "receive")


# What of the weather is no probability.
DURATIONS = frozenset({"message_s", "store_s", "mischief_every_s"})


class Mischief(StrEnum):
    """What happens to machines and cables, at any moment."""

    KILL = "a process is killed"
    PAUSE = "a process is stopped, and goes on later"
    UPGRADE = "a process steps down and is started again"
    STANDBY = "a second process is started"
    CUT = "a cable breaks, in one direction or both"
    CLOCK = "a wall clock is set wrong"
    STORE = "a database cannot be reached"
    ROUTER = "the router is killed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """Probabilities: of a message, of a call of the store, of passing a failpoint."""

    lost: float
    doubled: float
    # Much later than usual: after the sender has given up, and after what it has done then.
    late: float
    # Of a call to take one of these legs: it is held back until the one to undo that leg has come.
    overtaken: float
    overtaken_legs: tuple[str, ...]
    trouble: float
    store_unavailable: float
    commit_unknown: float
    # At a failpoint; ten times as seldom after any commit.
    killed: float
    refused: float
    mail_fails: float
    # How long messages and transactions usually take.
    message_s: float
    store_s: float
    mischief: tuple[Mischief, ...]
    # Between two pieces of mischief.
    mischief_every_s: float

    @classmethod
    def drawn(cls, chance: random.Random) -> "Weather":
        def rate(most: float) -> float:
            return chance.uniform(0, most) if chance.random() < 0.4 else 0.0

        return cls(
            lost=rate(0.3),
            doubled=rate(0.5),
            late=rate(0.5),
            overtaken=rate(1.0),
            overtaken_legs=chance.choice([REMOTE_LEGS, *((leg,) for leg in REMOTE_LEGS)]),
            trouble=rate(0.3),
            store_unavailable=rate(0.1),
            commit_unknown=rate(0.3),
            killed=rate(0.3),
            refused=rate(0.2),
            mail_fails=rate(1.0),
            message_s=chance.choice([0.001, 0.02, 0.2]),
            store_s=chance.choice([0.0005, 0.005, 0.05]),
            mischief=tuple(kind for kind in Mischief if chance.random() < 0.35),
            mischief_every_s=chance.choice([0.3, 1.0, 3.0]),
        )

    def cleared_up(self) -> "Weather":
        """The same world, where nothing fails."""
        rates = {each.name: 0.0 for each in fields(self) if each.type is float and each.name not in DURATIONS}
        return replace(self, mischief=(), **rates)  # type: ignore[arg-type]
