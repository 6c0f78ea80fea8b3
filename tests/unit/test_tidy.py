"""The project keeps to its style; each rule finds offending lines, so that it is known to work, and no others."""

from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.unit.tidy import (
    FILE_LINES_MAX,
    FUNCTION_LINES_MAX,
    RULES,
    TASK_OWNERS,
    Rule,
    Source,
    background_work_is_supervised,
    cells_are_told_the_time,
    cells_know_no_grpc,
    domain_has_no_float,
    domain_is_standard_library_only,
    files_stay_small,
    functions_fit_a_screen,
    imports_go_one_way,
    names_are_the_words_of_the_field,
    python_has_no_sql,
    sentences_begin_with_their_subject,
    sources,
    terminals_are_written_to_by_one_screen,
    within,
)

SHELL = "server.shell"


def named(rule: Rule) -> str:
    return rule.__name__


@pytest.fixture(scope="module")
def offences() -> dict[Rule, list[str]]:
    """Those of the whole project. Each file is parsed once, for all rules."""
    found: dict[Rule, list[str]] = {rule: [] for rule in RULES}
    for path, source in sources():
        for rule in RULES:
            found[rule] += [f"{path}:{line}: {what}" for line, what in rule(source)]
    return found


@pytest.mark.parametrize("rule", RULES, ids=named)
def test_the_project_is_tidy(rule: Rule, offences: dict[Rule, list[str]]) -> None:
    """No file of the project offends any rule."""
    assert not offences[rule], "\n".join(["", *offences[rule]])


