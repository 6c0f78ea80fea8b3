"""Compares the definition of the store (tables, triggers, functions, rights) with the result of the migrations.

`python -m tests.schema` rewrites the expected listing, cells/sql/schema.json.
"""

import json
import re
from collections.abc import Mapping
from functools import cache, partial
from importlib import resources
from typing import NamedTuple

from cells.audit.reconcile.findings import Check, Finding, finding
from cells.sql import queries
from cells.store.sessions import Connection

SQL = queries("cells.sql", "schema.sql")
_finding = partial(finding, Check.SCHEMA)
LISTING = "schema.json"
ABSENT = "not there"
# Partitions do not exist before the first leader.
PARTITION = "_*"
# An index that an operator has added for queries, or ahead of a migration: it refuses no row and calls no function.
HARMLESS = re.compile(r'^CREATE INDEX [^()]+ USING btree \("?\w+"?(, "?\w+"?)*\)')
# How many common characters to show before two long definitions differ.
COMMON_SHOWN = 40


class Schema(NamedTuple):
    """The names of the migrations, and the definition of each item that they made."""

    migrations: tuple[str, ...]
    items: Mapping[str, str]


@cache
def shipped_schema() -> Schema:
    listing = json.loads((resources.files("cells.sql") / LISTING).read_text(encoding="utf-8"))
    return Schema(tuple(listing["migrations"]), listing["items"])


async def schema_of(connection: Connection) -> Schema:
    """The schema of a database that was migrated."""
    migrations = [row["name"] for row in await connection.fetch(SQL["migrations"])]
    return Schema(tuple(migrations), dict(map(tuple, await connection.fetch(SQL["items"]))))


def schema_findings(found: Schema) -> list[Finding]:
    """Each item that is missing, changed or surplus, harmless indexes apart; the migrations alone, if they differ."""
    wanted = shipped_schema()
    if found.migrations != wanted.migrations:
        return [
            _finding(f"migration {name}", "applied", "not applied: the schema was not compared")
            for name in wanted.migrations
            if name not in found.migrations
        ] + [
            _finding(f"migration {name}", "one that this version ships", "applied: the schema was not compared")
            for name in found.migrations
            if name not in wanted.migrations
        ]
    differing = sorted(item for item, _ in wanted.items.items() ^ found.items.items())
    return [
        _finding(item, *_excerpts(wanted.items.get(item), found.items.get(item)))
        for item in dict.fromkeys(differing)
        if item in found.items or PARTITION not in item
        if item in wanted.items or not HARMLESS.fullmatch(found.items[item])
    ]


def _excerpts(expected: str | None, found: str | None) -> tuple[str, str]:
    """The two definitions from where they differ."""
    if expected is None or found is None:
        return expected or ABSENT, found or ABSENT
    common = next((n for n, (one, other) in enumerate(zip(expected, found, strict=False)) if one != other), 0)
    begin = max(common - COMMON_SHOWN, 0)
    return f"{'... ' if begin else ''}{expected[begin:]}", f"{'... ' if begin else ''}{found[begin:]}"
