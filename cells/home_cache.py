"""The cache of users' homes: of a cell, of the smart client and of the proxy, each with a directory to ask."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from cells.domain.moves.home import Home
from cells.domain.refusals import Refused, Unavailable, WrongCell

HOMES_MAX = 200_000

User = TypeVar("User", bound=Hashable)
User_contra = TypeVar("User_contra", contravariant=True)


class HomeDirectory(Protocol[User_contra]):
    async def find(self, user: User_contra, /) -> Home | None:
        """The user's home now; None: there is no such user. Raises Unavailable if it does not answer."""


async def believe(_user: object, _tried: Home, _claimed: Home) -> bool:
    """A cell's word is enough: each cell checks by itself who is at home there."""
    return True


@dataclass(slots=True, kw_only=True)
class HomeCache(Generic[User]):
    """Homes as last heard; of too many, the one heard first is dropped. To be closed.

    Concurrent requests for one user share one question to the directory.
    `believes` says whether a cell's report of a new home counts; it receives the user, the home tried and the new one.
    """

    directory: HomeDirectory[User]
    monotonic_s: Callable[[], float]
    believes: Callable[[User, Home, Home], Awaitable[bool]] = believe
    # User -> home, and when it was heard.
    _heard: dict[User, tuple[Home, float]] = field(default_factory=dict)
    _asked: dict[User, asyncio.Task[Home | None]] = field(default_factory=dict)

    def known(self, user: User, younger_s: float = math.inf) -> Home | None:
        """The home, if it was heard less than so long ago."""
        home, heard_s = self._heard.get(user, (None, -math.inf))
        return home if self.monotonic_s() - heard_s < younger_s else None

    async def home(self, user: User, *, fresh_s: float = math.inf, stale_s: float = math.inf) -> Home | None:
        """The user's home; None: there is no such user. An answer younger than `fresh_s` is used without asking.

        Raises:
            Unavailable: the directory does not answer, and its last answer is not younger than `stale_s`.
            Refused: whatever else the directory raises.
        """
        home = self.known(user, fresh_s)
        if home is not None:
            return home
        try:
            return await self.ask(user)
        except Unavailable:
            home = self.known(user, stale_s)
            if home is None:
                raise
            return home

    async def ask(self, user: User) -> Home | None:
        """The home as the directory knows it now. Raises as the directory."""
        asking = self._asked.get(user)
        if asking is None:
            asking = self._asked[user] = asyncio.create_task(self._find(user))
            asking.add_done_callback(lambda asked: self._end(user, asked))
        # A caller that gives up does not cancel the shared question.
        return await asyncio.shield(asking)

    def _end(self, user: User, asked: asyncio.Task[Home | None]) -> None:
        del self._asked[user]
        if not asked.cancelled():
            # Every caller may have given up.
            asked.exception()

    async def _find(self, user: User) -> Home | None:
        home = await self.directory.find(user)
        if home is not None:
            self.keep(user, home)
        return home

    def keep(self, user: User, home: Home) -> None:
        if self._heard.pop(user, None) is None and len(self._heard) >= HOMES_MAX:
            del self._heard[next(iter(self._heard))]
        self._heard[user] = home, self.monotonic_s()

    async def corrected(self, user: User, tried: Home, refused: Refused | None) -> Home | None:
        """The new home of a user whom the cell that was tried refuses with WRONG_CELL; None: the refusal stands.

        The higher epoch is right. If the cell's is not higher, the directory decides. Raises as the directory.
        """
        if not isinstance(refused, WrongCell) or str(refused.facts["resource"]).lower() != f"user {user}":
            # It may concern another user of the request, which cannot be corrected here.
            return None
        claimed = Home.named_in(refused.facts)
        if claimed.epoch > tried.epoch and await self.believes(user, tried, claimed):
            self.keep(user, claimed)
            return claimed if claimed.cell != tried.cell else None
        asked = await self.ask(user)
        return asked if asked is not None and asked.cell != tried.cell else None

    async def close(self) -> None:
        asked = list(self._asked.values())
        for asking in asked:
            asking.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
