"""What the docs draw from the code: refusals, events, sagas, who may call what, and the bounds of fields.

`python -m tests.pages` (or `make pages`) writes it.
"""

import ast
import string
import typing
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from types import UnionType
from typing import Any
from uuid import UUID

from cells.domain import refusals
from cells.domain.audit.refusals import (
    AtHomeElsewhere,
    AuditUnderWay,
    Damaged,
    MomentNotReached,
    PositionNotReached,
    StateUnderRepair,
    WasMoving,
)
from cells.domain.event import Event
from cells.domain.events import EVENT_TYPES
from cells.domain.moves import refusals as move_refusals
from cells.domain.record import fields_of
from cells.domain.refusals import REFUSALS, Refused
from cells.domain.sagas.definition import SAGAS, LegSpec
from cells.domain.sagas.saga import diagram
from cells.domain.sagas.saga_events import SagaFacts
from cells.domain.values import Kind
from server.shell.calls.statuses import HOME_CELL, code_of
from server.shell.identity.denials import SignatureInvalid, SignatureMissing
from tests import bounds, roles

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("cells", "server", "router")
MADE = "<!-- drawn from the code by `make pages`, held by tests/unit/test_pages.py -->\n"

# A caller's next step; the nearest class up the tree counts.
NEXT: dict[type[Refused], str] = {
    refusals.Invalid: "correct the request; it was not executed, so its `command_id` is free",
    refusals.CommandIdExpired: "look for its effect (statement); send it with a new id only if there is none",
    refusals.CommandIdAhead: "correct your clock, and make a new id",
    refusals.RequestTooLarge: "send less in one request",
    refusals.BusinessRefusal: "read the facts; a later try is a new command with a new `command_id`",
    refusals.InsufficientFunds: "bring in money or ask for less, with a new `command_id`",
    refusals.BidTooLow: "bid at least `least_minor`, with a new `command_id`",
    refusals.NotFound: "correct the name, or ask the cell that has it",
    refusals.UserNotFound: "register the user with the router, then send the same again",
    refusals.CommandNotFound: "send the command under its id: one that is in transit may arrive after this answer",
    refusals.Conflict: "correct the request: it contradicts an earlier one",
    refusals.CommandIdReused: "use a new `command_id` for a new request",
    refusals.Misrouted: "send the same to the named cell, under the same id",
    refusals.WrongCell: f"send the same to `{HOME_CELL}`, under the same id; of two epochs the higher one is right",
    refusals.CellUnknown: "correct the cell's name, or register the cell with the router",
    refusals.Denied: "use a principal with the right; an earlier attempt of the same command may have been executed",
    SignatureMissing: "sign the command (docs/clients.md), and send it under the same id",
    SignatureInvalid: "sign this very command with your own key (docs/clients.md), and send it under the same id",
    refusals.Busy: "wait (`RetryInfo`), then send the same under the same id",
    refusals.ClockRefusal: "have the clock corrected, then send the same under the same id",
    Damaged: "have an operator restore the rows; until then they are not used for answers",
    refusals.Unknown: "send the same under the same id until the answer is final, or ask `GetCommand`",
    refusals.NotLeading: "send the same to another process of the cell, under the same id",
    move_refusals.HomeChanged: f"request the move again: the user is at home in `{HOME_CELL}` now",
    WasMoving: "ask for a time before the departure, or after the arrival in `to_cell`",
    AtHomeElsewhere: f"ask `{HOME_CELL}` for that time",
    PositionNotReached: "subscribe from `next`; if you have seen later events, tell the operator: data is lost",
    MomentNotReached: "ask again once the cell's clock has reached it",
    StateUnderRepair: "wait for the operator's repair, then send the same under the same id",
    AuditUnderWay: "ask again when the audit under way has ended",
}


def refusals_page() -> str:
    """One row per refusal, grouped by code."""
    _import_all()
    facts = dict(_facts_given())
    rows = sorted(leaves(), key=lambda refused: (code_of(refused).name, refused.reason))
    lines = [
        "| reason | code | final | facts | what it says | what to do |",
        "|---|---|---|---|---|---|",
        *(_refusal_row(refused, facts.get(refused.__name__, set())) for refused in rows),
    ]
    return REFUSALS_HEAD + MADE + "\n" + "\n".join(lines) + "\n"


def leaves() -> Iterator[type[Refused]]:
    """Every refusal of cells and routers, without the groups."""
    for refused in REFUSALS.values():
        own = refused.__module__.partition(".")[0] in PARTS
        if own and (not refused.__subclasses__() or refused is refusals.Unavailable):
            yield refused


def _import_all() -> None:
    """Imports every module with refusals, which registers them."""
    for part in PARTS:
        for module in walk_packages(import_module(part).__path__, f"{part}."):
            if "refusals" in module.name or "denials" in module.name:
                import_module(module.name)


