"""Commands that are sent again after their user has moved, to real processes."""

from pathlib import Path
from uuid import uuid4

from cellbook.v1 import auction_pb2, ledger_pb2
from router.client import Client
from tests.e2e.cluster import town
from tests.faults.rig import SERVICE
from tests.faults.test_moves import AP, EU, US, home_of, move


async def test_what_was_sent_before_a_move_is_answered_as_it_was(tmp_path: Path) -> None:
    """A move that is sent again after the next one, to a router that has died meanwhile, moves nobody.

    And an asset that is registered again at the owner's new home is the same one, by the same name.
    """
    async with town(tmp_path) as here, Client(here.cluster.router, principal="service/test") as client:
        person = await here.market.register("ann", US)
        await here.market.deposit(person, "USD", 1_000)
        registering = auction_pb2.RegisterAssetRequest(command_id=str(uuid4()), owner_user_id=person.user_id)
        asset = (await client.auctions.RegisterAsset(registering, timeout=10, metadata=SERVICE)).asset
        ids = {cell: str(uuid4()) for cell in (EU, AP)}
        first = {cell: await move(client, person.user_id, cell, ids[cell]) for cell in (EU, AP)}
        router = here.member("router")
        router.kill()
        await router.wait()
        router.start()
        await router.wait_until_ready(30)
        for cell in (EU, AP, EU):
            assert await move(client, person.user_id, cell, ids[cell]) == first[cell]
        assert await home_of(client, person.user_id) == (AP, 3)
        request = ledger_pb2.GetBalanceRequest(user_id=person.user_id)
        assert (await client.ledger.GetBalance(request, timeout=10)).balances[0].available_minor == 1_000
        again = await client.auctions.RegisterAsset(registering, timeout=10, metadata=SERVICE)
        assert (again.asset, again.receipt.replayed) == (asset, True)
        command = ledger_pb2.GetCommandRequest(command_id=registering.command_id)
        told = await client.ledger.GetCommand(command, timeout=10, metadata=(*SERVICE, ("cellbook-cell", AP)))
        assert dict(told.result) == {"asset": asset}
        await here.market.wait_until_quiet()
        await here.check()
