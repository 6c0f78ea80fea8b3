"""Splits a batch by the home cells of its items, and returns the answers in the order of the items."""

import asyncio
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

import grpc.aio
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from cells.domain.moves.home import Home
from cells.domain.refusals import Refused
from cells.home_cache import HomeCache
from router.routing.routes import ROUTES, text_in
from server.shell.calls.statuses import of_status, to_status
from server.shell.fields.spelling import spelled
from server.shell.rpc import known_method

# Any request or answer of a batch.
Batched: TypeAlias = Any
# The reason why an item was not sent, or not answered.
Problem: TypeAlias = grpc.aio.AioRpcError | Refused
# By the index of their items.
Homes: TypeAlias = Mapping[int, Home]
Results: TypeAlias = dict[int, Any]
Whole = TypeVar("Whole")

HOPS_MAX = 3
_ITEM = re.compile(r"items\[\d+\]")


class Finder(Protocol):
    """Finds the homes of users. Raises Problem."""

    @property
    def homes(self) -> HomeCache[str]: ...
    async def home(self, user_id: str) -> Home: ...
    async def any_cell(self) -> str:
        """A cell for requests that every cell refuses alike."""


def is_batch(method: str) -> bool:
    """Whether each item of the request has a home of its own."""
    return method in ROUTES and ROUTES[method].path.startswith("items.")


@dataclass(slots=True, kw_only=True)
class Batch:
    finder: Finder
    method: str
    # Sends to a cell; returns what to await for its answer.
    send: Callable[[str, Message], Awaitable[Awaitable[Any]]]

    async def answered(
        self, request: Batched, whole: Callable[[str], Awaitable[tuple[Whole, Sequence[Any]]]]
    ) -> Whole | Message:
        """The answer of `whole` if all items have one home cell, otherwise one answer merged from several.

        `whole` sends the request to a cell as it is; it also returns the results to look through for users who have
        moved. An item whose cell does not answer gets, as its result, the status that it would have got alone.

        Raises:
            Problem: no item was sent anywhere.
        """
        homes, results = await self._placed(request)
        cells = {home.cell for home in homes.values()}
        if results or len(cells) > 1:
            return await self._gathered(request, results, homes)
        answer, found = await whole(cells.pop() if cells else await self.finder.any_cell())
        results = dict(enumerate(found))
        moved = await self._moved(request, results, homes)
        return await self._gathered(request, results, moved) if moved else answer

    def users(self, request: Batched) -> list[str]:
        """The user of each item."""
        return [self._user(item) for item in request.items]

    async def _placed(self, request: Batched) -> tuple[Homes, Results]:
        """The homes of the items, and the results of items whose cell is unknown.

        Raises:
            Problem: the cell of every item is unknown.
        """
        users, known = self.users(request), self.finder.homes.known
        strangers = list({user for user in users if known(user) is None})
        # All at once.
        asked = dict(zip(strangers, await asyncio.gather(*map(self._home, strangers)), strict=True))
        found = {index: known(user) or asked[user] for index, user in enumerate(users)}
        homes = {index: home for index, home in found.items() if isinstance(home, Home)}
        lost = {index: error for index, error in found.items() if not isinstance(error, Home)}
        if lost and not homes:
            raise next(iter(lost.values()))
        return homes, {index: self._refused(error) for index, error in lost.items()}

    async def _home(self, user_id: str) -> Home | Problem:
        try:
            return await self.finder.home(user_id)
        except (grpc.aio.AioRpcError, Refused) as error:
            return error

    async def _gathered(self, request: Batched, results: Results, homes: Homes) -> Message:
        """Sends the items of `homes`, and again those whose users have moved, until none has."""
        for _ in range(HOPS_MAX):
            results |= await self._sent(request, homes)
            homes = await self._moved(request, results, homes)
            if not homes:
                break
        answer = self._response()
        answer.results.extend(results[index] for index in range(len(request.items)))
        return answer  # type: ignore[no-any-return]

    async def _sent(self, request: Batched, homes: Homes) -> Results:
        """The results of these items, with one request to each cell."""
        groups: defaultdict[str, list[int]] = defaultdict(list)
        for index in sorted(homes):
            groups[homes[index].cell].append(index)
        answers = await asyncio.gather(*(self._sent_to(cell, request, items) for cell, items in groups.items()))
        return {index: result for answer in answers for index, result in answer.items()}

    async def _sent_to(self, cell: str, request: Batched, indexes: Sequence[int]) -> Results:
        part = type(request)(items=[request.items[index] for index in indexes])
        try:
            answer: Batched = await (await self.send(cell, part))
        except (grpc.aio.AioRpcError, Refused) as error:
            return {index: self._refused(error) for index in indexes}
        for index, result in zip(indexes, answer.results, strict=True):
            if result.HasField("refused"):
                _renumber(result.refused, index)
        return dict(zip(indexes, answer.results, strict=True))

    async def _moved(self, request: Batched, results: Results, homes: Homes) -> dict[int, Home]:
        """The items that a cell refused because their users live elsewhere, and their homes."""
        moved = {}
        for index, home in homes.items():
            if index not in results or not results[index].HasField("refused"):
                continue
            refused, user = of_status(results[index].refused), self._user(request.items[index])
            try:
                elsewhere = await self.finder.homes.corrected(user, home, refused)
            except (grpc.aio.AioRpcError, Refused):
                # The item keeps its refusal, and the others their answers.
                continue
            if elsewhere is not None:
                moved[index] = elsewhere
        return moved

    def _user(self, item: Message) -> str:
        return spelled(text_in(item, ROUTES[self.method].path.partition(".")[2]))

    def _refused(self, error: Problem) -> Message:
        """The result of an item for this error."""
        if isinstance(error, Refused):
            status = to_status(error)
        else:
            # AioRpcError has all the attributes that from_call reads.
            said = rpc_status.from_call(error)  # type: ignore[arg-type]
            status = said or status_pb2.Status(code=error.code().value[0], message=error.details() or "")
        result = self._response().results.add()
        result.refused.CopyFrom(status)
        return result  # type: ignore[no-any-return]

    def _response(self) -> Batched:
        return GetMessageClass(known_method(self.method).output_type)()


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
