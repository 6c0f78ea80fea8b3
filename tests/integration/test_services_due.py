"""Over the wire, while no timer fires: what is due is so all the same."""

from collections.abc import AsyncIterator

import pytest

from cellbook.v1 import auction_pb2, ledger_pb2
from cells.domain.refusals import AuctionNotActive, HoldExpired
from cells.writer.timers import Timers
from tests.integration.services_rig import BANK, SHOP, Rig, new_id, refusal_of, serving, usd
from tests.local_cells import until

ALL_MINOR = 100_000
SOON_MS = 200


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    """Its timers are as late as can be."""
    monkeypatch.setattr(Timers, "_due", lambda _: [])
    async with serving() as rig:
        yield rig


async def until_ms(rig: Rig, time_ms: int) -> None:
    await until(lambda: rig.cell.time.clock.wall_ms() > time_ms)


async def test_money_is_free_when_its_hold_has_expired(rig: Rig) -> None:
    """It is shown as available and can be spent; the hold can be neither captured nor released."""
    expires_ms = rig.cell.time.clock.wall_ms() + SOON_MS
    reserve = ledger_pb2.ReserveRequest(
        command_id=new_id(), user_id=str(rig.ann), amount=usd(ALL_MINOR), expire_time_ms=expires_ms
    )
    held = await rig.ledger.Reserve(reserve, metadata=SHOP)
    asked = ledger_pb2.GetBalanceRequest(user_id=str(rig.ann))
    assert (await rig.ledger.GetBalance(asked, metadata=SHOP)).balances[0].reserved_minor == ALL_MINOR
    await until_ms(rig, expires_ms)
    balance = (await rig.ledger.GetBalance(asked, metadata=SHOP)).balances[0]
    assert (balance.available_minor, balance.reserved_minor) == (ALL_MINOR, 0)
    release = ledger_pb2.ReleaseRequest(command_id=new_id(), user_id=str(rig.ann), hold_id=held.hold_id)
    assert isinstance(await refusal_of(rig.ledger.Release(release, metadata=SHOP)), HoldExpired)
    withdraw = ledger_pb2.WithdrawRequest(
        command_id=new_id(), user_id=str(rig.ann), amount=usd(ALL_MINOR), external_reference="atm-1"
    )
    await rig.ledger.Withdraw(withdraw, metadata=BANK)
    assert [row.event_type for row in rig.store.log][-2:] == ["FUNDS_RELEASED", "WITHDRAWN"]


async def test_an_auction_that_has_ended_is_not_cancelled(rig: Rig) -> None:
    """Nor does it take a bid; asked to close, it is settled."""
    registering = auction_pb2.RegisterAssetRequest(command_id=new_id(), owner_user_id=str(rig.ann))
    asset = (await rig.auctions.RegisterAsset(registering, metadata=SHOP)).asset
    ends_ms = rig.cell.time.clock.wall_ms() + 2 * SOON_MS
    creating = auction_pb2.CreateAuctionRequest(
        command_id=new_id(), asset=asset, seller_user_id=str(rig.ann), opening_price=usd(100), end_time_ms=ends_ms
    )
    auction = (await rig.auctions.CreateAuction(creating, metadata=SHOP)).auction
    await rig.bid(auction, rig.ben, 500)
    await until_ms(rig, ends_ms)
    cancel = auction_pb2.CancelAuctionRequest(command_id=new_id(), auction=auction)
    assert isinstance(await refusal_of(rig.auctions.CancelAuction(cancel, metadata=SHOP)), AuctionNotActive)
    assert isinstance(await refusal_of(rig.bid(auction, rig.ben, 600)), AuctionNotActive)
    close = auction_pb2.CloseAuctionRequest(command_id=new_id(), auction=auction)
    await rig.auctions.CloseAuction(close, metadata=SHOP)
