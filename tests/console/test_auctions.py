"""The pages of auctions in Chromium: live, by the cell's clock, and without JavaScript; bids that are placed once."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import uuid4

import pytest
from playwright.sync_api import Page, expect

from lab.market import Market, OpenAuction, Person
from server.cli.client import new_command_id
from server.console.auctions.bids import parse_amount
from server.console.serving import BadInput
from tests.console.rig import SCRIPT, Rig, silenced

pytestmark = pytest.mark.e2e

HERE, THERE = "eu-west", "us-east"
FUNDS_MINOR = 1_000_000
LIVE_MS = 20_000
# A lost connection is not noticed by a stream that is open: the test tells it.
KEEP_STREAMS = """
const Real = EventSource;
window.streams = [];
window.EventSource = class extends Real { constructor(url) { super(url); streams.push(this); } };
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sale:
    auction: OpenAuction
    # At home in the auction's cell, and in another one.
    ann: Person
    ben: Person

    @property
    def path(self) -> str:
        return f"/auctions/{self.auction.cell}/{self.auction.name.rpartition('/')[2]}"


@pytest.fixture
def sale(rig: Rig) -> Sale:
    return rig.played(opened)


async def opened(market: Market, description: str = "a lamp") -> Sale:
    seller = await market.register("seller", HERE)
    auction = await market.open_auction(HERE, seller, description, "USD", 100)
    ann, ben = await market.person("ann", HERE, FUNDS_MINOR), await market.person("ben", THERE, FUNDS_MINOR)
    return Sale(auction=auction, ann=ann, ben=ben)


def bid_of(sale: Sale, bidder: Person, amount_minor: int) -> Callable[[Market], Awaitable[object]]:
    return lambda market: market.bid(bidder, sale.auction, "USD", amount_minor)


def place(page: Page, amount: str) -> None:
    page.get_by_label("Amount in USD").fill(amount)
    page.get_by_role("button", name="Place the bid").click()


def test_an_auction_is_shown_as_it_happens(rig: Rig, sale: Sale) -> None:
    """Bids of others come by themselves, with whom they outbid, until the sale is settled; meanwhile it counts down."""
    with rig.visitor(f"user/{sale.ann.user_id}") as visit:
        page = visit.open("/auctions")
        page.locator("select[name=cell]").select_option(HERE)
        page.get_by_role("button", name="Show").click()
        link = page.locator(f'a[href="{sale.path}"]')
        expect(link).to_have_count(1)
        visit.check("auctions")
        link.click()
        expect(page.get_by_role("heading", level=1)).to_have_text("a lamp")
        expect(page.locator("#live")).to_have_text("Live", timeout=LIVE_MS)
        expect(page.locator("[data-end-ms]")).to_have_text(re.compile(r"\d+ d \d\d:\d\d:\d\d left"))
        rig.played(bid_of(sale, sale.ben, 1_250))
        expect(page.locator("#state")).to_contain_text("12.50 USD", timeout=LIVE_MS)
        place(page, "13")
        expect(page.locator(".verdict.good")).to_contain_text("accepted")
        expect(page.locator("#state")).to_contain_text("13.00 USD by you")
        expect(page.locator("#live")).to_have_text("Live", timeout=LIVE_MS)
        rig.played(bid_of(sale, sale.ben, 1_400))
        expect(page.locator("#changes li").first).to_contain_text("14.00 USD", timeout=LIVE_MS)
        expect(page.locator("#changes li").first).to_contain_text("outbidding you")
        visit.check("auction")
        rig.played(lambda market: market.close(sale.auction))
        expect(page.locator("#live")).to_have_text("The auction has ended.", timeout=LIVE_MS)
        expect(page.locator("#state")).to_contain_text("settled")
        expect(page.locator("#bid")).to_have_count(0)
        assert visit.complaints == []


def test_a_live_page_continues_where_it_was(rig: Rig, sale: Sale) -> None:
    """After its connection was lost: no bid is missing, and none is there twice."""
    with rig.visitor("auditor/cellbook") as visit:
        visit.context.add_init_script(KEEP_STREAMS)
        page = visit.open(sale.path)
        expect(page.locator("#live")).to_have_text("Live", timeout=LIVE_MS)
        rig.played(bid_of(sale, sale.ann, 200))
        expect(page.locator("#changes li")).to_have_count(1, timeout=LIVE_MS)
        visit.context.set_offline(offline=True)
        page.evaluate("streams.at(-1).dispatchEvent(new Event('error'))")
        expect(page.locator("#live")).to_have_text("Connecting again", timeout=LIVE_MS)
        rig.played(bid_of(sale, sale.ann, 300))
        rig.played(bid_of(sale, sale.ann, 400))
        visit.context.set_offline(offline=False)
        expect(page.locator("#changes li")).to_have_count(3, timeout=LIVE_MS)
        said = [text.split("USD")[0].split(")")[-1].strip() for text in page.locator("#changes li").all_inner_texts()]
        assert said == ["4.00", "3.00", "2.00"]


