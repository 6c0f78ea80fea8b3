"""One spelling for each UUID that comes in.

The same id in capitals, in braces, without hyphens or as a URN (RFC 9562, section 4) names the same command, user or
hold. The fingerprint, which distinguishes requests, covers a request with all ids in this spelling.
"""

import re
from collections.abc import Callable
from functools import cache
from typing import cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from server.shell.fields.bounds import ASSET, AUCTION, OPTIONAL_UUID, UUID, bound_of

_HEX, _HYPHENATED = r"[0-9a-f]{32}", r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_ANY = rf"(?:{_HEX}|{_HYPHENATED})"
_SPELLED = re.compile(rf"(?:urn:uuid:)?(?:{_ANY}|\{{{_ANY}\}})", re.IGNORECASE | re.ASCII)
LENGTH = 36
_MAX = len("urn:uuid:{}") + LENGTH


def spelled(text: str) -> str:
    """A UUID in its one spelling; any other text stays as it is."""
    if len(text) == LENGTH and text == text.lower():
        return text
    if len(text) > _MAX or _SPELLED.fullmatch(text) is None:
        return text
    digits = text.lower().removeprefix("urn:uuid:").strip("{}").replace("-", "")
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def name_spelled(text: str) -> str:
    """The same for the UUID at the end of a resource's name."""
    if text == text.lower():
        return text
    collection, slash, last = text.rpartition("/")
    return f"{collection}{slash}{spelled(last)}"


def respell(message: Message) -> None:
    """Gives every UUID in a request of flat fields its one spelling, in place."""
    if _is_spelled(message.DESCRIPTOR)(message):
        return
    for name, one in _fields(message.DESCRIPTOR):
        text = getattr(message, name)
        if text and (right := one(text)) != text:
            setattr(message, name, right)


@cache
def _fields(descriptor: Descriptor) -> list[tuple[str, Callable[[str], str]]]:
    """The fields that hold a UUID, and the function that normalizes each."""
    found: list[tuple[str, Callable[[str], str]]] = []
    for field in descriptor.fields:
        form = bound_of(descriptor.name, field.name)
        if form in {UUID, OPTIONAL_UUID}:
            found.append((field.name, spelled))
        elif form in {ASSET, AUCTION}:
            found.append((field.name, name_spelled))
    return found


@cache
def _is_spelled(descriptor: Descriptor) -> Callable[[Message], bool]:
    """Whether nothing needs to change, as one expression, because it runs for every bid."""
    parts = [
        f"(text := message.{name}) == text.lower(){f' and len(text) == {LENGTH}' if one is spelled else ''}"
        for name, one in _fields(descriptor)
    ]
    # Only field names go into the source.
    return cast("Callable[[Message], bool]", eval(f"lambda message: {' and '.join(parts) or True}"))  # noqa: S307
