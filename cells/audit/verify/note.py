"""Checkpoints as signed notes, cosignatures of witnesses, and the witnesses that must have signed.

C2SP signed-note, tlog-checkpoint, tlog-cosignature and tlog-policy. A file of keys is either a plain list, one key per
line, or a policy:

    log cellbook/eu-west+8ab4de56+ASPC..
    witness tokyo cellbook/ap-tokyo/witness+2b93f81b+BEXp..
    witness bank witness.bank.example+03f1c2aa+BBzx..
    group outside any bank
    group enough all tokyo outside
    quorum enough
"""

import base64
import binascii
import re
import struct
from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from .tree import HASH_BYTES

LOG_KEY, WITNESS_KEY = 1, 4
KEY_ID_BYTES = 4
# Origin, size, root.
BODY_LINES = 3
# The extension line by which a log numbers its checkpoints, from 1.
SEQUENCE = "sequence"
# The year 9999: greater values are not times.
TIME_MAX_S = 253_402_300_799
SIGNATURES_MAX = 64
# In a policy.
NONE = "none"
POLICY_WORDS = ("log", "witness", "group", "quorum")
# The maximum number of members of a group.
MEMBERS_MAX = 1_000
# Errors of reading JSON that does not have the required form.
UNREADABLE = (KeyError, TypeError, ValueError, AttributeError)


class Malformed(Exception):
    """The input does not have the required form. The message says what is wrong."""


class VerifierKey(NamedTuple):
    """The public key of a log or a witness: "name+id+key"."""

    name: str
    kind: int
    public: bytes

    @property
    def id(self) -> bytes:
        return sha256(f"{self.name}\n".encode() + bytes((self.kind,)) + self.public).digest()[:KEY_ID_BYTES]

    def has_signed(self, text: bytes, signature: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, text)
        except (InvalidSignature, ValueError):
            return False
        return True

    def __str__(self) -> str:
        key = base64.b64encode(bytes((self.kind,)) + self.public).decode()
        return f"{self.name}+{self.id.hex()}+{key}"


def verifier_key(text: str) -> VerifierKey:
    """Raises Malformed."""
    name, _, rest = text.strip().partition("+")
    number, _, key = rest.partition("+")
    content = unbase64(key, "a verifier key")
    found = VerifierKey(name, content[0] if content else 0, content[1:])
    whole = name and len(found.public) == HASH_BYTES and found.kind in {LOG_KEY, WITNESS_KEY}
    if not whole or found.id.hex() != number:
        shown = repr(text.strip()[:120])
        raise Malformed(f"{shown} is no verifier key: expected name+id+key, as `cellbook audit key` says")
    return found


def origin_of(cell: str) -> str:
    """The name of a cell's log, the first line of its checkpoints."""
    return f"cellbook/{cell}"


def own_witness(origin: str) -> str:
    """The name of this cell's witness key. It is stored with the log's key, so here its signature proves nothing."""
    return f"{origin}/witness"


class Checkpoint(NamedTuple):
    """The content of a log's signed note. `cosigned` names the witnesses other than its own that signed, with the time.

    `sequence` is the number of the checkpoint in its log; 0 if it has none, like older ones.
    """

    origin: str
    size: int
    root: bytes
    cosigned: tuple[tuple[str, int], ...] = ()
    sequence: int = 0


def checkpoint_in(note: str, keys: Sequence[VerifierKey]) -> Checkpoint:
    """The checkpoint of a note that one of `keys` has signed. Raises Malformed, also for a wrong signature."""
    body, signatures = _parts(note)
    lines = body.split("\n")
    if len(lines) <= BODY_LINES or not re.fullmatch(r"0|[1-9][0-9]{0,18}", lines[1]):
        raise Malformed("a checkpoint has an origin, a size and a root, a line each")
    root = unbase64(lines[2], "the root of a checkpoint")
    if len(root) != HASH_BYTES:
        raise Malformed("the root of a checkpoint is not 32 bytes long")
    sequence = _sequence(lines[BODY_LINES:])
    signed, cosigned = False, []
    for name, content in signatures:
        for key in keys:
            if (key.name, key.id) == (name, content[:KEY_ID_BYTES]):
                at = _check(key, body, content[KEY_ID_BYTES:])
                if key.kind == WITNESS_KEY and name != own_witness(lines[0]):
                    cosigned.append((name, at))
                signed = signed or (key.kind == LOG_KEY and name == lines[0])
    if not signed:
        known = ", ".join(f"{key.name}+{key.id.hex()}" for key in keys if key.kind == LOG_KEY) or "none"
        named = ", ".join(f"{name}+{content[:KEY_ID_BYTES].hex()}" for name, content in signatures)
        raise Malformed(f"checkpoint of {lines[0]}, size {lines[1]}: signed by {named}; the keys given are {known}")
    return Checkpoint(lines[0], int(lines[1]), root, tuple(cosigned), sequence)


