"""One cell is hostile: whoever has its certificate calls every RPC for peers with any content (docs/security.md).

The calls come from outside, over gRPC, as the peer eu-west. What it may and what it may not is held here line by line.
"""

import json
from collections.abc import AsyncIterator

import pytest

from cellbook.v1 import auction_pb2
from server.clock import STAMP_KEY, VECTOR_KEY
from tests.integration.services_rig import HERE, PEER, THERE, Pairs, Rig, refusal_of, serving
from tests.local_cells import deposit, request, until


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with serving() as rig:
        yield rig


def saying(rig: Rig, vector: str) -> Pairs:
    """The hostile cell's metadata, with that vector clock."""
    stamp = rig.cell.time.hlc.last
    return (*PEER, (STAMP_KEY, str(stamp.pack())), (VECTOR_KEY, vector))


# --- positions -------------------------------------------------------------------------------------------------------


async def test_a_position_of_a_third_cell_goes_into_no_log(rig: Rig) -> None:
    """Nor that of a cell that there is not; what it says of itself does."""
    vector = f"ap-tokyo={2**62},{THERE}=9,mars=1"
    await rig.auctions.ListAuctions(auction_pb2.ListAuctionsRequest(), metadata=saying(rig, vector))
    await rig.cell.execute(request(deposit(rig.ann)))
    assert json.loads(rig.store.log[-1].vector_clock) == {HERE: len(rig.store.log), THERE: 9}


async def test_a_claim_about_this_log_stops_nobody_but_who_claims(rig: Rig) -> None:
    """The hostile cell is refused, the alarm is raised, and everybody else is served as before."""
    asked = auction_pb2.ListAuctionsRequest()
    refused = await refusal_of(rig.auctions.ListAuctions(asked, metadata=saying(rig, f"{HERE}={2**62}")))
    assert (refused.reason, refused.final) == ("BEYOND_HEAD", False)
    await until(lambda: rig.cell.time.disputed == {THERE: 2**62})
    await rig.cell.execute(request(deposit(rig.ann)))
    assert not rig.cell.time.lost
