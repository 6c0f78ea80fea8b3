"""Principals, policies, and the table of a cell's RPCs."""

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, MethodDescriptor

from cellbook.v1 import ledger_pb2, settlement_pb2
from cells.domain.refusals import NotPermitted, NotYourAccount, PrincipalInvalid, PrincipalMissing, Refused
from router.routing.routes import SERVED
from server.process.policies import POLICIES
from server.shell.calls.policy import NOBODY, OPEN_METHODS, Policy, allow
from server.shell.identity.principal import Principal, Role, parse_principal

ME = "0198c0de-0000-7000-8000-00000000000a"
OTHER = "0198c0de-0000-7000-8000-00000000000b"


@pytest.mark.parametrize(
    ("text", "role", "name"),
    [
        ("service/shop", Role.SERVICE, "shop"),
        ("peer/eu-west", Role.PEER, "eu-west"),
        ("auditor/kpmg-0a7", Role.AUDITOR, "kpmg-0a7"),
        (f"user/{ME}", Role.USER, ME),
        (f"user/{ME.upper()}", Role.USER, ME),
        (f"user/{ME.replace('-', '')}", Role.USER, ME),
    ],
)
def test_principals_are_read(text: str, role: Role, name: str) -> None:
    """Role and name; a user's name is its id in the one spelling that the ledger uses."""
    assert parse_principal(text) == Principal(role=role, name=name)


@pytest.mark.parametrize("text", [None, "", b""])
def test_no_principal_is_missing(text: str | None) -> None:
    """A missing principal is not the same as an invalid one."""
    with pytest.raises(PrincipalMissing):
        parse_principal(text)


@pytest.mark.parametrize(
    "text",
    ["shop", "service/", "/shop", "service/a b", "service/a\n", "service/a/b", "king/x", "user/me", "USER/x",
     f"Service/{ME}", "service/" + "x" * 65, "x" * 10_000, "service/ü", b"service/shop", "operator/ann@x.test",
     f" service/{ME}"],
)  # fmt: skip
def test_what_is_no_principal_is_refused(text: str | bytes) -> None:
    """Whatever the header holds, it is refused without being echoed at length."""
    with pytest.raises(PrincipalInvalid) as refused:
        parse_principal(text)
    assert len(refused.value.message) < 400


def ask(policy: Policy, principal: str, request: Any) -> type[Refused] | None:  # noqa: ANN401 - any message
    try:
        policy.check(parse_principal(principal), request, "/x/Y")
    except Refused as refused:
        return type(refused)
    return None


@pytest.mark.parametrize(
    ("principal", "user_id", "refused"),
    [
        ("service/shop", OTHER, None),
        (f"user/{ME}", ME, None),
        (f"user/{ME}", ME.upper(), None),
        (f"user/{ME}", OTHER, NotYourAccount),
        (f"user/{ME}", "", NotYourAccount),
        (f"user/{ME}", "nonsense", NotYourAccount),
        ("auditor/kpmg", ME, NotPermitted),
        # A program is not a user, whatever its name.
        (f"auditor/{ME}", ME, NotPermitted),
    ],
)
def test_users_act_for_themselves(principal: str, user_id: str, refused: type[Refused] | None) -> None:
    """Services act for anybody, users for themselves, others not at all."""
    policy = allow(Role.SERVICE, subject_field="user_id")
    assert ask(policy, principal, ledger_pb2.ReserveRequest(user_id=user_id)) is refused


def test_the_field_may_be_nested() -> None:
    """A dotted path reaches into the request."""
    policy = allow(subject_field="leg.user_id")
    request = settlement_pb2.ApplyLegRequest(leg=settlement_pb2.Leg(user_id=ME))
    assert ask(policy, f"user/{ME}", request) is None
    assert ask(policy, f"user/{OTHER}", request) is NotYourAccount


def test_nobody_is_nobody() -> None:
    """The replacement for a missing policy admits no role."""
    for role in Role:
        principal = f"{role}/{ME}"
        assert ask(NOBODY, principal, ledger_pb2.ReserveRequest(user_id=ME)) is NotPermitted


def rpcs() -> Iterator[MethodDescriptor]:
    """Every RPC that a cell serves, from the descriptors."""
    for file in SERVED:
        for service in file.DESCRIPTOR.services_by_name.values():
            yield from service.methods


def full_name(rpc: MethodDescriptor) -> str:
    return f"/{rpc.containing_service.full_name}/{rpc.name}"


def test_every_rpc_has_a_policy_and_every_policy_an_rpc() -> None:
    """A new RPC is denied until it has a policy; a removed one leaves none behind."""
    assert {full_name(rpc) for rpc in rpcs()} == set(POLICIES)
    assert not OPEN_METHODS & set(POLICIES)


def test_own_fields_are_there() -> None:
    """Each `own` names a text field of its request."""
    for rpc in rpcs():
        subject_field = POLICIES[full_name(rpc)].subject_field
        if subject_field is None:
            continue
        message: Descriptor | None = rpc.input_type
        field = None
        for part in subject_field.split("."):
            assert message is not None, subject_field
            field = message.fields_by_name[part]
            message = field.message_type
        assert field is not None
        assert field.type == field.TYPE_STRING, subject_field


def test_users_never_act_without_an_own_field() -> None:
    """If a user may change anything, the request names the user; otherwise only reads are open to users."""
    reading = {"GetCommand", "GetAsset", "GetAuction", "ListAuctions", "GetCheckpoint", "GetConsistencyProof"}
    reading.add("WatchAuction")
    # Open to all: the signature in the request identifies its signer.
    reading.add("AddCosignature")
    for name, policy in POLICIES.items():
        if Role.USER in policy.roles and policy.subject_field is None:
            assert name.rpartition("/")[2] in reading, name


def test_only_peers_settle() -> None:
    """Saga legs move money without asking its owner: no client may send one."""
    for name, policy in POLICIES.items():
        if "SettlementService" in name:
            assert policy.roles == {Role.PEER}
