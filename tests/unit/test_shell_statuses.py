"""Refusals as statuses and back."""

import re

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

import router.refusals  # noqa: F401 - has them among REFUSALS
from cells.domain.audit.refusals import AtHomeElsewhere
from cells.domain.moves.refusals import HomeChanged
from cells.domain.refusals import REFUSALS, BidTooLow, FieldInvalid, Invalid, Refused, WrongCell
from server.shell.calls.statuses import (
    CODES,
    DETAILS_KEY,
    DOMAIN,
    code_of,
    of_status,
    refusal_from,
    refusal_in,
    to_status,
)


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("FIELD_INVALID", grpc.StatusCode.INVALID_ARGUMENT),
        ("COMMAND_ID_EXPIRED", grpc.StatusCode.INVALID_ARGUMENT),
        ("INSUFFICIENT_FUNDS", grpc.StatusCode.FAILED_PRECONDITION),
        ("BID_TOO_LOW", grpc.StatusCode.FAILED_PRECONDITION),
        ("COMMAND_ID_REUSED", grpc.StatusCode.FAILED_PRECONDITION),
        ("WRONG_CELL", grpc.StatusCode.FAILED_PRECONDITION),
        ("USER_NOT_FOUND", grpc.StatusCode.NOT_FOUND),
        ("PRINCIPAL_MISSING", grpc.StatusCode.UNAUTHENTICATED),
        ("PRINCIPAL_INVALID", grpc.StatusCode.UNAUTHENTICATED),
        ("NOT_PERMITTED", grpc.StatusCode.PERMISSION_DENIED),
        ("NOT_YOUR_ACCOUNT", grpc.StatusCode.PERMISSION_DENIED),
        ("QUEUE_FULL", grpc.StatusCode.RESOURCE_EXHAUSTED),
        ("DEADLINE_PASSED", grpc.StatusCode.DEADLINE_EXCEEDED),
        ("CLOCK_OFFSET_EXCEEDED", grpc.StatusCode.FAILED_PRECONDITION),
        ("CLOCK_JUMPED", grpc.StatusCode.UNAVAILABLE),
        ("IN_PROGRESS", grpc.StatusCode.ABORTED),
        ("UNAVAILABLE", grpc.StatusCode.UNAVAILABLE),
        ("DATA_LOST", grpc.StatusCode.UNAVAILABLE),
    ],
)
def test_the_table(reason: str, code: grpc.StatusCode) -> None:
    """Each kind of refusal has the code that the wire's contract gives it."""
    assert code_of(REFUSALS[reason]) is code


def test_every_refusal_has_a_code() -> None:
    """None is missing in the table, and none is OK, UNKNOWN, INTERNAL or ALREADY_EXISTS (read as success)."""
    codes = {code_of(refused) for refused in REFUSALS.values()}
    assert codes <= set(CODES.values())
    for code in ("OK", "UNKNOWN", "INTERNAL", "ALREADY_EXISTS"):
        assert grpc.StatusCode[code] not in codes


class Anything(dict[str, str]):
    """Every fact that any message needs."""

    def __missing__(self, name: str) -> str:
        self[name] = f"<{name}>"
        return self[name]


def example(refused: type[Refused]) -> Refused:
    facts = Anything()
    (refused.__doc__ or "").format_map(facts)
    return refused(**facts)


@pytest.mark.parametrize("reason", sorted(REFUSALS))
def test_every_refusal_comes_back(reason: str) -> None:
    """Class, facts and message survive the wire; a final refusal stays final."""
    sent = example(REFUSALS[reason])
    error = failed_with(to_status(sent))
    received = refusal_in(error)
    assert type(received) is type(sent)
    assert received is not None
    assert (received.facts, received.message) == (sent.facts, sent.message)
    assert (refusal_from(error) is not None) == sent.final


def failed_with(status: status_pb2.Status) -> grpc.aio.AioRpcError:
    return failed(grpc.aio.Metadata((DETAILS_KEY, status.SerializeToString())))


def failed(trailing: grpc.aio.Metadata) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(grpc.StatusCode.FAILED_PRECONDITION, grpc.aio.Metadata(), trailing, details="x")


def info(reason: str, domain: str = DOMAIN, **facts: str) -> status_pb2.Status:
    status = status_pb2.Status(code=9)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=facts))
    return status


