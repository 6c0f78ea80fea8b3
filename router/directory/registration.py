"""Registers a user in two steps, each of which may be repeated.

1. The home is committed to the directory. From then on it is the user's, whatever happens.
2. The home cell opens the account, under an id derived from user and epoch, and the directory records it.

A crash or a lost reply in between leaves the user OPENING; the next registration of the user finishes it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID, uuid5

import grpc.aio
import structlog

from cellbook.v1 import ledger_pb2, ledger_pb2_grpc
from cells.domain.moves.home import Home
from cells.domain.refusals import WrongCell
from router.directory.placement import place
from router.directory.topology import ANY_REGION, LiveTopology
from router.directory.users import Directory, UserEntry, UserState
from router.refusals import CellDraining, CellUnavailable, NoCellInRegion, UserRegisteredElsewhere
from server.shell.calls.statuses import refusal_in
from server.shell.channels.channel_pool import ChannelPool
from server.shell.channels.client import Caller
from server.shell.identity.principal import Principal, Role

log = structlog.get_logger()

ROUTER = Principal(role=Role.ROUTER, name="router")
# The account is open, by a command whose outcome the cell no longer keeps.
ALREADY_OPEN = "ALREADY_OPEN"
OPEN_TIMEOUT_S = 5.0
# Of the caller's time; the rest is for answering that the cell could not be reached.
_OPEN_SHARE = 0.75


def nobody_hears() -> None:
    """No copy is kept."""


def open_command_id(user_id: UUID, epoch: int) -> UUID:
    """The same id for the same home, however often it is asked for, so the account is opened once."""
    return uuid5(user_id, f"open-account/{epoch}")


class Accounts:
    """Opens accounts in the cells, over one channel an endpoint."""

    def __init__(self, channels: ChannelPool) -> None:
        self._caller = Caller(ROUTER)
        self._channels = channels
        # Cell -> the endpoint that answered last: only one process leads a cell.
        self._answered: dict[str, str] = {}

    async def open(self, home: UserEntry, *, timeout_s: float) -> None:
        """Returns once the home cell has confirmed that the account is open.

        Raises:
            WrongCell: the user was at home there once, and has moved since.
            CellUnavailable: it has not confirmed; it may have happened, and the call may be repeated.
        """
        request = ledger_pb2.OpenAccountRequest(
            command_id=str(open_command_id(home.user_id, home.epoch)),
            user_id=str(home.user_id),
            home_epoch=home.epoch,
        )
        give_up_s = time.monotonic() + timeout_s
        problem = "no endpoint"
        for endpoint in self._endpoints(home):
            left_s = give_up_s - time.monotonic()
            if left_s <= 0:
                break
            try:
                await self._open_at(endpoint, request, left_s)
            except grpc.aio.AioRpcError as error:
                problem = f"{error.code().name}: {error.details()}"
            else:
                self._answered[home.cell.name] = endpoint
                return
        self._answered.pop(home.cell.name, None)
        log.warning("account_not_opened", cell=home.cell.name, epoch=home.epoch, problem=problem)
        raise CellUnavailable(user_id=str(home.user_id), cell=home.cell.name, problem=problem)

    def _endpoints(self, home: UserEntry) -> list[str]:
        """The endpoint that answered last comes first."""
        last = self._answered.get(home.cell.name)
        return sorted(home.cell.endpoints, key=lambda endpoint: endpoint != last)

    async def _open_at(self, endpoint: str, request: ledger_pb2.OpenAccountRequest, timeout_s: float) -> None:
        channel = self._channels.channel(endpoint, (endpoint,))
        method = ledger_pb2_grpc.LedgerServiceStub(channel).OpenAccount
        try:
            await self._caller.call(method, request, to=endpoint, timeout_s=timeout_s)
        except grpc.aio.AioRpcError as error:
            refused = refusal_in(error)
            if isinstance(refused, WrongCell):
                raise refused from error
            if refused is None or refused.reason != ALREADY_OPEN:
                raise


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    directory: Directory
    accounts: Accounts
    topology: LiveTopology
    # Called when a user has been given a home.
    homed: Callable[[], None] = nobody_hears

    async def register(self, user_id: UUID, residency: str, *, timeout_s: float | None) -> UserEntry:
        """The user's home, with its account open.

        Raises:
            NoCellInRegion: nothing was done.
            UserRegisteredElsewhere: nothing was done.
            CellDraining: nothing was done; a moment later the user is placed elsewhere.
            CellUnavailable, DirectoryUnavailable, DirectoryBusy: repeat the call to finish the registration.
        """
        home = await self.directory.find(user_id) or await self._give_home(user_id, residency)
        # A bound user is accepted for a request with any region, and for a repeat of the first registration, because a
        # move may have changed the region since. Any other region is refused.
        if residency not in (ANY_REGION, home.residency, home.registered_residency):
            raise _elsewhere(home, residency)
        if home.state is UserState.OPENING:
            try:
                await self.accounts.open(home, timeout_s=_share(timeout_s))
            except WrongCell as error:
                return await self._moved_home(home, error)
            await self.directory.mark_open(home)
        return home

    async def _moved_home(self, home: UserEntry, error: WrongCell) -> UserEntry:
        """A restored directory may assign a home anew; the cell knows where the user has moved since."""
        await self.directory.adopt(home.user_id, Home.named_in(error.facts), None, by=home.cell.name)
        self.homed()
        return await self.directory.find(home.user_id) or home

    async def _give_home(self, user_id: UUID, residency: str) -> UserEntry:
        cell = place(user_id, self.topology.now.open_to_new_users(residency))
        if cell is None:
            raise NoCellInRegion(region=residency)
        home = await self.directory.add(user_id, cell, residency)
        if home is None:
            # The change was made a moment ago, and has not reached this router.
            raise CellDraining(user_id=str(user_id), cell=cell.name)
        self.homed()
        return home


def _share(timeout_s: float | None) -> float:
    return OPEN_TIMEOUT_S if timeout_s is None else min(OPEN_TIMEOUT_S, timeout_s * _OPEN_SHARE)


def _elsewhere(home: UserEntry, region: str) -> UserRegisteredElsewhere:
    return UserRegisteredElsewhere(
        user_id=str(home.user_id), cell=home.cell.name, residency=home.residency, region=region
    )
