"""The callers of deposits and withdrawals: a file names the permitted ones, and each event must come from one of them.

A caller may sign its command. The verifier rebuilds the signed text from the event: if the event differs from the
command, the signature is wrong (docs/log-format.md). The file has lines of four kinds:

    key treasury/giro+8ab4de56+ASPC..
    token https://login.example.org 3f2a91c07be455d2
    certificate 5f1d..
    since cellbook/eu-west 12345

A principal with a key must have signed. Others must have used a token signed by one of these issuer keys, or one of
these certificates. The events of a log before `since` need no caller.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .lines import canonical
from .note import KEY_ID_BYTES, LOG_KEY, UNREADABLE, Malformed, VerifierKey, lines_in, unbase64, verifier_key

# The events that bring money in or out, and the method that requests each.
METHODS = {
    "DEPOSITED": "cellbook.v1.LedgerService/Deposit",
    "WITHDRAWN": "cellbook.v1.LedgerService/Withdraw",
}
# The account of the outside world.
EXTERNAL = "external"
FIELDS = ("amount_minor", "currency", "external_reference")


class Callers(NamedTuple):
    """`since` maps a log to the position from which on its events need a caller."""

    keys: tuple[VerifierKey, ...] = ()
    tokens: frozenset[tuple[str, str]] = frozenset()
    certificates: frozenset[str] = frozenset()
    since: Mapping[str, int] = {}

    def keys_of(self, principal: str) -> list[VerifierKey]:
        return [key for key in self.keys if key.name == principal]


def callers_in(text: str) -> Callers:
    """Reads a file of callers. Lines that are empty or begin with # are skipped. Raises Malformed."""
    keys, tokens, certificates = list[VerifierKey](), set[tuple[str, str]](), set[str]()
    since: dict[str, int] = {}
    for line in lines_in(text):
        match line.split():
            case ["key", key]:
                keys.append(_caller_key(key))
            case ["token", issuer, kid]:
                tokens.add((issuer, kid))
            case ["certificate", fingerprint] if re.fullmatch("[0-9a-f]{64}", fingerprint):
                certificates.add(fingerprint)
            case ["since", origin, position] if re.fullmatch("[0-9]{1,18}", position):
                since[origin] = int(position)
            case _:
                raise Malformed(f"expected key, token, certificate or since, not {line[:120]!r}")
    return Callers(tuple(keys), frozenset(tokens), frozenset(certificates), since)


def _caller_key(text: str) -> VerifierKey:
    key = verifier_key(text)
    if key.kind != LOG_KEY or not re.fullmatch("[a-z]{1,16}/.+", key.name):
        raise Malformed(f"the key of a caller is named after it, as in treasury/giro, and not {key.name}")
    return key


def command_text(method: str, command_id: str, user_id: str, content: Mapping[str, object]) -> bytes:
    """The bytes that the caller of a command signs; `content` has the FIELDS, the amount as a decimal string."""
    said = {name: content[name] for name in FIELDS}
    text = canonical({"method": method, "command_id": command_id, "user_id": user_id, **said})
    return b"cellbook/command/1\n" + text + b"\n"


def wrong_with(signature: bytes, text: bytes, keys: Sequence[VerifierKey]) -> str:
    """The problem with the signature; empty if one of `keys` has signed `text`."""
    key_id, signed = signature[:KEY_ID_BYTES], signature[KEY_ID_BYTES:]
    key = next((each for each in keys if each.id == key_id), None)
    if key is None:
        known = ", ".join(each.id.hex() for each in keys) or "none"
        return f"it is of key {key_id.hex()}, and the caller's keys known here are {known}"
    if not key.has_signed(text, signed):
        return f"key {key_id.hex()} has not signed this command, but another one, or none"
    return ""


@dataclass(slots=True, kw_only=True)
class CallerCheck:
    """Checks the events of one log after the other: a signed command counts for only one event."""

    callers: Callers
    # The origin of the log that is being read.
    origin: str = ""
    # The number of events with a caller's signature, and with another known proof.
    signed: int = 0
    proven: int = 0
    _commands: set[tuple[str, str]] = field(default_factory=set)

    def problem(self, event: Mapping[str, Any]) -> str:
        """Why the event has no permitted caller; empty if it has one, or moves no money in or out."""
        try:
            lines = event["payload"].get("postings", ())
            if event["event_type"] not in METHODS and all(line["account"] != EXTERNAL for line in lines):
                return ""
            if event["position"] < self.callers.since.get(self.origin, 0):
                return ""
            return self._problem(event, event["metadata"], event["metadata"].get("authority") or {})
        except (*UNREADABLE, Malformed):
            return "no caller: what it says of one cannot be read"

    def _problem(self, event: Mapping[str, Any], metadata: Mapping[str, Any], authority: Mapping[str, Any]) -> str:
        principal, command_id = metadata["principal"], metadata["command_id"]
        keys = self.callers.keys_of(principal)
        if "signature" in authority:
            method = METHODS[event["event_type"]]
            text = command_text(method, command_id, event["aggregate_id"], event["payload"])
            wrong = wrong_with(unbase64(authority["signature"], "a signature"), text, keys)
            if wrong:
                return f"no caller: the signature of {principal} is wrong: {wrong}"
            if (principal, command_id) in self._commands:
                return f"no caller: command {command_id} of {principal} was signed once, and is here once more"
            self._commands.add((principal, command_id))
            self.signed += 1
            return ""
        if keys:
            return f"no caller: {principal} has a key, and has not signed it"
        known = {
            "token": (authority.get("issuer"), authority.get("kid")) in self.callers.tokens,
            "certificate": authority.get("sha256") in self.callers.certificates,
        }
        if not known.get(authority.get("by", ""), False):
            return f"no caller: {principal} has neither signed it nor come with a token or certificate that is known"
        self.proven += 1
        return ""
