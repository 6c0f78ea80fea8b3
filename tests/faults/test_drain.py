"""A cell is drained while it is used; what is known of people goes along; a directory that is behind yields."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

import grpc
import pytest

from cellbook.v1 import contact_pb2, ledger_pb2, router_pb2
from cellbook.v1.contact_pb2_grpc import ContactServiceStub
from cellbook.v1.ledger_pb2_grpc import LedgerServiceStub
from lab.member import Member, free_ports
from router.client import Client
from tests.e2e.cluster import Town, town
from tests.faults.rig import OPERATOR, PATIENCE_S, SERVICE
from tests.faults.test_moves import EU, US, check, home_of, living
from tests.integration.database import ask
from tests.local_cells import until_async

PEOPLE = 24
FOURTH = "us-west"
CANARY = "Quetzalcoatl Kanarienvogel"


async def register(client: Client, region: str = "") -> str:
    user = str(uuid4())

    async def done() -> bool:
        try:
            await client.router.RegisterUser(router_pb2.RegisterUserRequest(user_id=user, region=region), timeout=10)
        except grpc.aio.AioRpcError:
            return False
        return True

    await until_async(done, timeout_s=PATIENCE_S)
    return user


def move_of(user: str, cell: str, **region: str) -> router_pb2.MoveUserRequest:
    return router_pb2.MoveUserRequest(command_id=str(uuid4()), user_id=user, cell=cell, **region)


async def moved(client: Client, request: router_pb2.MoveUserRequest) -> router_pb2.Move:
    return (await client.router.MoveUser(request, timeout=20, metadata=OPERATOR)).move


async def evacuated(client: Client, cell: str, rate_per_s: float = 100) -> list[router_pb2.EvacuateCellResponse]:
    request = router_pb2.EvacuateCellRequest(name=cell, rate_per_s=rate_per_s)
    return [progress async for progress in client.router.EvacuateCell(request, timeout=60, metadata=OPERATOR)]


async def test_a_cell_is_drained_while_it_is_used(tmp_path: Path) -> None:
    """All who may leave do; who is bound to its region stays, and it is said why, until it has another cell."""
    async with town(tmp_path) as here, Client(here.cluster.router, principal="service/test") as client:
        people = [await register(client) for _ in range(PEOPLE)]
        bound = await register(client, "us")
        async with living(here, client, "ann") as mover:
            # Residency is the router's to say: whoever lives here under load is bound to no region.
            await moved(client, move_of(mover.person.user_id, EU, region=""))
            await moved(client, move_of(mover.person.user_id, US))
            await client.router.DrainCell(router_pb2.DrainCellRequest(name=US), timeout=10, metadata=OPERATOR)
            progresses = await evacuated(client, US)
        last = progresses[-1]
        assert last.done
        # The seller and the mover's registration aside: those that the market binds to their regions.
        homes = {user: (await home_of(client, user))[0] for user in people}
        assert US not in homes.values()
        assert (await home_of(client, mover.person.user_id))[0] != US
        assert (await home_of(client, bound))[0] == US
        assert last.left >= 1
        assert "NO_CELL_IN_REGION" in last.problem
        await check(here, client, mover)
        async with fourth(here, client):
            assert (await evacuated(client, US))[-1].left == 0
            assert (await home_of(client, bound))[0] == FOURTH
            assert (await home_of(client, await register(client, "us")))[0] == FOURTH
            await client.router.RemoveCell(router_pb2.RemoveCellRequest(name=US), timeout=10, metadata=OPERATOR)


@asynccontextmanager
async def fourth(here: Town, client: Client) -> AsyncIterator[None]:
    """A cell more, in a cluster that runs: nothing is started again for it."""
    [port] = free_ports(1)
    first = here.member(US)
    address, folder = f"127.0.0.1:{port}", first.folder.with_name(FOURTH)
    settings = {**first.settings, "cell": FOURTH, "listen": address, "data": str(folder), "peers": {}}
    member = Member(name=FOURTH, module="server", address=address, folder=folder, settings=settings)
    try:
        member.start()
        await member.wait_until_ready(PATIENCE_S)
        request = router_pb2.RegisterCellRequest(name=FOURTH, region="us", endpoints=[address])
        await client.router.RegisterCell(request, timeout=10, metadata=OPERATOR)
        yield
    finally:
        await member.stop()


async def contact_of(client: Client, user: str) -> contact_pb2.GetContactResponse:
    metadata = (*SERVICE, ("cellbook-user", user))
    return await ContactServiceStub(client.channel).GetContact(
        contact_pb2.GetContactRequest(user_id=user), timeout=10, metadata=metadata
    )


async def test_what_is_known_of_a_person_goes_along_and_a_directory_that_is_behind_yields(tmp_path: Path) -> None:
    """The old home has nothing of it left; erased before the move, the person is erased in the new home, too."""
    async with town(tmp_path) as here, Client(here.cluster.router, principal="service/test") as client:
        ann, bob = await register(client, "us"), await register(client, "us")
        contacts = ContactServiceStub(client.channel)
        for user in (ann, bob):
            request = contact_pb2.SetContactRequest(
                user_id=user, name=CANARY, email="canary@example.org", email_proven=True
            )
            await contacts.SetContact(request, timeout=10, metadata=(*SERVICE, ("cellbook-user", user)))
        erase = contact_pb2.EraseContactRequest(user_id=bob)
        await contacts.EraseContact(erase, timeout=10, metadata=(*SERVICE, ("cellbook-user", bob)))
        for user in (ann, bob):
            move = move_of(user, EU, region="eu")
            first, again = await moved(client, move), await moved(client, move)
            assert first == again
            assert first.state == router_pb2.MOVE_STATE_DONE
            asked = router_pb2.GetMoveRequest(user_id=user)
            told = (await client.router.GetMove(asked, timeout=10, metadata=OPERATOR)).move
            assert (told.state, told.saga_id, told.epoch) == (router_pb2.MOVE_STATE_DONE, first.saga_id, 2)
        known = await contact_of(client, ann)
        assert (known.name, known.email_proven) == (CANARY, True)
        request = contact_pb2.SetContactRequest(user_id=bob, name=CANARY, email="canary@example.org")
        with pytest.raises(grpc.aio.AioRpcError, match="was erased"):
            await contacts.SetContact(request, timeout=10, metadata=(*SERVICE, ("cellbook-user", bob)))
        assert await rows(here, US, "SELECT count(*) FROM contacts") == 0
        assert await rows(here, EU, "SELECT count(*) FROM contacts") == 1
        await no_canary_in_events(here)
        await yields(here, client, ann)
        with pytest.raises(grpc.aio.AioRpcError, match="is bound to region 'eu'"):
            await moved(client, move_of(ann, US))


async def rows(here: Town, cell: str, query: str) -> int:
    [(count,)] = await ask((await here.dsns())[cell], query)
    return int(count)


async def no_canary_in_events(here: Town) -> None:
    """Neither in the log nor in the history that was brought, nor in what was answered."""
    for cell in (US, EU):
        for table in ("event_store", "moved_events", "command_outcomes", "accounts", "sagas"):
            query = f"SELECT count(*) FROM {table} t WHERE t::text ~* 'kanarienvogel|canary'"  # noqa: S608
            assert await rows(here, cell, query) == 0, (cell, table)


async def yields(here: Town, client: Client, user: str) -> None:
    """The directory as it was before the move: whoever goes through the router is led right, and it learns from it."""
    before = "cell = 'us-east', cell_region = 'us', residency = '', epoch = 1"
    await ask(await here.member("router").dsn(), f"UPDATE users SET {before} WHERE user_id = $1", UUID(user))  # noqa: S608
    async with grpc.aio.insecure_channel(here.cluster.router) as channel:
        balance = await LedgerServiceStub(channel).GetBalance(
            ledger_pb2.GetBalanceRequest(user_id=user), timeout=10, metadata=SERVICE
        )
        assert balance.token.cell == EU
    await until_async(lambda: home_of(client, user), lambda found: found == (EU, 2))
    await moved(client, move_of(user, US, region="us"))
    await moved(client, move_of(user, EU, region="eu"))