def test_a_page_says_that_its_session_has_ended(rig: Rig, sale: Sale) -> None:
    """Whether it ends while the stream is open, or the stream is only asked for afterwards."""
    with rig.visitor("auditor/cellbook") as visit:
        page = visit.open(sale.path)
        expect(page.locator("#live")).to_have_text("Live", timeout=LIVE_MS)
        other = visit.context.new_page()
        other.goto(rig.base)
        other.get_by_role("button", name="Sign out").click()
        expect(page.locator("#live")).to_contain_text("Your session has ended.", timeout=LIVE_MS)
        page.get_by_role("link", name="Sign in again").click()
        page.get_by_role("button", name="Sign in").click()
        expect(page.locator("#live")).to_have_text("Live", timeout=LIVE_MS)


def test_an_auditor_goes_on_from_an_auction_that_has_ended(rig: Rig, sale: Sale) -> None:
    """To its settlement, its trace, and the accounts of both parties. A user has none of these links."""
    rig.played(bid_of(sale, sale.ben, 200))
    rig.played(lambda market: market.close(sale.auction))
    with rig.visitor("auditor/cellbook") as visit:
        page = visit.open(sale.path)
        expect(page.locator("#state")).to_contain_text("settled", timeout=LIVE_MS)
        visit.check("auction-ended")
        links = page.locator("#state a")
        paths = [link.get_attribute("href") for link in links.all()]
        assert len(paths) == 4
        for path, title in zip(paths, ("Settlement", "Trace", "Account", "Account"), strict=True):
            assert path is not None
            expect(visit.open(path).get_by_role("heading", level=1)).to_contain_text(title, ignore_case=True)
    with rig.visitor(f"user/{sale.ann.user_id}") as visit:
        expect(visit.open(sale.path).locator("#state a")).to_have_count(0)


def test_a_bid_needs_no_javascript(rig: Rig, sale: Sale) -> None:
    """The state is in the page. A refused bid says why, and the amount can be corrected."""
    with rig.visitor(f"user/{sale.ben.user_id}", java_script_enabled=False) as visit:
        page = visit.open(sale.path)
        expect(page.locator("#state")).to_contain_text("at least 1.00 USD")
        expect(page.locator("#news")).to_be_hidden()
        place(page, "0.50")
        expect(page.get_by_role("alert")).to_contain_text("below the least acceptable bid")
        place(page, "2.5")
        expect(page.locator(".verdict.good")).to_contain_text("accepted")
        expect(page.locator("#state")).to_contain_text("2.50 USD")
        place(page, "much")
        expect(page.get_by_role("alert")).to_contain_text("is no amount in USD")


def test_a_form_that_is_sent_twice_bids_once(rig: Rig, sale: Sale) -> None:
    """Its command_id was made with it: sent again, by a reload or by hand, it gets the first answer."""
    with rig.visitor(f"user/{sale.ann.user_id}") as visit:
        page = visit.open(sale.path)
        form = {name: value_of(page, name) for name in ("form_token", "command_id")} | {"amount": "7"}
        request = visit.context.request
        for _ in range(2):
            answer = request.post(f"{rig.base}{sale.path}/bids", form={**form})
            assert answer.ok
            assert "Your bid was accepted" in answer.text()
        auction = rig.played(lambda market: market.auction(sale.auction))
        assert (auction.bids_accepted, auction.highest_bid.amount.amount_minor) == (1, 700)
        # Another person's bid is not to be placed by this one's form.
        others = request.post(f"{rig.base}{sale.path}/bids", form={**form, "bidder": sale.ben.user_id})
        assert "Your bid was accepted" in others.text()
        assert rig.played(lambda market: market.auction(sale.auction)).bids_accepted == 1


def test_a_link_of_somebody_else_fills_in_no_bid(rig: Rig, sale: Sale) -> None:
    """Its amount and its id would be theirs. After our own form the page knows the bid, however often it is loaded."""
    command_id = new_command_id()
    query = f"?bid={command_id}&bidder={sale.ann.user_id}&amount=9.00"
    with rig.visitor(f"user/{sale.ann.user_id}") as visit:
        page = visit.open(sale.path + query)
        expect(page.get_by_role("alert")).to_contain_text("has not arrived")
        assert value_of(page, "command_id") != command_id
        expect(page.get_by_label("Amount in USD")).to_have_value("1.00")
        place(page, "9")
        expect(page.locator(".verdict.good")).to_contain_text("accepted")
        page.reload()
        expect(page.locator(".verdict.good")).to_contain_text("accepted")
        assert value_of(page, "command_id") not in page.url
    assert rig.played(lambda market: market.auction(sale.auction)).bids_accepted == 1


