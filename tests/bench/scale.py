"""How much a bench does: the same figures, quickly, properly, or for long."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    name: str
    meaning: str
    rounds: int
    # Of each measurement.
    seconds: float
    warm_up_s: float
    users: int = 10_000
    auctions: int = 1_000


QUICK = Scale(name="quick", meaning="two minutes in all", rounds=3, seconds=1.0, warm_up_s=0.5)
FULL = Scale(name="full", meaning="at most 25 minutes", rounds=3, seconds=8.0, warm_up_s=2.0)
SOAK = Scale(name="soak", meaning="hours", rounds=9, seconds=60.0, warm_up_s=5.0)
