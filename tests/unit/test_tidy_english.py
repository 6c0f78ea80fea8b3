"""Docstrings and comments of the product are plain sentences: none begins with a relative clause as its subject."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator

import pytest

from tests.unit.test_tidy import Source, sources, within

# Still to be edited.
UNEDITED = ("tests",)
OPENER = re.compile(r"(?:^|[.!?] )(Who|Whoever|Whose|Whom|What)\b(?![^.!?]*\?)")


def prose(source: Source) -> Iterator[tuple[int, str]]:
    """The docstrings and comments of a file, each with its line; lines of one comment are joined."""
    for node in ast.walk(source.tree):
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


def offences(source: Source) -> list[str]:
    if any(within(source.module, part) for part in UNEDITED):
        return []
    return [f"{source.module}:{line}: {text[:80]}" for line, text in prose(source) if OPENER.search(text)]


def test_no_sentence_opens_with_a_relative_clause() -> None:
    """Write subject, verb, object, and the condition first: "Commands that would wait longer are rejected"."""
    found = [offence for _, source in sources() for offence in offences(source)]
    assert not found, "\n".join(["", *found])


@pytest.mark.parametrize(
    ("text", "bites"),
    [
        ('"""Who would wait longer is turned away."""', True),
        ('"""It ends. What is left is dropped."""', True),
        ("# One line,\n# and another. Whoever asks is told.\nx = 1", True),
        ('"""Whether it is there."""', False),
        ('"""What is it? A log."""', False),
        ("x = 'Who is a string'", False),
    ],
)
def test_the_rule_bites(text: str, *, bites: bool) -> None:
    """It finds such sentences, and nothing else."""
    assert bool(offences(Source(module="cells.cell", text=text))) is bites