@pytest.mark.parametrize(
    "trailing",
    [
        grpc.aio.Metadata(),
        grpc.aio.Metadata((DETAILS_KEY, b"\xff\xff")),
        grpc.aio.Metadata((DETAILS_KEY, b"")),
        grpc.aio.Metadata((DETAILS_KEY, info("BID_TOO_LOW", domain="elsewhere").SerializeToString())),
        grpc.aio.Metadata((DETAILS_KEY, info("INVENTED_LATER").SerializeToString())),
        # A fact that its message needs is missing.
        grpc.aio.Metadata((DETAILS_KEY, info("BID_TOO_LOW", amount_minor="1").SerializeToString())),
        grpc.aio.Metadata((DETAILS_KEY, info("BID_TOO_LOW", self="1").SerializeToString())),
    ],
)
def test_what_is_not_understood_is_not_definite(trailing: grpc.aio.Metadata) -> None:
    """No ErrorInfo, a foreign, newer or broken one: the outcome of the call is unknown."""
    assert refusal_in(failed(trailing)) is None
    assert refusal_from(failed(trailing)) is None


def test_details_of_other_kinds_are_passed_over() -> None:
    """A proxy may add its own details before ours."""
    status = status_pb2.Status(code=9)
    status.details.add().Pack(error_details_pb2.DebugInfo(detail="x"))
    status.details.add().CopyFrom(to_status(BidTooLow(amount_minor=1, least_minor=2, currency="USD")).details[0])
    assert isinstance(of_status(status), BidTooLow)


def test_only_what_is_final_is_definite() -> None:
    """The one distinction that money depends on."""
    error = failed_with(to_status(WrongCell(resource="users/x", cell="eu", here="us")))
    assert isinstance(refusal_in(error), WrongCell)
    assert refusal_from(error) is None


@pytest.mark.parametrize("reason", sorted(REFUSALS))
def test_every_refusal_says_whether_it_is_final(reason: str) -> None:
    """In its metadata, for clients that do not know the reason."""
    said = error_details_pb2.ErrorInfo()
    assert to_status(example(REFUSALS[reason])).details[0].Unpack(said)
    assert said.metadata["final"] == ("true" if REFUSALS[reason].final else "false")


def test_a_home_has_one_name() -> None:
    """`cell` is the home in one refusal and the asked cell in another: `home_cell` is the home in both."""
    for refused in (
        WrongCell(resource="user x", cell="eu", here="us", epoch=2),
        AtHomeElsewhere(user_id="x", home="eu", cell="us", position=1),
        HomeChanged(user_id="x", cell="eu", epoch=2, from_epoch=1),
    ):
        said = error_details_pb2.ErrorInfo()
        assert to_status(refused).details[0].Unpack(said)
        assert said.metadata["home_cell"] == "eu"


@pytest.mark.parametrize("reason", sorted(REFUSALS))
def test_a_refusal_that_says_where_a_user_is_at_home_says_so_under_that_name(reason: str) -> None:
    """A client that took the asked cell in `cell` for the home would ask it forever."""
    refused = REFUSALS[reason]
    home = re.search(r"user \{user_id\} .*(?:home in|directory it is) (?:cell )?\{(\w+)\}", refused.__doc__ or "")
    assert home is None or refused.home_fact == home[1]


def test_fields_are_named() -> None:
    """Every malformed request names the field to blame, if its refusal knows it."""
    for refused in REFUSALS.values():
        if issubclass(refused, Invalid) and "{field}" in (refused.__doc__ or ""):
            bad = error_details_pb2.BadRequest()
            assert to_status(example(refused)).details[1].Unpack(bad)
            assert bad.field_violations[0].field == "<field>"


@given(st.text(max_size=2_000), st.text(max_size=2_000))
def test_no_text_bursts_the_headers(problem: str, value: str) -> None:
    """Whatever a client has sent, the status stays well below 8 KiB, also as percent and base64 text."""
    status = to_status(FieldInvalid(field="f", problem=problem, value=value))
    percent = 3 * len(status.message.encode())
    assert percent + len(status.SerializeToString()) * 4 // 3 < 7_000
    assert isinstance(of_status(status), FieldInvalid)
