"""What is stored of refusals: as much as keeps a late copy of a command from being done, and so much a user."""

import pytest

from cellbook.v1 import ledger_pb2
from cells.buckets import Buckets
from cells.domain.refusals import BidTooLow, InsufficientFunds, TooManyRefusals
from tests.integration.services_rig import BANK, SHOP, Rig, as_user, new_id, refusal_of, usd

KEPT, TRIED = 20, 100


def transfer(rig: Rig, amount_minor: int) -> ledger_pb2.TransferRequest:
    return ledger_pb2.TransferRequest(
        command_id=new_id(), from_user_id=str(rig.ann), to_user_id=str(rig.ben), amount=usd(amount_minor)
    )


@pytest.mark.parametrize("bounded", [True, False])
async def test_one_that_is_refused_without_end_fills_no_disk(rig: Rig, *, bounded: bool) -> None:
    """Beyond a bound refusals of a user are neither final nor stored; what can be done for them is, as for others.

    Ablation: without the bound every refusal leaves a row for a month.
    """
    rig.cell.writer._decider.refusals = Buckets(per_s=0.001 if bounded else 1e6, holds_s=KEPT * 1_000)
    before = len(rig.store.kept_outcomes)
    answers = [await refusal_of(rig.call(transfer(rig, 10**12), by=as_user(rig.ann))) for _ in range(TRIED)]
    assert len(rig.store.kept_outcomes) - before == (KEPT if bounded else TRIED)
    assert sum(isinstance(each, InsufficientFunds) for each in answers) == (KEPT if bounded else TRIED)
    later = [each for each in answers if isinstance(each, TooManyRefusals)]
    assert all(not each.final and each.retry_after_ms for each in later)
    await rig.call(transfer(rig, 1), by=as_user(rig.ann))
    other = transfer(rig, 10**12)
    other.from_user_id, other.to_user_id = str(rig.ben), str(rig.ann)
    refused = await refusal_of(rig.call(other, by=as_user(rig.ben)))
    assert isinstance(refused, InsufficientFunds)


async def test_a_stored_refusal_is_the_last_word(rig: Rig) -> None:
    """The money comes later: a late copy of what was refused does not happen, since its sender has gone on."""
    request = transfer(rig, 200_000)
    first = await refusal_of(rig.call(request, by=SHOP))
    await rig.ask("Deposit", user_id=rig.ann, amount=usd(500_000), external_reference=new_id(), by=BANK)
    again = await refusal_of(rig.call(request, by=SHOP))
    assert isinstance(again, InsufficientFunds)
    assert again.facts == first.facts


async def test_what_is_refused_for_ever_is_not_stored(rig: Rig) -> None:
    """A bid that is too low stays so: sent again it is refused again, by the price of then, and leaves no row."""
    auction = await rig.auction()
    await rig.bid(auction, rig.ben, 200)
    for price, least in ((300, 201), (400, 301)):
        before = len(rig.store.kept_outcomes)
        refused = await refusal_of(
            rig.ask("PlaceBid", auction=auction, bidder_user_id=rig.ben, amount=usd(150), by=SHOP)
        )
        assert isinstance(refused, BidTooLow)
        assert int(refused.facts["least_minor"]) == least
        assert len(rig.store.kept_outcomes) == before
        await rig.bid(auction, rig.ben, price)
