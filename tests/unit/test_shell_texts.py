"""One rule for input, and visible output."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.shell.fields.texts import problem_of, shown, shown_json
from tests.strategies import PATIENT

UNSEEN = [
    "\x00", "\x07", "\t", "\n", "\r", "\x1b", "\x7f", "\x85", "\x9b", "\xad", "\ud800", "\udfff",
    "\u061c", "\u200b", "\u200e", "\u2028", "\u2029", "\u202a", "\u202e", "\u2066", "\u2069",
    "\ufeff", "\ufdd0", "\ufffe", "\U0001ffff", "\U000e0041",
]  # fmt: skip
ANY = st.text(st.characters() | st.sampled_from(UNSEEN))


@pytest.mark.parametrize("character", UNSEEN)
@pytest.mark.parametrize("identifier", [False, True])
def test_what_is_not_seen_does_not_come_in(character: str, identifier: bool) -> None:  # noqa: FBT001 - a parameter
    """Controls, directions, line ends, invisible formats, noncharacters: the refusal names them."""
    problem = problem_of(f"a{character}b", identifier=identifier)
    assert problem is not None
    assert f"U+{ord(character):04X}" in problem


@pytest.mark.parametrize(
    "text",
    ["", "invoice \\u0000 4711", "Ómalley", "漢字", "ع\u200cض", "\U0001f468\u200d\U0001f469", " a", "a\xa0b"],
)
def test_what_is_seen_comes_in(text: str) -> None:
    """A backslash is an ordinary character."""
    assert problem_of(text) is None


@pytest.mark.parametrize("text", [" a", "a ", "a\xa0b", "a\u3000", "a\u200db"])
def test_an_identifier_has_one_spelling(text: str) -> None:
    """No blanks at its ends, no look-alike blanks, and no invisible joiners."""
    assert problem_of(text, identifier=True) is not None


def test_a_text_has_one_form() -> None:
    """The composed one; two spellings of one reference would be two references."""
    apart = unicodedata.normalize("NFD", "é")
    assert "NFC" in str(problem_of(apart))
    assert problem_of("é") is None


@PATIENT
@given(ANY)
def test_what_goes_out_is_visible(text: str) -> None:
    """One line, without a control, a direction or a surrogate; JSON keeps its value."""
    assert shown(text).isprintable()
    line = shown_json(json.dumps({"said": text}, ensure_ascii=False))
    assert line.isprintable()
    assert json.loads(line) == {"said": text}
