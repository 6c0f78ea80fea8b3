"""The second step of a registration: the home cell opens the user's account."""

import time
from uuid import UUID, uuid5

import grpc.aio
import structlog

from cellbook.v1 import ledger_pb2, ledger_pb2_grpc
from cells.domain.refusals import WrongCell
from router.directory import Home
from router.refusals import CellUnavailable
from server.shell.calls.statuses import refusal_in
from server.shell.channels.channel_pool import ChannelPool
from server.shell.channels.client import Caller
from server.shell.identity.principal import Principal, Role

log = structlog.get_logger()

ROUTER = Principal(role=Role.ROUTER, name="router")
# The account is open, by a command whose outcome the cell no longer keeps.
ALREADY_OPEN = "ALREADY_OPEN"


def open_command_id(user_id: UUID, epoch: int) -> UUID:
    """The same id for the same home, however often it is asked for, so the account is opened once."""
    return uuid5(user_id, f"open-account/{epoch}")


class Accounts:
    """Opens accounts in the cells, over one channel an endpoint. To be closed."""

    def __init__(self, places: ChannelPool) -> None:
        self._caller = Caller(ROUTER)
        self._places = places
        # Cell -> the endpoint that answered last: only one process leads a cell.
        self._answered: dict[str, str] = {}

    async def open(self, home: Home, *, timeout_s: float) -> None:
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

    async def close(self) -> None:
        await self._places.close()

    def _endpoints(self, home: Home) -> list[str]:
        """The endpoint that answered last comes first."""
        last = self._answered.get(home.cell.name)
        return sorted(home.cell.endpoints, key=lambda endpoint: endpoint != last)

    async def _open_at(self, endpoint: str, request: ledger_pb2.OpenAccountRequest, timeout_s: float) -> None:
        channel = self._places.channel(endpoint, (endpoint,))
        method = ledger_pb2_grpc.LedgerServiceStub(channel).OpenAccount
        try:
            await self._caller.call(method, request, to=endpoint, timeout_s=timeout_s)
        except grpc.aio.AioRpcError as error:
            refused = refusal_in(error)
            if isinstance(refused, WrongCell):
                raise refused from error
            if refused is None or refused.reason != ALREADY_OPEN:
                raise
