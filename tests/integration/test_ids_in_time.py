"""How long the id of a command is good for, and how it may be spelled."""

from collections.abc import Callable
from uuid import UUID, uuid4

import pytest

from cellbook.v1 import auction_pb2, ledger_pb2
from cells.domain.time.window import AHEAD_MAX_MS, WINDOW_MS
from tests.integration.services_rig import AUDITOR, SHOP, Rig, as_user, new_id, refusal_of, usd
from tests.integration.test_identity_of_commands import asked, paid


def made_at(moment_ms: int) -> str:
    """An id of version 7."""
    return str(UUID(int=moment_ms << 80 | 7 << 76 | 2 << 62 | uuid4().int & (1 << 62) - 1))


async def test_an_id_older_than_its_outcome_is_refused(rig: Rig) -> None:
    """Whatever is known of it: after the window the command would happen again. So is one made by a wrong clock."""
    now_ms = rig.cell.time.clock.wall_ms()
    minute_ms = 60_000
    for made_ms, reason in (
        (now_ms - WINDOW_MS - minute_ms, "COMMAND_ID_EXPIRED"),
        (now_ms + AHEAD_MAX_MS + minute_ms, "COMMAND_ID_AHEAD"),
    ):
        refused = await refusal_of(paid(rig, SHOP, made_at(made_ms)))
        assert (refused.reason, refused.final) == (reason, True)
    for made_ms in (now_ms - WINDOW_MS + minute_ms, now_ms + AHEAD_MAX_MS - minute_ms):
        await paid(rig, SHOP, made_at(made_ms))


async def test_the_window_ends_also_for_what_is_known(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The day at which its outcome is dropped makes no difference."""
    command_id = await paid(rig, SHOP, made_at(rig.cell.time.clock.wall_ms()))
    monkeypatch.setattr("cells.domain.time.window.WINDOW_MS", -60_000)
    assert (await refusal_of(paid(rig, SHOP, command_id))).reason == "COMMAND_ID_EXPIRED"


async def test_what_was_stored_without_its_sender_answers_as_before(rig: Rig) -> None:
    """By its fingerprint, to whoever sends the same again; to be asked after it is too old, but by who reads all."""
    command_id = new_id()
    message = ledger_pb2.TransferRequest(
        command_id=command_id, from_user_id=str(rig.ann), to_user_id=str(rig.ben), amount=usd(5)
    )
    first = await rig.call(message, by=SHOP)
    kept = rig.store.kept_outcomes[UUID(command_id)]
    kept[""] = kept.pop("service/shop")._replace(principal="", user_id=None, in_stream=False)
    again = await rig.call(message, by=SHOP)
    assert again.receipt.replayed
    assert (again.balance, again.receipt.token) == (first.balance, first.receipt.token)
    for metadata, amount_minor in ((SHOP, 6), (as_user(rig.ann), 5)):
        message.amount.amount_minor = amount_minor
        assert (await refusal_of(rig.call(message, by=metadata))).reason == ("COMMAND_ID_REUSED")
    assert await asked(rig, command_id, SHOP) is None
    told = await asked(rig, command_id, AUDITOR)
    assert told is not None
    assert not told.principal


SPELLINGS = {
    "capitals": str.upper,
    "braces": lambda text: f"{{{text}}}",
    "urn": lambda text: f"urn:uuid:{text}",
    "digits": lambda text: text.replace("-", ""),
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
async def test_an_id_spelled_in_another_way_is_the_same(rig: Rig, spelling: Callable[[str], str]) -> None:
    """The command's own, and every other in the request: sent again it is answered, and happens once."""
    auction = await rig.auction()
    command_id = new_id()
    cells, cell, auctions, auction_id = auction.split("/")
    for again in (False, True):
        respelled = spelling if again else str
        bid = auction_pb2.PlaceBidRequest(
            command_id=respelled(command_id),
            auction="/".join((cells, cell, auctions, respelled(auction_id) if spelling is str.upper else auction_id)),
            bidder_user_id=respelled(str(rig.ben)),
            amount=usd(300),
        )
        answer = await rig.call(bid, by=as_user(rig.ben))
        assert (answer.receipt.command_id, answer.receipt.replayed) == (command_id, again)
        (result,) = (await rig.ask("BatchPlaceBids", items=[bid], by=as_user(rig.ben))).results
        assert result.accepted.receipt.replayed
    told = await asked(rig, spelling(command_id), as_user(rig.ben))
    assert told is not None
    assert told.command_id == command_id
    assert (await rig.ask("GetBalance", user_id=spelling(str(rig.ben)), by=as_user(rig.ben))).user_id == str(rig.ben)
