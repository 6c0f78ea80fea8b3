"""The table of roles and methods in docs/security.md, from the policies."""

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

from google.protobuf.descriptor import MethodDescriptor

import cellbook.v1
from router.policies import POLICIES as ROUTER_POLICIES
from server.process.policies import POLICIES as CELL_POLICIES
from server.shell.calls.policy import Policy, PolicyTable
from server.shell.identity.principal import Role

EVERY: PolicyTable = {**CELL_POLICIES, **ROUTER_POLICIES}
_OWN = frozenset({Role.USER, Role.DELEGATE})


def rpcs() -> Iterator[MethodDescriptor]:
    """Every RPC of every service in the package, of cells and router."""
    for module in iter_modules(cellbook.v1.__path__):
        if module.name.endswith("_pb2"):
            file = import_module(f"cellbook.v1.{module.name}")
            for service in file.DESCRIPTOR.services_by_name.values():
                yield from service.methods


def full_name(rpc: MethodDescriptor) -> str:
    return f"/{rpc.containing_service.full_name}/{rpc.name}"


def table() -> str:
    """A row per method, a column per role: `yes`, or `own` if only for the caller's own account."""
    lines = [f"| RPC | {' | '.join(Role)} |", f"|---|{'---|' * len(Role)}"]
    for rpc in rpcs():
        policy = EVERY[full_name(rpc)]
        name = f"{rpc.containing_service.name.removesuffix('Service')}.{rpc.name}"
        lines.append(f"| `{name}` | {' | '.join(_cell(policy, role) for role in Role)} |")
    return "\n".join(lines) + "\n"


def _cell(policy: Policy, role: Role) -> str:
    if role not in policy.roles:
        return ""
    return "own" if policy.subject_field is not None and role in _OWN else "yes"