def test_a_bid_whose_outcome_is_not_known_is_offered_again(rig: Rig, sale: Sale) -> None:
    """Under its own id, while the bidder's home is silent: whether or not it has arrived, it is placed once."""
    with rig.visitor(f"user/{sale.ben.user_id}") as visit:
        page = visit.open(sale.path)
        command_id = value_of(page, "command_id")
        with silenced(rig, THERE):
            place(page, "9")
            expect(page.get_by_role("alert")).to_contain_text("not known whether your bid was placed")
            expect(page.get_by_label("Amount in USD")).to_have_value("9")
            assert value_of(page, "command_id") == command_id
            visit.check("auction-bid-again")
        page.get_by_role("button", name="Send again").click()
        expect(page.locator(".verdict.good")).to_contain_text("accepted")
        assert value_of(page, "command_id") != command_id
    assert rig.played(lambda market: market.auction(sale.auction)).bids_accepted == 1


def test_the_proposed_amount_follows_the_bids(rig: Rig, sale: Sale) -> None:
    """Not while the visitor is at the form, and not once another amount is typed."""
    with rig.visitor(f"user/{sale.ann.user_id}") as visit:
        page = visit.open(sale.path)
        amount, state = page.get_by_label("Amount in USD"), page.locator("#state")
        expect(page.locator("#live")).to_have_text("Live", timeout=LIVE_MS)
        rig.played(bid_of(sale, sale.ben, 1_250))
        expect(amount).to_have_value("12.51", timeout=LIVE_MS)
        amount.focus()
        rig.played(bid_of(sale, sale.ben, 1_300))
        expect(state).to_contain_text("13.00 USD", timeout=LIVE_MS)
        expect(amount).to_have_value("12.51")
        amount.blur()
        page.get_by_role("button", name="Place the bid").hover()
        rig.played(bid_of(sale, sale.ben, 1_350))
        expect(state).to_contain_text("13.50 USD", timeout=LIVE_MS)
        expect(amount).to_have_value("12.51")
        page.get_by_role("heading", level=1).hover()
        rig.played(bid_of(sale, sale.ben, 1_400))
        expect(amount).to_have_value("14.01", timeout=LIVE_MS)
        amount.fill("20")
        amount.blur()
        rig.played(bid_of(sale, sale.ben, 1_500))
        expect(state).to_contain_text("15.00 USD", timeout=LIVE_MS)
        expect(amount).to_have_value("20")


def test_a_maximum_answers_the_bids_of_others(rig: Rig, sale: Sale) -> None:
    """At once: the live page shows both bids. Its bidder alone sees the maximum, and is told when it is not enough."""
    with rig.visitor(f"user/{sale.ann.user_id}") as ann, rig.visitor(f"user/{sale.ben.user_id}") as ben:
        page = ann.open(sale.path)
        page.get_by_label("Maximum in USD").fill("0.50")
        place(page, "1")
        expect(page.get_by_role("alert")).to_contain_text("the maximum of 0.50 is less than the bid of 1")
        ann.complaints.clear()
        page = ann.open(sale.path)
        page.get_by_label("Maximum in USD").fill("80")
        place(page, "1")
        expect(page.locator("#standing")).to_contain_text("You lead at 1.00 USD, your maximum is 80.00 USD.")
        expect(page.locator("#live")).to_have_text("Live", timeout=LIVE_MS)
        other = ben.open(sale.path)
        place(other, "51.99")
        expect(other.locator(".verdict.good")).to_contain_text("accepted")
        expect(other.locator("#standing")).to_contain_text("You have been outbid")
        expect(other.locator("#state")).to_contain_text("52.00 USD")
        # As a word of its own: the ids on the page may have these digits.
        assert not re.search(r"\b80\b", other.locator("main").inner_text())
        ben.check("auction-answered")
        changes = page.locator("#changes li")
        expect(changes.nth(0)).to_contain_text("52.00 USD by you", timeout=LIVE_MS)
        expect(changes.nth(0)).to_contain_text("raised by the auction within its maximum")
        expect(changes.nth(1)).to_contain_text("51.99 USD")
        expect(page.locator("#standing")).to_contain_text("You lead at 52.00 USD, your maximum is 80.00 USD.")
        ann.check("auction-maximum")
        place(other, "81")
        expect(other.locator("#standing")).to_contain_text("You lead at 81.00 USD.")
        expect(page.locator("#standing")).to_contain_text("You have been outbid", timeout=LIVE_MS)
        expect(page.locator("#standing")).to_contain_text("the highest bid is 81.00 USD now")


