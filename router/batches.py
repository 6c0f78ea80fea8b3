"""Splits a batch by the home cells of its items, and returns the answers in the order of the items."""

import asyncio
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import grpc.aio
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from cells.domain.refusals import Refused
from router.location_cache import KnownHome
from router.routes import method_of, text_in
from server.shell.calls.statuses import WRONG_CELL, of_status, to_status
from server.shell.fields.spelling import spelled

# Quoted, because it is generic only for the type checker.
UnaryCall: TypeAlias = "grpc.aio.UnaryUnaryCall[Any, Any]"
Answer: TypeAlias = "grpc.aio.UnaryUnaryCall[Any, Any] | Message"
# The reason why an item was not sent, or not answered.
Problem: TypeAlias = grpc.aio.AioRpcError | Refused
# By the index of their items.
Homes: TypeAlias = Mapping[int, KnownHome]
Results: TypeAlias = dict[int, Any]

HOPS_MAX = 3
_ITEM = re.compile(r"items\[\d+\]")


class Finder(Protocol):
    """Finds the homes of users."""

    @property
    def known(self) -> Mapping[str, KnownHome]:
        """Homes that are known without asking."""

    async def home(self, user_id: str) -> KnownHome:
        """Raises Problem."""

    async def corrected_by(self, user_id: str, tried: KnownHome, facts: dict[str, str]) -> KnownHome | None:
        """The user's new home, from the facts of a WRONG_CELL that the tried home returned. None: the error stands."""

    async def any_cell(self) -> str:
        """A cell for requests that every cell refuses alike. Raises Problem."""


def is_batch(request: Message) -> bool:
    return "items" in request.DESCRIPTOR.fields_by_name