def body_of(note: str) -> str:
    """The signed text of a note, with its final newline. Raises Malformed."""
    return _parts(note)[0]


def sequence_in(note: str) -> int:
    """The number of a checkpoint that was already checked. Raises Malformed."""
    return _sequence(body_of(note).split("\n")[BODY_LINES:])


def number_problem(size: int, number: int, before: int) -> str:
    """Why a number does not follow the one before; empty if it does. Older checkpoints have none, and come first."""
    expected = before + 1
    if number > expected:
        missing = f"{expected} to {number - 1}" if number - 1 > expected else f"{expected}"
        return f"before the checkpoint of size {size} number {missing} is missing: it was deleted"
    if number != expected and (number or before):
        return f"the checkpoint of size {size} has number {number or 'none'}, not {expected}"
    return ""


def _sequence(extensions: Sequence[str]) -> int:
    """The number in the extension lines; other lines are ignored."""
    found = [line for line in extensions if line.partition(" ")[0] == SEQUENCE]
    if not found:
        return 0
    if len(found) > 1 or not re.fullmatch(r"[1-9][0-9]{0,18}", found[0].partition(" ")[2]):
        raise Malformed(f"a checkpoint has one number: {found[0][:80]!r}")
    return int(found[0].partition(" ")[2])


def signers_of(note: str, keys: Sequence[VerifierKey]) -> tuple[str, list[VerifierKey]]:
    """The text of a note that is not a checkpoint, and the log keys that have signed it. Raises Malformed."""
    body, signatures = _parts(note)
    named = {(name, content[:KEY_ID_BYTES]): content[KEY_ID_BYTES:] for name, content in signatures}
    found = [key for key in keys if key.kind == LOG_KEY and (key.name, key.id) in named]
    for key in found:
        if not key.has_signed(body.encode(), named[key.name, key.id]):
            raise Malformed(f"the signature of {key.name} is wrong")
    return body, found


def named_in(note: str) -> list[str]:
    """The keys, "name+id", by which a note says that it is signed. Nothing is checked. Raises Malformed."""
    return [f"{name}+{content[:KEY_ID_BYTES].hex()}" for name, content in _parts(note)[1]]


def _parts(note: str) -> tuple[str, list[tuple[str, bytes]]]:
    body, blank, tail = note.rpartition("\n\n")
    if not blank or not tail.endswith("\n") or re.search(r"[\x00-\x09\x0b-\x1f]", note):
        raise Malformed("this is no signed note: text, an empty line, and signatures")
    signatures = []
    for line in tail.splitlines()[:SIGNATURES_MAX]:
        found = re.fullmatch(r"\u2014 (\S+) (\S+)", line)
        content = unbase64(found[2], "a signature") if found else b""
        if found is None or len(content) <= KEY_ID_BYTES:
            raise Malformed(f"{line[:80]!r} is no signature of a note")
        signatures.append((found[1], content))
    return body + "\n", signatures


def _check(key: VerifierKey, body: str, signature: bytes) -> int:
    """The time of a cosignature, 0 for the log's own signature. Raises Malformed."""
    at, signed = 0, body.encode()
    if key.kind == WITNESS_KEY:
        at = struct.unpack(">Q", signature[:8].ljust(8, b"\0"))[0]
        signature, signed = signature[8:], cosigned_text(body, at)
        if at > TIME_MAX_S:
            raise Malformed(f"a cosignature of {key.name} from second {at}")
    if not key.has_signed(signed, signature):
        size = body.split("\n")[1]
        raise Malformed(f"checkpoint of size {size}: the signature of {key.name} is wrong")
    return int(at)


def check_cosignature(note: str, line: str, keys: Sequence[VerifierKey]) -> str:
    """The name of the key in `keys` that made this line on this note. Raises Malformed."""
    body, _ = _parts(note)
    [(name, content)] = _parts(f"{body}\n{line}")[1] if line.count("\n") == 1 else [("", b"")]
    for key in keys:
        if key.kind == WITNESS_KEY and (key.name, key.id) == (name, content[:KEY_ID_BYTES]):
            _check(key, body, content[KEY_ID_BYTES:])
            return name
    raise Malformed(f"{name[:40]}+{content[:KEY_ID_BYTES].hex()} is none of the witnesses whose keys are given")