def _facts_given() -> Iterator[tuple[str, set[str]]]:
    """Name of a class -> the facts that the code passes wherever it is raised."""
    given: dict[str, set[str]] = {}
    for part in PARTS:
        for file in (ROOT / part).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                    name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
                    given.setdefault(name, set()).update(each.arg for each in node.keywords if each.arg)
    yield from given.items()


def _refusal_row(refused: type[Refused], given: set[str]) -> str:
    says = " ".join((refused.__doc__ or "").split())
    named = [name for _, name, _, _ in string.Formatter().parse(says) if name]
    facts = [*dict.fromkeys(named), *sorted(given - set(named))]
    if refused.home_fact:
        facts.append(HOME_CELL)
    columns = (
        f"`{refused.reason}`",
        code_of(refused).name,
        "yes" if refused.final else "no",
        ", ".join(f"`{name}`" for name in facts),
        says.replace("!r}", "}").replace("|", r"\|"),
        next(NEXT[ancestor] for ancestor in refused.__mro__ if ancestor in NEXT),
    )
    return f"| {' | '.join(columns)} |"


REFUSALS_HEAD = """# Refusals

Every refusal of a cell or a router is a gRPC status with `google.rpc.ErrorInfo` of domain `cellbook.v1`: `reason`
identifies it, `metadata` holds its facts as text, and `final` says whether it is final. Batches and `GetCommand` answer
the same status, item by item.

- `final` is `true`: a definite refusal, and nothing has changed.
- `final` is `false`: this answer decides nothing, and an earlier attempt of the same command may have been executed. Do
  what the table says, under the same `command_id`.
- There is no `ErrorInfo` of this domain: the outcome is unknown. Send the same again under the same `command_id`.

If you do not know the reason, use `final`: reasons may be added, and whether one is final never changes. Facts are
never removed. `home_cell` names the user's home, in each refusal that knows it; `cell` is the asked cell in one reason
and the user's home in another, and stays as it is for existing clients.

"""


# --- events -----------------------------------------------------------------------------------------------------------


def events_page() -> str:
    """One row per event, by its stream."""
    lines = ["| event | v | fields of the payload | postings | what |", "|---|---|---|---|---|"]
    parts = [EVENTS_HEAD + MADE]
    for kind in Kind:
        events = sorted(
            (event for event in EVENT_TYPES.values() if event.kind is kind), key=lambda event: event.event_type
        )
        if events:
            rows = [*lines, *map(_event_row, events)]
            parts.append(f"## Streams of kind `{kind.value.lower()}`\n\n" + "\n".join(rows) + "\n")
    facts = "\n".join(f"| `{_type(each)}` | {_fields(each)} |" for each in typing.get_args(SagaFacts))
    parts.append(f"## The facts of a saga\n\nBy their `type`.\n\n| type | fields |\n|---|---|\n{facts}\n")
    return "\n".join(parts)


def _event_row(event: type[Event]) -> str:
    # msgspec gives a struct without one its signature.
    doc = " ".join((event.__doc__ or "").split())
    columns = (
        f"`{event.event_type}`",
        str(event.version),
        _fields(event),
        _postings(event),
        "" if doc.startswith(event.__name__) else doc,
    )
    return f"| {' | '.join(columns)} |"


def _fields(record: Any) -> str:  # noqa: ANN401 - a class of structs
    hints = typing.get_type_hints(record)
    return ", ".join(f"`{name}`{_shape(name, hints[name])}" for name in fields_of(record))


def _shape(name: str, hint: Any) -> str:  # noqa: ANN401 - any annotation
    """How it stands in the payload; amounts and times are told by their names (log-format.md)."""
    if isinstance(hint, UnionType):
        optional = type(None) in hint.__args__
        kinds = {_json(name, each) for each in hint.__args__ if each is not type(None)}
        return f" ({' or '.join(sorted(kinds))}{', may be null' if optional else ''})"
    return f" ({_json(name, hint)})"


def _json(name: str, hint: Any) -> str:  # noqa: ANN401 - any annotation
    if hint is int:
        return "amount" if name.endswith("_minor") else "integer"
    known = {str: "text", bool: "true or false", UUID: "UUID"}
    if hint in known:
        return known[hint]
    origin = typing.get_origin(hint)
    if origin is None:
        return f"`{_type(hint)}`" if hint in typing.get_args(SagaFacts) else "object"
    return "object" if origin is dict else "list"


def _type(record: type[Any]) -> str:
    """As the stored form names it."""
    return "".join(f"_{letter}" if letter.isupper() else letter for letter in record.__name__).upper().lstrip("_")


