"""Compares the router's directory with the cells' own answers, user by user.

Both sides return their users in the order of the ids, page by page, so memory holds one page of each. Differences are
read again after a moment, since users register and move meanwhile.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

import grpc.aio

from cellbook.v1 import audit_pb2, router_pb2
from server.cli.client import ATTEMPT_S, OPERATOR, Client, status_text
from server.cli.doctor.findings import Examined, Finding
from server.cli.report import stage

if TYPE_CHECKING:
    from cellbook.v1.audit_pb2_grpc import AuditServiceAsyncStub

PAGE = 1_000
# Further users are not compared, which is reported.
USERS_MAX = 1_000_000
# Reported one by one, and read again.
SUSPECTS_MAX = 1_000
LOG_MAX = 20
AGAIN_S = 2.0
CHECK = "homes"
ADVICE = "the highest epoch is right: docs/operations.md#a-disputed-home"


class Home(NamedTuple):
    """A home in the directory or a cell."""

    user_id: UUID
    epoch: int
    # In the directory the home; in a cell the one that the user is moving to, empty: this one is the home.
    cell: str
    # The account there is known to be open.
    is_open: bool = True


# Reads a side's homes after a user, up to a number. Raises HomesUnknown.
Pages = Callable[[UUID, int], Awaitable[Sequence[Home]]]


class HomesUnknown(Exception):
    """The side does not answer; the message says why."""


@dataclass(slots=True, kw_only=True)
class Comparison:
    """`cells` by name. `advance` receives the number of further users compared."""

    directory: Pages
    cells: Mapping[str, Pages]
    advance: Callable[[int], None] = lambda _: None
    users: int = 0
    unproven: int = 0
    silent: dict[str, str] = field(default_factory=dict)

    async def findings(self) -> list[Finding]:
        at = Examined("directory")
        try:
            suspects = [user_id async for user_id, problem in self._compared() if problem]
            await asyncio.sleep(AGAIN_S if suspects else 0)
            wrong = [problem for user_id in suspects[:SUSPECTS_MAX] if (problem := await self._again(user_id))]
        except HomesUnknown as error:
            return [at.fail(CHECK, f"not proven: {error}", "bring the router's database back, and ask again")]
        found = [at.fail(CHECK, problem, ADVICE) for problem in wrong[:LOG_MAX]]
        more = len(wrong) - LOG_MAX + max(len(suspects) - SUSPECTS_MAX, 0)
        if more > 0:
            found.append(at.fail(CHECK, f"and up to {more} users more", ADVICE))
        for cell, why in sorted(self.silent.items()):
            detail = f"not proven: {cell} does not say who is at home there ({why})"
            found.append(at.fail(CHECK, detail, "bring the cell back, and ask again"))
        if self.users >= USERS_MAX:
            found.append(at.warn(CHECK, f"the first {self.users:,} users were compared", "the others were not"))
        return found or [at.ok(CHECK, f"{self.users:,} users, each at home where the directory has them")]

    async def _compared(self) -> AsyncIterator[tuple[UUID, str]]:
        """Each user with the problem; empty: none."""
        sides = {"": _all(self.directory)} | {name: self._all_of(name) for name in self.cells}
        heads = {name: await anext(side, None) for name, side in sides.items()}
        while self.users < USERS_MAX:
            user_id = min((home.user_id for home in heads.values() if home is not None), default=None)
            if user_id is None:
                return
            said = {name: home for name, home in heads.items() if home is not None and home.user_id == user_id}
            self.users += 1
            if self.users % PAGE == 0:
                self.advance(PAGE)
            yield user_id, self._problem(user_id, said)
            for name in said:
                heads[name] = await anext(sides[name], None)

    async def _again(self, user_id: UUID) -> str:
        """The same for one user."""
        before, said = UUID(int=user_id.int - 1), dict[str, Home]()
        for name, pages in {"": self.directory, **self.cells}.items():
            try:
                found = [] if name in self.silent else await pages(before, 1)
            except HomesUnknown as error:
                if not name:
                    raise
                self.silent[name] = str(error)
                continue
            if found and found[0].user_id == user_id:
                said[name] = found[0]
        return self._problem(user_id, said)

    async def _all_of(self, cell: str) -> AsyncIterator[Home]:
        try:
            async for home in _all(self.cells[cell]):
                yield home
        except HomesUnknown as error:
            self.silent[cell] = str(error)

    def _problem(self, user_id: UUID, said: Mapping[str, Home]) -> str:
        """`said`: the answers by side; the directory has an empty name."""
        listed = said.get("")
        claims = {name: home for name, home in said.items() if name}
        here = sorted(name for name, home in claims.items() if not home.cell)
        if len(here) > 1:
            each = " and ".join(f"{name} (epoch {claims[name].epoch})" for name in here)
            return f"user {user_id} is at home in {each} at once"
        if listed is None:
            # A cell opens an account after the directory has its user.
            return f"user {user_id} has a home in {', '.join(claims)}, and the directory does not know them"
        if listed.cell in self.silent:
            return ""
        if not here:
            waits = claims or not listed.is_open
            return "" if waits else f"user {user_id}: {_place(listed)}, and no cell says so"
        if here != [listed.cell] or claims[here[0]].epoch != listed.epoch:
            return f"user {user_id}: {_place(listed)}, and is at home in {here[0]} (epoch {claims[here[0]].epoch})"
        return ""


def _place(listed: Home) -> str:
    return f"the directory says {listed.cell} (epoch {listed.epoch})"


async def _all(pages: Pages) -> AsyncIterator[Home]:
    after = UUID(int=0)
    while True:
        page = await pages(after, PAGE)
        for home in page:
            yield home
        if len(page) < PAGE:
            return
        after = page[-1].user_id


async def examine(client: Client, listed: router_pb2.ListCellsResponse) -> list[Finding]:
    """From the client's router and each cell that it lists."""

    async def directory(after: UUID, size: int) -> list[Home]:
        request = router_pb2.ListDirectoryRequest(after_user=_text(after), page_size=size)
        with _unknown_if_silent():
            reply = await client.router.ListDirectory(request, timeout=ATTEMPT_S, metadata=metadata)
        homes = [(each.home, each.open) for each in reply.homes]
        return [Home(UUID(home.user_id), home.epoch, home.cell, is_open) for home, is_open in homes]

    def pages_of(stub: "AuditServiceAsyncStub") -> Pages:
        async def pages(after: UUID, size: int) -> list[Home]:
            request = audit_pb2.ListHomesRequest(after_user=_text(after), page_size=size)
            with _unknown_if_silent():
                reply = await stub.ListHomes(request, timeout=ATTEMPT_S, metadata=metadata)
            return [Home(UUID(home.user_id), home.epoch, home.moving_to) for home in reply.homes]

        return pages

    metadata = client.access.metadata(OPERATOR)
    cells = {each.name: pages_of(client.cell_of(each).audit) for each in listed.cells}
    with stage("homes of users") as counted:
        return await Comparison(directory=directory, cells=cells, advance=counted.advance).findings()


def _text(user_id: UUID) -> str:
    return str(user_id) if user_id.int else ""


@contextmanager
def _unknown_if_silent() -> Iterator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise HomesUnknown(status_text(error)) from error
