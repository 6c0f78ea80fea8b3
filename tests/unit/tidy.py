"""Style that no linter checks, as rules: a rule takes a source, and yields its offences."""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.util import resolve_name
from pathlib import Path

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


# Modules that may start a bare task: the starter, or its caller, gets the result or the error.
TASK_OWNERS = frozenset(
    {
        "cells.audit.reconcile.one_pass", "cells.background", "cells.home_cache",
        "cells.sagas.admin",
        "cells.writer.leadership",
        # A group, whose errors go to the surrounding background task.
        "cells.sagas.temporal",
        # It asks once whether the server is working, and otherwise ends the task that it watches.
        "cells.store.sessions",
        "cells.routing", "cells.writer.writer", "router.__main__", "router.moves.evacuation",
        "server.__main__", "server.audit.process", "server.services.audit", "server.shell.coalescer",
        "server.shell.channels.location_cache",
        "server.shell.channels.channel_pool", "server.shell.hosting.host", "server.shell.hosting.process",
        "server.shell.identity.keyset", "server.shell.postgres.embedded",
    }
)  # fmt: skip

# The prose of tests is still to be edited.
UNEDITED = ("tests",)
# Metaphors that stood for: checkpoint signer, checkpoint file, history exporter, user bundle, reconciliation service,
# saga admin, location cache, local clearing, replay state, batch builder, uncommitted event, policy, mail sender.
METAPHORS = re.compile(
    r"(?i:.*(notary|luggage|atlas|purse|warden|courier|checkup|audit_?desk|saga_?desk|open_?batch).*)|_?[Pp]orter"
    r"|_?(memo|desk|ledge|baggage|stow|led_back|in_vain|Draft|Flight|Terms|Shadow|Arrivals|Endings|Memo|Ledge|Baggage)"
    r"|TOLD_MAX|LOOK_S"
)
# A file without such a word has no such name, and is not taken apart.
WORD = re.compile(r"\w+")
OPENER = re.compile(r"(?:^|[.!?] )(Who|Whoever|Whose|Whom|What)\b(?![^.!?]*\?)")


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
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(ast.parse(self.text)))

    @cached_property
    def imports(self) -> list[Import]:
        return [
            found
            for node in self.nodes
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
        package = self.module if self.is_package else self.module.rpartition(".")[0]
        return resolve_name("." * node.level + (node.module or ""), package)


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
    for node in source.nodes:
        if isinstance(node, ast.Name) and node.id == "float":
            yield node.lineno, "float in the domain"
        if isinstance(node, ast.Constant) and isinstance(node.value, float):
            yield node.lineno, f"{node.value} in the domain"


def cells_are_told_the_time(source: Source) -> Offences:
    """Time, randomness and settings come through the ports; otherwise a simulation could not repeat itself."""
    if not within(source.module, "cells") or source.module in CLOCK_READERS:
        return
    bound = {found.bound: found.stands_for for found in source.imports}
    expressions = [node for node in source.nodes if isinstance(node, ast.expr)]
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
    docs = set(docstrings(source))
    for node in source.nodes:
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or id(node) in docs:
            continue
        if SQL_SHOUTED.match(node.value) or SQL_SPOKEN.match(node.value):
            yield node.lineno, f"SQL in Python: {node.value.strip()[:40]!r}"


def docstrings(source: Source) -> Iterator[int]:
    """The identities of the strings that stand alone."""
    for node in source.nodes:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield id(node.value)


def terminals_are_written_to_by_one_screen(source: Source) -> Offences:
    """Text from other parties is escaped on its way to a terminal: docs/texts.md."""
    if source.module == SCREEN or not any(within(source.module, part) for part in ("lab", "server")):
        return
    for node in source.nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Console":
            yield node.lineno, "a Console is a Screen of server.cli.screen"
    for found in source.imports:
        if within(found.name, "rich.markup"):
            yield found.line, "server.cli.screen.literal escapes, not rich.markup alone"


def functions_fit_a_screen(source: Source) -> Offences:
    """A longer function does too much."""
    for node in source.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield node.lineno, f"{node.name} has {lines} lines, more than {FUNCTION_LINES_MAX}"


def files_stay_small(source: Source) -> Offences:
    """A longer file holds two things."""
    lines = len(source.text.splitlines())
    if lines > FILE_LINES_MAX:
        yield lines, f"{lines} lines, more than {FILE_LINES_MAX}"


def background_work_is_supervised(source: Source) -> Offences:
    """Background work is a BackgroundTask; otherwise an unforeseen error would end it silently.

    Tasks that their starter waits for are different: TASK_OWNERS names the modules.
    """
    served = any(within(source.module, package) for package in ("cells", "server", "router"))
    if not served or within(source.module, "server.cli") or source.module in TASK_OWNERS:
        return
    for node in source.nodes:
        if isinstance(node, ast.Attribute) and node.attr in {"create_task", "ensure_future"}:
            yield node.lineno, f"{node.attr}: use cells.background.BackgroundTask"


def sentences_begin_with_their_subject(source: Source) -> Offences:
    """Write subject, verb, object, and the condition first: "Commands that would wait longer are rejected"."""
    if any(within(source.module, part) for part in UNEDITED):
        return
    for line, text in prose(source):
        if OPENER.search(text):
            yield line, text[:80]


def prose(source: Source) -> Iterator[tuple[int, str]]:
    """The docstrings and comments of a file, each with its line; lines of one comment are joined."""
    for node in source.nodes:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            for paragraph in node.value.value.split("\n\n"):
                yield node.lineno, " ".join(paragraph.split())
    begun, said, last = 0, "", -1
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type == tokenize.COMMENT:
            line, text = token.start[0], token.string.lstrip("# ")
            if line == last + 1:
                said = f"{said} {text}"
            else:
                yield begun, said
                begun, said = line, text
            last = line
    yield begun, said


def names_are_the_words_of_the_field(source: Source) -> Offences:
    """A newcomer reads names before docs: each is a word that ledgers, databases or gRPC use already."""
    if not any(map(METAPHORS.fullmatch, set(WORD.findall(source.text)))):
        return
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type == tokenize.NAME and METAPHORS.fullmatch(token.string):
            yield token.start[0], token.string


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
    background_work_is_supervised,
    sentences_begin_with_their_subject,
    names_are_the_words_of_the_field,
)


def sources() -> Iterator[tuple[Path, Source]]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            relative = path.relative_to(ROOT)
            parts = relative.with_suffix("").parts
            is_package = parts[-1] == "__init__"
            module = ".".join(parts[:-1] if is_package else parts)
            yield relative, Source(module=module, text=path.read_text("utf-8"), is_package=is_package)
