"""Cosignatures that outside witnesses return. The cell stores those made with keys that its operator has named."""

from collections.abc import Sequence
from dataclasses import dataclass

from cells.audit.proofs.ports import ProofStore
from cells.audit.verify.note import Malformed, VerifierKey, check_cosignature
from cells.domain.audit.refusals import CheckpointNotFound
from cells.domain.refusals import FieldInvalid, Unavailable
from cells.store.ports import Clock, StoreError

PROBLEM_LENGTH_MAX = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Cosignatures:
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
            found = await self.proofs.checkpoints(size, 1)
            if not found or found[0].size != size:
                raise CheckpointNotFound(cell=self.cell, size=size, below=0, above=found[0].size if found else 0)
            witness = check_cosignature(found[0].note, line, self.keys)
            await self.proofs.add_cosignature(size, witness, line, self.clock.wall())
        except Malformed as error:
            raise FieldInvalid(field="cosignature", problem=str(error)[:PROBLEM_LENGTH_MAX], value="") from None
        except StoreError as error:
            raise Unavailable(problem=str(error)) from error
