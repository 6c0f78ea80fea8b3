"""The report for people: plain text if it is piped, colors only on a terminal."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.table import Table

from server.cli.screen import Screen

# The command was asked for JSON.
AS_JSON: ContextVar[bool] = ContextVar("as_json", default=False)
# Wide enough for every table, if there is no terminal to ask.
PIPED_WIDTH = 140


@contextmanager
def stdout() -> Iterator[Console]:
    """A terminal as it is; for a pipe, lines wide enough and without trailing blanks."""
    console = Screen()
    if console.is_terminal:
        yield console
        return
    console = Screen(width=PIPED_WIDTH)
    with console.capture() as captured:
        yield console
    for line in captured.get().splitlines():
        print(line.rstrip(), flush=True)


def line(said: str) -> None:
    """Shows one line of an ongoing operation at once."""
    with stdout() as console:
        console.print(said, soft_wrap=True)


def stderr() -> Console:
    return Screen(stderr=True)


def table(*columns: str, right: Sequence[int] = ()) -> Table:
    """`right`: the columns with numbers. A text that is too long is folded, never shortened."""
    made = Table(box=None, pad_edge=False, header_style="bold dim")
    for number, column in enumerate(columns):
        made.add_column(column, justify="right" if number in right else "left", overflow="fold")
    return made
