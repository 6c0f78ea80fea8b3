"""Vector clocks: cell -> the highest durable position of that cell's log that something may depend on.

A missing cell is at 0. In metadata a vector reads "eu-west=7,us-east=12", sorted by name.
"""

import re
from collections.abc import Mapping

from cells.domain.refusals import FieldInvalid

CELLS_MAX = 64
POSITION_MAX = (1 << 63) - 1
CELL_NAME = re.compile(r"[a-z0-9-]{1,32}")
_ENTRY = re.compile(r"([a-z0-9-]{1,32})=(0|[1-9][0-9]{0,18})")
_TEXT_MAX = CELLS_MAX * len(f"{'c' * 32}={POSITION_MAX},")
_SHOWN_MAX = 80

Vector = dict[str, int]


def format_vector(vector: Mapping[str, int]) -> str:
    return ",".join(f"{cell}={vector[cell]}" for cell in sorted(vector))


def parse_vector(text: str, *, field: str) -> Vector:
    """Reads the metadata form; the empty text is the empty vector. `field` names it in the refusal.

    Raises:
        FieldInvalid: malformed, a cell named twice, more than 64 cells, or a position past 64 bits.
    """
    if not text:
        return {}
    if len(text) > _TEXT_MAX:
        raise _invalid(field, f"longer than {CELLS_MAX} cells need", text)
    vector: Vector = {}
    for entry in text.split(","):
        parts = _ENTRY.fullmatch(entry)
        if parts is None:
            raise _invalid(field, "expected name=position, separated by commas", entry)
        cell, position = parts[1], int(parts[2])
        if cell in vector:
            raise _invalid(field, "a cell is named twice", entry)
        if position > POSITION_MAX:
            raise _invalid(field, "the position does not fit in 64 bits", entry)
        vector[cell] = position
    if len(vector) > CELLS_MAX:
        raise _invalid(field, f"more than {CELLS_MAX} cells", text)
    return vector


def _invalid(field: str, problem: str, value: str) -> FieldInvalid:
    return FieldInvalid(field=field, problem=problem, value=value[:_SHOWN_MAX])
