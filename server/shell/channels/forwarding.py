"""Forwards calls that only a cell's leader can answer from a standby to the leader.

Clients need not know which process leads: any of them returns the leader's answer. The standby admits the call as the
leader would (identity, rate, policy), and states the caller: by the caller's own token or, if a certificate proved the
caller, by ON_BEHALF_KEY, which a process accepts only with its own cell's certificate (callers.py).

A forwarded call carries ANSWER_HERE_KEY, and the process that receives it answers by itself, so no call is forwarded
twice.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterable
from collections.abc import Set as AbstractSet
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import Message

from cells.domain.refusals import Refused
from server.shell.calls.call import abort_call
from server.shell.channels.channel_pool import ChannelPool
from server.shell.channels.location_cache import LocationCache
from server.shell.identity.callers import ON_BEHALF_CERTIFICATE_KEY, ON_BEHALF_KEY, ON_BEHALF_KEYS
from server.shell.identity.principal import PRINCIPAL_KEY, TOKEN_KEY, Principal
from server.shell.rpc import Context, answer_parser

# The receiver answers by itself, whether it leads or not.
ANSWER_HERE_KEY = "cellbook-answer-here"
# A takeover takes up to 3 s.
LEADER_WAIT_S = 5.0
# Headers of one hop; the next hop sets its own.
HOP_KEYS = frozenset({"user-agent", "te", "content-type"})

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]


@dataclass(slots=True, kw_only=True)
class LeaderForwarder:
    """`locations` knows the addresses of all the cell's processes, or how to ask for them. To be closed.

    `proven`: callers prove their identity; the identity that they merely claim is not forwarded.
    """

    cell: str
    locations: LocationCache
    channels: ChannelPool
    proven: bool
    leader_wait_s: float = LEADER_WAIT_S

    async def unary(
        self, method: str, request: Message, context: Context, principal: Principal, refused: Refused
    ) -> Message:
        channel = await self._leader(context, refused)
        call = channel.unary_unary(method, type(request).SerializeToString, answer_parser(method))
        answer: Message = await answer_of(call(request, **self._how(context, principal)), context)
        return answer

    async def stream(
        self, method: str, request: Message, context: Context, principal: Principal, refused: Refused
    ) -> AsyncGenerator[Message, None]:
        channel = await self._leader(context, refused)
        call = channel.unary_stream(method, type(request).SerializeToString, answer_parser(method))
        async with aclosing(answers_of(call(request, **self._how(context, principal)), context)) as answers:
            async for answer in answers:
                yield answer

    def _how(self, context: Context, principal: Principal) -> dict[str, Any]:
        return {"timeout": context.time_remaining(), "metadata": self._metadata(context, principal)}

    async def close(self) -> None:
        await self.channels.close()

    async def _leader(self, context: Context, refused: Refused) -> grpc.aio.Channel:
        """A channel to the process that leads; waits until one does. Raises `refused`."""
        if any(key == ANSWER_HERE_KEY for key, _ in _sent(context)):
            raise refused
        remaining_s = context.time_remaining()
        try:
            async with asyncio.timeout(
                self.leader_wait_s if remaining_s is None else min(remaining_s, self.leader_wait_s)
            ):
                channel = self.channels.channel(self.cell, await self.locations.endpoints(self.cell))
                await channel.channel_ready()
        except (TimeoutError, grpc.aio.AioRpcError):
            # The processes may have moved.
            self.locations.look_again(self.cell)
            raise refused from None
        return channel

    def _metadata(self, context: Context, principal: Principal) -> Metadata:
        dropped = {*HOP_KEYS, *ON_BEHALF_KEYS, *((PRINCIPAL_KEY,) if self.proven else ())}
        kept = kept_of(_sent(context), dropped)
        if self.proven and not any(key == TOKEN_KEY for key, _ in kept):
            kept = (*kept, (ON_BEHALF_KEY, str(principal)))
            if principal.authority:
                kept = (*kept, (ON_BEHALF_CERTIFICATE_KEY, json.loads(principal.authority)["sha256"]))
        return (*kept, (ANSWER_HERE_KEY, "1"))


def kept_of(sent: Iterable[tuple[str, str | bytes]], dropped: AbstractSet[str]) -> Metadata:
    """The metadata that a caller sent, except the keys in `dropped`."""
    return tuple((key, value) for key, value in sent if key not in dropped)


async def answer_of(call: Any, context: Context) -> Any:  # noqa: ANN401 - a unary call
    """The answer, with its metadata passed on; or the error passed on as it was answered."""
    try:
        answer = await call
        await _pass_on_initial(call, context)
        context.set_trailing_metadata(tuple(await call.trailing_metadata()))
    except grpc.aio.AioRpcError as error:
        await pass_on_error(error, context)
    return answer


async def answers_of(call: Any, context: Context) -> AsyncGenerator[Any, None]:  # noqa: ANN401 - a stream
    """The same for a stream, which is cancelled if the caller goes."""
    try:
        await _pass_on_initial(call, context)
        async for answer in call:
            yield answer
        context.set_trailing_metadata(tuple(await call.trailing_metadata()))
    except grpc.aio.AioRpcError as error:
        await pass_on_error(error, context)
    finally:
        call.cancel()


async def pass_on_error(error: grpc.aio.AioRpcError, context: Context) -> NoReturn:
    """Passes on the status as it was answered; the details travel in the trailing metadata."""
    if initial := error.initial_metadata():
        await context.send_initial_metadata(tuple(initial))
    context.set_trailing_metadata(tuple(error.trailing_metadata() or ()))
    await abort_call(context, error.code(), error.details() or "")


async def _pass_on_initial(call: Any, context: Context) -> None:  # noqa: ANN401 - a call of either kind
    if initial := await call.initial_metadata():
        await context.send_initial_metadata(tuple(initial))


def _sent(context: Context) -> Iterable[tuple[str, str | bytes]]:
    return context.invocation_metadata() or ()
