"""Each commit seals the end of the log with a key that the database does not have.

Checkpoints are signed periodically, beside the write path, and nothing else proves the events after the last one.
Without a seal, anybody with write access to the database could append an event and move the head, and the next leader
would serve and sign it.

The seal is HMAC-SHA-256 (RFC 2104) over the cell, the head's position, the position that was signed last, and the leaf
hashes of the events in between. A process leads only on a head that is sealed, or that an operator accepts.
"""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

import structlog

from cells.encoding.outcome_seal import OutcomeSeal
from cells.store.unusable import HeadNotProven

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

log = structlog.get_logger()

HASH_BYTES = 32
# While nothing is signed, at most this many hashes are kept: a successor reads as many rows.
LEAVES_MAX = 65_536


class SealedHead(NamedTuple):
    """The seal in the head row: `since` is the position that was signed when it was made."""

    position: int
    since: int | None
    seal: bytes | None


class NextSeal(NamedTuple):
    since: int
    seal: bytes


@dataclass(slots=True, kw_only=True)
class HeadSeal:
    cell: str
    key: bytes
    # Seals stored answers, with the same key file.
    outcomes: OutcomeSeal | None = None
    # The position at which an operator accepts the log as it is, sealed or not.
    accepted: int | None = None
    since: int = 0
    _leaves: bytearray = field(default_factory=bytearray)
    # Over these leaves.
    _digest: "Hash" = field(default_factory=sha256)
    _signed: int = 0

    def next(self, position: int, leaves: Sequence[bytes]) -> NextSeal:
        """The seal for a head at `position`, after events with these leaf hashes. Call `moved` once it is durable."""
        self._forget_signed()
        digest = self._digest.copy()
        digest.update(b"".join(leaves))
        return NextSeal(self.since, self._seal(position, self.since, digest.digest()))

    def moved(self, leaves: Sequence[bytes]) -> None:
        added = b"".join(leaves)
        self._leaves += added
        self._digest.update(added)

    def signed(self, size: int) -> None:
        """A checkpoint over the first `size` events is stored: the seal need not cover them any more."""
        self._signed = size

    def resume(self, head: SealedHead, leaves: Sequence[bytes]) -> None:
        """Continues from a head; `leaves` are the hashes, from the rows' own bytes, of its events after `since`.

        Raises HeadNotProven.
        """
        known = head.since is not None and head.seal is not None and len(leaves) == head.position - head.since
        if known and hmac.compare_digest(head.seal or b"", self._seal_of(head, leaves)):
            self._begin(head.since or 0, bytearray(b"".join(leaves)))
        elif head.position in {0, self.accepted}:
            if head.position:
                log.warning("head_accepted", cell=self.cell, position=head.position)
            self._begin(head.position, bytearray())
        else:
            raise HeadNotProven(cell=self.cell, position=head.position, since=head.since)
        self._signed = self.since

    def _seal_of(self, head: SealedHead, leaves: Sequence[bytes]) -> bytes:
        return self._seal(head.position, head.since or 0, sha256(b"".join(leaves)).digest())

    def _seal(self, position: int, since: int, digest: bytes) -> bytes:
        text = f"{self.cell}\n{position}\n{since}\n{digest.hex()}\n"
        return hmac.digest(self.key, text.encode(), "sha256")

    def _forget_signed(self) -> None:
        until = max(self._signed, self.since + len(self._leaves) // HASH_BYTES - LEAVES_MAX)
        if until > self.since:
            self._begin(until, self._leaves[(until - self.since) * HASH_BYTES :])

    def _begin(self, since: int, leaves: bytearray) -> None:
        self.since, self._leaves, self._digest = since, leaves, sha256(leaves)
