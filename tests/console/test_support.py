"""Support's pages in Chromium: one box for any id, why money is reserved, and a contact that is shown for a reason."""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Page, expect

from cellbook.v1 import contact_pb2, event_pb2, ledger_pb2, router_pb2, types_pb2
from lab.market import Market, OpenAuction, Person
from server.cli.client import BANK, MARKET, OPERATOR, new_command_id
from tests.console.rig import SCRIPT, Rig, Visit

pytestmark = pytest.mark.e2e

SUPPORT = "support/sue"
HOME = "eu-west"
NAME, EMAIL = "Ann Ómalley", "ann@people.test"


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """A bidder who leads in one auction, has lost another and won a third; money that a service has set aside."""

    bidder: Person
    leading: OpenAuction
    sold: OpenAuction
    settlement_id: str
    command_id: str


async def play(market: Market) -> Played:
    bidder, seller = await market.person("bidder", HOME, 100_000), await market.register("seller", "ap-tokyo")
    rival = await market.person("rival", "us-east", 100_000)
    leading, lost, sold = [
        await market.open_auction("us-east", seller, f"a lamp {SCRIPT}", "USD", 100) for _ in range(3)
    ]
    for auction in (leading, lost, sold):
        await market.bid(bidder, auction, "USD", 700)
    await market.bid(rival, lost, "USD", 800)
    settlement_id = (await market.close(sold)).saga_id
    ledger, contacts, client = market.cells[HOME].ledger, market.cells[HOME].contacts, market.client
    reserve = ledger_pb2.ReserveRequest(
        command_id=new_command_id(),
        user_id=bidder.user_id,
        amount=types_pb2.Money(currency="USD", amount_minor=4_200),
        expire_time_ms=time.time_ns() // 1_000_000 + 3_600_000,
    )
    await client.call(ledger.Reserve, reserve, MARKET)
    deposit = ledger_pb2.DepositRequest(
        command_id=new_command_id(),
        user_id=bidder.user_id,
        amount=types_pb2.Money(currency="USD", amount_minor=1),
        external_reference=f"{new_command_id()} {SCRIPT}",
    )
    await client.call(ledger.Deposit, deposit, BANK)
    contact = contact_pb2.SetContactRequest(user_id=bidder.user_id, name=NAME, email=EMAIL)
    await client.call(contacts.SetContact, contact, MARKET)
    await market.wait_until_quiet()
    return Played(bidder=bidder, leading=leading, sold=sold, settlement_id=settlement_id, command_id=reserve.command_id)


@pytest.fixture(scope="module")
def played(rig: Rig) -> Played:
    return rig.played(play)


@pytest.fixture
def visit(rig: Rig) -> Iterator[Visit]:
    with rig.visitor(SUPPORT) as visit:
        yield visit


def found(visit: Visit, wanted: str) -> Page:
    page = visit.open("/support")
    page.get_by_label(re.compile("Any id")).fill(wanted)
    page.get_by_role("button", name="Find").click()
    return page


def test_one_box_finds_everything(rig: Rig, played: Played, visit: Visit) -> None:
    """By id or name: a user, an auction, an asset, a saga, a command; and it says so if there is nothing."""
    auction_id, asset_id = (name.rpartition("/")[2] for name in (played.sold.name, played.sold.asset))
    for wanted, path in (
        (played.bidder.user_id, f"/support/users/{played.bidder.user_id}"),
        (played.sold.name, f"/support/auctions/us-east/{auction_id}"),
        (auction_id, f"/support/auctions/us-east/{auction_id}"),
        (asset_id, f"/support/assets/us-east/{asset_id}"),
        (played.settlement_id, f"/sagas/us-east/{played.settlement_id}"),
        (played.command_id, f"/support/commands/{HOME}/{played.command_id}"),
    ):
        found(visit, wanted)
        expect(visit.page).to_have_url(f"{rig.base}{path}")
    visit.check("support-command")
    for nothing in (new_command_id(), SCRIPT[:100]):
        expect(found(visit, nothing).get_by_role("alert")).to_be_visible()
    assert len(visit.complaints) == 2
    visit.complaints.clear()
    visit.open("/support")
    visit.check("support-find")


