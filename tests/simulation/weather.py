"""Kinds and rates of faults, drawn per seed, so that different seeds find different bugs."""

import random
from dataclasses import dataclass, fields, replace
from enum import StrEnum

# Answers of a peer in trouble, instead of executing the call or of confirming it.
TROUBLES = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "INTERNAL", "garbage")


# Legs that one cell may request of another, and may have to undo.
REMOTE_LEGS = ("pin", "escrow-out", "credit-in", "submit", "receive")


# The fields that are no probabilities.
DURATIONS = frozenset({"message_s", "store_s", "mischief_every_s"})


class Mischief(StrEnum):
    """Faults of machines and links, at any moment."""

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
    """Probabilities: per message, per call of the store, per failpoint."""

    lost: float
    doubled: float
    # Delivered much later than usual: after the sender has given up, and after its next steps.
    late: float
    # For a call that takes one of these legs: it is held back until the call that undoes the leg has arrived.
    overtaken: float
    overtaken_legs: tuple[str, ...]
    trouble: float
    store_unavailable: float
    commit_unknown: float
    # At a failpoint; ten times less often after any commit.
    killed: float
    refused: float
    mail_fails: float
    # Usual durations of messages and transactions.
    message_s: float
    store_s: float
    mischief: tuple[Mischief, ...]
    # The time between two faults of machines and links.
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
        """The same world, without faults."""
        rates = {each.name: 0.0 for each in fields(self) if each.type is float and each.name not in DURATIONS}
        return replace(self, mischief=(), **rates)  # type: ignore[arg-type]
