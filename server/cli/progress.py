"""Progress: a moving bar on a terminal, one line per stage if the output goes to a file."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars


class Stage:
    """Counts the finished part of a stage. `left` sets the count from what is still to do."""

    def __init__(self, bars: Bars | None, title: str, total: int) -> None:
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


class Progress:
    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[Stage]:
        started = time.monotonic()
        with self._bars() if self._console.is_terminal else _nothing() as bars:
            yield Stage(bars, title, total)
        self._console.print(f"[dim]{title}: {time.monotonic() - started:.1f} s[/dim]", highlight=False)

    def _bars(self) -> Bars:
        return Bars(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )


@contextmanager
def _nothing() -> Iterator[None]:
    yield None
