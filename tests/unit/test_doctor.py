"""The doctor's judgement of the facts it collects."""

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import pytest

from server.cli.doctor import files, homes
from server.cli.doctor.database import AUDITOR, CELL, OWNER, Facts, judged
from server.cli.doctor.findings import Examined, Finding, State
from server.cli.doctor.homes import Comparison, Home, HomesUnknown, Pages
from server.cli.doctor.processes import Process, answered, logs, together
from server.shell.postgres.database import migrations_of

GOOD = Facts(
    server={
        "version": 180_004, "version_text": "18.4", "is_replica": False, "size_bytes": 1, "is_superuser": False,
        "login": "us_east",
    },
    settings={
        "fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "synchronous_standby_names": "ANY 1 (a)",
        "data_checksums": "on", "max_connections": "100", "default_transaction_read_only": "off",
    },
    roles={OWNER: False, CELL: True, AUDITOR: False},
    log={"exists": True, "too_much": "", "guarded": True},
    replicas={"all": 2, "seen": 2, "synchronous": 2},
    migrations={each.version: each.checksum for each in migrations_of("cells.sql")},
    cell="us-east",
)  # fmt: skip
LEADER = Process(cell="us-east", endpoint="10.0.0.1:7400", leads=True, took_ms=2.0, version="1.0.0", ahead_ms=3.0)
STANDBY = Process(cell="us-east", endpoint="10.0.0.2:7400", took_ms=2.0, version="1.0.0")
LOOPBACK = "127.0.0.1:7400"


def bad(found: Iterable[Finding]) -> dict[str, State]:
    findings = list(found)
    assert all(each.advice for each in findings if each.state in {State.WARN, State.FAIL})
    return {each.check: each.state for each in findings if each.state is not State.OK}


def found(**changes: object) -> dict[str, State]:
    """Findings on a good database with `changes`: settings if they are text, else facts."""
    facts = GOOD
    for name, value in changes.items():
        if name in facts.settings:
            facts = replace(facts, settings={**facts.settings, name: str(value)})
        elif name in facts.server:
            facts = replace(facts, server={**facts.server, name: value})
        else:
            facts = replace(facts, **{name: value})  # type: ignore[arg-type]
    return bad(list(judged(facts, "database", "us-east")))


def test_nothing_is_wrong_with_a_good_database() -> None:
    """It is replicated synchronously, and the cell's login has the rights it needs."""
    assert found() == {}


SURVIVES = "survives the server's loss"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fsync": "off"}, {"fsync": State.FAIL}),
        ({"full_page_writes": "off"}, {"full_page_writes": State.FAIL}),
        ({"data_checksums": "off"}, {"data_checksums": State.WARN}),
        ({"synchronous_commit": "remote_apply"}, {}),
        # On this disk, and not on the replica's: enough for a crash, too little for a failover.
        ({"synchronous_commit": "local"}, {"synchronous_commit": State.FAIL, SURVIVES: State.FAIL}),
        ({"synchronous_commit": "remote_write"}, {"synchronous_commit": State.FAIL, SURVIVES: State.FAIL}),
        ({"synchronous_commit": "off"}, {"synchronous_commit": State.FAIL, SURVIVES: State.FAIL}),
        ({"synchronous_standby_names": ""}, {SURVIVES: State.WARN}),
        ({"replicas": {"all": 1, "seen": 1, "synchronous": 0}}, {SURVIVES: State.FAIL}),
        ({"replicas": {"all": 0, "seen": 0, "synchronous": 0}}, {SURVIVES: State.FAIL}),
        ({"replicas": {"all": 2, "seen": 0, "synchronous": 0}}, {SURVIVES: State.WARN}),
        ({"version": 190_000}, {"version": State.NOTE}),
        ({"is_replica": True}, {"takes writes": State.FAIL}),
        ({"default_transaction_read_only": "on"}, {"takes writes": State.FAIL}),
        ({"max_connections": "20"}, {"connections": State.WARN}),
        ({"clock_ahead_s": -0.4}, {"clock": State.WARN}),
        ({"is_superuser": True}, {"role": State.WARN}),
        ({"roles": {OWNER: True, CELL: True, AUDITOR: False}}, {"role": State.WARN}),
        ({"roles": {OWNER: False, CELL: False, AUDITOR: False}}, {"role": State.FAIL}),
        ({"log": {"exists": True, "too_much": "UPDATE", "guarded": True}}, {"append-only": State.FAIL}),
        ({"log": {"exists": True, "too_much": "", "guarded": False}}, {"append-only": State.FAIL}),
        ({"log": None}, {"schema": State.NOTE}),
        ({"migrations": {}}, {"schema": State.NOTE}),
        ({"migrations": {**GOOD.migrations, 9999: "x"}}, {"schema": State.NOTE}),
        ({"migrations": {**GOOD.migrations, 1: "x"}}, {"schema": State.FAIL}),
        ({"cell": "eu-west"}, {"cell": State.FAIL}),
    ],
)
def test_what_is_wrong_with_a_database(changes: dict[str, object], said: dict[str, State]) -> None:
    """Each fact that endangers money or service is reported, and nothing else."""
    assert found(**changes) == said