def _postings(event: type[Event]) -> str:
    """The postings of an example event, read back: each amount is a power of ten of its own."""
    hints = typing.get_type_hints(event)
    amounts = [name for name in fields_of(event) if hints[name] is int and name.endswith("_minor")]
    example = event(**{name: _example(name, hints[name], amounts) for name in fields_of(event)})
    movement = example.movement()
    if movement is None:
        return ""
    lines = movement.lines(event.kind, UUID(int=0))
    shown = [f"{_account(account)} {_terms(change, amounts)}" for account, _, change in lines]
    return "; ".join(shown)


def _example(name: str, hint: Any, amounts: list[str]) -> Any:  # noqa: ANN401 - of any field
    if name in amounts:
        return 10 ** (2 * amounts.index(name))
    if hint is str:
        return f"{{{name}}}"
    return UUID(int=0) if hint is UUID else None


def _account(account: str) -> str:
    return f"`{account.removeprefix(f'users/{UUID(int=0)}/').replace(str(UUID(int=0)), '{auction}')}`"


def _terms(change: int, amounts: list[str]) -> str:
    terms = []
    for index, name in enumerate(amounts):
        # The digit pair of this amount, signed.
        digit = (change + 50 * 100**index) // 100**index % 100 - 50
        if digit:
            terms.append(f"{'+' if digit > 0 else '-'} {name}")
        change -= digit * 100**index
    return " ".join(terms)


EVENTS_HEAD = """# Events

Each kind of event that a log may hold: its type, the version of its stored form, the fields of its payload, and its
postings. [The log format](log-format.md) defines how they are stored. `available`, `reserved` and `pending` are the
account's own (`users/{id}/..`); a posting with amount 0 is left out. Within a version fields are never removed.

"""


# --- sagas ------------------------------------------------------------------------------------------------------------


def state_diagram() -> str:
    return f"```mermaid\n{diagram()}\n```\n"


def legs_in_brief() -> str:
    lines = ["| saga | legs | pivot |", "|---|---|---|"]
    for saga in SAGAS.values():
        legs = saga.versions[max(saga.versions)]
        pivot = next(spec.leg for spec in legs if spec.pivot)
        lines.append(f"| {saga.title} | {', '.join(spec.leg for spec in legs)} | {pivot} |")
    return "\n".join(lines) + "\n"


def legs_in_full() -> str:
    """The legs of each saga: the cell that takes it, the event of its effect, and the one that undoes it."""
    parts = []
    for saga in SAGAS.values():
        rows = [_leg_row(spec) for spec in saga.versions[max(saga.versions)]]
        head = ["| leg | in the cell of | effect | undone by | |", "|---|---|---|---|---|"]
        parts.append("\n".join([f"**{saga.title[0].upper()}{saga.title[1:]}**", "", *head, *rows, ""]))
    return "\n".join(parts)


def _leg_row(spec: LegSpec) -> str:
    effect = spec.effect
    kinds = ["pivot"] * spec.pivot + ["best effort"] * spec.best_effort
    undo = _event_of(effect.undo) if effect.undo is not None else ""
    where = spec.at.removesuffix("_cell")
    return f"| {spec.leg} | {where} | {_event_of(effect.apply)} | {undo} | {', '.join(kinds)} |"


def _event_of(rule: Any) -> str:  # noqa: ANN401 - a rule of any action
    """The event that the rule returns, by its annotation; empty if there is none."""
    event = typing.get_type_hints(rule)["return"]
    return "" if event is typing.NoReturn else f"`{event.event_type}`"


PAGES: dict[Path, Callable[[], str]] = {
    ROOT / "docs" / "refusals.md": refusals_page,
    ROOT / "docs" / "events.md": events_page,
}
# Page and marker -> what stands between the markers.
PARTS_OF_PAGES: dict[tuple[Path, str], Callable[[], str]] = {
    (ROOT / "docs" / "concepts.md", "saga-legs"): legs_in_brief,
    (ROOT / "docs" / "concepts.md", "saga-states"): state_diagram,
    (ROOT / "docs" / "sagas.md", "saga-legs"): legs_in_full,
    (ROOT / "docs" / "security.md", "roles"): roles.table,
    (ROOT / "docs" / "bounds.md", "bounds"): bounds.table,
}


def drawn(path: Path, marker: str) -> str:
    """The page with a fresh part between its markers."""
    before, begin, rest = path.read_text("utf-8").partition(f"<!-- {marker}:")
    comment, _, rest = rest.partition("\n")
    _, end, after = rest.partition(f"<!-- /{marker} -->")
    return f"{before}{begin}{comment}\n\n{PARTS_OF_PAGES[path, marker]()}\n{end}{after}"


if __name__ == "__main__":
    for path, page in PAGES.items():
        path.write_text(page(), "utf-8")
    for path, marker in PARTS_OF_PAGES:
        path.write_text(drawn(path, marker), "utf-8")
