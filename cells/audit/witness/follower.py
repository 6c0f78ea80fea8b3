"""An outside witness: it follows logs checkpoint by checkpoint, signs those that grow, and returns its signatures.

It raises an alarm as long as a log is truncated, rewritten, or has lost a checkpoint.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from cells.audit.verify.note import Malformed, checkpoint_in, origin_of
from cells.audit.witness.cosigner import Asked, Witness
from cells.domain.audit.refusals import (
    CheckpointNotFound,
    CheckpointsRenumbered,
    LogForked,
    LogKeyChanged,
    LogShrunk,
    LogTampered,
    NotSignedYet,
)
from cells.domain.refusals import Refused
from cells.store.ports import PeerUnknown

log = structlog.get_logger()

# Checkpoints per round and log. A witness that was down for long catches up over several rounds.
STEPS_MAX = 1_000
# After this the next log has its turn, so that a slow log that always has more does not delay the others.
TURN_S = 30.0
# Errors that an honest log never causes.
ALARMS = (
    LogShrunk, LogForked, LogKeyChanged, CheckpointsRenumbered, CheckpointNotFound, LogTampered, Malformed
)  # fmt: skip


class Logs(Protocol):
    """The cells to follow. Every method may raise PeerUnknown and Refused."""

    async def after(self, cell: str, size: int) -> str:
        """The signed note of the first checkpoint beyond that size, or else of the last one.

        With size 0, of the last cosigned one, or else of the last one.
        """

    async def growth(self, cell: str, old_size: int, new_size: int) -> Sequence[bytes]: ...

    async def hand_back(self, cell: str, size: int, line: str) -> None: ...


@dataclass(slots=True, kw_only=True)
class Follower:
    cells: Sequence[str]
    # All its log keys are pinned.
    witness: Witness
    logs: Logs
    # By cell: how its log differs from the one seen before, and why it is unreachable or takes no signature.
    alarms: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    # By cell: the last signed size.
    sizes: dict[str, int] = field(default_factory=dict)
    # By cell: the size whose cosignature it took, and why it takes none.
    _handed: dict[str, int] = field(default_factory=dict)
    _refused: dict[str, str] = field(default_factory=dict)

    async def round(self) -> None:
        for cell in self.cells:
            alarm, problem = await self._follow(cell)
            self._tell(cell, alarm, problem)

    def unreachable(self, problem: str) -> None:
        """Records that no cell can be reached. Alarms stay."""
        for cell in self.cells:
            self._tell(cell, self.alarms.get(cell, ""), problem)

    async def _follow(self, cell: str) -> tuple[str, str]:
        """The alarm and the other problem of a cell; empty if there is none."""
        clock = self.witness.clock
        until_s = clock.monotonic_s() + TURN_S
        try:
            for _ in range(STEPS_MAX):
                if not await self._step(cell) or clock.monotonic_s() > until_s:
                    break
        except ALARMS as error:
            return str(error), ""
        except (Refused, PeerUnknown) as error:
            return self.alarms.get(cell, ""), str(error)
        return "", self._refused.get(cell, "")

    async def _step(self, cell: str) -> bool:
        """Follows one checkpoint. Returns whether there may be more."""
        key = self.witness.pinned[origin_of(cell)]
        seen = await self.witness.proofs.witnessed(origin_of(cell))
        size = seen.size if seen is not None else 0
        try:
            note = await self.logs.after(cell, size)
        except NotSignedYet as error:
            if seen is None:
                return False
            raise LogShrunk(witness=self.witness.cell, origin=key.name, size=size, claimed=0) from error
        found = checkpoint_in(note, [key])
        if seen is not None and (found.size, found.root) == (size, seen.root) and self._handed.get(cell) == size:
            return False
        path = await self.logs.growth(cell, size, found.size) if 0 < size < found.size else ()
        line = await self.witness.cosign(cell, Asked(key=str(key), note=note, old_size=size, path=path))
        self.sizes[cell] = found.size
        await self._hand_back(cell, found.size, line)
        return found.size > size > 0

    async def _hand_back(self, cell: str, size: int, line: str) -> None:
        """Returns the cosignature to the cell. A cell that does not take it is still followed."""
        try:
            await self.logs.hand_back(cell, size, line)
            self._handed[cell], self._refused[cell] = size, ""
        except Refused as error:
            self._refused[cell] = f"it takes no cosignature, see its setting witness_keys_file: {error}"

    def _tell(self, cell: str, alarm: str, problem: str) -> None:
        if alarm and alarm != self.alarms.get(cell):
            log.error("log_changed", cell=cell, problem=alarm)
        if problem and problem != self.problems.get(cell):
            log.warning("log_not_followed", cell=cell, problem=problem)
        if not alarm and self.alarms.pop(cell, ""):
            log.warning("log_as_before", cell=cell)
        if not problem:
            self.problems.pop(cell, None)
        self.alarms |= {cell: alarm} if alarm else {}
        self.problems |= {cell: problem} if problem else {}
