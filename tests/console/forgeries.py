"""What a server that lies does to the proof of an event."""

import base64
import json
from typing import Any


def flipped(text: str) -> str:
    """Base64 of the same bytes, but for one bit in the last one."""
    content = bytearray(base64.b64decode(text))
    content[-1] ^= 1
    return base64.b64encode(content).decode()


def other_amount(proof: dict[str, Any]) -> None:
    event = base64.b64decode(proof["event_json"]).replace(b'"12345"', b'"12344"')
    proof["event_json"] = base64.b64encode(event).decode()


def other_path(proof: dict[str, Any]) -> None:
    proof["path"][0] = flipped(proof["path"][0])


def shorter_path(proof: dict[str, Any]) -> None:
    proof["path"].pop()


def other_signature(proof: dict[str, Any]) -> None:
    body, _, signatures = proof["checkpoint"].rpartition("\n\n")
    line, _, others = signatures.partition("\n")
    dash, name, signature = line.split(" ")
    proof["checkpoint"] = f"{body}\n\n{dash} {name} {flipped(signature)}\n{others}"


def other_size(proof: dict[str, Any]) -> None:
    origin, size, rest = proof["checkpoint"].split("\n", 2)
    proof["checkpoint"] = f"{origin}\n{int(size) + 1}\n{rest}"


def other_event(proof: dict[str, Any]) -> None:
    leaf = json.loads(base64.b64decode(proof["event_json"]))
    text = json.dumps(leaf | {"position": leaf["position"] + 1}, sort_keys=True, separators=(",", ":"))
    proof["event_json"] = base64.b64encode(text.encode()).decode()


def spaced(proof: dict[str, Any]) -> None:
    proof["event_json"] = base64.b64encode(base64.b64decode(proof["event_json"]) + b" ").decode()


def admitted(proof: dict[str, Any]) -> None:
    proof |= {"tampered": True, "problem": "position 7 is not what the checkpoint was made over"}