LONG_FUNCTION = "def f():\n" + "    pass\n" * FUNCTION_LINES_MAX
OFFENDING: list[tuple[Rule, str, str]] = [
    (imports_go_one_way, "cells.cell", "import server"),
    (imports_go_one_way, "cells.cell", "from cellbook.v1 import ledger_pb2"),
    (imports_go_one_way, "cells.cell", "def f():\n    import router.directory"),
    (imports_go_one_way, "cells.domain.decide", "from cells import codec"),
    (imports_go_one_way, "cells.domain.decide", "from cells.store.ports import Clock"),
    (imports_go_one_way, "cells.domain.decide", "from ..ports import Clock"),
    (imports_go_one_way, "cells.domain.decide", "from .. import ports"),
    (imports_go_one_way, "cells.audit.verify.export", "from cells import codec"),
    (imports_go_one_way, "cells.audit.verify.export", "from .. import merkle"),
    (imports_go_one_way, "server.wire", "from router import directory"),
    (imports_go_one_way, "router.service", "from server import wire"),
    (imports_go_one_way, "router.service", "import server.services.ledger"),
    (imports_go_one_way, "router.service", "from cells.store import postgres"),
    (imports_go_one_way, "server.wire", "from tests import invariants"),
    (cells_know_no_grpc, "cells.cell", "import grpc"),
    (cells_know_no_grpc, "cells.audit.history.trace", "from grpc.aio import Channel"),
    (cells_know_no_grpc, "cells.cell", "from grpc_status import rpc_status"),
    (domain_is_standard_library_only, "cells.domain.values", "import pydantic"),
    (domain_is_standard_library_only, "cells.domain.values", "from msgspec import Struct"),
    (domain_is_standard_library_only, "cells.domain.values", "from google.protobuf import any_pb2"),
    (domain_has_no_float, "cells.domain.values", "def fee(rate: float | None): ..."),
    (domain_has_no_float, "cells.domain.values", "fee = float(amount)"),
    (domain_has_no_float, "cells.domain.values", "fee = amount * 0.1"),
    (cells_are_told_the_time, "cells.writer.writer", "import time\ntime.time()"),
    (cells_are_told_the_time, "cells.writer.writer", "import time as t\nt.monotonic()"),
    (cells_are_told_the_time, "cells.writer.writer", "from time import time_ns\ntime_ns()"),
    (cells_are_told_the_time, "cells.writer.writer", "from datetime import datetime, UTC\ndatetime.now(UTC)"),
    (cells_are_told_the_time, "cells.writer.writer", "import datetime\ndatetime.date.today()"),
    (cells_are_told_the_time, "cells.writer.writer", "import random\nrandom.uniform(0, 1)"),
    (cells_are_told_the_time, "cells.writer.writer", "import random\nsource = random.Random()"),
    (cells_are_told_the_time, "cells.writer.writer", "import uuid\nids = iter(uuid.uuid4, None)"),
    (cells_are_told_the_time, "cells.writer.writer", "from uuid import uuid7\nuuid7()"),
    (cells_are_told_the_time, "cells.writer.writer", "import os\nos.environ['HOME']"),
    (python_has_no_sql, "cells.store.postgres", "QUERY = 'SELECT 1'"),
    (python_has_no_sql, "cells.store.postgres", "QUERY = f'DELETE FROM {table}'"),
    (python_has_no_sql, "cells.store.postgres", "QUERY = '''\n    WITH last AS (\n    SELECT 1)'''"),
    (python_has_no_sql, "lab.command", "QUERY = 'insert into accounts values (1)'"),
    (python_has_no_sql, "lab.command", "QUERY = 'select name, id from cells'"),
    (python_has_no_sql, "lab.command", "QUERY = 'create role cell'"),
    (terminals_are_written_to_by_one_screen, "lab.command", "from rich.console import Console\nc = Console()"),
    (terminals_are_written_to_by_one_screen, "lab.command", "from rich.markup import escape"),
    (functions_fit_a_screen, "tests.unit.test_x", LONG_FUNCTION),
    (functions_fit_a_screen, "tests.unit.test_x", f"async {LONG_FUNCTION}"),
    (files_stay_small, "tests.unit.test_x", "x = 1\n" * (FILE_LINES_MAX + 1)),
    (background_work_is_supervised, "cells.writer.timers", "import asyncio\nasyncio.create_task(run())"),
    (background_work_is_supervised, "server.mail.sender", "import asyncio as a\na.ensure_future(run())"),
    (background_work_is_supervised, "router.probes", "async def f(group):\n    group.create_task(run())"),
    (sentences_begin_with_their_subject, "cells.cell", '"""Who would wait longer is turned away."""'),
    (sentences_begin_with_their_subject, "cells.cell", '"""It ends. What is left is dropped."""'),
    (sentences_begin_with_their_subject, "cells.cell", "# One line,\n# and another. Whoever asks is told.\nx = 1"),
    (names_are_the_words_of_the_field, "cells.cell", "class Notary: ..."),
    (names_are_the_words_of_the_field, "cells.cell", "memo = 1"),
    (names_are_the_words_of_the_field, "cells.cell", "courier_of(exporter)"),
]


@pytest.mark.parametrize(("rule", "module", "text"), OFFENDING)
def test_each_rule_bites(rule: Rule, module: str, text: str) -> None:
    """A rule finds the offence that it is made for."""
    assert list(rule(Source(module=module, text=text)))


def test_each_rule_is_tried() -> None:
    """No rule lacks an offending example."""
    assert {rule for rule, _, _ in OFFENDING} == set(RULES)