def test_processes_alone() -> None:
    """A process that does not answer, and a clock that is off."""
    assert bad(answered(LEADER)) == {}
    assert bad(answered(STANDBY)) == {}
    assert bad(answered(replace(LEADER, problem="UNAVAILABLE"))) == {"answers": State.FAIL}
    assert bad(answered(replace(LEADER, ahead_ms=-400.0))) == {"clock": State.WARN}
    assert bad(answered(replace(LEADER, ahead_ms=600.0))) == {"clock": State.FAIL}


def test_processes_together() -> None:
    """A cell has one leader, and a standby; clocks and versions agree."""
    other = replace(LEADER, cell="eu-west", endpoint="10.0.0.3:7400")
    assert bad(together([LEADER, STANDBY])) == {}
    assert bad(together([LEADER])) == {"leader": State.WARN}
    assert bad(together([LEADER, replace(STANDBY, problem="away")])) == {"leader": State.WARN}
    assert bad(together([STANDBY])) == {"leader": State.FAIL}
    apart = together([LEADER, STANDBY, replace(other, ahead_ms=900.0)])
    assert bad(apart) == {"leader": State.WARN, "clocks": State.FAIL}
    assert bad(together([LEADER, replace(STANDBY, version="1.1.0")])) == {"version": State.NOTE}


def test_an_older_version_in_a_rollout_is_no_failure() -> None:
    """Its leader is unknown, not absent. The other process of its cell is judged as ever."""
    older = replace(STANDBY, version="", is_older=True)
    assert bad(answered(older)) == {"version": State.NOTE}
    assert bad(together([older])) == {"leader": State.NOTE}
    assert bad(together([older, STANDBY])) == {"leader": State.NOTE}
    assert bad(together([older, LEADER])) == {}
    assert bad(together([STANDBY, replace(STANDBY, problem="away")])) == {"leader": State.FAIL}


def test_a_log_that_was_restored_from_an_old_backup() -> None:
    """Others have seen more of it than it has; later events, after they were asked, do not count."""
    here = replace(LEADER, known={"us-east": 40, "eu-west": 7})
    there = replace(LEADER, cell="eu-west", known={"us-east": 41, "eu-west": 9})
    assert bad(logs([here, there], [replace(here, known={"us-east": 41}), replace(there, known={"eu-west": 9})])) == {}
    assert bad(logs([here, there], [here, there])) == {"not an old one": State.FAIL}
    [finding] = logs([here, there], [here, there])
    assert finding.where == "us-east"
    assert "eu-west has seen position 41" in finding.detail
    told = bad(answered(replace(LEADER, trouble="it is not what was signed")))
    assert told == {"log": State.FAIL}


