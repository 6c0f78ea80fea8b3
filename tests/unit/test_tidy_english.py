"""Docstrings and comments of the product are plain sentences, and names are the field's words, not metaphors."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator

import pytest

from tests.unit.test_tidy import Source, sources, within

# Still to be edited.
UNEDITED = ("tests",)
# Metaphors that stood for: checkpoint signer, checkpoint file, history exporter, user bundle, reconciliation service,
# saga admin, location cache, local clearing, replay state, batch builder, uncommitted event, policy, mail sender.
METAPHORS = re.compile(
    r"(?i:.*(notary|luggage|atlas|purse|warden|courier|checkup|audit_?desk|saga_?desk|open_?batch).*)|_?[Pp]orter"
    r"|_?(memo|desk|ledge|baggage|stow|led_back|in_vain|Draft|Flight|Terms|Shadow|Arrivals|Endings|Memo|Ledge|Baggage)"
    r"|TOLD_MAX|LOOK_S"
)
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


def metaphors(source: Source) -> Iterator[str]:
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type == tokenize.NAME and METAPHORS.fullmatch(token.string):
            yield f"{source.module}:{token.start[0]}: {token.string}"


def test_names_are_the_words_of_the_field() -> None:
    """A newcomer reads names before docs: each is a word that ledgers, databases or gRPC use already."""
    found = [each for _, source in sources() for each in metaphors(source)]
    assert not found, "\n".join(["", *found])


def test_a_metaphor_is_found() -> None:
    """As a class, a variable or a part of a longer name; not as a part of another word."""
    text = "class Notary: ...\nmemo = courier_of(exporter)\nsupporters = 1"
    assert [each.rpartition(" ")[2] for each in metaphors(Source(module="cells.cell", text=text))] == [
        "Notary",
        "memo",
        "courier_of",
    ]


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
