"""Open streams: they end when the server drains, and when their caller does not read, or is proven no longer."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cellbook.v1.auction_pb2 import WatchAuctionResponse
from cells.background import Background, in_background, note_failure
from cells.domain.refusals import Denied, Refused, WatcherTooSlow
from server.shell.calls.call import running_task
from server.shell.calls.denials import ShuttingDown
from server.shell.calls.limits import WATCHES
from server.shell.identity.callers import Identity
from server.shell.rpc import Context, Metadata

# How long a stream may go on after its token, the token's key or its certificate has expired.
PROOF_CHECK_S = 1.0
# How long an update may wait for a connection that takes nothing more.
UNREAD_MAX_S = 30.0


class _Proof(NamedTuple):
    identity: Identity
    metadata: Metadata
    context: Context


@dataclass(slots=True, kw_only=True)
class OpenStreams(Background):
    """Streams by the task that writes them; cancelling the task ends the stream."""

    _open: dict[asyncio.Task[Any], _Proof] = field(default_factory=dict)
    # Streams that we ended, and why.
    _why: dict[asyncio.Task[Any], Refused] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._open)

    def add(self, identity: Identity, metadata: Metadata, context: Context) -> None:
        """Adds the running task, until `discard`; `identity` has determined its caller."""
        self._open[running_task()] = _Proof(identity, metadata, context)
        if not self.background.running:
            self.background.start()

    def discard(self) -> None:
        task = running_task()
        self._open.pop(task, None)
        self._why.pop(task, None)

    def why_ended(self) -> Refused | None:
        """Why we cancelled the running task; None: we did not."""
        return self._why.get(running_task())

    def end_all(self) -> None:
        """Ends streams that would never end by themselves, so that a drain need not wait for them."""
        for task in self._open:
            self._end(task, ShuttingDown())

    def _end(self, task: asyncio.Task[Any], why: Refused) -> None:
        if self._why.setdefault(task, why) is why:
            task.cancel()

    @in_background("streams", every_s=None)
    async def _check_all(self) -> None:
        """Checks callers again while there are streams: a caller denied a new call loses its open streams."""
        while self._open:
            await asyncio.sleep(PROOF_CHECK_S)
            for task, proof in list(self._open.items()):
                await self._check(task, proof)

    async def _check(self, task: asyncio.Task[Any], proof: _Proof) -> None:
        try:
            await proof.identity.caller(proof.metadata, proof.context)
        except Denied as denied:
            if task in self._open:
                self._end(task, denied)
        except Exception:  # noqa: BLE001 - of this stream alone: the others are to be looked at all the same
            note_failure(self.background.name)


async def write(method: str, response: object, context: Context) -> None:
    """Sends an item of a stream. Raises WatcherTooSlow, which says where to go on, for one that does not read.

    gRPC sends a status after all that was written before, and cannot withdraw it. So the call itself, with its slot,
    ends when the watcher reads that, or its connection ends.
    """
    try:
        async with asyncio.timeout(UNREAD_MAX_S if method in WATCHES else None):
            await context.write(response)
    except TimeoutError:
        if not isinstance(response, bytes):
            raise
        item = WatchAuctionResponse.FromString(response)
        raise WatcherTooSlow(
            auction_id=item.auction.name.rpartition("/")[2], next_position=item.next_position
        ) from None
