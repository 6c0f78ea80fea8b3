"""How long a command's id is valid: as long as its outcome is kept.

An id of version 7 contains the time at which it was made. After the window its outcome may be forgotten, and the
command would be executed again; so it is refused, whatever is stored about it. The age of other versions is unknown.
"""

from uuid import UUID

from cells.domain.refusals import CommandIdAhead, CommandIdExpired, Refused

WINDOW_DAYS = 30
DAY_MS = 86_400_000
WINDOW_MS = WINDOW_DAYS * DAY_MS
# An id from a clock that is ahead would outlive its outcome, which is kept for the window and this much longer.
AHEAD_MAX_MS = DAY_MS
# The version of UUIDs that begin with the milliseconds since 1970 (RFC 9562, section 5.7).
TIMED = 7


def outside_window(command_id: UUID, now_ms: int) -> Refused | None:
    """The problem with an id at the time of the batch; None: it is valid."""
    content = command_id.bytes
    if content[6] >> 4 != TIMED:
        return None
    age_ms = now_ms - int.from_bytes(content[:6])
    if age_ms > WINDOW_MS:
        return CommandIdExpired(command_id=str(command_id), window_days=WINDOW_DAYS)
    if age_ms < -AHEAD_MAX_MS:
        return CommandIdAhead(command_id=str(command_id), ahead_ms=-age_ms, ahead_max_ms=AHEAD_MAX_MS)
    return None
