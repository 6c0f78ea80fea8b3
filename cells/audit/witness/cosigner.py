"""Cells watch each other's logs: a witness signs a checkpoint only if it extends the last one that it has seen.

A cell that was rewritten, or restored from an older copy, gets no more cosignatures. Changing its own database cannot
hide that: the databases of the other cells hold what they have seen.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from cells.audit.checks.alarms import LogAlarms
from cells.audit.proofs.keys import SigningKey
from cells.audit.proofs.ports import ProofStore, Witnessed, WitnessMemory
from cells.audit.verify.note import (
    LOG_KEY,
    Checkpoint,
    Malformed,
    VerifierKey,
    body_of,
    check_cosignature,
    checkpoint_in,
    origin_of,
    sequence_in,
    verifier_key,
)
from cells.audit.verify.tree import is_consistent
from cells.domain.audit.refusals import (
    CheckpointNotFound,
    CheckpointsRenumbered,
    LogForked,
    LogKeyChanged,
    LogShrunk,
    NoKeyToSign,
    WitnessedOtherwise,
)
from cells.domain.refusals import FieldInvalid, Refused
from cells.store.failures import map_store_errors
from cells.store.ports import Clock

log = structlog.get_logger()

PROBLEM_LENGTH_MAX = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A log's request to a witness: its key, its newest checkpoint, and the proof that it extends `old_size`."""

    key: str
    note: str
    old_size: int
    path: Sequence[bytes]