def cosigned_text(body: str, at: int) -> bytes:
    """The text that a witness signs: tlog-cosignature, Ed25519. `at` is in seconds since 1970."""
    return f"cosignature/v1\ntime {at}\n{body}".encode()


def unbase64(text: object, what: str) -> bytes:
    """Raises Malformed."""
    try:
        return base64.b64decode(text if isinstance(text, str) else b"!", validate=True)
    except (binascii.Error, ValueError):
        raise Malformed(f"{what} is not base64: {str(text)[:60]!r}") from None


# --- policies -------------------------------------------------------------------------------------------------------


class Quorum(NamedTuple):
    """At least `threshold` of `members`, each the name of a witness's key or another quorum."""

    threshold: int
    members: tuple["str | Quorum", ...]

    def met(self, witnesses: Collection[str]) -> bool:
        """Whether these witnesses, given by key names, suffice."""
        signed = [each.met(witnesses) if isinstance(each, Quorum) else each in witnesses for each in self.members]
        return sum(signed) >= self.threshold

    def outside(self, origin: str) -> "Quorum":
        """The quorum without the log's own witness, which the holder of the log's key controls."""
        members = tuple(
            each.outside(origin) if isinstance(each, Quorum) else each
            for each in self.members
            if each != own_witness(origin)
        )
        return Quorum(self.threshold, members)

    def __str__(self) -> str:
        members = ", ".join(f"({each})" if isinstance(each, Quorum) else each for each in self.members)
        return f"{self.threshold} of {members or 'no witnesses'}"


class Policy(NamedTuple):
    keys: tuple[VerifierKey, ...]
    # None: the file has no quorum.
    quorum: Quorum | None = None


def lines_in(text: str) -> list[str]:
    """The lines of a file that are neither empty nor begin with #."""
    return [line for each in text.splitlines() if (line := each.strip()) and not line.startswith("#")]


def policy_in(text: str) -> Policy:
    """Raises Malformed."""
    lines = lines_in(text)
    if any(line.split()[0] in POLICY_WORDS for line in lines):
        return _policy([line.split() for line in lines])
    return Policy(tuple(map(verifier_key, lines)))


def any_of(count: int, keys: Sequence[VerifierKey]) -> Quorum:
    """A quorum of `count` of all given witness keys. Raises Malformed if there are fewer."""
    names = tuple(sorted({key.name for key in keys if key.kind == WITNESS_KEY}))
    if count > len(names):
        raise Malformed(f"{count} witnesses are required, and the keys given are of {len(names)}: give --key more")
    return Quorum(count, names)


def _policy(lines: Sequence[Sequence[str]]) -> Policy:
    keys, named, quorum = list[VerifierKey](), dict[str, str | Quorum](), None
    for words in lines:
        match words:
            case ["log", key, *_]:
                keys.append(verifier_key(key))
            case ["witness", name, key, *_]:
                keys.append(verifier_key(key))
                _name(named, name, keys[-1].name)
            case ["group", name, threshold, *members]:
                _name(named, name, _group(threshold, members, named))
            case ["quorum", name] if quorum is None:
                member = Quorum(0, ()) if name == NONE else _known(named, name)
                quorum = member if isinstance(member, Quorum) else Quorum(1, (member,))
            case _:
                raise Malformed(f"no line of a policy: {' '.join(words)[:120]!r}")
    if quorum is None:
        raise Malformed("a policy needs a line `quorum NAME`, or `quorum none`")
    return Policy(tuple(keys), quorum)


def _group(threshold: str, members: Sequence[str], named: Mapping[str, str | Quorum]) -> Quorum:
    counts = {"any": 1, "all": len(members)}
    count = counts.get(threshold, int(threshold) if threshold.isdecimal() else 0)
    if not 1 <= count <= len(members) <= MEMBERS_MAX or len(set(members)) < len(members):
        raise Malformed(f"a group has a threshold of any, all or 1 to its number of members: {threshold!r}")
    return Quorum(count, tuple(_known(named, each) for each in members))


def _known(named: Mapping[str, str | Quorum], name: str) -> str | Quorum:
    if name not in named:
        raise Malformed(f"{name!r} is no witness or group of a line before")
    return named[name]


def _name(named: dict[str, str | Quorum], name: str, what: str | Quorum) -> None:
    if name in named or name == NONE:
        raise Malformed(f"{name!r} is named twice")
    named[name] = what
