"""The lines of an export: canonical JSON, and the hashed bytes of an event (docs/log-format.md)."""

import json
import re
from typing import Any

from .note import Malformed

_EVENT = re.compile(rb'\{"event":(\{.*\}),"leaf_hash":"([0-9a-f]{64})"\}\n?', re.DOTALL)


def _no_float(text: str) -> object:
    raise ValueError(f"{text} is no integer")


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("the same name stands twice in an object")
    return found


_line = json.JSONDecoder(parse_float=_no_float, parse_constant=_no_float)
_document = json.JSONDecoder(parse_float=_no_float, parse_constant=_no_float, object_pairs_hook=_once)
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def parsed(line: bytes, decoder: json.JSONDecoder = _line) -> dict[str, Any]:
    """The object of a line. Raises Malformed."""
    try:
        content = decoder.decode(line.decode())
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON in UTF-8: {error}") from None
    if not isinstance(content, dict):
        raise Malformed(f"not a JSON object: {line[:60]!r}")
    return content


def document(text: bytes) -> dict[str, Any]:
    """The object of a file that no tree has sealed: no name may stand in it twice. Raises Malformed."""
    return parsed(text, _document)


def canonical(content: dict[str, Any]) -> bytes:
    return _canonical(content).encode("utf-8", "surrogatepass")


def event_in(line: bytes) -> tuple[bytes, dict[str, Any], str]:
    """The canonical bytes of a line's event, the event, and its stored hash. Raises Malformed."""
    found = _EVENT.fullmatch(line)
    if found is None:
        raise Malformed(f"no event with its leaf hash: {line[:60]!r}")
    event = parsed(found[1])
    if canonical(event) != found[1]:
        raise Malformed(f"position {event.get('position')}: not in canonical form")
    return found[1], event, found[2].decode()