@dataclass(slots=True, kw_only=True)
class Batch:
    """`path` is the path of the user id in the request: "items.user_id"."""

    finder: Finder
    method: str
    path: str
    # Sends to a cell; returns what to await for its answer.
    send: Callable[[str, Message], Awaitable[Awaitable[Any]]]

    async def answered(self, request: Any) -> Answer:  # noqa: ANN401 - any batch
        """The call itself if all items have one home cell, otherwise one answer merged from several.

        An item whose cell does not answer gets, as its result, the status that it would have got alone.

        Raises:
            AioRpcError: no item was sent anywhere.
        """
        homes, results = await self.placed(request)
        if results or len({home.cell for home in homes.values()}) > 1:
            return await self.gathered(request, results, homes)
        call: Any = await self.send(homes[0].cell if homes else await self.finder.any_cell(), request)
        try:
            results = dict(enumerate((await call).results))
        except grpc.aio.AioRpcError:
            # The call raises its own error when it is awaited.
            return call  # type: ignore[no-any-return]
        return await self.mended(request, results, homes) or call

    def users(self, request: Any) -> list[str]:  # noqa: ANN401 - any batch
        """The user of each item."""
        return [self._user(item) for item in request.items]

    async def placed(self, request: Any) -> tuple[Homes, Results]:  # noqa: ANN401 - as above
        """The cells of the items, and the results of items whose cell is unknown.

        Raises:
            Problem: the cell of every item is unknown.
        """
        found = await self._homes(self.users(request))
        homes = {index: home for index, home in enumerate(found) if isinstance(home, KnownHome)}
        lost = {index: error for index, error in enumerate(found) if not isinstance(error, KnownHome)}
        if lost and not homes:
            raise next(iter(lost.values()))
        return homes, {index: self._refused(error) for index, error in lost.items()}

    async def mended(self, request: Any, results: Results, homes: Homes) -> Message | None:  # noqa: ANN401 - as above
        """The answer with new results for items whose users have moved since; None: no user has moved."""
        moved = await self._moved(request, results, homes)
        return await self.gathered(request, results, moved) if moved else None

    async def gathered(self, request: Any, results: Results, homes: Homes) -> Message:  # noqa: ANN401 - as above
        """Sends the items of `homes`, and again those whose users have moved, until none has."""
        for _ in range(HOPS_MAX):
            results |= await self._sent(request, homes)
            homes = await self._moved(request, results, homes)
            if not homes:
                break
        answer: Any = self._response()
        answer.results.extend(results[index] for index in range(len(request.items)))
        return answer  # type: ignore[no-any-return]

    async def _sent(self, request: Any, homes: Homes) -> Results:  # noqa: ANN401 - as above
        """The results of these items, with one request to each cell."""
        groups: defaultdict[str, list[int]] = defaultdict(list)
        for index in sorted(homes):
            groups[homes[index].cell].append(index)
        answers = await asyncio.gather(*(self._sent_to(cell, request, items) for cell, items in groups.items()))
        return {index: result for answer in answers for index, result in answer.items()}

    async def _sent_to(self, cell: str, request: Any, indexes: Sequence[int]) -> Results:  # noqa: ANN401 - as above
        part = type(request)(items=[request.items[index] for index in indexes])
        try:
            answer: Any = await (await self.send(cell, part))
        except (grpc.aio.AioRpcError, Refused) as error:
            return {index: self._refused(error) for index in indexes}
        for index, result in zip(indexes, answer.results, strict=True):
            if result.HasField("refused"):
                _renumber(result.refused, index)
        return dict(zip(indexes, answer.results, strict=True))

    async def _homes(self, users: Sequence[str]) -> list[KnownHome | Problem]:
        """Looks up all unknown users at once."""
        strangers = list({user for user in users if user not in self.finder.known})
        found = dict(zip(strangers, await asyncio.gather(*map(self._home, strangers)), strict=True))
        return [self.finder.known.get(user) or found[user] for user in users]

    async def _home(self, user_id: str) -> KnownHome | Problem:
        try:
            return await self.finder.home(user_id)
        except (grpc.aio.AioRpcError, Refused) as error:
            return error

    async def _moved(self, request: Any, results: Results, homes: Homes) -> dict[int, KnownHome]:  # noqa: ANN401 - as above
        """The items that a cell refused because their users live elsewhere, and their homes."""
        moved = {}
        for index, home in homes.items():
            refused = of_status(results[index].refused) if results[index].HasField("refused") else None
            if refused is None or refused.reason != WRONG_CELL:
                continue
            facts = {name: str(value) for name, value in refused.facts.items()}
            elsewhere = await self.finder.corrected_by(self._user(request.items[index]), home, facts)
            if elsewhere is not None:
                moved[index] = elsewhere
        return moved

    def _user(self, item: Message) -> str:
        return spelled(text_in(item, self.path.partition(".")[2]))

    def _refused(self, error: Problem) -> Message:
        """The result of an item for this error."""
        if isinstance(error, Refused):
            status = to_status(error)
        else:
            # AioRpcError has all the attributes that from_call reads.
            said = rpc_status.from_call(error)  # type: ignore[arg-type]
            status = said or status_pb2.Status(code=error.code().value[0], message=error.details() or "")
        result: Any = self._response().results.add()
        result.refused.CopyFrom(status)
        return result  # type: ignore[no-any-return]

    def _response(self) -> Any:  # noqa: ANN401 - of any batch
        descriptor = method_of(self.method)
        if descriptor is None:
            raise LookupError(f"no stub of {self.method} has been imported")
        return GetMessageClass(descriptor.output_type)()


def _renumber(status: status_pb2.Status, index: int) -> None:
    """Numbers a field by its item's place in the whole batch, not in the part that the cell received."""
    name = f"items[{index}]"
    status.message = _ITEM.sub(name, status.message)
    info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        if detail.Unpack(info) and "field" in info.metadata:
            info.metadata["field"] = _ITEM.sub(name, info.metadata["field"])
            detail.Pack(info, deterministic=True)
        elif detail.Unpack(request):
            for violation in request.field_violations:
                violation.field = _ITEM.sub(name, violation.field)
                violation.description = _ITEM.sub(name, violation.description)
            detail.Pack(request)
