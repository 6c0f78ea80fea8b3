"""The points of a leg at which tests interfere. In a product nothing does: the faults are in `tests/doubles`."""

from collections.abc import Awaitable, Callable

from cells.requests import Outcome


class NoFailpoints:
    __slots__ = ()

    def hit(self, point: str, leg: str, direction: str) -> None:
        """Called before a call is sent, after a leg's commit, and before its answer is recorded."""

    async def hold(self, leg: str, direction: str) -> None:
        """Called before each attempt of a leg."""

    async def around(self, leg: str, direction: str, take: Callable[[], Awaitable[Outcome]]) -> Outcome:  # noqa: ARG002 - a fault's
        """Takes the leg in its cell."""
        return await take()
