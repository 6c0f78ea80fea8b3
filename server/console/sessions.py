"""Sessions in the console's memory: the browser has a random id in a cookie, and nothing else."""

import asyncio
import hashlib
import hmac
import json
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from server.console.visitor import Visitor

ID_BYTES = 32
IDLE_S = 30 * 60.0
LIFETIME_S = 8 * 3_600.0
SESSIONS_MAX = 10_000
# Nobody ends the sessions of others by beginning many.
SESSIONS_OF_ONE_MAX = 20


@dataclass(slots=True, kw_only=True)
class Session:
    visitor: Visitor
    ends_s: float
    used_s: float
    # Of those that wait for something while the session is open.
    waits: set[asyncio.Timeout] = field(default_factory=set)

    @property
    def open_until_s(self) -> float:
        return min(self.ends_s, self.used_s + IDLE_S)

    def limit(self, left_s: float) -> None:
        """Sets the time that all waits have left."""
        for wait in self.waits:
            if not wait.expired():
                wait.reschedule(asyncio.get_running_loop().time() + left_s)


@dataclass(slots=True, kw_only=True)
class Sessions:
    """Ends a session after IDLE_S without a request, after LIFETIME_S, and when the visitor's proof expires."""

    wall_s: Callable[[], float] = time.time
    # Signs the tokens in forms; new with each start, so a restart ends all sessions and forms.
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(ID_BYTES))
    # By id; the one that was used last comes last.
    _open: OrderedDict[str, Session] = field(default_factory=OrderedDict)

    def begin(self, visitor: Visitor) -> str:
        """A new id for each sign-in: an id that somebody has put into the browser before is worth nothing."""
        now_s = self.wall_s()
        ends_s = min(now_s + LIFETIME_S, visitor.until_s)
        own = [each for each, session in self._open.items() if session.visitor.principal == visitor.principal]
        if len(own) >= SESSIONS_OF_ONE_MAX:
            self.end(own[0])
        session_id = secrets.token_urlsafe(ID_BYTES)
        self._open[session_id] = Session(visitor=visitor, ends_s=ends_s, used_s=now_s)
        if len(self._open) > SESSIONS_MAX:
            self.end(next(iter(self._open)))
        return session_id

    def find(self, session_id: str, *, used: bool = True) -> Visitor | None:
        """The visitor of an open session. With `used` it stays open for another IDLE_S."""
        session, now_s = self._open.get(session_id), self.wall_s()
        if session is None:
            return None
        if now_s >= session.open_until_s:
            self.end(session_id)
            return None
        if used:
            session.used_s = now_s
            self._open.move_to_end(session_id)
            session.limit(session.open_until_s - now_s)
        return session.visitor

    def end(self, session_id: str) -> None:
        session = self._open.pop(session_id, None)
        if session is not None:
            session.limit(0)

    @asynccontextmanager
    async def while_open(self, session_id: str) -> AsyncIterator[None]:
        """Ends what its body waits for when the session ends. Raises TimeoutError."""
        if self.find(session_id, used=False) is None:
            raise TimeoutError
        session = self._open[session_id]
        async with asyncio.timeout(session.open_until_s - self.wall_s()) as wait:
            session.waits.add(wait)
            try:
                yield
            finally:
                session.waits.discard(wait)

    def form_token(self, cookie: str) -> str:
        """A form of the browser with this cookie must send it along."""
        return self.signature("form", cookie)

    def is_form_token(self, cookie: str, token: str) -> bool:
        return bool(cookie) and self.is_signature(token, "form", cookie)

    def signature(self, *parts: str) -> str:
        """Known to nobody without the secret. The first part says what it is for."""
        return hmac.new(self.secret, json.dumps(parts).encode(), hashlib.sha256).hexdigest()

    def is_signature(self, signature: str, *parts: str) -> bool:
        return hmac.compare_digest(self.signature(*parts).encode(), signature.encode())
