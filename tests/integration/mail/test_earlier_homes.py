"""An erasure reaches the earlier homes of a person, whatever they have lost, and comes from the person's home alone."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import grpc.aio
import pytest

from cellbook.v1 import move_pb2, move_pb2_grpc
from cells.domain.account.account import Account
from cells.domain.account.balance import EarlierHome, Move, MoveStage
from cells.encoding.codec import encode_state
from server.contacts.earlier_homes import EarlierHomes
from server.contacts.erasures import Erasures
from server.contacts.handover import Handover
from server.contacts.refusals import ContactErased, ContactNotFound
from server.contacts.seals import Seal, new_key
from server.contacts.vault import Vault
from server.peers import GrpcPeers
from server.process.policies import POLICIES
from server.services.moves import MoveServicer
from server.shell.calls.guard import CallGuard
from server.shell.channels.client import Caller, peer_channels
from server.shell.channels.location_cache import LocationCache
from server.shell.identity.principal import Principal, Role
from server.shell.postgres.database import open_pool
from server.shell.postgres.embedded import EmbeddedPostgres
from tests.doubles.store import MemoryStore
from tests.integration.database import CELL_ROLE, another, ask
from tests.integration.mail.contact_rig import ANN
from tests.integration.services_rig import refusal_of
from tests.local_cells import FixedDirectory, build_cell

OLD, FORMER, HOME = "eu-west", "us-east", "ap-tokyo"


class Way(Caller):
    """Counts the calls to each cell; a cell in `away` does not answer."""

    def __init__(self, cell: str) -> None:
        super().__init__(Principal(role=Role.PEER, name=cell))
        self.away: set[str] = set()
        self.calls: list[str] = []

    async def call(self, method: Any, request: Any, *, to: str, timeout_s: float) -> Any:  # noqa: ANN401 - any message
        self.calls.append(to)
        if to in self.away:
            status = (grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata())
            raise grpc.aio.AioRpcError(*status, details="gone")
        return await super().call(method, request, to=to, timeout_s=timeout_s)


@dataclass(slots=True, kw_only=True)
class Node:
    """A cell, as far as it knows people."""

    dsn: str
    vault: Vault
    way: Way
    earlier_homes: EarlierHomes

    async def knows(self, user_id: UUID) -> bool:
        try:
            return await self.vault.get(user_id) == ANN
        except ContactNotFound:
            return False

    async def account(self, user_id: UUID, *earlier: str, left_to: str = "") -> None:
        """As its moves have left it in the table."""
        move = Move(saga_id=uuid4(), from_cell="", to_cell=left_to, epoch=4, stage=MoveStage.LEFT) if left_to else None
        homes = tuple(EarlierHome(cell=cell, epoch=number, events=1) for number, cell in enumerate(earlier, 1))
        state = encode_state(Account(home_epoch=len(earlier) + 1, move=move, earlier_homes=homes))
        await ask(self.dsn, "DELETE FROM accounts WHERE id = $1", user_id)
        await ask(self.dsn, "INSERT INTO accounts VALUES ($1, 1, $2, false)", user_id, state)

    async def restored(self, user_id: UUID) -> None:
        """From a backup that is older than the erasure, with its file of erasures."""
        await ask(self.dsn, "TRUNCATE contacts, erasures")
        self.vault.erasures.path.unlink()
        await self.vault.prepare()
        await self.vault.put(user_id, ANN)


@dataclass(slots=True)
class Town:
    directory: FixedDirectory = field(default_factory=FixedDirectory)
    nodes: dict[str, Node] = field(default_factory=dict)

    async def erased(self) -> UUID:
        """Has lived in OLD and FORMER, which still hold the contact, and was erased at HOME."""
        user_id = uuid4()
        for name in (OLD, FORMER):
            await self.nodes[name].vault.put(user_id, ANN)
            await self.nodes[name].account(user_id, left_to=HOME)
        await self.nodes[HOME].account(user_id, OLD, FORMER, HOME)
        self.directory.homes[user_id] = HOME
        await self.nodes[HOME].vault.erase(user_id)
        return user_id


@pytest.fixture
async def town(cluster: EmbeddedPostgres, template: str, tmp_path: Path) -> AsyncIterator[Town]:
    town, static = Town(), dict[str, str]()
    async with AsyncExitStack() as stack:
        for name in (OLD, FORMER, HOME):
            dsn = await stack.enter_async_context(another(cluster, template))
            pool = await open_pool(dsn, role=CELL_ROLE, application="contacts", size_max=2)
            stack.push_async_callback(pool.close)
            vault = Vault(pool=pool, seal=Seal(new_key()), erasures=Erasures(tmp_path / f"{name}.erasures"))
            way = Way(name)
            locations = LocationCache(routers=(), caller=way, channels=peer_channels(None), static=static)
            peers = GrpcPeers(locations=locations, caller=way)
            stack.push_async_callback(peers.close)
            cell = build_cell(name, MemoryStore(name), directory=town.directory)
            server = grpc.aio.server(interceptors=[CallGuard(POLICIES)])
            handover = Handover(cell=name, vault=vault, peers=peers)
            move_pb2_grpc.add_MoveServiceServicer_to_server(MoveServicer(cell, cell.time.clock, handover), server)
            static[name] = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
            await server.start()
            stack.push_async_callback(server.stop, None)
            earlier_homes = EarlierHomes(cell=name, vault=vault, peers=peers)
            town.nodes[name] = Node(dsn=dsn, vault=vault, way=way, earlier_homes=earlier_homes)
        yield town


async def test_an_erasure_reaches_every_earlier_home(town: Town) -> None:
    """It lasts there: the contact is gone and cannot be set again. Homes that have answered are not asked again."""
    user_id, home = await town.erased(), town.nodes[HOME]
    await home.earlier_homes.round()
    for name in (OLD, FORMER):
        assert not await town.nodes[name].knows(user_id)
        with pytest.raises(ContactErased):
            await town.nodes[name].vault.put(user_id, ANN)
    assert sorted(home.way.calls) == [OLD, FORMER]
    await home.earlier_homes.round()
    assert len(home.way.calls) == 2


async def test_a_home_that_was_away_is_asked_when_it_is_back(town: Town) -> None:
    """It keeps no other from being asked, and is asked once a round."""
    people, home = [await town.erased() for _ in range(3)], town.nodes[HOME]
    home.way.away = {OLD}
    await home.earlier_homes.round()
    assert home.way.calls.count(OLD) == 1
    assert [await town.nodes[FORMER].knows(each) for each in people] == [False] * 3
    assert [await town.nodes[OLD].knows(each) for each in people] == [True] * 3
    home.way.away = set()
    await home.earlier_homes.round()
    assert [await town.nodes[OLD].knows(each) for each in people] == [False] * 3


async def test_an_earlier_home_that_was_restored_is_erased_again(town: Town) -> None:
    """By its own file of erasures; and where that is lost as well, by the home, which asks again within a day."""
    user_id, home, old = await town.erased(), town.nodes[HOME], town.nodes[OLD]
    await home.earlier_homes.round()
    assert user_id in old.vault.erasures.noted()
    await old.restored(user_id)
    assert await old.knows(user_id)
    [(hours,)] = await ask(
        home.dsn,
        "UPDATE erasures_elsewhere SET again_at = now() WHERE cell = $1 "
        "RETURNING (SELECT extract(epoch FROM max(again_at) - now())::int / 3600 FROM erasures_elsewhere)",
        OLD,
    )
    assert hours <= 24
    await home.earlier_homes.round()
    assert not await old.knows(user_id)


async def test_the_next_home_goes_on_where_the_user_moves_on(town: Town) -> None:
    """It has the erasure from the move, and asks the home that the user has left as well; that one asks nobody."""
    user_id, home, former = await town.erased(), town.nodes[HOME], town.nodes[FORMER]
    await home.account(user_id, OLD, FORMER, left_to=FORMER)
    await former.account(user_id, OLD, FORMER, HOME)
    await former.vault.erase(user_id)
    town.directory.homes[user_id] = FORMER
    await home.earlier_homes.round()
    assert home.way.calls == []
    await home.restored(user_id)
    await former.earlier_homes.round()
    assert sorted(former.way.calls) == [HOME, OLD]
    assert not await town.nodes[OLD].knows(user_id)
    assert not await home.knows(user_id)


async def test_a_cell_erases_nobody_who_is_at_home_elsewhere(town: Town) -> None:
    """Neither the user of the cell that it asks nor one of a third cell; and it does not ask at once again."""
    user_id, hostile, old = await town.erased(), town.nodes[FORMER], town.nodes[OLD]
    await hostile.account(user_id, OLD)
    await hostile.vault.erase(user_id)
    for home in (HOME, OLD):
        town.directory.homes[user_id] = home
        request = move_pb2.EraseEarlierContactRequest(user_id=str(user_id))
        stub = move_pb2_grpc.MoveServiceStub(await hostile.earlier_homes.peers.channel(OLD))
        call = stub.EraseEarlierContact(request, metadata=(("cellbook-principal", f"peer/{FORMER}"),))
        assert (await refusal_of(call)).reason == "HOME_NOT_VOUCHED"
    for _ in range(2):
        await hostile.earlier_homes.round()
    assert hostile.way.calls == [OLD]
    assert await old.knows(user_id)
