"""RPCs that execute a client's command: alone, or many in one request."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Protocol, TypeVar, cast
from uuid import UUID

from google.protobuf.message import Message

from cells.audit.history.moments import Moment, Point
from cells.audit.history.questions import Past
from cells.cell import Cell
from cells.domain.commands import Command
from cells.domain.decision import State
from cells.domain.record import replace
from cells.domain.refusals import Refused
from cells.requests import CommandRequest, Lane, Outcome, Read
from cells.store.failures import map_store_errors
from cells.store.ports import Clock
from server.audit.signatures import NO_SIGNATURES, CallerSignatures
from server.services.audit_parts import Context
from server.shell.calls.call import Call, current_call
from server.shell.calls.statuses import to_status
from server.shell.fields.bounds import BATCH, items_in
from server.wire.convert import answer_writer, parser
from server.wire.history import parse_moment
from server.wire.requests import Item, Mutating, Reader, of_item, parse_deadline, parse_request

Q_contra = TypeVar("Q_contra", bound=Message, contravariant=True)
A_co = TypeVar("A_co", bound=Message, covariant=True)
M = TypeVar("M", bound=Message)
S = TypeVar("S", bound=State)


class Method(Protocol[Q_contra, A_co]):
    """An RPC of a servicer."""

    async def __call__(self, request: Q_contra, context: Context) -> A_co: ...


def command(
    kind: type[Command],
    request: type[Q_contra],
    answer: type[A_co],
    *,
    user: str | None = "user_id",
    lane: Lane = Lane.CLIENT,
) -> Method[Q_contra, A_co]:
    """The RPC that executes a command, of a servicer with an `executor`: fields are converted by their names."""
    read, write = reader(kind, request, user=user), answer_writer(answer)

    async def execute(self: Any, message: Any, _context: Context) -> A_co:  # noqa: ANN401 - any servicer and request
        outcome, reply = await self.executor.execute(message, *read(message), lane=lane), answer()
        write(reply, outcome, {})
        return reply

    return cast("Method[Q_contra, A_co]", execute)


def reader(kind: type[Command], request: type[Message], *, user: str | None = "user_id") -> Reader[Any]:
    """Turns a request into its command and the user on whose behalf it is: the field `user` of the command."""
    parse, user_of = parser(kind, request), attrgetter(user) if user is not None else _nobody

    def read(message: Any) -> tuple[Command, UUID | None]:  # noqa: ANN401 - a message of that kind
        wanted = parse(message)
        return wanted, user_of(wanted)

    return read


def _nobody(_command: Command) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Executor:
    cell: Cell
    clock: Clock
    signatures: CallerSignatures = NO_SIGNATURES

    def execute(
        self, request: Mutating, command: Command, user_id: UUID | None, *, lane: Lane = Lane.CLIENT
    ) -> Awaitable[Outcome]:
        """Executes the client's `command` on behalf of `user_id`. Raises Refused, at once or when awaited."""
        call, now_s = current_call(), self.clock.monotonic_s()
        return self.cell.execute(self._request(request, command, user_id, call=call, now_s=now_s, lane=lane))

    def _request(
        self,
        message: Mutating,
        command: Command,
        user_id: UUID | None,
        *,
        call: Call,
        now_s: float,
        lane: Lane = Lane.CLIENT,
    ) -> CommandRequest:
        request = parse_request(message, command, user_id=user_id, call=call, now_s=now_s, lane=lane)
        authority = self.signatures.authority(call.principal, message, command)
        return request if authority == request.authority else replace(request, authority=authority)

    async def answer_all(self, response: M, items: Sequence[Item], read: Reader[Item], method: str) -> M:
        """Executes many items, and answers each; `method` is the RPC for a single one.

        Raises Refused for all of them together.
        """
        for answer in await self._execute_all(items, read, method):
            result = response.results.add()  # type: ignore[attr-defined]
            if isinstance(answer, Refused):
                result.refused.CopyFrom(to_status(answer))
            else:
                accepted = result.accepted
                answer_writer(type(accepted))(accepted, answer, {})
        return response

    async def _execute_all(self, items: Sequence[Item], read: Reader[Item], method: str) -> list[Outcome | Refused]:
        call, now_s = current_call()._replace(method=method), self.clock.monotonic_s()
        items_in(items, "items", BATCH)
        # Checked before the items are read, so that an overloaded cell does not do this work for nothing.
        self.cell.check_room(str(call.principal), len(items))

        def read_all() -> list[CommandRequest | Refused]:
            return [self._item(index, item, read, call, now_s) for index, item in enumerate(items)]

        # A thousand signatures take a tenth of a second: other calls are served meanwhile.
        requests = await asyncio.to_thread(read_all) if self.signatures.expected else read_all()
        valid = [request for request in requests if isinstance(request, CommandRequest)]
        answers = iter(await self.cell.execute_all(valid, deadline_s=parse_deadline(call, now_s)))
        return [request if isinstance(request, Refused) else next(answers) for request in requests]

    def _item(self, index: int, item: Item, read: Reader[Item], call: Call, now_s: float) -> CommandRequest | Refused:
        """The same command as if it were sent alone; a refusal names its fields from the whole request."""
        try:
            return self._request(item, *read(item), call=call, now_s=now_s)
        except Refused as refused:
            return of_item(refused, index)


async def then_or_now(
    request: Any,  # noqa: ANN401 - any request with `as_of`
    then: Callable[[Moment], Awaitable[Past[S]]],
    now: Callable[[], Awaitable[Read[S]]],
) -> tuple[Read[S], Point | None]:
    """The state at the requested moment, and that moment; or the present state."""
    if not request.HasField("as_of"):
        return await now(), None
    past = await map_store_errors(then(parse_moment(request.as_of)))
    return past.read, past.point
