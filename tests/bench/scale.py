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
    # Of each measurement of CPU time: a slow machine measures as much. Batches have four times as many.
    cpu_bids: int = 4_000
    users: int = 10_000
    auctions: int = 1_000
    # What the grown store holds.
    grown_users: int = 1_000_000
    grown_events: int = 5_000_000
    # Of the user whose past is asked after.
    past_events: int = 100_000
    # Of the user who moves.
    moved_events: int = 100_000
    # Of the cell that is drained.
    drained_users: int = 1_000
    takeovers: int = 3
    # Three events each: what the tables are compared by.
    reconciled_bids: int = 300_000
    # In each round, from each of three cells.
    settlements_each: int = 200
    # The same, by either engine.
    engine_settlements_each: int = 20
    # How many settlements a cut link strands at most.
    stranded_max: int = 10_000


QUICK = Scale(
    name="quick",
    meaning="two minutes in all, with a small store for the grown one",
    rounds=3,
    seconds=0.7,
    warm_up_s=0.2,
    cpu_bids=1_000,
    grown_users=10_000,
    grown_events=50_000,
    past_events=5_000,
    moved_events=5_000,
    drained_users=100,
    takeovers=1,
    reconciled_bids=10_000,
    settlements_each=30,
    engine_settlements_each=5,
    stranded_max=47,
)
FULL = Scale(name="full", meaning="all of it, in half an hour", rounds=3, seconds=8.0, warm_up_s=2.0)
SOAK = Scale(
    name="soak",
    meaning="hours: long measurements, and a store of 20 million events",
    rounds=9,
    seconds=60.0,
    warm_up_s=5.0,
    cpu_bids=20_000,
    grown_events=20_000_000,
    moved_events=1_000_000,
    drained_users=10_000,
    takeovers=9,
    settlements_each=1_000,
    engine_settlements_each=100,
)
