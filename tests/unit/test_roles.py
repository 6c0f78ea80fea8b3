"""The roles that may call each method of all services: no method is forgotten, and the roles match their names."""

from router.policies import POLICIES as ROUTER_POLICIES
from server.process.policies import POLICIES
from server.shell.identity.principal import Role
from tests.roles import EVERY, full_name, rpcs

# Methods that move money by the caller's own order.
MONEY = {
    "Deposit", "BatchDeposit", "Withdraw", "Transfer", "Reserve", "Capture", "Release", "PlaceBid", "BatchPlaceBids",
    "ApplyLeg", "CompensateLeg", "BatchLegs",
}  # fmt: skip


def named(rpc: str) -> str:
    return rpc.rpartition("/")[2]


def test_every_rpc_of_every_service_has_a_policy() -> None:
    """Found by searching the package, so that a new service cannot be forgotten; and nothing else has a policy."""
    assert {full_name(rpc) for rpc in rpcs()} == set(EVERY)
    assert not POLICIES.keys() & ROUTER_POLICIES.keys()
    assert {named(rpc) for rpc in EVERY} >= MONEY


def test_operators_and_auditors_move_no_money() -> None:
    """Nor does a router."""
    for rpc, policy in EVERY.items():
        if named(rpc) in MONEY:
            assert not policy.roles & {Role.OPERATOR, Role.AUDITOR, Role.ROUTER}, rpc


def test_money_comes_and_goes_by_the_treasury_alone() -> None:
    """Neither a user nor a shop brings money in."""
    for rpc, policy in EVERY.items():
        if named(rpc) in {"Deposit", "BatchDeposit", "Withdraw"}:
            assert policy.roles == {Role.TREASURY}, rpc


def test_auditors_only_read() -> None:
    """The methods for auditors change nothing."""
    for rpc in rpcs():
        commands = "command_id" in rpc.input_type.fields_by_name and rpc.name != "GetCommand"
        if Role.AUDITOR in EVERY[full_name(rpc)].roles:
            assert not commands, rpc.name
            assert rpc.name not in MONEY


def test_support_reads_what_explains_an_account_and_no_more() -> None:
    """Besides reads that are open to all: neither lists of all users nor the log, and nothing that changes anything."""
    may = {named(rpc) for rpc, policy in EVERY.items() if Role.SUPPORT in policy.roles and policy.roles != set(Role)}
    assert may == {
        "GetBalance", "GetAccount", "GetStatement", "GetSaga", "ListUserEvents", "ListEarlierEvents",
        "GetContact", "ResolveUser",
    }  # fmt: skip


def test_a_router_opens_accounts_moves_users_and_no_more() -> None:
    """Besides reads that are open to all: a call that passes as the router's could do nothing more."""
    subject_field = {
        named(rpc) for rpc, policy in EVERY.items() if Role.ROUTER in policy.roles and policy.roles != set(Role)
    }
    assert subject_field == {"OpenAccount", "BeginMove", "GetSaga"}


def test_delegates_may_what_users_may() -> None:
    """For others instead of themselves."""
    for rpc, policy in EVERY.items():
        assert (Role.USER in policy.roles) == (Role.DELEGATE in policy.roles), rpc
