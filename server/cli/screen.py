"""Where all output for people goes, and how a text that somebody else chose gets there (docs/texts.md).

`literal` makes such a text one visible line and no markup. Screen is the net below it: whatever a command prints,
nothing invisible reaches the terminal but the styles and line ends of its own layout.
"""

from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment

from server.shell.texts import shown


def literal(text: object) -> str:
    """For a line or a cell of a table: control characters and line ends written out, and no markup."""
    return escape(shown(str(text)))


class Screen(Console):
    def __init__(self, **how: Any) -> None:  # noqa: ANN401 - Console's
        # Rich would turn :warning: in a text into a picture.
        super().__init__(highlight=False, emoji=False, **how)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else _visible(segment)


def _visible(segment: Segment) -> Segment:
    if segment.text.isprintable():
        return segment
    return Segment("\n".join(map(shown, segment.text.split("\n"))), segment.style)
