"""All output for people goes through here, with an escape for texts from other parties (docs/texts.md).

`literal` makes such a text one visible line without markup. Screen is a second safeguard: whatever a command prints,
no invisible character reaches the terminal except the styles and line ends of its own layout.
"""

from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table

from server.shell.fields.texts import shown

# Wide enough for every table, if there is no terminal to ask.
PIPED_WIDTH = 140
COLUMN_GAP = 2


def literal(text: object) -> str:
    """For a line or a table cell: control characters and line ends are escaped, markup is disabled."""
    return escape(shown(str(text)))


class Screen(Console):
    def __init__(self, **how: Any) -> None:  # noqa: ANN401 - Console's
        # Rich would turn :warning: in a text into an emoji.
        super().__init__(highlight=False, emoji=False, **how)

    def print(self, *objects: Any, **how: Any) -> None:  # noqa: ANN401 - Console's
        """A terminal too narrow for a table's ids and amounts gets it as a pipe does, and wraps its lines itself."""
        width = self.width
        if any(isinstance(each, Table) and self._least_width(each) > width for each in objects):
            self.width = max(width, PIPED_WIDTH)
        super().print(*objects, **how)
        self.width = width

    def _least_width(self, table: Table) -> int:
        """Below it columns with `no_wrap` are cut, and words of the others broken."""
        least, options = 0, self.options.update_width(PIPED_WIDTH)
        for column in table.columns:
            cells = [Measurement.get(self, options, cell) for cell in (column.header, *column.cells)]
            least += max(cell.maximum if column.no_wrap else cell.minimum for cell in cells)
        return least + COLUMN_GAP * (len(table.columns) - 1)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else _visible(segment)


def _visible(segment: Segment) -> Segment:
    if segment.text.isprintable():
        return segment
    return Segment("\n".join(map(shown, segment.text.split("\n"))), segment.style)
