"""All output for people goes through here, with an escape for texts from other parties (docs/texts.md).

`literal` makes such a text one visible line without markup. Screen is a second safeguard: whatever a command prints,
no invisible character reaches the terminal except the styles and line ends of its own layout.
"""

from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment

from server.shell.fields.texts import shown


def literal(text: object) -> str:
    """For a line or a table cell: control characters and line ends are escaped, markup is disabled."""
    return escape(shown(str(text)))


class Screen(Console):
    def __init__(self, **how: Any) -> None:  # noqa: ANN401 - Console's
        # Rich would turn :warning: in a text into an emoji.
        super().__init__(highlight=False, emoji=False, **how)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else _visible(segment)


def _visible(segment: Segment) -> Segment:
    if segment.text.isprintable():
        return segment
    return Segment("\n".join(map(shown, segment.text.split("\n"))), segment.style)
