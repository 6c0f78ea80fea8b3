"""A bulkhead and a circuit breaker for one other cell, so that an unreachable peer does not delay the others.

CLOSED  the peer answers: calls run concurrently, at most CALLS_MAX
OPEN    the peer is silent, SILENT_AFTER calls in a row had no answer: one leg at a time probes it, all others wait

The first answer closes the circuit. All waiting legs then proceed at once, instead of each after its own backoff.
"""

import asyncio
import math
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from cells.store.ports import PeerUnknown

CALLS_MAX = 256
# One lost reply does not make a peer silent.
SILENT_AFTER = 3
PROBE_FIRST_S = 0.5
PROBE_MAX_S = 2.0
PROBE_FACTOR = 2.0


class PeerSilent(PeerUnknown):
    """The peer was not called: earlier calls had no answer."""


@dataclass(slots=True, kw_only=True)
class CircuitBreaker:
    random: random.Random
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CALLS_MAX))
    # Consecutive calls without an answer.
    _unanswered: int = 0
    # When the peer fell silent, on the event loop's clock.
    _silent_since_s: float = 0.0
    # No call probes the silent peer: the next one may.
    _probe_due: bool = False
    _next_probe: asyncio.TimerHandle | None = None
    # Waiting calls, in order. True: probe the peer. False: the peer has answered.
    _turns: dict[asyncio.Future[bool], None] = field(default_factory=dict)

    @property
    def silent(self) -> bool:
        return self._unanswered >= SILENT_AFTER

    @property
    def silent_s(self) -> float | None:
        """How long the peer has been silent; None: it is not."""
        return asyncio.get_running_loop().time() - self._silent_since_s if self.silent else None

    def ask_now(self) -> None:
        """Probes the silent peer at once; the next scheduled probe keeps its time."""
        if self.silent:
            self._probe()

    @asynccontextmanager
    async def call(self, patience_s: float) -> AsyncIterator[None]:
        """Wraps one call of the peer, whose outcome tells whether the peer has answered.

        Raises:
            PeerSilent: the call was not admitted within `patience_s`.
        """
        probe = await self._admitted(patience_s)
        # None: the call was cancelled, so nothing is known.
        answered: bool | None = None
        try:
            yield
            answered = True
        except PeerUnknown as error:
            answered = error.answered
            raise
        except Exception:
            # A refusal is an answer.
            answered = True
            raise
        finally:
            if not probe:
                self._slots.release()
            self._ended(answered=answered, probe=probe)

    async def _admitted(self, patience_s: float) -> bool:
        """Waits for admission, and for a slot unless this call is the probe."""
        try:
            async with asyncio.timeout(None if patience_s == math.inf else patience_s):
                while True:
                    if self.silent and await self._turn():
                        return True
                    await self._slots.acquire()
                    if not self.silent:
                        return False
                    # The peer fell silent while this call waited for the slot.
                    self._slots.release()
        except TimeoutError:
            raise PeerSilent("it does not answer") from None

    async def _turn(self) -> bool:
        if self._probe_due:
            self._probe_due = False
            return True
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._turns[turn] = None
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self._probe()
            raise
        finally:
            self._turns.pop(turn, None)

    def _ended(self, *, answered: bool | None, probe: bool) -> None:
        if answered:
            self._close()
        elif answered is None:
            if probe:
                self._probe()
        elif probe or not self.silent:
            self._unanswered += 1
            if self._unanswered == SILENT_AFTER:
                self._silent_since_s = asyncio.get_running_loop().time()
            if self.silent:
                self._probe_later()

    def _close(self) -> None:
        self._unanswered = 0
        self._probe_due = False
        if self._next_probe is not None:
            self._next_probe.cancel()
        for turn in self._turns:
            if not turn.done():
                turn.set_result(False)

    def _probe_later(self) -> None:
        """Backs off after each failure, up to a bound, with jitter so that cells do not retry in step."""
        failed = min(self._unanswered - SILENT_AFTER, 20)
        pause_s = min(PROBE_MAX_S, PROBE_FIRST_S * PROBE_FACTOR**failed) * self.random.uniform(0.5, 1.0)
        if self._next_probe is not None:
            self._next_probe.cancel()
        self._next_probe = asyncio.get_running_loop().call_later(pause_s, self._probe)

    def _probe(self) -> None:
        """Lets the first waiting call probe the peer."""
        for turn in self._turns:
            if not turn.done():
                turn.set_result(True)
                return
        self._probe_due = self.silent
