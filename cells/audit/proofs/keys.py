"""The keys of a cell: one signs its own checkpoints, another cosigns those of other logs as a witness.

They are in a file outside the database, one key per line, in the form of golang.org/x/mod/sumdb/note:
`PRIVATE+KEY+name+id+key`. A key that witnesses signs nothing else (C2SP tlog-cosignature).
"""

import base64
import hmac
import struct
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cells.audit.verify.note import (
    LOG_KEY,
    SEQUENCE,
    WITNESS_KEY,
    Malformed,
    VerifierKey,
    cosigned_text,
    origin_of,
    own_witness,
    unbase64,
)

PREFIX = "PRIVATE+KEY+"
SEED_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SigningKey:
    name: str
    kind: int
    seed: bytes

    @property
    def verifier(self) -> VerifierKey:
        return VerifierKey(self.name, self.kind, self._private.public_key().public_bytes_raw())

    @property
    def _private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)

    @property
    def text(self) -> str:
        key = base64.b64encode(bytes((self.kind,)) + self.seed).decode()
        return f"{PREFIX}{self.name}+{self.verifier.id.hex()}+{key}"

    def sign(self, body: str) -> str:
        """The signature's line on a log's own checkpoint. `body` ends in a newline."""
        return self._line(self._private.sign(body.encode()))

    def note(self, body: str) -> str:
        """The text with the signature: a signed note. `body` ends in a newline."""
        return f"{body}\n{self.sign(body)}"

    def cosign(self, body: str, at_s: int) -> str:
        """A witness's line, cosignature/v1."""
        return self._line(struct.pack(">Q", at_s) + self._private.sign(cosigned_text(body, at_s)))

    def _line(self, signature: bytes) -> str:
        return f"\u2014 {self.name} {base64.b64encode(self.verifier.id + signature).decode()}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class CellKeys:
    log: SigningKey
    witness: SigningKey

    def secret(self, purpose: str) -> bytes:
        """32 bytes for keyed hashes that only a holder of the log's key can know."""
        return hmac.digest(self.log.seed, f"cellbook {purpose}".encode(), "sha256")

    @property
    def text(self) -> str:
        """The contents of the file."""
        return f"{self.log.text}\n{self.witness.text}\n"


def checkpoint_body(origin: str, size: int, root: bytes, sequence: int = 0) -> str:
    """The signed text: a C2SP tlog-checkpoint with its number as an extension line, or none for 0."""
    number = f"{SEQUENCE} {sequence}\n" if sequence else ""
    return f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n{number}"


def signing_key(text: str) -> SigningKey:
    """Raises Malformed."""
    name, _, rest = text.strip().removeprefix(PREFIX).partition("+")
    number, _, key = rest.partition("+")
    content = unbase64(key, "a signing key")
    if not text.startswith(PREFIX) or not name or len(content) != SEED_BYTES + 1:
        raise Malformed("expected PRIVATE+KEY+name+id+key")
    found = SigningKey(name=name, kind=content[0], seed=content[1:])
    if found.kind not in {LOG_KEY, WITNESS_KEY} or found.verifier.id.hex() != number:
        raise Malformed(f"the id of key {name} is not its own")
    return found


def cell_keys_in(text: str, cell: str) -> CellKeys:
    """Raises Malformed if the two keys of `cell` are missing."""
    keys = {(key.kind, key.name): key for key in map(signing_key, filter(None, text.splitlines()))}
    log, witness = keys.get((LOG_KEY, origin_of(cell))), keys.get((WITNESS_KEY, own_witness(origin_of(cell))))
    if log is None or witness is None:
        raise Malformed(f"it must hold a key of {origin_of(cell)} and one of {own_witness(origin_of(cell))}")
    return CellKeys(log=log, witness=witness)


def new_keys(cell: str, seed: Callable[[int], bytes]) -> CellKeys:
    """`seed` returns the given number of random bytes."""
    return CellKeys(
        log=SigningKey(name=origin_of(cell), kind=LOG_KEY, seed=seed(SEED_BYTES)),
        witness=SigningKey(name=own_witness(origin_of(cell)), kind=WITNESS_KEY, seed=seed(SEED_BYTES)),
    )
