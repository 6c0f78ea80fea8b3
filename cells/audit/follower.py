"""A witness outside: it follows logs checkpoint by checkpoint, signs those that grow, and hands back what it signs.

A log that was cut short, rewritten, or has lost a checkpoint since is an alarm, for as long as it is so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from cells.audit.keys import origin_of
from cells.audit.verify.note import Malformed, checkpoint_in
from cells.audit.witness import Asked, Witness
from cells.domain.proof_refusals import (
    CheckpointNotFound,
    CheckpointsRenumbered,
    LogForked,
    LogKeyChanged,
    LogShrunk,
    LogTampered,
    NotSignedYet,
)
from cells.domain.refusals import Refused
from cells.ports import PeerUnknown

log = structlog.get_logger()

# In one round, of one log: a witness that was away for long catches up over several.
STEPS_MAX = 1_000
# What an honest log never says, and never shows.
ALARMS = (
    LogShrunk, LogForked, LogKeyChanged, CheckpointsRenumbered, CheckpointNotFound, LogTampered, Malformed
)  # fmt: skip


class Logs(Protocol):
    """The cells that are followed. Every method may raise PeerUnknown and Refused."""

    async def after(self, cell: str, size: int) -> str:
        """The first checkpoint beyond that size, or else the last; with 0 the last that is cosigned, or else the last.

        As a signed note.
        """

    async def growth(self, cell: str, old_size: int, new_size: int) -> Sequence[bytes]: ...

    async def hand_back(self, cell: str, size: int, line: str) -> None: ...


@dataclass(slots=True, kw_only=True)
class Follower:
    cells: Sequence[str]
    # Its keys of logs are all pinned.
    witness: Witness
    logs: Logs
    # By cell: why its log is not what was seen before, and why nothing is known of it or it takes no signature.
    alarms: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    # By cell: the size that was signed last.
    sizes: dict[str, int] = field(default_factory=dict)
    # By cell: the size whose cosignature it has taken, and why it takes none.
    _handed: dict[str, int] = field(default_factory=dict)
    _refused: dict[str, str] = field(default_factory=dict)

    async def round(self) -> None:
        for cell in self.cells:
            alarm, problem = await self._follow(cell)
            self._tell(cell, alarm, problem)

    def unreachable(self, problem: str) -> None:
        """No cell can be asked. An alarm stays an alarm."""
        for cell in self.cells:
            self._tell(cell, self.alarms.get(cell, ""), problem)

    async def _follow(self, cell: str) -> tuple[str, str]:
        """Why there is an alarm, and what else is in the way; empty: nothing."""
        try:
            for _ in range(STEPS_MAX):
                if not await self._step(cell):
                    break
        except ALARMS as error:
            return str(error), ""
        except (Refused, PeerUnknown) as error:
            return self.alarms.get(cell, ""), str(error)
        return "", self._refused.get(cell, "")

    async def _step(self, cell: str) -> bool:
        """Whether there may be more."""
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
        """A cell that does not take it is followed all the same."""
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