def test_a_maximum_needs_no_javascript(rig: Rig, sale: Sale) -> None:
    """The hint is a part of the form, a refusal keeps both amounts, and support sees why all of it is reserved."""
    with rig.visitor(f"user/{sale.ben.user_id}", java_script_enabled=False) as visit:
        page = visit.open(sale.path)
        expect(page.get_by_label("Maximum in USD")).to_have_accessible_description(re.compile("only as much of it"))
        page.get_by_label("Maximum in USD").fill(str(FUNDS_MINOR))
        place(page, "3")
        expect(page.get_by_role("alert")).to_contain_text("Your bid was refused")
        expect(page.get_by_label("Amount in USD")).to_have_value("3")
        page.get_by_label("Maximum in USD").fill("20")
        place(page, "3")
        expect(page.locator("#standing")).to_contain_text("You lead at 3.00 USD, your maximum is 20.00 USD.")
        rig.played(bid_of(sale, sale.ann, 1_000))
        page.reload()
        expect(page.locator("#standing")).to_contain_text("You lead at 10.01 USD, your maximum is 20.00 USD.")
        rig.played(bid_of(sale, sale.ann, 2_500))
        page.reload()
        expect(page.locator("#standing")).to_contain_text("You have been outbid")
    for principal in (f"user/{sale.ann.user_id}", "service/shop", "auditor/cellbook"):
        with rig.visitor(principal) as visit:
            assert "20.00" not in visit.open(sale.path).locator("main").inner_text()


def test_who_may_not_bid_has_no_form(rig: Rig, sale: Sale) -> None:
    """And is denied if the form is sent all the same."""
    with rig.visitor("auditor/cellbook") as visit:
        page = visit.open(sale.path)
        expect(page.locator("#bid")).to_have_count(0)
        form = {"form_token": value_of(page, "form_token"), "command_id": new_command_id(), "amount": "7"}
        answer = visit.context.request.post(f"{rig.base}{sale.path}/bids", form={**form, "bidder": sale.ann.user_id})
        assert answer.status == 403
    with rig.visitor("service/shop") as visit:
        page = visit.open(sale.path)
        page.get_by_label("Bidder, the id of a user").fill(sale.ben.user_id)
        place(page, "5")
        expect(page.locator(".verdict.good")).to_contain_text("accepted")


def test_texts_of_others_are_shown_and_not_run(rig: Rig) -> None:
    """The description of an asset, what was typed, and what stands in the address."""
    sale = rig.played(lambda market: opened(market, SCRIPT))
    with rig.visitor(f"user/{sale.ann.user_id}") as visit:
        page = visit.open(sale.path)
        expect(page.get_by_role("heading", level=1)).to_have_text(SCRIPT)
        visit.check("auction-hostile")
        place(page, SCRIPT[:20])
        expect(page.get_by_role("alert")).to_contain_text(SCRIPT[:20])
        for path in (f"{sale.path}?bid={SCRIPT}&bidder={SCRIPT}&amount={SCRIPT}", f"/auctions?state={SCRIPT}"):
            assert visit.open(path).title() != "run"
            assert page.locator("main img, main script").count() == 0


def test_what_is_not_there_is_said(rig: Rig) -> None:
    """No such auction, no such cell, no such position, no such saga: a supervisor sees no failure of the console."""
    with rig.visitor("auditor/cellbook") as visit:
        page = visit.open(f"/auctions/{HERE}/{uuid4()}")
        expect(page.get_by_role("alert")).to_contain_text("auction")
        page = visit.open(f"/auctions/nowhere/{uuid4()}")
        expect(page.get_by_role("alert")).to_contain_text("nowhere")
        for path, status in (
            (f"/auctions/{HERE}/{uuid4()}/live?from=x", 400),
            (f"/auctions/nowhere/{uuid4()}", 404),
            (f"/sagas/{uuid4()}", 404),
            ("/sagas/none", 400),
        ):
            assert visit.context.request.get(f"{rig.base}{path}").status == status, path


def value_of(page: Page, name: str) -> str:
    return page.locator(f"main input[name={name}], header input[name={name}]").last.get_attribute("value") or ""


@pytest.mark.parametrize(
    ("text", "currency", "amount_minor"),
    [("12.50", "USD", 1_250), ("12.5", "USD", 1_250), ("12", "USD", 1_200), ("12", "JPY", 12), ("1.234", "BHD", 1_234)],
)
def test_an_amount_is_read_by_its_currency(text: str, currency: str, amount_minor: int) -> None:
    """By the exponent: never rounded."""
    assert parse_amount(text, currency) == amount_minor


@pytest.mark.parametrize(
    ("text", "currency"),
    [("12.505", "USD"), ("1.5", "JPY"), ("", "USD"), ("-1", "USD"), ("1,000", "USD"), ("\u0663", "USD")],
)
def test_what_is_no_amount_is_refused(text: str, currency: str) -> None:
    with pytest.raises(BadInput):
        parse_amount(text, currency)
