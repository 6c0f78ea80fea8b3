"""What each peer guarantees, beside what it costs: a rate alone compares what cannot be compared."""

from collections.abc import Iterator

CELLBOOK, PLPGSQL, EVENTSOURCING, TIGERBEETLE = "Cellbook", "PL/pgSQL", "eventsourcing", "TigerBeetle"
PEERS = (CELLBOOK, PLPGSQL, EVENTSOURCING, TIGERBEETLE)
GUARANTEES: dict[str, tuple[str, str, str, str]] = {
    "durable before the answer": ("yes", "yes", "yes", "yes"),
    "idempotent by id": ("yes, 30 days", "yes, for ever", "yes: a stream a command, ours", "yes, for ever"),
    "an id reused for another command is refused": ("yes", "yes", "yes, ours", "yes"),
    "outbid release in the same transaction": ("yes", "yes", "yes: one save", "yes: linked transfers"),
    "balance can't go below zero": ("rule and CHECK", "CHECK", "rule", "flag of the account"),
    "the ledger knows the highest bid": ("yes", "yes", "yes", "no: its client does"),
    "what orders commands": ("one writer", "row locks", "versions", "one writer"),
    "past balances": ("any time, by index", "any entry, by index", "any version, by replay", "any transfer, by index"),
    "all state can be rebuilt from events": ("yes", "balances", "yes", "balances"),
    "proof against tampering": ("signed Merkle tree", "no", "no", "no: checksums"),
    "several regions, money between them": ("cells and clearing", "no", "no", "no: replicas of one ledger"),
    "settlement across regions": ("sagas", "no", "no", "no: two-phase transfers"),
    "takeover when the server dies": (
        "standby, 3 s",
        "PostgreSQL's replicas",
        "PostgreSQL's replicas",
        "consensus of replicas",
    ),
}


def markdown() -> Iterator[str]:
    """The lines of the table in docs/benchmarks.md."""
    yield f"| | {' | '.join(PEERS)} |"
    yield "|---" * (len(PEERS) + 1) + "|"
    for guarantee, answers in GUARANTEES.items():
        yield f"| {guarantee} | {' | '.join(answers)} |"
