"""Finds personal data in texts that would be written into the log, which is kept forever (docs/privacy.md).

Only the form of a text is examined, and false alarms are rare: email addresses, telephone numbers with a country code,
IBANs by length and checksum, and payment card numbers by issuer, length and checksum.
"""

import re

_AT = re.compile(r"[^\s@]@[^\s@]+\.[^\s@]")
_PHONE = re.compile(r"(?<!\w)\+ ?[1-9](?:[ ()./-]{0,2}[0-9]){7,14}(?!\w)")
_IBAN = re.compile(r"(?<![\w-])[A-Z]{2}[0-9]{2}(?:[A-Z0-9]{11,29}(?![\w-])|(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,4})?)")
_CARD = re.compile(r"(?<![\w-])[0-9](?:[ -]?[0-9]){12,18}(?![\w-])")
# A card number or an IBAN contains at least one of these. Most references have none, and are not examined further.
_GROUPS = re.compile(r"[0-9]{4}-[0-9]{4,6}-")
_NUMBER_CHARS_MIN = 13

# Lengths by country, from the IBAN registry (ISO 13616).
_IBANS = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29 "
    "ES24 FI18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 "
    "LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 "
    "QA29 RO24 RS22 SA24 SC31 SE24 SI19 SK24 SM27 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 "
)
_IBAN_LENGTHS = {each[:2]: int(each[2:]) for each in _IBANS.split()}
# First digits -> lengths: American Express, Visa, Mastercard, Discover, JCB, Diners, UnionPay.
_CARDS = (
    (re.compile(r"3[47]"), {15}),
    (re.compile(r"4"), {13, 16, 19}),
    (re.compile(r"5[1-5]|2(22[1-9]|2[3-9]|[3-6]|7[01]|720)"), {16}),
    (re.compile(r"6(011|4[4-9]|5)"), {16, 19}),
    (re.compile(r"35(2[89]|[3-8])"), {16, 19}),
    (re.compile(r"3(0[0-5]|[68])"), {14, 16, 19}),
    (re.compile(r"62"), {16, 17, 18, 19}),
)


def personal_in(text: str) -> str | None:
    """The kind of personal data that a text seems to hold, or None."""
    if "@" in text and _AT.search(text):
        return "a mail address"
    if "+" in text and _PHONE.search(text):
        return "a telephone number"
    whole = max(map(len, text.split("-"))) >= _NUMBER_CHARS_MIN
    if not whole and _GROUPS.search(text) is None:
        return None
    if whole and any(_is_iban(found[0]) for found in _IBAN.finditer(text.upper())):
        return "an IBAN"
    if any(_is_card(re.sub(r"[ -]", "", found[0])) for found in _CARD.finditer(text)):
        return "the number of a payment card"
    return None


def _is_iban(found: str) -> bool:
    """Checks the country's length and ISO 7064's MOD 97-10. If written in groups of four, a word may follow."""
    length, text = _IBAN_LENGTHS.get(found[:2], 0), found.replace(" ", "")
    number = text[:length]
    digits = "".join(str(int(each, 36)) for each in number[4:] + number[:4])
    fits = length == len(text) or (" " in found and length < len(text))
    return length > 0 and fits and int(digits) % 97 == 1


def _is_card(digits: str) -> bool:
    """By the issuer's first digits and lengths, and the checksum of ISO/IEC 7812-1."""
    issued = any(first.match(digits) and len(digits) in lengths for first, lengths in _CARDS)
    doubled = (int(each) * (2 if place % 2 else 1) for place, each in enumerate(reversed(digits)))
    return issued and sum(each - 9 * (each > 9) for each in doubled) % 10 == 0  # noqa: PLR2004 - the sum of two digits
