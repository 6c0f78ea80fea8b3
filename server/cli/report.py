"""The output of commands: reports for people, JSON for programs, and progress on stderr."""

import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from server.cli.client import ClientError
from server.cli.screen import PIPED_WIDTH, Screen, literal

# The command was asked for JSON.
AS_JSON: ContextVar[bool] = ContextVar("as_json", default=False)


# --- answers --------------------------------------------------------------------------------------------------------


def show(
    content: Callable[[], object],
    tell: Callable[[Console], None] | str,
    problems: Sequence[str] = (),
    *,
    as_json: bool = False,
) -> None:
    """Prints an answer, for programs or for people. Raises ClientError if something in it is wrong."""
    if as_json or AS_JSON.get():
        print(json.dumps(content(), indent=2))
    else:
        _tell(tell)
    if problems:
        raise ClientError("; ".join(problems))


def show_line(content: object, tell: Callable[[Console], None] | str) -> None:
    """A part of an answer, at once: for programs in one line."""
    if AS_JSON.get():
        print(json.dumps(content), flush=True)
    else:
        _tell(tell)


def _tell(tell: Callable[[Console], None] | str) -> None:
    with stdout() as console:
        if isinstance(tell, str):
            console.print(tell, soft_wrap=True)
        else:
            tell(console)


def plain(message: Message) -> dict[str, Any]:
    """The message by the names of its fields, for JSON."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


# --- for people -----------------------------------------------------------------------------------------------------


@contextmanager
def stdout() -> Iterator[Console]:
    """A terminal as it is, with colors; for a pipe, plain lines wide enough and without trailing blanks."""
    console = Screen()
    if console.is_terminal:
        yield console
        return
    console = Screen(width=PIPED_WIDTH)
    with console.capture() as captured:
        yield console
    for each in captured.get().splitlines():
        print(each.rstrip(), flush=True)


def line(said: str) -> None:
    """Shows one line of an ongoing operation at once."""
    _tell(said)


def stderr() -> Console:
    return Screen(stderr=True)


def table(*columns: str, right: Collection[str] = (), no_wrap: Collection[str] = ()) -> Table:
    """An empty table; the columns named in `right` hold numbers. A text that is too long is folded, never shortened."""
    made = Table(box=None, pad_edge=False, header_style="bold dim")
    for each in columns:
        justify: Literal["left", "right"] = "right" if each in right else "left"
        made.add_column(literal(each), justify=justify, no_wrap=each in no_wrap, overflow="fold")
    return made


def tell_facts(console: Console, title: str, facts: Iterable[tuple[str, str]]) -> None:
    """A title in markup, and below it names with what is said of each."""
    console.print(title, soft_wrap=True)
    made = Table(box=None, show_header=False, pad_edge=False)
    for name, said in facts:
        made.add_row(f"[dim]{literal(name)}[/dim]", literal(said))
    console.print(made)


def tell_verdict(console: Console, wrong: Collection[str], proven: Iterable[str]) -> None:
    """Shows the problems, or, if there are none, what adds up."""
    for said in wrong or proven:
        console.print(f"{mark(held=not wrong)} {literal(said)}", soft_wrap=True)


def mark(*, held: bool) -> str:
    return "[green]ok[/green]" if held else "[red bold]NO[/red bold]"


# --- progress -------------------------------------------------------------------------------------------------------


class Stage:
    """Counts the finished part of a stage. `left` sets the count from what is still to do."""

    def __init__(self, bars: Progress | None, title: str, total: int) -> None:
        self.done = 0
        self._total = total
        self._bars = bars
        self._task = bars.add_task(title, total=total) if bars else None

    def advance(self, count: int = 1) -> None:
        self.left(self._total - self.done - count)

    def reached(self, done: int, total: int) -> None:
        """Sets both counts, if the total becomes known on the way."""
        self._total = max(total, done)
        self.left(self._total - done)

    def left(self, count: int) -> None:
        self._total = max(self._total, count)
        self.done = self._total - count
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, completed=self.done, total=self._total)


@contextmanager
def stage(title: str, total: int = 0, console: Console | None = None) -> Iterator[Stage]:
    """On stderr by default: a moving bar on a terminal, and one line at the end if the output goes to a file."""
    console, started_s = console or stderr(), time.monotonic()
    if console.is_terminal:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bars:
            yield Stage(bars, title, total)
    else:
        yield Stage(None, title, total)
    console.print(f"[dim]{title}: {time.monotonic() - started_s:.1f} s[/dim]", highlight=False)
