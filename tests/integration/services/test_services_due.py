"""Over the wire, while no timer fires: what is due is so all the same."""

import pytest

from cells.domain.refusals import AuctionNotActive, HoldExpired
from cells.writer.timers import Timers
from tests.integration.services_rig import Rig, refusal_of, usd
from tests.local_cells import until

ALL_MINOR = 100_000
SOON_MS = 200


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch, rig: Rig) -> Rig:
    """Its timers are as late as can be."""
    monkeypatch.setattr(Timers, "_due", lambda _: [])
    return rig


async def until_ms(rig: Rig, time_ms: int) -> None:
    await until(lambda: rig.cell.time.clock.wall_ms() > time_ms)


async def test_money_is_free_when_its_hold_has_expired(rig: Rig) -> None:
    """It is shown as available and can be spent; the hold can be neither captured nor released."""
    expires_ms = rig.cell.time.clock.wall_ms() + SOON_MS
    held = await rig.ask("Reserve", user_id=rig.ann, amount=usd(ALL_MINOR), expire_time_ms=expires_ms)
    assert (await rig.ask("GetBalance", user_id=rig.ann)).balances[0].reserved_minor == ALL_MINOR
    await until_ms(rig, expires_ms)
    balance = (await rig.ask("GetBalance", user_id=rig.ann)).balances[0]
    assert (balance.available_minor, balance.reserved_minor) == (ALL_MINOR, 0)
    release = rig.ask("Release", user_id=rig.ann, hold_id=held.hold_id)
    assert isinstance(await refusal_of(release), HoldExpired)
    await rig.ask("Withdraw", user_id=rig.ann, amount=usd(ALL_MINOR), external_reference="atm-1")
    assert [row.event_type for row in rig.store.log][-2:] == ["FUNDS_RELEASED", "WITHDRAWN"]


async def test_an_auction_that_has_ended_is_not_cancelled(rig: Rig) -> None:
    """Nor does it take a bid; asked to close, it is settled."""
    asset = (await rig.ask("RegisterAsset", owner_user_id=rig.ann)).asset
    ends_ms = rig.cell.time.clock.wall_ms() + 2 * SOON_MS
    auction = await rig.auction_of(asset, end_time_ms=ends_ms)
    await rig.bid(auction, rig.ben, 500)
    await until_ms(rig, ends_ms)
    assert isinstance(await refusal_of(rig.ask("CancelAuction", auction=auction)), AuctionNotActive)
    assert isinstance(await refusal_of(rig.bid(auction, rig.ben, 600)), AuctionNotActive)
    await rig.ask("CloseAuction", auction=auction)