@pytest.mark.parametrize(("free", "state"), [(50, State.OK), (9, State.WARN), (2, State.FAIL)])
def test_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, state: State) -> None:
    """It is reported before PostgreSQL fails."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free, total=100))
    assert files.room(Examined("here"), tmp_path).state is state


def test_certificates_expire() -> None:
    """It is reported a month ahead."""
    now = datetime.now(UTC)
    assert files.expiry(Examined("here"), "certificate", now + timedelta(days=31)).state is State.OK
    assert files.expiry(Examined("here"), "certificate", now + timedelta(days=29)).state is State.WARN


def test_settings_are_read_as_the_process_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A problem names the setting; a router's file has settings that no cell has."""
    for name in [name for name in os.environ if name.startswith("CELLBOOK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CELLBOOK_DSN", "postgresql://x")
    config = tmp_path / "settings.toml"
    config.write_text('cell = "us-east"\nfee_bps = -1\n')
    settings, findings = files.examine_settings(config)
    assert settings is None
    assert [(each.state, each.detail.split(":")[0]) for each in findings] == [(State.FAIL, "fee_bps")]
    config.write_text(f'cells = ["a=b=c:1"]\nlisten = "{LOOPBACK}"\n')
    settings, findings = files.examine_settings(config)
    assert settings is not None
    assert settings.listen == LOOPBACK
    assert bad(findings) == {"TLS": State.NOTE}
    config.write_text('cell = "us-east"\nlisten = "0.0.0.0:1"\ninsecure_listen = true\nvault_key_file = "/none"\n')
    assert bad(files.examine_settings(config)[1]) == {"TLS": State.WARN, "vault_key_file": State.FAIL}
    assert bad(files.examine_settings(tmp_path / "none")[1]) == {"settings": State.FAIL}


# --- the doctor's comparison of the router's directory with the cells, user by user -----------------------------------


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(homes, "AGAIN_S", 0)
    monkeypatch.setattr(homes, "PAGE", 3)


def user(number: int) -> UUID:
    return UUID(int=number)


def side(*said: Home) -> Pages:
    """Pages of some homes."""

    async def pages(after: UUID, size: int) -> Sequence[Home]:
        return [home for home in sorted(said) if home.user_id > after][:size]

    return pages


async def silent(_after: UUID, _size: int) -> Sequence[Home]:
    raise HomesUnknown("UNAVAILABLE: nobody is there")


async def compared(directory: Pages, **cells: Pages) -> list[tuple[State, str]]:
    comparison = Comparison(directory=directory, cells=cells)
    return [(each.state, each.detail) for each in await comparison.findings()]


async def test_users_who_are_where_the_directory_has_them_are_in_order() -> None:
    """Over several pages, including users who are moving, and users whose account is not open yet."""
    listed = [Home(user(n), 1, "eu" if n % 2 else "us") for n in range(1, 20)]
    us = side(*(Home(user(n), 1, "") for n in range(2, 20, 2)))
    eu = side(*(Home(user(n), 1, "") for n in range(1, 19, 2)), Home(user(19), 1, "us"))
    unopened = Home(user(50), 1, "eu", is_open=False)
    assert await compared(side(*listed, unopened), us=us, eu=eu) == [
        (State.OK, "20 users, each at home where the directory has them")
    ]


@pytest.mark.parametrize(
    ("listed", "us", "eu", "told"),
    [
        ("us", Home(user(7), 1, ""), Home(user(7), 2, ""), "at home in eu (epoch 2) and us (epoch 1) at once"),
        ("us", None, Home(user(7), 2, ""), "says us (epoch 1), and is at home in eu (epoch 2)"),
        ("us", None, None, "the directory says us (epoch 1), and no cell says so"),
        ("us", Home(user(7), 2, ""), None, "says us (epoch 1), and is at home in us (epoch 2)"),
        ("", Home(user(7), 1, ""), None, "has a home in us, and the directory does not know them"),
    ],
)
async def test_a_user_who_is_elsewhere_is_named(listed: str, us: Home | None, eu: Home | None, told: str) -> None:
    """Whichever side is wrong, and among others who are right."""
    others = [Home(user(n), 1, "us") for n in (1, 2, 3, 4, 8, 9)]
    directory = side(*others, *([Home(user(7), 1, listed)] if listed else []))
    us_says = side(*(home._replace(cell="") for home in others), *([us] if us else []))
    [(state, detail)] = await compared(directory, us=us_says, eu=side(*([eu] if eu else [])))
    assert state is State.FAIL
    assert str(user(7)) in detail
    assert told in detail


async def test_a_cell_that_is_silent_is_not_proven() -> None:
    """Its users are reported neither as wrong nor as right."""
    directory = side(Home(user(1), 1, "us"), Home(user(2), 1, "eu"))
    [(state, detail)] = await compared(directory, us=side(Home(user(1), 1, "")), eu=silent)
    assert (state, detail) == (
        State.FAIL,
        "not proven: eu does not say who is at home there (UNAVAILABLE: nobody is there)",
    )
    [(state, detail)] = await compared(silent, us=side())
    assert state is State.FAIL
    assert "not proven" in detail


async def test_a_user_who_moves_meanwhile_is_no_finding() -> None:
    """The two sides are read at different moments, so differences are read again."""
    reads = 0

    async def moving(after: UUID, size: int) -> Sequence[Home]:
        nonlocal reads
        reads += 1
        return await side(Home(user(1), 1, "us") if reads == 1 else Home(user(1), 2, "eu"))(after, size)

    assert await compared(moving, us=side(), eu=side(Home(user(1), 2, ""))) == [
        (State.OK, "1 users, each at home where the directory has them")
    ]


async def test_more_users_than_are_compared_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctor's comparison is limited."""
    monkeypatch.setattr(homes, "USERS_MAX", 5)
    listed = [Home(user(n), 1, "us") for n in range(1, 20)]
    [(state, detail)] = await compared(side(*listed), us=side(*(home._replace(cell="") for home in listed)))
    assert (state, detail) == (State.WARN, "the first 5 users were compared")
