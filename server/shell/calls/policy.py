"""The policy table: full method name -> policy. A method that is not in the table is denied."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from google.protobuf.message import Message

from cells.domain.refusals import NotPermitted, NotYourAccount, RequestTooLarge
from server.shell.fields.spelling import spelled
from server.shell.identity.principal import Principal, Role

ANYBODY = frozenset(Role)
REQUEST_BYTES_MAX = 256 * 1024
# A thousand items, each with the longest allowed texts.
BATCH_BYTES_MAX = 1024 * 1024


# The cost of a call against its caller's budget per second: 1 is a plain call.
Cost = Callable[[Message], int]


def one(_request: Message) -> int:
    return 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The roles that may call a method.

    With `subject_field` a user may do so only for itself, and a delegate only for its users. It names the field of the
    request that must hold their id: dotted for a nested field, and if a field on the path is repeated, every item must
    hold it. `bytes_max` limits the request.
    """

    roles: frozenset[Role] = field(default_factory=frozenset)
    subject_field: str | None = None
    bytes_max: int = REQUEST_BYTES_MAX
    cost: Cost = one

    def check(self, principal: Principal, request: Message, method: str) -> None:
        """Raises NotPermitted, RequestTooLarge or NotYourAccount."""
        if principal.role not in self.roles:
            raise NotPermitted(principal=str(principal), method=method)
        size_bytes = request.ByteSize()
        if size_bytes > self.bytes_max:
            raise RequestTooLarge(method=method, size_bytes=size_bytes, bytes_max=self.bytes_max)
        if self.subject_field is None or principal.role not in _FOR_THEMSELVES:
            return
        for claimed in _texts_at(request, self.subject_field):
            check_acts_for(principal, claimed)


def check_acts_for(principal: Principal, user_id: str) -> None:
    """Users act for themselves, delegates for their named users, other roles for any user. Raises NotYourAccount."""
    if principal.role not in _FOR_THEMSELVES:
        return
    subject_field = principal.may_act_for if principal.role is Role.DELEGATE else {principal.name}
    if user_id not in subject_field and spelled(user_id) not in subject_field:
        raise NotYourAccount(principal=str(principal), user_id=user_id)


_FOR_THEMSELVES = frozenset({Role.USER, Role.DELEGATE})
NOBODY = Policy()
PolicyTable = Mapping[str, Policy]

# Open to every client that can connect, without an identity.
OPEN_METHODS = frozenset(
    {
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/List",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    }
)


def allow(
    *roles: Role, subject_field: str | None = None, bytes_max: int = REQUEST_BYTES_MAX, cost: Cost = one
) -> Policy:
    """A policy for `roles`; with `subject_field` also for users, for themselves, and for their delegates."""
    return Policy(
        roles=frozenset(roles) | (_FOR_THEMSELVES if subject_field else frozenset()),
        subject_field=subject_field,
        bytes_max=bytes_max,
        cost=cost,
    )


def _texts_at(message: Message, path: str) -> Iterator[str]:
    name, _, rest = path.partition(".")
    value = getattr(message, name)
    if not rest:
        yield value
        return
    for inner in (value,) if isinstance(value, Message) else value:
        yield from _texts_at(inner, rest)
