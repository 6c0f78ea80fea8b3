"""Examines a cell's database, with the cell's own login, for conditions that durability depends on."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import asyncpg

from cells.audit.checks.schema_check import schema_findings, schema_of, shipped_schema
from cells.audit.reconcile.findings import Finding as Difference
from cells.sql import queries
from cells.store.unusable import CannotServe
from server.audit.memory import CheckpointFile
from server.cli.doctor.findings import Examined, Finding, State
from server.shell.postgres.database import CONNECT_TIMEOUT_S, VERSION_MAX, VERSION_MIN, Connection, migrations_of

CLOCK_WARN_S = 0.25
# One that writes, three for the leader's lookups, eight for reads, and some for migrations and people.
CONNECTIONS_A_PROCESS = 15
# Reported one by one.
DRIFT_SHOWN_MAX = 20
OWNER, CELL, AUDITOR = "cellbook_owner", "cellbook_cell", "cellbook_auditor"
SETTINGS = (
    "fsync", "full_page_writes", "synchronous_commit", "synchronous_standby_names", "data_checksums",
    "max_connections", "default_transaction_read_only",
)  # fmt: skip
# With these values COMMIT returns after a flush to this disk, and with a synchronous replica also to that one's.
DURABLE = frozenset({"on", "remote_apply"})
REPLICATE = (
    "set synchronous_standby_names = 'ANY 1 (standby1, standby2)' with as many replicas, and synchronous_commit = on; "
    "then fail over to a replica that was synchronous, and to none else"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Facts that the database reports about itself. `log` None: it has not been migrated yet."""

    server: Mapping[str, object]
    settings: Mapping[str, str]
    roles: Mapping[str, bool]
    log: Mapping[str, object] | None
    replicas: Mapping[str, int]
    migrations: Mapping[int, str] = field(default_factory=dict)
    # Differences from the schema that the migrations make; not compared if other migrations were applied.
    drift: Sequence[Difference] = ()
    cell: str = ""
    # The position at the end of the log.
    position: int = 0
    # How far our clock is ahead of the server's.
    clock_ahead_s: float = 0.0


async def examine(dsn: str, *, where: str, cell: str, checkpoint_file: CheckpointFile | None = None) -> list[Finding]:
    """Findings on the database of `cell`; empty: of the router. `checkpoint file` holds what the cell has signed."""
    at = Examined(where)
    began_s = time.monotonic()
    try:
        connection = await asyncpg.connect(
            dsn, timeout=CONNECT_TIMEOUT_S, server_settings={"application_name": "doctor"}
        )
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as problem:
        return [at.fail("connects", f"{type(problem).__name__}: {problem}", "is it running, and is dsn right?")]
    took_ms = (time.monotonic() - began_s) * 1_000
    version = connection.get_server_version()
    if version.major < VERSION_MIN:
        await connection.close(timeout=CONNECT_TIMEOUT_S)
        detail = f"PostgreSQL {version.major}.{version.minor}, and {VERSION_MIN} to {VERSION_MAX} are supported"
        return [at.fail("version", detail, "upgrade it (pg_upgrade), or let dsn lead to a newer one")]
    try:
        facts = await read(connection, of_cell=bool(cell))
    except asyncpg.PostgresError as problem:
        return [at.fail("can be read", str(problem), "is this the cell's database, and the login the cell's?")]
    finally:
        await connection.close(timeout=CONNECT_TIMEOUT_S)
    return [
        at.ok("connects", f"as {facts.server['login']}, in {took_ms:.0f} ms"),
        *judged(facts, where, cell, checkpoint_file),
    ]


