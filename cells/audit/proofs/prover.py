"""Proofs on demand: that a checkpoint covers an event, and that one checkpoint extends another.

Each proof is checked before it is returned: a wrong proof is never returned, and changed rows are reported.
"""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from cells.audit.proofs.ports import ProofStore, SignedCheckpoint
from cells.audit.proofs.tree import TreeIncomplete, TreeReader
from cells.audit.verify.tree import is_consistent, is_included
from cells.domain.audit.refusals import CheckpointNotFound, EventNotFound, LogTampered, NotSignedYet
from cells.encoding.codec import leaf_bytes, leaf_hash
from cells.store.failures import map_store_errors
from cells.store.ports import Store

POSITION_MAX = 2**63 - 1

T = TypeVar("T")


class Inclusion(NamedTuple):
    checkpoint: SignedCheckpoint
    path: list[bytes]
    # The canonical bytes of the event, and its stored hash.
    event: bytes
    leaf_hash: bytes


class Growth(NamedTuple):
    old: SignedCheckpoint
    new: SignedCheckpoint
    path: list[bytes]


class Given(NamedTuple):
    """The checkpoint of an answer, and the sizes of the log and its last checkpoint."""

    checkpoint: SignedCheckpoint
    last_size: int
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prover:
    """Any process of the cell can answer, from the database alone. All methods may raise Unavailable."""

    cell: str
    store: Store
    proofs: ProofStore

    async def checkpoint(self, size: int = 0, after: int = 0) -> Given:
        """The checkpoint of that size; 0: the last cosigned one, or else the last.

        With `after`, the first one beyond that size, or else the last.

        Raises:
            CheckpointNotFound, NotSignedYet
        """
        return await self._answer(self._checkpoint(size, after))

    async def inclusion(self, position: int, size: int = 0) -> Inclusion:
        """A proof for the event at `position` in the checkpoint of that size, or in the best one that covers it.

        Raises:
            EventNotFound, CheckpointNotFound, NotSignedYet, LogTampered
        """
        return await self._answer(self._inclusion(position, size))

    async def consistency(self, old_size: int, new_size: int = 0) -> Growth:
        """A proof between two checkpoints; `new_size` 0: up to the best one.

        Raises:
            CheckpointNotFound, NotSignedYet, LogTampered
        """
        return await self._answer(self._consistency(old_size, new_size))

    async def _answer(self, answer: Awaitable[T]) -> T:
        """Raises LogTampered for hashes that are missing, and Unavailable for errors of the store."""
        try:
            return await map_store_errors(answer)
        except TreeIncomplete as error:
            raise LogTampered(cell=self.cell, problem=str(error)) from error

    async def _checkpoint(self, size: int, after: int = 0) -> Given:
        position = (await self.store.head()).position
        last = await self.proofs.last_checkpoint(POSITION_MAX)
        if last is None:
            raise NotSignedYet(cell=self.cell, position=position, size=0)
        return Given(await self._chosen(size, after) or last, last.size, position)

    async def _chosen(self, size: int, after: int) -> SignedCheckpoint | None:
        if after:
            return next(iter(await self.proofs.checkpoints(min(after, POSITION_MAX - 1) + 1, 1)), None)
        return await self._of_size(size) if size else await self.proofs.last_cosigned()

    async def _of_size(self, size: int) -> SignedCheckpoint:
        found = await self.proofs.checkpoints(size, 1)
        if found and found[0].size == size:
            return found[0]
        below = await self.proofs.last_checkpoint(size)
        raise CheckpointNotFound(
            cell=self.cell, size=size, below=below.size if below else 0, above=found[0].size if found else 0
        )

    async def _holding(self, position: int, size: int) -> SignedCheckpoint:
        """The checkpoint to prove against."""
        chosen = (await self._checkpoint(size)).checkpoint
        if chosen.size >= position:
            return chosen
        last = await self.proofs.last_checkpoint(POSITION_MAX)
        if not size and last is not None and last.size >= position:
            return last
        raise NotSignedYet(cell=self.cell, position=position, size=chosen.size if size or not last else last.size)

    async def _inclusion(self, position: int, size: int) -> Inclusion:
        head = (await self.store.head()).position
        if not 1 <= position <= head:
            raise EventNotFound(cell=self.cell, position=position, head=head)
        checkpoint = await self._holding(position, size)
        try:
            rows = await self.store.events(from_position=position, limit=1)
        except ValueError as error:
            raise LogTampered(cell=self.cell, problem=f"position {position} cannot be read: {error}") from error
        if not rows or rows[0].position != position:
            raise LogTampered(cell=self.cell, problem=f"position {position} is missing")
        leaf = leaf_hash(rows[0])
        path = await TreeReader(self.proofs, checkpoint.size).inclusion(position - 1)
        if leaf != rows[0].leaf_hash or not is_included(leaf, position - 1, checkpoint.size, path, checkpoint.root):
            problem = f"position {position} is not what the checkpoint of size {checkpoint.size} was made over"
            raise LogTampered(cell=self.cell, problem=problem)
        return Inclusion(checkpoint, path, leaf_bytes(rows[0]), leaf)

    async def _consistency(self, old_size: int, new_size: int) -> Growth:
        new = (await self._checkpoint(new_size)).checkpoint
        old = await self._of_size(old_size)
        if old.size > new.size:
            old, new = new, old
        path = await TreeReader(self.proofs, new.size).consistency(old.size)
        if not is_consistent(old.size, new.size, old.root, new.root, path):
            problem = f"the checkpoints of size {old.size} and {new.size} do not agree with the log"
            raise LogTampered(cell=self.cell, problem=problem)
        return Growth(old, new, path)