@dataclass(slots=True, kw_only=True)
class Witness:
    """This cell as a witness of the others, or an outside witness, which is not a cell."""

    cell: str
    # None: the witness signs nothing.
    key: SigningKey | None
    proofs: WitnessMemory
    clock: Clock
    # Log keys that an operator has named, by origin. Other keys are trusted on first use.
    pinned: Mapping[str, VerifierKey] = field(default_factory=dict)
    # How often a changed log was refused.
    refused: Counter[str] = field(default_factory=Counter)
    alarms: LogAlarms | None = None
    # Whether the witness sees every checkpoint of a log, so that none may be missing between two.
    each: bool = False

    async def cosign(self, peer: str, asked: Asked) -> str:
        """The line that this cell adds to the note of `peer`, the caller.

        Raises:
            FieldInvalid: the note is not a checkpoint of the peer's log.
            WitnessedOtherwise: the caller must ask again, from the size that it names.
            LogShrunk, LogForked, LogKeyChanged, CheckpointsRenumbered: the log is not the one that was seen before.
            NoKeyToSign, Unavailable
        """
        if self.key is None:
            raise NoKeyToSign(cell=self.cell)
        try:
            before = await map_store_errors(self.proofs.witnessed(origin_of(peer)))
            checkpoint, key = self._checkpoint(peer, asked, before)
            self._check(checkpoint, asked, before)
            await map_store_errors(self._remember(checkpoint, key, asked.note, before))
        except (LogShrunk, LogForked, LogKeyChanged, CheckpointsRenumbered) as error:
            self.refused[peer] += 1
            log.critical("log_not_witnessed", peer=peer, problem=error.message)
            if self.alarms is not None:
                await self.alarms.tell("witnessed log", {f"log of {peer}": error.message}, kind=type(error).__name__)
            raise
        return self.key.cosign(body_of(asked.note), self.clock.wall_ms() // 1_000)

    def _checkpoint(self, peer: str, asked: Asked, before: Witnessed | None) -> tuple[Checkpoint, VerifierKey]:
        origin = origin_of(peer)
        key = _key_in(asked.key, origin)
        known = self.pinned.get(origin) or (verifier_key(before.key) if before is not None else key)
        if key != known:
            raise LogKeyChanged(witness=self.cell, origin=origin, known=f"{known.name}+{known.id.hex()}")
        try:
            checkpoint = checkpoint_in(asked.note, [key])
        except Malformed as error:
            raise FieldInvalid(field="checkpoint", problem=str(error)[:PROBLEM_LENGTH_MAX], value="") from None
        if checkpoint.origin != origin:
            raise FieldInvalid(field="checkpoint", problem=f"is not of {origin}", value=checkpoint.origin)
        return checkpoint, key

    def _check(self, checkpoint: Checkpoint, asked: Asked, before: Witnessed | None) -> None:
        size = before.size if before is not None else 0
        named: dict[str, str | int] = {"witness": self.cell, "origin": checkpoint.origin, "size": size}
        shown = {"note": before.note if before is not None else ""}
        if checkpoint.size < size:
            raise LogShrunk(**named, claimed=checkpoint.size, **shown)
        if asked.old_size != size:
            raise WitnessedOtherwise(**named, old_size=asked.old_size, **shown)
        if before is None:
            return
        if not is_consistent(size, checkpoint.size, before.root, checkpoint.root, asked.path):
            raise LogForked(**named, claimed=checkpoint.size)
        last = sequence_in(before.note)
        if not follows(last, size, checkpoint, each=self.each):
            raise CheckpointsRenumbered(**named, last=last, claimed=checkpoint.size, sequence=checkpoint.sequence)

    async def _remember(self, checkpoint: Checkpoint, key: VerifierKey, note: str, before: Witnessed | None) -> None:
        """Stores the checkpoint durably, before it is signed."""
        seen = Witnessed(checkpoint.origin, str(key), checkpoint.size, checkpoint.root, note, self.clock.wall())
        if not await self.proofs.witness(seen, before):
            now = await self.proofs.witnessed(checkpoint.origin)
            raise WitnessedOtherwise(
                witness=self.cell,
                origin=checkpoint.origin,
                size=now.size if now else 0,
                old_size=seen.size,
                note=now.note if now else "",
            )


def _key_in(text: str, origin: str) -> VerifierKey:
    try:
        key = verifier_key(text)
    except Malformed as error:
        raise FieldInvalid(field="key", problem=str(error)[:PROBLEM_LENGTH_MAX], value="") from None
    if key.name != origin or key.kind != LOG_KEY:
        raise FieldInvalid(field="key", problem=f"is not one that signs {origin}", value=key.name)
    return key


def follows(last: int, size: int, checkpoint: Checkpoint, *, each: bool) -> bool:
    """Whether the number of a checkpoint can follow `last`: each covers at least one event more.

    A cell as a witness sees only the newest checkpoint, so there may be as many in between as the sizes allow.
    """
    more, events = checkpoint.sequence - last, checkpoint.size - size
    if not last:
        return not each or checkpoint.sequence in {0, 1}
    return more == events == 0 or 0 < more <= (min(events, 1) if each else events)


def size_in(refused: Refused) -> int:
    """The size that a witness reports to have seen."""
    return int(refused.facts["size"])


# --- the cell that is witnessed -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Cosignatures:
    """Cosignatures that outside witnesses return. The cell stores those made with keys that its operator has named."""

    cell: str
    keys: Sequence[VerifierKey]
    proofs: ProofStore
    clock: Clock

    async def add(self, size: int, line: str) -> None:
        """Stores a witness's line on the checkpoint of that size; the first one of each witness stays.

        Raises:
            CheckpointNotFound, Unavailable
            FieldInvalid: it is not from one of `keys`, or not on that checkpoint.
        """
        try:
            found = await map_store_errors(self.proofs.checkpoints(size, 1))
            if not found or found[0].size != size:
                raise CheckpointNotFound(cell=self.cell, size=size, below=0, above=found[0].size if found else 0)
            witness = check_cosignature(found[0].note, line, self.keys)
            await map_store_errors(self.proofs.add_cosignature(size, witness, line, self.clock.wall()))
        except Malformed as error:
            raise FieldInvalid(field="cosignature", problem=str(error)[:PROBLEM_LENGTH_MAX], value="") from None