def test_a_user_s_page_says_why_money_is_reserved(played: Played, visit: Visit) -> None:
    """The bid that leads, with its auction and its end; the service's reservation, with its expiry; what happened."""
    page = found(visit, played.bidder.user_id)
    expect(page.get_by_text(f"{HOME} (eu), epoch 1")).to_be_visible()
    holds = page.locator("section.hold")
    expect(holds).to_have_count(2)
    expect(holds.filter(has_text="7.00 USD")).to_contain_text("backs the highest bid, of 7.00 USD")
    expect(holds.filter(has_text="42.00 USD")).to_contain_text("otherwise it expires")
    bid_in = page.locator("ul", has=page.get_by_role("link")).filter(has_text="by this user")
    expect(bid_in.first.get_by_role("listitem")).to_have_count(3)
    expect(page.get_by_role("region", name="What happened")).to_contain_text(SCRIPT)
    visit.check("support-user")
    holds.filter(has_text="7.00 USD").get_by_role("link").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(played.leading.name)
    visit.check("support-auction")
    page.get_by_role("link", name="assets").click()
    expect(page.locator("main")).to_contain_text(SCRIPT)
    visit.check("support-asset")
    visit.open(f"/support/users/{played.sold.seller.user_id}")
    selling = page.locator("#selling + ul").get_by_role("listitem")
    expect(selling).to_have_count(2)
    expect(selling.filter(has_text="active, 7.00 USD")).to_have_count(1)
    visit.check("support-seller")
    expect(page.locator("ul", has=page.get_by_role("link")).filter(has_text="settled, 7.00 USD")).to_have_count(1)


def test_a_user_who_moved_has_events_at_two_homes(rig: Rig, visit: Visit) -> None:
    """The page begins with the arrival, and leads to what was before."""

    async def moved(market: Market) -> Person:
        mover = await market.person("mover", HOME, 1_000)
        order = router_pb2.MoveUserRequest(
            command_id=new_command_id(), user_id=mover.user_id, cell="us-east", region="us"
        )
        await market.client.call(market.client.router.MoveUser, order, OPERATOR)
        await market.wait_until_quiet()
        return mover

    page = found(visit, rig.played(moved).user_id)
    expect(page.get_by_text(f"{HOME} (")).to_be_visible()
    expect(page.get_by_role("region", name="What happened")).to_contain_text(f"10.00 USD came along from {HOME}.")
    page.get_by_role("link", name="Events at earlier homes").click()
    expect(page.get_by_role("region", name="What happened at earlier homes")).to_contain_text("The account was opened.")
    visit.check("support-earlier")


def test_a_contact_is_shown_for_a_reason_that_is_in_the_log(rig: Rig, played: Played, visit: Visit) -> None:
    """Not before; each look is an event; loading the page again shows nothing."""
    page = visit.open(f"/support/users/{played.bidder.user_id}")
    assert EMAIL not in page.content()
    page.get_by_label("Reason").fill(f"ticket 4711 {SCRIPT}")
    page.get_by_role("button", name="Show the contact").click()
    expect(page.locator("dl.contact")).to_contain_text(NAME)
    expect(page.locator("dl.contact")).to_contain_text(EMAIL)
    visit.check("support-contact")
    visit.open(f"/support/users/{played.bidder.user_id}")
    assert EMAIL not in page.content()

    async def looks(market: Market) -> list[dict[str, object]]:
        recorded = event_pb2.EventFilter(event_types=["ACCESSES_RECORDED"])
        events = await market.client.log(market.cells[HOME], recorded)
        accesses = [each for event in events for each in json.loads(event.payload_json)["accesses"]]
        return [each for each in accesses if each["method"] == "GetContact"]

    [look] = rig.played(looks)
    assert (look["principal"], look["subject"]) == (SUPPORT, played.bidder.user_id)
    assert look["reason"] == f"ticket 4711 {SCRIPT}"


def test_a_personal_reason_is_refused(played: Played, visit: Visit) -> None:
    """It would stay in the log for good; nothing is shown."""
    page = visit.open(f"/support/users/{played.bidder.user_id}")
    page.get_by_label("Reason").fill("a call of ben@people.test")
    page.get_by_role("button", name="Show the contact").click()
    expect(page.get_by_role("alert")).to_contain_text("looks like a mail address")
    assert EMAIL not in page.content()


def test_an_auditor_sees_the_account_and_no_contact(rig: Rig, played: Played) -> None:
    """Neither the form nor, by hand, its answer."""
    with rig.visitor("auditor/cellbook") as visit:
        page = visit.open(f"/support/users/{played.bidder.user_id}")
        expect(page.get_by_role("heading", name="Why money is reserved")).to_be_visible()
        expect(page.get_by_role("button", name="Show the contact")).to_have_count(0)
        token = page.locator("input[name=form_token]").first.input_value()
        answer = visit.context.request.post(
            f"{rig.base}/support/users/{played.bidder.user_id}/contact", form={"form_token": token, "reason": "x"}
        )
        assert answer.status == 403
        assert EMAIL not in answer.text()