async def read(connection: Connection, *, of_cell: bool) -> Facts:
    sql = queries("server.shell.postgres.sql", "doctor.sql")
    asked_s = time.time()
    server = dict((await connection.fetch(sql["server"]))[0])
    answered_s = time.time()
    settings = {row["name"]: row["setting"] for row in await connection.fetch(sql["settings"], SETTINGS)}
    roles = {row["name"]: row["may_take"] for row in await connection.fetch(sql["roles"], [OWNER, CELL, AUDITOR])}
    replicas = dict((await connection.fetch(sql["replicas"]))[0])
    log = dict((await connection.fetch(sql["log"]))[0]) if of_cell else {"exists": False}
    applied, cell, position = {}, "", 0
    drift: Sequence[Difference] = ()
    if log["exists"] and roles[CELL]:
        await connection.execute(sql["take_role"])
        applied = {row["version"]: row["checksum"] for row in await connection.fetch(sql["migrations"])}
        schema = await schema_of(connection)
        if schema.migrations == shipped_schema().migrations:
            drift = schema_findings(schema)
        for head in await connection.fetch(sql["head"]):
            cell, position = head["cell"], head["position"]
    return Facts(
        server=server,
        settings=settings,
        roles=roles,
        log=log if log["exists"] else None,
        replicas=replicas,
        migrations=applied,
        drift=drift,
        cell=cell,
        position=position,
        clock_ahead_s=(asked_s + answered_s) / 2 - float(str(server["now_s"])),
    )


def judged(facts: Facts, where: str, cell: str, checkpoint_file: CheckpointFile | None = None) -> Iterator[Finding]:
    at = Examined(where)
    yield from _server(at, facts)
    yield from _durability(at, facts)
    if cell:
        yield _role(at, facts)
        yield from _log(at, facts, cell)
    if checkpoint_file is not None:
        yield _age(at, facts, checkpoint_file)


def _server(at: Examined, facts: Facts) -> Iterator[Finding]:
    version, read_only = int(str(facts.server["version"])) // 10_000, facts.settings["default_transaction_read_only"]
    size_mib = int(str(facts.server["size_bytes"])) / 2**20
    detail = f"PostgreSQL {facts.server['version_text']}, {size_mib:,.0f} MiB of data"
    untried = f"{VERSION_MIN} to {VERSION_MAX} are what was tried"
    yield at.first("version", detail, (version > VERSION_MAX, State.NOTE, detail, untried))
    replica = facts.server["is_replica"] or read_only == "on"
    advice = "let dsn lead to the primary"
    yield at.first("takes writes", "it is the primary", (replica, State.FAIL, "it is a replica, or read-only", advice))
    ahead = f"{facts.clock_ahead_s * 1_000:+.0f} ms from"
    off, detail = abs(facts.clock_ahead_s) > CLOCK_WARN_S, f"this machine's is {ahead} the server's"
    yield at.first("clock", f"{ahead} this machine's", (off, State.WARN, detail, "keep both by NTP: chronyc tracking"))
    connections, few = f"{facts.settings['max_connections']} at most", 2 * CONNECTIONS_A_PROCESS
    advice = f"max_connections: {CONNECTIONS_A_PROCESS} for each process of the cell, standby included"
    too_few = int(facts.settings["max_connections"]) < few
    yield at.first("connections", connections, (too_few, State.WARN, connections, advice))


def _durability(at: Examined, facts: Facts) -> Iterator[Finding]:
    """With these settings a crash of the server, or its loss, loses nothing that was acknowledged."""
    settings = facts.settings
    for name, why in (
        ("fsync", "a power cut would lose what was acknowledged, or the database"),
        ("full_page_writes", "a power cut could leave torn pages"),
    ):
        off = settings[name] != "on"
        yield at.first(name, "on", (off, State.FAIL, f"{settings[name]}: {why}", f"set {name} = on"))
    commit, names = settings["synchronous_commit"], settings["synchronous_standby_names"]
    detail = f"{commit}: COMMIT returns before it is safe"
    advice = "set it to on, for the role and the database, too"
    yield at.first("synchronous_commit", commit, (commit not in DURABLE, State.FAIL, detail, advice))
    detail = "off: a disk that rots is not noticed"
    off = settings["data_checksums"] != "on"
    yield at.first("data_checksums", "on", (off, State.WARN, detail, "stop it, and: pg_checksums --enable"))
    unseen = f"synchronous_standby_names = {names}; whether a replica streams is not to be seen"
    yield at.first(
        "survives the server's loss",
        f"{facts.replicas['synchronous']} synchronous replica(s) of {names}",
        (not names, State.WARN, "no synchronous replica: what the last backup lacks would be lost", REPLICATE),
        (
            commit not in DURABLE,
            State.FAIL,
            "synchronous_commit does not wait for the replica's disk",
            "set synchronous_commit = on",
        ),
        (
            facts.replicas["all"] > facts.replicas["seen"],
            State.WARN,
            unseen,
            f"let it see them: GRANT pg_monitor TO {facts.server['login']}, and ask again",
        ),
        (
            not facts.replicas["synchronous"],
            State.FAIL,
            f"synchronous_standby_names = {names}, and none streams",
            "commits wait for a replica: bring one back; taking its name out gives the promise up",
        ),
    )