INNOCENT: list[tuple[Rule, str, str]] = [
    (imports_go_one_way, "cells.writer.writer", "from cells.domain.values import Money"),
    (imports_go_one_way, "cells.domain.decide", "from .values import Money"),
    (imports_go_one_way, "cells.audit.verify.export", "from .tree import Tree\nimport cryptography"),
    (imports_go_one_way, "server.wire", "from cells import cell\nfrom cellbook.v1 import ledger_pb2"),
    (imports_go_one_way, "router.service", "from server.shell import tls\nimport grpc"),
    (imports_go_one_way, "tests.e2e.test_x", "import router, server, cells"),
    (cells_know_no_grpc, "server.wire", "import grpc"),
    (domain_is_standard_library_only, "cells.domain.values", "from uuid import UUID"),
    (domain_is_standard_library_only, "cells.domain.record", "from msgspec import Struct"),
    (domain_has_no_float, "cells.sagas.native", "BACKOFF_S = 0.2"),
    (cells_are_told_the_time, "cells.time.clocks", "import time\ntime.time_ns()"),
    (cells_are_told_the_time, "cells.writer.writer", "now = self.time.clock.wall_ms()"),
    (cells_are_told_the_time, "cells.writer.writer", "import random\ndef f(source: random.Random): ..."),
    (cells_are_told_the_time, "cells.writer.writer", "from datetime import datetime\ndatetime.fromtimestamp(1)"),
    (cells_are_told_the_time, "server.__main__", "import os\nos.environ"),
    (python_has_no_sql, "cells.store.postgres", "def f():\n    '''SELECT is what this does not do.'''"),
    (python_has_no_sql, "cells.store.postgres", "raise Refused('Select one of the cells', 'with nothing left')"),
    (python_has_no_sql, "cells.domain.commands", "'CREATE_AUCTION'"),
    (python_has_no_sql, "cells.store.postgres", "moved = status == 'UPDATE 1'"),
    (python_has_no_sql, "tests.integration.test_x", "'SELECT 1'"),
    (terminals_are_written_to_by_one_screen, "lab.command", "from rich.console import Console\nx: Console"),
    (functions_fit_a_screen, "cells.cell", LONG_FUNCTION.removesuffix("    pass\n")),
    (files_stay_small, "cells.cell", "x = 1\n" * FILE_LINES_MAX),
    (background_work_is_supervised, "cells.writer.writer", "import asyncio\nasyncio.create_task(commit())"),
    (background_work_is_supervised, "lab.play", "import asyncio\nasyncio.create_task(bid())"),
    (background_work_is_supervised, "tests.unit.test_x", "import asyncio\nasyncio.create_task(run())"),
    (sentences_begin_with_their_subject, "cells.cell", '"""Whether it is there."""'),
    (sentences_begin_with_their_subject, "cells.cell", '"""What is it? A log."""'),
    (sentences_begin_with_their_subject, "cells.cell", "x = 'Who is a string'"),
    (names_are_the_words_of_the_field, "cells.cell", "supporters = exporter"),
]


@pytest.mark.parametrize(("rule", "module", "text"), INNOCENT)
def test_no_rule_bites_the_innocent(rule: Rule, module: str, text: str) -> None:
    """A rule does not complain about correct code."""
    assert not list(rule(Source(module=module, text=text)))


def test_the_owners_of_tasks_are_there() -> None:
    """No module is on the list that no longer starts a task."""
    starting = {
        source.module
        for _, source in sources()
        if source.module in TASK_OWNERS
        and list(background_work_is_supervised(Source(module=f"cells.{source.module}", text=source.text)))
    }
    assert starting == TASK_OWNERS


def imported(found: Iterable[Source]) -> dict[str, set[str]]:
    """Package of the shell -> the others that it imports."""
    graph: dict[str, set[str]] = {}
    for source in found:
        package = source.module.split(".")[:3]
        if within(source.module, SHELL) and len(source.module.split(".")) > 3:
            names = {tuple(each.name.split(".")[:3]) for each in source.imports if within(each.name, SHELL)}
            graph.setdefault(".".join(package), set()).update(".".join(name) for name in names - {tuple(package)})
    return graph


def test_no_circle_of_packages() -> None:
    """A package can be understood before those that use it."""
    TopologicalSorter(imported(source for _, source in sources())).prepare()


def test_a_circle_is_found() -> None:
    """Each of two packages imports the other."""
    here = Source(module="server.shell.calls.guard", text="from server.shell.hosting import host")
    there = Source(module="server.shell.hosting.host", text="from server.shell.calls import guard")
    with pytest.raises(CycleError):
        TopologicalSorter(imported([here, there])).prepare()
