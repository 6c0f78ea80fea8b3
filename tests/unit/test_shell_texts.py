"""One rule for input, and visible output."""

import json
import unicodedata
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.shell.fields.personal import personal_in
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


# --- personal data is found in texts, and ordinary references are not mistaken for it ---------------------------------


IBANS = ("DE89370400440532013000", "DE89 3704 0044 0532 0130 00", "gb82west12345698765432", "NO9386011117947")
CARDS = ("4111111111111111", "4111 1111 1111 1111", "5555-5555-5555-4444", "378282246310005", "6011111111111117")


@pytest.mark.parametrize(
    ("texts", "what"),
    [
        (("ann@example.org", "from ann.jones@mail.example.org, today", "<a@b.de>"), "a mail address"),
        (("+49 170 1234567", "call +1 (555) 123-4567", "+442071838750"), "a telephone number"),
        ((*IBANS, f"refund to {IBANS[0]}", f"{IBANS[1]} Ann"), "an IBAN"),
        ((*CARDS, f"card {CARDS[1]}", f"{CARDS[0]}, twice"), "the number of a payment card"),
    ],
)
def test_what_says_who_somebody_is_is_found(texts: tuple[str, ...], what: str) -> None:
    """By its form and its checksum, anywhere in the text."""
    assert [personal_in(text) for text in texts] == [what] * len(texts)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "invoice \\u0000 4711",
        "a lamp, 1970s, 3 x 100 W, +20 %",
        "SEPA-2026-11-29/0001",
        "DE89370400440532013001",
        "4111111111111112",
        "R4111111111111111",
        "2026112900000000",
        "20261129-4711-0815-0000",
        "ch_3MmlLrLkdIwHu7ix0snN0B15",
        "74537604221431003881865",
        "12345678901234567890",
        "@home",
        "a+b",
        "1+1 = 2",
        "3.14159265358979",
    ],
)
def test_references_and_things_are_let_through(text: str) -> None:
    """A wrong digit, a letter before it, another length: neither a card nor an account."""
    assert personal_in(text) is None


def test_ids_are_let_through() -> None:
    """However many there are: most references contain them."""
    texts = [text for _ in range(20_000) for text in (str(uuid4()), uuid4().hex)]
    assert not [text for text in texts if personal_in(text)]
