"""Who may call what: a table from the full method name to a policy. What is not in the table is denied."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from uuid import UUID

from google.protobuf.message import Message

from cells.domain.refusals import NotPermitted, NotYourAccount
from server.shell.principal import Principal, Role

ANYBODY = frozenset(Role)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The roles that may call a method. With `own`, a user may do so only for itself.

    `own` names the field of the request (dotted for a nested one) that must hold the caller's own user id.
    """

    roles: frozenset[Role] = field(default_factory=frozenset)
    own: str | None = None

    def check(self, principal: Principal, request: Message, method: str) -> None:
        """Raises NotPermitted, or NotYourAccount."""
        if principal.role not in self.roles:
            raise NotPermitted(principal=str(principal), method=method)
        if self.own is None or principal.role is not Role.USER:
            return
        claimed = attrgetter(self.own)(request)
        if claimed != principal.name and _canonical(claimed) != principal.name:
            raise NotYourAccount(principal=str(principal), user_id=claimed)


NOBODY = Policy()
PolicyTable = Mapping[str, Policy]

# Anybody who can connect may ask these, without saying who they are.
OPEN_METHODS = frozenset(
    {
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/List",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    }
)


def allow(*roles: Role, own: str | None = None) -> Policy:
    """A policy for `roles`; with `own` also for users, for themselves."""
    return Policy(roles=frozenset({*roles, Role.USER} if own else roles), own=own)


def _canonical(user_id: str) -> str:
    """UUIDs have several spellings, and the handler takes them all."""
    try:
        return str(UUID(user_id))
    except ValueError:
        return user_id
