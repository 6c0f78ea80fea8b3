"""What goes wrong, and how often: drawn once a seed, so that each seed is good at finding something else."""

import random
from dataclasses import dataclass, fields
from enum import StrEnum

# What a peer that is in trouble answers, instead of doing what it was asked or of telling that it was done.
TROUBLES = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "INTERNAL", "garbage")


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


@dataclass(slots=True, kw_only=True)
class Weather:
    """Probabilities: of a message, of a call of the store, of passing a failpoint."""

    lost: float
    doubled: float
    # Much later than usual: after the sender has given up, and after what it has done then.
    late: float
    # Of a call to take a leg: it is held back until the one to undo that leg has come.
    overtaken: float
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

    def clear_up(self) -> None:
        """From now on nothing fails any more."""
        for each in fields(self):
            if each.name not in {"message_s", "store_s", "mischief", "mischief_every_s"}:
                setattr(self, each.name, 0.0)
        self.mischief = ()
