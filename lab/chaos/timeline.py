"""The events, one line each, with the time since the start; on a terminal, with the current state below."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from server.cli.screen import literal


class Timeline:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._started_s = time.monotonic()

    def say(self, text: str, *, style: str = "") -> None:
        said = f"[{style}]{literal(text)}[/{style}]" if style else literal(text)
        self._console.print(f"[dim]{self._now()}[/dim]  {said}", soft_wrap=True)

    @contextmanager
    def now(self) -> Iterator[Callable[[str], None]]:
        """For frequently changing text: shown in place on a terminal, and left out elsewhere."""
        if not self._console.is_terminal:
            yield lambda _: None
            return
        with self._console.status("") as status:
            yield lambda text: status.update(f"{self._now()}  {literal(text)}")

    def _now(self) -> str:
        minutes, seconds = divmod(time.monotonic() - self._started_s, 60)
        return f"{minutes:02.0f}:{seconds:04.1f}"
