"""A batch whose items are at home in several cells: each item to its own, the answers in the order of the items."""

import asyncio
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc.aio
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from router.atlas import Atlas, KnownHome
from router.routes import method_of, text_in
from server.shell.statuses import WRONG_CELL, of_status

# Quoted: generic for the type checker alone.
UnaryCall: TypeAlias = "grpc.aio.UnaryUnaryCall[Any, Any]"
Answer: TypeAlias = "grpc.aio.UnaryUnaryCall[Any, Any] | Message"
# By the index of their items.
Homes: TypeAlias = Mapping[int, KnownHome]
Results: TypeAlias = dict[int, Any]

HOPS_MAX = 3
_ITEM = re.compile(r"items\[\d+\]")


def is_batch(request: Message) -> bool:
    return "items" in request.DESCRIPTOR.fields_by_name


@dataclass(slots=True, kw_only=True)
class Batch:
    """`path` is that of the user in the request: "items.user_id"."""

    atlas: Atlas
    method: str
    path: str
    send: Callable[[str, Message], Awaitable[UnaryCall]]

    async def answered(self, request: Any) -> Answer:  # noqa: ANN401 - any batch
        """The call itself where all items are at home in one cell, else one answer put together of several.

        An item whose cell does not answer gets, as its result, the status that it would have got alone.

        Raises:
            AioRpcError: no item was sent anywhere.
        """
        found = await self._homes([self._user(item) for item in request.items])
        homes = {index: home for index, home in enumerate(found) if isinstance(home, KnownHome)}
        lost = {index: error for index, error in enumerate(found) if isinstance(error, grpc.aio.AioRpcError)}
        if lost and not homes:
            raise next(iter(lost.values()))
        if not lost and len({home.cell for home in homes.values()}) <= 1:
            call = await self.send(homes[0].cell if homes else await self.atlas.any_cell(), request)
            try:
                results: Results = dict(enumerate((await call).results))
            except grpc.aio.AioRpcError:
                # It says so itself to whoever awaits it.
                return call
            moved = await self._moved(request, results, homes)
            if not moved:
                return call
        else:
            results = {index: self._refused(error) for index, error in lost.items()}
            moved = homes
        return await self._gathered(request, results, moved)

    async def _gathered(self, request: Any, results: Results, homes: Homes) -> Message:  # noqa: ANN401 - as above
        """Sends the items of `homes`, until none of them has moved any more."""
        for _ in range(HOPS_MAX):
            results |= await self._sent(request, homes)
            homes = await self._moved(request, results, homes)
            if not homes:
                break
        answer: Any = self._response()
        answer.results.extend(results[index] for index in range(len(request.items)))
        return answer  # type: ignore[no-any-return]

    async def _sent(self, request: Any, homes: Homes) -> Results:  # noqa: ANN401 - as above
        """The results of these items, each cell asked once."""
        groups: defaultdict[str, list[int]] = defaultdict(list)
        for index in sorted(homes):
            groups[homes[index].cell].append(index)
        answers = await asyncio.gather(*(self._sent_to(cell, request, items) for cell, items in groups.items()))
        return {index: result for answer in answers for index, result in answer.items()}

    async def _sent_to(self, cell: str, request: Any, indexes: Sequence[int]) -> Results:  # noqa: ANN401 - as above
        part = type(request)(items=[request.items[index] for index in indexes])
        try:
            answer: Any = await (await self.send(cell, part))
        except grpc.aio.AioRpcError as error:
            return {index: self._refused(error) for index in indexes}
        for index, result in zip(indexes, answer.results, strict=True):
            if result.HasField("refused"):
                _renumber(result.refused, index)
        return dict(zip(indexes, answer.results, strict=True))

    async def _homes(self, users: Sequence[str]) -> list[KnownHome | grpc.aio.AioRpcError]:
        """Of those who are not known here yet, all are asked after at once."""
        strangers = list({user for user in users if user not in self.atlas.homes})
        found = dict(zip(strangers, await asyncio.gather(*map(self._home, strangers)), strict=True))
        return [self.atlas.homes.get(user) or found[user] for user in users]

    async def _home(self, user_id: str) -> KnownHome | grpc.aio.AioRpcError:
        try:
            return await self.atlas.home(user_id)
        except grpc.aio.AioRpcError as error:
            return error

    async def _moved(self, request: Any, results: Results, homes: Homes) -> dict[int, KnownHome]:  # noqa: ANN401 - as above
        """The items that a cell has refused because their users are at home elsewhere, and where."""
        moved = {}
        for index, home in homes.items():
            refused = of_status(results[index].refused) if results[index].HasField("refused") else None
            if refused is None or refused.reason != WRONG_CELL:
                continue
            facts = {name: str(value) for name, value in refused.facts.items()}
            elsewhere = await self.atlas.corrected_by(self._user(request.items[index]), home, facts)
            if elsewhere is not None:
                moved[index] = elsewhere
        return moved

    def _user(self, item: Message) -> str:
        return text_in(item, self.path.partition(".")[2]).lower()

    def _refused(self, error: grpc.aio.AioRpcError) -> Message:
        """The result of an item that met this error."""
        # AioRpcError has all that from_call reads.
        status = rpc_status.from_call(error)  # type: ignore[arg-type]
        status = status or status_pb2.Status(code=error.code().value[0], message=error.details() or "")
        result: Any = self._response().results.add()
        result.refused.CopyFrom(status)
        return result  # type: ignore[no-any-return]

    def _response(self) -> Any:  # noqa: ANN401 - of any batch
        descriptor = method_of(self.method)
        if descriptor is None:
            raise LookupError(f"no stub of {self.method} has been imported")
        return GetMessageClass(descriptor.output_type)()


def _renumber(status: status_pb2.Status, index: int) -> None:
    """A field is named by its item's place in the whole batch, not in the part that a cell got."""
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
