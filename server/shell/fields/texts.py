"""Texts from clients: one rule for input, and one escape for each kind of output (docs/texts.md).

Input is one line of visible characters in Unicode's composed form. Output may be older than the rule, or come from
another cell, so it is always escaped for its destination.
"""

import json
import unicodedata

# Join letters in Persian and Indic scripts, and the parts of an emoji.
_JOINERS = {"\u200c", "\u200d"}
# C0 and C1 controls, invisible and bidirectional formats, surrogates, line and paragraph separators.
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_NONCHARACTERS_FIRST, _NONCHARACTERS_LAST = 0xFDD0, 0xFDEF
_PLANE_ENDS = {0xFFFE, 0xFFFF}


def problem_of(text: str, *, identifier: bool = False) -> str | None:
    """The reason to refuse a text, or None. Two different identifiers never look the same."""
    if text.isascii() and text.isprintable():
        return _at_the_ends(text) if identifier else None
    for character in text:
        if not _is_seen(character, identifier=identifier):
            return f"holds {name_of(character)}: send one line of visible characters"
    if not unicodedata.is_normalized("NFC", text):
        return "is not in Unicode's composed form: normalize it to NFC"
    return _at_the_ends(text) if identifier else None


def _at_the_ends(text: str) -> str | None:
    return "begins or ends with a blank: strip it" if text != text.strip() else None


def _is_seen(character: str, *, identifier: bool) -> bool:
    code, category = ord(character), unicodedata.category(character)
    if _NONCHARACTERS_FIRST <= code <= _NONCHARACTERS_LAST or code & 0xFFFF in _PLANE_ENDS:
        return False
    if category == "Zs":
        # Blanks that look like the ASCII space and are not.
        return character == " " or not identifier
    return category not in _UNSEEN or (character in _JOINERS and not identifier)


def name_of(character: str) -> str:
    """Code point and Unicode name: U+202E RIGHT-TO-LEFT OVERRIDE."""
    return f"U+{ord(character):04X} {unicodedata.name(character, '')}".rstrip()


# --- out --------------------------------------------------------------------------------------------------------------


def shown(text: str) -> str:
    """For a terminal, or a line of plain text: invisible characters are escaped as Python escapes them."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _written_out(each) for each in text)


def _written_out(character: str) -> str:
    return ascii(character)[1:-1]


def shown_json(line: str) -> str:
    """One line of JSON with the invisible characters in its strings escaped: the same value, safe to display."""
    if line.isprintable():
        return line
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in line)
