"""Refusals of a cell that is asked for proofs, or to sign as a witness."""

from cells.domain.audit.refusals import Damaged
from cells.domain.refusals import Conflict, NotFound


class EventNotFound(NotFound):
    """cell {cell} has no event at position {position}: its log ends at {head}"""

    stored = False


class CheckpointNotFound(NotFound):
    """cell {cell} has signed no checkpoint of size {size}; the nearest are of size {below} and {above} (0: none)"""

    stored = False


class NotSignedYet(NotFound):
    """position {position} of cell {cell} is not signed yet: its last checkpoint has size {size}"""

    stored = False


class WitnessedOtherwise(Conflict):
    """{witness} has seen the first {size} events of {origin}; the proof begins at another size, {old_size}"""

    # The fact `note` is the checkpoint that was seen, with the log's own signature.
    stored = False


class LogShrunk(Conflict):
    """{witness} has signed the first {size} events of {origin}: a checkpoint of size {claimed} takes some back"""

    stored = False


class LogForked(Conflict):
    """{witness} has signed {size} events of {origin}: those of the checkpoint of size {claimed} are others"""

    stored = False


class CheckpointsRenumbered(Conflict):
    """{witness} has signed {size} events of {origin}, checkpoint {last}: the one of size {claimed} is not {sequence}"""

    stored = False


class NoKeyToSign(Conflict):
    """cell {cell} signs nothing: it has no keys (setting checkpoint_key_file)"""

    stored = False


class LogKeyChanged(Conflict):
    """{witness} knows {origin} by the key {known}, and the checkpoint is signed by another"""

    stored = False


class LogTampered(Damaged):
    """the stored log of cell {cell} differs from what it has signed: {problem}; a verified export names the rows"""
