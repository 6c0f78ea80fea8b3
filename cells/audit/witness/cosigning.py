"""Asks the witnesses to sign each new checkpoint. Runs in the leader."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from cells.audit.proofs.checkpoint_signer import CheckpointSigner
from cells.audit.proofs.ports import ProofStore, SignedCheckpoint
from cells.audit.proofs.tree import TreeIncomplete, TreeReader
from cells.audit.verify.note import (
    KEY_ID_BYTES,
    Malformed,
    VerifierKey,
    checkpoint_in,
    origin_of,
    own_witness,
    unbase64,
)
from cells.audit.witness.cosigner import Asked, size_in
from cells.background import LeaderTask, in_background, note_failure
from cells.domain.audit.refusals import LogShrunk, WitnessedOtherwise
from cells.domain.refusals import Refused
from cells.store.ports import PeerUnknown, StoreError

log = structlog.get_logger()

POLL_S = 1.0
PAUSE_MAX_S = 30.0
NAMES_KEPT_S = 30.0
# A time and an Ed25519 signature.
COSIGNATURE_BYTES = 8 + 64


class Witnesses(Protocol):
    async def names(self) -> Sequence[str]:
        """The cells that cosign this cell's checkpoints."""

    async def cosign(self, witness: str, asked: Asked) -> str:
        """The witness's line. Raises Refused for a definite refusal, and PeerUnknown."""


@dataclass(slots=True)
class _Progress:
    """One witness's progress: the size that it has seen, and when to retry after a failure."""

    size: int = 0
    known: bool = False
    pause_s: float = 0.0
    not_before_s: float = 0.0
    problem: str = ""


@dataclass(slots=True, kw_only=True)
class Cosigning(LeaderTask):
    checkpoint_signer: CheckpointSigner
    proofs: ProofStore
    witnesses: Witnesses
    _progress: dict[str, _Progress] = field(default_factory=dict)
    _names: Sequence[str] = ()
    _named_s: float = 0.0

    @property
    def problems(self) -> dict[str, str]:
        """Why witnesses do not sign, by name; empty if they all do."""
        return {name: each.problem for name, each in self._progress.items()}

    @property
    def sizes(self) -> dict[str, int]:
        """The size that each witness has signed."""
        return {name: each.size for name, each in self._progress.items()}

    async def start(self) -> None:
        self._progress.clear()
        self.background.start()

    @in_background("cosigning", every_s=POLL_S, outages=(StoreError, TreeIncomplete))
    async def poll(self) -> None:
        """Asks each witness that has not yet signed the last checkpoint."""
        last = self.checkpoint_signer.last
        if last is None or self.checkpoint_signer.key is None or self.checkpoint_signer.broken:
            return
        await asyncio.gather(*(self._ask(name, last) for name in await self._known()))

    async def _known(self) -> Sequence[str]:
        """The witnesses to ask. The list is refreshed only now and then, as that may need a call to the router."""
        now_s = self.checkpoint_signer.time.clock.monotonic_s()
        if not self._names or now_s >= self._named_s + NAMES_KEPT_S:
            self._names, self._named_s = await self.witnesses.names(), now_s
        return self._names

    async def _ask(self, name: str, last: SignedCheckpoint) -> None:
        progress = self._progress.setdefault(name, _Progress())
        now_s = self.checkpoint_signer.time.clock.monotonic_s()
        if not progress.known:
            progress.size, progress.known = await self.proofs.cosigned_size(name), True
        if progress.size >= last.size or now_s < progress.not_before_s:
            return
        try:
            line = await self._line(name, last, progress)
            await self.proofs.add_cosignature(last.size, name, line, self.checkpoint_signer.time.clock.wall())
            progress.size, progress.pause_s, progress.problem = last.size, 0.0, ""
        except (Refused, PeerUnknown, Malformed) as error:
            self._failed(name, error, progress, now_s)
        except (StoreError, TreeIncomplete):
            raise
        except Exception as error:  # noqa: BLE001 - the other witnesses are asked all the same
            note_failure(self.background.name, peer=name)
            self._failed(name, error, progress, now_s)

    async def _line(self, name: str, last: SignedCheckpoint, progress: _Progress) -> str:
        try:
            return _checked(name, await self.witnesses.cosign(name, await self._asked(last, progress.size)))
        except WitnessedOtherwise as refused:
            size = size_in(refused)
            if size > last.size:
                raise
            # The answer was lost, or the witness saw another database of this cell before.
            return _checked(name, await self.witnesses.cosign(name, await self._asked(last, size)))

    async def _asked(self, last: SignedCheckpoint, size: int) -> Asked:
        path = await TreeReader(self.proofs, last.size).consistency(size)
        key = self.checkpoint_signer.key
        return Asked(key=str(key.verifier) if key else "", note=last.note, old_size=size, path=path)

    def _failed(self, name: str, error: Exception, progress: _Progress, now_s: float) -> None:
        progress.pause_s = min(max(progress.pause_s * 2, POLL_S), PAUSE_MAX_S)
        progress.not_before_s = now_s + progress.pause_s
        if isinstance(error, LogShrunk | WitnessedOtherwise):
            self._weigh(name, error)
        write = log.error if isinstance(error, Refused) else log.info
        if str(error) != progress.problem:
            write("witness_does_not_sign", peer=name, problem=str(error))
        progress.problem = str(error)

    def _weigh(self, name: str, error: LogShrunk | WitnessedOtherwise) -> None:
        """If the witness has seen a larger log, this database may be an older copy. Its checkpoint proves that."""
        key, size = self.checkpoint_signer.key, size_in(error)
        if key is not None and _proven_size(str(error.facts.get("note", "")), key.verifier) >= size > 0:
            self.checkpoint_signer.time.prove(size)
        else:
            self.checkpoint_signer.time.claim(size, peer=name)


def _proven_size(note: str, key: VerifierKey) -> int:
    """The size of a checkpoint with this log's own signature; 0 if the note is not one."""
    try:
        return checkpoint_in(note, [key]).size
    except Malformed:
        return 0


def _checked(name: str, line: str) -> str:
    """The line, if it has the form of a cosignature. Verifying it needs the witness's key. Raises Malformed."""
    head, _, content = line.rstrip("\n").rpartition(" ")
    size = len(unbase64(content, "a cosignature"))
    if (head, size) != (f"\u2014 {own_witness(origin_of(name))}", KEY_ID_BYTES + COSIGNATURE_BYTES):
        raise Malformed(f"what {name} has answered is no cosignature: {line[:80]!r}")
    return f"{head} {content}\n"
