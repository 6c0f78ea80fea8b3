"""The cell's time on the wire: stamp and vector in the metadata of every call between processes."""

from collections.abc import Sequence
from dataclasses import dataclass

from cells.domain.refusals import ClockAtBound
from cells.domain.time.hlc import Stamp
from cells.domain.time.vector import format_vector, parse_vector
from cells.time.celltime import CellTime
from server.shell.identity.principal import Principal
from server.shell.rpc import Metadata

STAMP_KEY = "cellbook-hlc"
VECTOR_KEY = "cellbook-vector"


@dataclass(frozen=True, slots=True, kw_only=True)
class CellClock:
    """Implements the shell's ClockExchange. Its caller decides who may move the clock: peers only."""

    time: CellTime

    def received(self, metadata: Metadata, principal: Principal) -> None:
        stamp, vector = _text(metadata, STAMP_KEY), _text(metadata, VECTOR_KEY)
        if stamp:
            self.time.observe(
                Stamp.parse(stamp, field=STAMP_KEY),
                parse_vector(vector, field=VECTOR_KEY),
                peer=principal.name,
            )

    def outgoing(self) -> Sequence[tuple[str, str]]:
        """If no stamp may be issued, sends the last one: its effects still come after everything known here."""
        try:
            stamp = self.time.stamp() if self.time.leading else self.time.hlc.last
        except ClockAtBound:
            stamp = self.time.hlc.last
        return ((STAMP_KEY, str(stamp.pack())), (VECTOR_KEY, format_vector(self.time.vector())))


def sent_ms(metadata: Metadata) -> int:
    """When a call was sent, by its sender's clock; 0 if it does not say."""
    return Stamp.parse(_text(metadata, STAMP_KEY) or "0", field=STAMP_KEY).physical_ms


def _text(metadata: Metadata, wanted: str) -> str:
    return next((value for key, value in metadata if key == wanted and isinstance(value, str)), "")