def _role(at: Examined, facts: Facts) -> Finding:
    login = facts.server["login"]
    grant = f"let it: GRANT {CELL} TO {login}; the migrations make the role"
    superuser, advice = (
        f"{login} is a superuser, and could rewrite the log",
        f"give the cell a login in {CELL} and no other",
    )
    owner = f"{login} may become {OWNER}, and change tables"
    return at.first(
        "role",
        f"{login} is in {CELL} and does not own the tables",
        (not facts.roles[CELL], State.FAIL, f"{login} may not become {CELL}", grant),
        (facts.server["is_superuser"], State.WARN, superuser, advice),
        (facts.roles[OWNER], State.WARN, owner, "keep that for migrate_dsn: docs/security.md"),
    )


def _log(at: Examined, facts: Facts, cell: str) -> Iterator[Finding]:
    if facts.log is None:
        yield at.note("schema", "not there yet: the first start makes it")
        return
    too_much, off = facts.log["too_much"], not facts.log["guarded"]
    yield at.first(
        "append-only",
        "no right to change the log, and the trigger stands",
        (too_much, State.FAIL, f"{CELL} may {too_much}", f"take that away: REVOKE .. ON event_store FROM {CELL}"),
        (off, State.FAIL, "the trigger is off", "turn it on, ENABLE ALWAYS, and ask who did it"),
    )
    yield from _schema(at, facts)
    if facts.cell:
        detail, advice = f"it is {facts.cell}'s", "let dsn lead to this cell's own database"
        yield at.first("cell", facts.cell, (facts.cell != cell, State.FAIL, detail, advice))


def _schema(at: Examined, facts: Facts) -> Iterator[Finding]:
    applied = facts.migrations
    shipped = {each.version: each for each in migrations_of("cells.sql")}
    changed = [each.name for each in shipped.values() if applied.get(each.version, each.checksum) != each.checksum]
    missing, newer = shipped.keys() - applied.keys(), applied.keys() - shipped.keys()
    more = f"{len(newer)} migration(s) of a newer version, which may run beside this one; not compared"
    other = f"{', '.join(changed)} was applied with another content"
    if changed or missing or newer or not facts.drift:
        yield at.first(
            "schema",
            f"{len(applied)} migrations, and nothing but what they make",
            (changed, State.FAIL, other, "find the version that did it"),
            (missing, State.NOTE, f"{len(missing)} migration(s) to be applied by the next start", ""),
            (newer, State.NOTE, more, "ask the doctor of that version"),
        )
        return
    for each in facts.drift[:DRIFT_SHOWN_MAX]:
        detail = f"{each.row}: {each.found}, where the migrations make: {each.expected}"
        yield at.fail("schema", detail, "ask who did it, and undo it: docs/operations.md#a-changed-schema")
    if len(facts.drift) > DRIFT_SHOWN_MAX:
        yield at.fail("schema", f"and {len(facts.drift) - DRIFT_SHOWN_MAX} more", "cellbook audit reconcile has all")


def _age(at: Examined, facts: Facts, checkpoint_file: CheckpointFile) -> Finding:
    """Whether it is the newest version of this database."""
    last = checkpoint_file.last()
    try:
        checkpoint_file.check(facts.position)
    except CannotServe as problem:
        return at.fail("not an old one", str(problem), "docs/operations.md#restore")
    if last is None:
        return at.note("not an old one", f"unknown: nothing is noted yet in {checkpoint_file.path}")
    return at.ok("not an old one", f"it ends at position {facts.position}, and {last.size} events were signed")
