"""Refusals on the wire: one table from refusal to gRPC status, and the way back.

A status carries ErrorInfo (domain "cellbook.v1", the refusal's reason, as metadata its facts and whether it is final),
BadRequest if a field is to blame and RetryInfo if waiting helps. Without ErrorInfo of our domain the outcome is
unknown. docs/refusals.md lists all refusals.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from cells.domain.audit.refusals import Damaged, PositionNotReached
from cells.domain.moves.refusals import UserMoving
from cells.domain.refusals import (
    BusinessRefusal,
    Busy,
    ClockJumped,
    ClockRefusal,
    Conflict,
    DeadlinePassed,
    Denied,
    InProgress,
    Invalid,
    Misrouted,
    NotFound,
    PrincipalInvalid,
    PrincipalMissing,
    Refused,
    RequestTooLarge,
    Unknown,
    WrongCell,
    refusal,
)
from server.shell.identity.denials import CertificateExpired, CertificateUnknown, IdentityMissing, TokenInvalid
from server.shell.rpc import Context

DOMAIN = "cellbook.v1"
WRONG_CELL = WrongCell.reason
DETAILS_KEY = "grpc-status-details-bin"

# The nearest class up the tree counts.
CODES: dict[type[Refused], grpc.StatusCode] = {
    # Outside all groups: the outcome is unknown.
    Refused: grpc.StatusCode.UNAVAILABLE,
    Invalid: grpc.StatusCode.INVALID_ARGUMENT,
    # grpc's own status for messages above its limit.
    RequestTooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    BusinessRefusal: grpc.StatusCode.FAILED_PRECONDITION,
    Conflict: grpc.StatusCode.FAILED_PRECONDITION,
    Misrouted: grpc.StatusCode.FAILED_PRECONDITION,
    PositionNotReached: grpc.StatusCode.OUT_OF_RANGE,
    NotFound: grpc.StatusCode.NOT_FOUND,
    Denied: grpc.StatusCode.PERMISSION_DENIED,
    PrincipalMissing: grpc.StatusCode.UNAUTHENTICATED,
    PrincipalInvalid: grpc.StatusCode.UNAUTHENTICATED,
    IdentityMissing: grpc.StatusCode.UNAUTHENTICATED,
    TokenInvalid: grpc.StatusCode.UNAUTHENTICATED,
    CertificateUnknown: grpc.StatusCode.UNAUTHENTICATED,
    CertificateExpired: grpc.StatusCode.UNAUTHENTICATED,
    Busy: grpc.StatusCode.RESOURCE_EXHAUSTED,
    # Not RESOURCE_EXHAUSTED: with this status the client's channel retries, and finds the user's new home.
    UserMoving: grpc.StatusCode.UNAVAILABLE,
    DeadlinePassed: grpc.StatusCode.DEADLINE_EXCEEDED,
    # The caller must set its clock first: sending the same call again does not help.
    ClockRefusal: grpc.StatusCode.FAILED_PRECONDITION,
    # This cell's own clock: another process of the cell, or this one later, can handle the call.
    ClockJumped: grpc.StatusCode.UNAVAILABLE,
    Damaged: grpc.StatusCode.DATA_LOSS,
    Unknown: grpc.StatusCode.UNAVAILABLE,
    InProgress: grpc.StatusCode.ABORTED,
}
# In the metadata of every refusal: "true" for a definite refusal, after which nothing has changed; else "false".
FINAL = "final"
# The user's home under one name: the facts of different refusals call it by different names.
HOME_CELL = "home_cell"
# Any hop may drop headers above 8 KiB, and text grows on the wire; clients read the facts instead.
MESSAGE_BYTES_MAX = 512
FACT_BYTES_MAX = 256


def code_of(refused: type[Refused]) -> grpc.StatusCode:
    return next(CODES[ancestor] for ancestor in refused.__mro__ if ancestor in CODES)


def to_status(refused: Refused) -> status_pb2.Status:
    """The status as `google.rpc.Status`, as batches and GetCommand answer it."""
    message = clipped(refused.message, MESSAGE_BYTES_MAX)
    facts = {name: clipped(str(value), FACT_BYTES_MAX) for name, value in refused.facts.items()}
    if refused.home_fact in facts:
        facts[HOME_CELL] = facts[refused.home_fact]
    status = status_pb2.Status(code=code_of(type(refused)).value[0], message=message)
    facts[FINAL] = str(refused.final).lower()
    info = error_details_pb2.ErrorInfo(reason=refused.reason, domain=DOMAIN, metadata=facts)
    # A map has no order; the same refusal must give the same bytes.
    status.details.add().Pack(info, deterministic=True)
    if isinstance(refused, Invalid) and "field" in facts:
        violation = error_details_pb2.BadRequest.FieldViolation(field=facts["field"], description=message)
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    if refused.retry_after_ms is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(refused.retry_after_ms)
        status.details.add().Pack(retry)
    return status


def of_status(status: status_pb2.Status) -> Refused | None:
    """The refusal that a status carries, final or not; None: it carries none that is known here."""
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        # Unpack returns False for a detail of another type.
        if detail.Unpack(info) and info.domain == DOMAIN:
            return _rebuilt(info)
    return None


def facts_in(info: error_details_pb2.ErrorInfo) -> dict[str, str]:
    """The facts of the refusal itself."""
    return {name: fact for name, fact in info.metadata.items() if name not in {FINAL, HOME_CELL}}


def refusal_in(error: grpc.aio.AioRpcError) -> Refused | None:
    """The refusal that a failed call was answered with, final or not; None: the outcome is unknown."""
    for key, value in _pairs(error.trailing_metadata()):
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                return of_status(status_pb2.Status.FromString(value))
            except DecodeError:
                return None
    return None


def refusal_from(error: grpc.aio.AioRpcError) -> Refused | None:
    """The definite refusal that a failed call was answered with. None: it may have happened; send it again."""
    refused = refusal_in(error)
    return refused if refused is not None and refused.final else None


def _rebuilt(info: error_details_pb2.ErrorInfo) -> Refused | None:
    try:
        return refusal(info.reason, facts_in(info))
    except (KeyError, TypeError, ValueError):
        # The reason or a fact is of a newer version, so whether it is final is unknown.
        return None


def _pairs(metadata: object) -> Iterable[tuple[str, str | bytes]]:
    """Normalizes a Metadata or a tuple; which one it is depends on where in grpc the error arose."""
    return metadata if isinstance(metadata, Iterable) else ()


def clipped(text: str, bytes_max: int) -> str:
    encoded = text.encode(errors="replace")
    return text if len(encoded) <= bytes_max else encoded[:bytes_max].decode(errors="ignore") + "…"


def details_metadata(status: status_pb2.Status) -> Sequence[tuple[str, bytes]]:
    """The trailing metadata in which gRPC carries a full status."""
    return ((DETAILS_KEY, status.SerializeToString()),)


CODE_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


def code_said(context: Context) -> str:
    """The name of the status with which a call was aborted; if there is none, its client has gone."""
    code: Any = context.code()
    status = code if isinstance(code, grpc.StatusCode) else CODE_BY_NUMBER[code or 0]
    return "CANCELLED" if status is grpc.StatusCode.OK else status.name
