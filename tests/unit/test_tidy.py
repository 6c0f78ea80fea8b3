"""Style that no linter checks: import directions, no float near money, no SQL in Python, small files.

A rule takes a source and yields its offences. Each rule is also tested on offending lines, so that it is known to
work.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("cells", "lab", "router", "server", "tests", "tools")
FUNCTION_LINES_MAX = 60
FILE_LINES_MAX = 400

# The packages that each part may import besides itself; the part with the longest path counts.
# protos <- cells <- server <- router, and inside cells domain <- everything else.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "cells.domain": (),
    # Auditors use the verifier on its own.
    "cells.audit.verify": (),
    "cells": (),
    "server": ("cells", "cellbook"),
    # A router is no ledger; it shares the words of the domain, and what any process needs.
    "router": ("server.shell", "cells.domain", "cells.background", "cells.home_cache", "cells.sql", "cellbook"),
    # The entry of the `cellbook` command has the commands of the lab, too.
    "server.cli.main": ("server", "lab", "cells", "cellbook"),
    # Its pages are open to those whom the router's policies, too, allow the calls.
    "server.console": ("server", "cells", "router.policies", "cellbook"),
    "lab": ("cells", "server", "router", "cellbook"),
    "tools": (),
}
PARTS = ("cells", "cellbook", "lab", "server", "router", "tests", "tools")
GRPC = re.compile(r"grpc(_\w+)?$")

# The adapters behind the ports Clock and Ids: the only place below the composition roots that may read them.
CLOCK_READERS = frozenset({"cells.time.clocks"})
IMPURE = (
    "datetime.date.today",
    "datetime.datetime.now",
    "datetime.datetime.today",
    "datetime.datetime.utcnow",
    "os.environ",
    "os.getenv",
    "os.urandom",
    "random",
    "secrets",
    "time",
    "uuid.uuid1",
    "uuid.uuid4",
    "uuid.uuid6",
    "uuid.uuid7",
)
# A generator that is passed in is an ordinary argument; making one reads randomness.
HANDED_IN = "random.Random"

# The base of every value of the domain: docs/decisions/0010-values-are-structs.md.
VALUES = "cells.domain.record"

# The only access to a terminal.
SCREEN = "server.cli.screen"

# In capitals any statement, but no command tag ("UPDATE 1"); otherwise only text that is no English sentence.
SQL_SHOUTED = re.compile(
    r"\s*(SELECT\s+\S|(INSERT|UPDATE|DELETE|CREATE|ALTER|DROP|TRUNCATE|WITH|GRANT|REVOKE)\s+[a-zA-Z_\"])"
)
SQL_SPOKEN = re.compile(
    r"""\s*(
        select\s+(\*|\d|\w+\(|[\w.,\s"]+\sfrom\s)
        | insert\s+into\s
        | update\s+[\w."]+\s+set\s
        | delete\s+from\s
        | (create|alter|drop)\s+
          (table|index|role|database|schema|trigger|view|type|function|user|sequence|system)\s
        | truncate\s+table\s
        | with\s+(recursive\s+)?\w+\s+as\s+(materialized\s+)?\(
        | (grant|revoke)\s+[\w,\s]+\son\s
    )""",
    re.VERBOSE | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    line: int
    # "cells.domain.values.Money", however it was imported; relative imports are made absolute.
    name: str
    # Its name in the file, and the name that this stands for: ("datetime", "datetime.datetime").
    bound: str
    stands_for: str


@dataclass(frozen=True)
class Source:
    """One file: its dotted module name and its text."""

    module: str
    text: str
    is_package: bool = False

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def imports(self) -> list[Import]:
        return [
            found
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for found in self._imported(node)
        ]

    def _imported(self, node: ast.Import | ast.ImportFrom) -> Iterator[Import]:
        for alias in node.names:
            if isinstance(node, ast.Import):
                top = alias.name.partition(".")[0]
                name, bound = alias.name, alias.asname or top
                stands_for = alias.name if alias.asname else top
            else:
                name = stands_for = f"{self._origin(node)}.{alias.name}"
                bound = alias.asname or alias.name
            yield Import(line=node.lineno, name=name, bound=bound, stands_for=stands_for)

    def _origin(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        package = self.module.split(".")[: None if self.is_package else -1]
        kept = package[: len(package) - (node.level - 1)]
        return ".".join([*kept, *([node.module] if node.module else [])])


Offences = Iterator[tuple[int, str]]
Rule = Callable[[Source], Offences]


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def imports_go_one_way(source: Source) -> Offences:
    """Protos <- cells <- server <- router; the router is no ledger, and imports only what any process needs."""
    part = max((part for part in MAY_IMPORT if within(source.module, part)), key=len, default=None)
    if part is None:
        return
    allowed = (part, *MAY_IMPORT[part])
    for found in source.imports:
        ours = any(within(found.name, known) for known in PARTS)
        if ours and not any(within(found.name, package) for package in allowed):
            yield found.line, f"{part} does not import {found.name}"


def cells_know_no_grpc(source: Source) -> Offences:
    """A cell is independent of the wire."""
    for found in source.imports:
        if within(source.module, "cells") and GRPC.match(found.name.partition(".")[0]):
            yield found.line, f"cells never imports {found.name}"


def domain_is_standard_library_only(source: Source) -> Offences:
    """The domain needs only Python, and the library for its values."""
    if not within(source.module, "cells.domain"):
        return
    for found in source.imports:
        top = found.name.partition(".")[0]
        known = {"cells", "msgspec"} if source.module == VALUES else {"cells"}
        if top not in known and top not in sys.stdlib_module_names:
            yield found.line, f"cells.domain imports the standard library and itself, not {found.name}"


def domain_has_no_float(source: Source) -> Offences:
    """Money is counted in integers."""
    if not within(source.module, "cells.domain"):
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Name) and node.id == "float":
            yield node.lineno, "float in the domain"
        if isinstance(node, ast.Constant) and isinstance(node.value, float):
            yield node.lineno, f"{node.value} in the domain"


def cells_are_told_the_time(source: Source) -> Offences:
    """Time, randomness and settings come through the ports; otherwise a simulation could not repeat itself."""
    if not within(source.module, "cells") or source.module in CLOCK_READERS:
        return
    bound = {found.bound: found.stands_for for found in source.imports}
    expressions = [node for node in ast.walk(source.tree) if isinstance(node, ast.expr)]
    called = {id(node.func) for node in expressions if isinstance(node, ast.Call)}
    for node in expressions:
        name = dotted(node, bound)
        if name == HANDED_IN and id(node) not in called:
            continue
        # A module's own name reads nothing yet.
        if name and "." in name and any(within(name, impure) for impure in IMPURE):
            yield node.lineno, f"{name} outside the composition root"


def dotted(node: ast.expr, bound: dict[str, str]) -> str | None:
    """The full name of a name or a chain of attributes, by the file's imports."""
    match node:
        case ast.Name(id=name, ctx=ast.Load()):
            return bound.get(name)
        case ast.Attribute(value=value, attr=attr):
            base = dotted(value, bound)
            return f"{base}.{attr}" if base else None
        case _:
            return None


def python_has_no_sql(source: Source) -> Offences:
    """SQL lives in .sql files; tests may query the database directly."""
    if within(source.module, "tests"):
        return
    docs = set(docstrings(source.tree))
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or id(node) in docs:
            continue
        if SQL_SHOUTED.match(node.value) or SQL_SPOKEN.match(node.value):
            yield node.lineno, f"SQL in Python: {node.value.strip()[:40]!r}"


def docstrings(tree: ast.Module) -> Iterator[int]:
    """The identities of the strings that stand alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield id(node.value)


def terminals_are_written_to_by_one_screen(source: Source) -> Offences:
    """Text from other parties is escaped on its way to a terminal: docs/texts.md."""
    if source.module == SCREEN or not any(within(source.module, part) for part in ("lab", "server")):
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Console":
            yield node.lineno, "a Console is a Screen of server.cli.screen"
    for found in source.imports:
        if within(found.name, "rich.markup"):
            yield found.line, "server.cli.screen.literal escapes, not rich.markup alone"


def functions_fit_a_screen(source: Source) -> Offences:
    """A longer function does too much."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield node.lineno, f"{node.name} has {lines} lines, more than {FUNCTION_LINES_MAX}"


def files_stay_small(source: Source) -> Offences:
    """A longer file holds two things."""
    lines = len(source.text.splitlines())
    if lines > FILE_LINES_MAX:
        yield lines, f"{lines} lines, more than {FILE_LINES_MAX}"


RULES: tuple[Rule, ...] = (
    imports_go_one_way,
    cells_know_no_grpc,
    domain_is_standard_library_only,
    domain_has_no_float,
    cells_are_told_the_time,
    python_has_no_sql,
    terminals_are_written_to_by_one_screen,
    functions_fit_a_screen,
    files_stay_small,
)


def sources() -> Iterator[tuple[Path, Source]]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            relative = path.relative_to(ROOT)
            parts = relative.with_suffix("").parts
            is_package = parts[-1] == "__init__"
            module = ".".join(parts[:-1] if is_package else parts)
            yield relative, Source(module=module, text=path.read_text("utf-8"), is_package=is_package)


def named(rule: Rule) -> str:
    return rule.__name__


@pytest.mark.parametrize("rule", RULES, ids=named)
def test_the_project_is_tidy(rule: Rule) -> None:
    """No file of the project offends any rule."""
    offences = [f"{path}:{line}: {what}" for path, source in sources() for line, what in rule(source)]
    assert not offences, "\n".join(["", *offences])


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
]


@pytest.mark.parametrize(("rule", "module", "text"), INNOCENT)
def test_no_rule_bites_the_innocent(rule: Rule, module: str, text: str) -> None:
    """A rule does not complain about correct code."""
    assert not list(rule(Source(module=module, text=text)))
