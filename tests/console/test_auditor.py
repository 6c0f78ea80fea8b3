"""The auditor's pages in Chromium: search, balances, statements, traces and books."""

import csv
import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from server.cli.client import BANK
from tests.console.auditor_rig import AUDITOR, CELL, REFERENCE, Books
from tests.console.rig import NARROW, SCRIPT, WIDE, Rig, Visit

pytestmark = pytest.mark.e2e

# How far content has moved without a visitor's doing, after all of the page had come.
WATCH_SHIFTS = """
window.shifts = [];
new PerformanceObserver((list) => shifts.push(...list.getEntries())).observe({ type: "layout-shift", buffered: true });
"""
SHIFTED = """() => {
    const [{ domInteractive }] = performance.getEntriesByType("navigation");
    return shifts.filter((each) => each.startTime > domInteractive).map((each) => each.value);
}"""


@pytest.fixture(scope="module")
def visit(rig: Rig) -> Iterator[Visit]:
    with rig.visitor(AUDITOR) as visit:
        yield visit


# --- search -----------------------------------------------------------------------------------------------------------


def search(visit: Visit, query: str) -> Page:
    page = visit.open("/auditor")
    page.get_by_label("Any id, name or external reference").fill(query)
    page.get_by_role("button", name="Search").click()
    return page


def test_one_box_leads_to_everything(visit: Visit, books: Books) -> None:
    """To an account, an event by its id or its place, and the trace of anything else."""
    deposit = books.deposit
    for query, path in (
        (books.payer.user_id, f"/auditor/accounts/{books.payer.user_id}"),
        (deposit.event_id.upper(), f"/auditor/events/{deposit.event_id}"),
        (f"{CELL}/{deposit.position}", f"/auditor/events/{deposit.event_id}"),
        (REFERENCE, f"/auditor/trace?subject={deposit.event_id}"),
        (books.saga_id, f"/auditor/trace?subject={books.saga_id}"),
        (books.withdrawal_id, f"/auditor/trace?subject={books.withdrawal_id}"),
    ):
        assert search(visit, query).url == f"{visit.base}{path}"
    page = search(visit, books.sale.auction.name)
    expect(page.get_by_role("heading", level=1)).to_contain_text(books.sale.auction.name)
    page = search(visit, SCRIPT)
    expect(page.get_by_role("status")).to_contain_text("Nothing is known")
    visit.check("auditor-search")


# --- accounts ---------------------------------------------------------------------------------------------------------


def test_a_balance_follows_the_slider(visit: Visit, books: Books) -> None:
    """At its left end nothing but the first movement has happened, at its right end everything."""
    page = visit.open(f"/auditor/accounts/{books.payer.user_id}")
    now = page.locator("#balance td").nth(1)
    expect(now).to_have_text("616.45")
    expect(page.locator(".chart")).to_have_count(1)
    visit.check("auditor-account")
    slider = page.get_by_label("Or move through time")
    slider.press("Home")
    expect(page.locator("#balance-title")).to_contain_text("after event")
    expect(now).to_have_text("500.00")
    expect(page.locator("#slider output")).to_contain_text("UTC")
    assert visit.complaints == []


def test_a_balance_needs_no_javascript(rig: Rig, books: Books) -> None:
    """The moment is a field of a form, and so is the slider."""
    with rig.visitor(AUDITOR, java_script_enabled=False) as visit:
        page = visit.open(f"/auditor/accounts/{books.payer.user_id}")
        page.get_by_role("button", name="Show the balance there").click()
        assert "at_ms=" in page.url
        expect(page.locator("#balance td").nth(1)).to_have_text("616.45")
        page.get_by_label("At this moment").fill("2020-01-01T00:00")
        page.get_by_role("button", name="Show", exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("not there yet")


def test_a_statement_is_proved_and_comes_as_csv(visit: Visit, books: Books) -> None:
    """The page adds up, and the file has the same movements; no cell of it is a formula."""
    page = visit.open(f"/auditor/accounts/{books.payer.user_id}/statement")
    expect(page.get_by_role("status")).to_contain_text("Proved")
    rows = page.locator("tbody tr").count()
    visit.check("auditor-statement")
    with page.expect_download() as started:
        page.get_by_role("link", name="CSV of all pages").click()
    lines = list(csv.reader(started.value.path().read_text("utf-8").splitlines()))
    assert len(lines) == rows + 1 >= 5
    unsigned = [cell for line in lines for cell in line if not re.fullmatch(r"-[0-9.]+", cell)]
    assert not [cell for cell in unsigned if cell[:1] in set("=+-@")]


# --- traces -----------------------------------------------------------------------------------------------------------


def test_a_trace_is_a_picture_and_a_table(visit: Visit, books: Books) -> None:
    """Both have every event of the sale, in the lanes of three cells; a box leads to its event."""
    page = visit.open(f"/auditor/trace?subject={books.saga_id}")
    rows = page.locator("tbody tr").count()
    assert page.locator("a.box").count() == rows > 10
    assert page.locator(".lane text").all_text_contents() == ["ap-tokyo", CELL, "us-east"]
    assert page.locator(".arrow").count() == rows - 1
    visit.check("auditor-trace")
    page.locator("a.box", has_text="ESCROW_FUNDED").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("ESCROW_FUNDED")


def test_an_account_is_traced_from_its_own_cell(visit: Visit, books: Books) -> None:
    """Cells do not tell each other of a user's account, so its home is asked."""
    page = visit.open(f"/auditor/accounts/{books.payer.user_id}")
    page.get_by_role("link", name="Trace of the account").click()
    # A link that names another cell leads to the home, too.
    for path in ("", f"/auditor/trace?subject={books.payer.user_id}&cell=ap-tokyo"):
        if path:
            visit.open(path)
        expect(page.locator("main")).to_contain_text(f"{CELL} was asked")
        expect(page.locator(".problem")).to_have_count(0)
        assert page.locator("a.box", has_text="DEPOSITED").count() == 2


def test_a_refused_command_is_named(visit: Visit, books: Books) -> None:
    """With the cell and the reason."""
    page = visit.open(f"/auditor/trace?subject={books.withdrawal_id}")
    expect(page.locator(".problem").first).to_contain_text(f"{CELL} refused this command of {BANK}")


def test_texts_of_users_are_shown_and_not_run(visit: Visit, books: Books) -> None:
    """A description and a reference that are scripts, on the pages of their events."""
    search(visit, books.sale.auction.asset)
    visit.page.locator("a.box", has_text="ASSET_REGISTERED").click()
    expect(visit.page.locator("#event")).to_contain_text("onerror=")
    assert visit.page.title() != "run"
    visit.open(f"/auditor/events/{books.deposit.event_id}")
    expect(visit.page.locator("#event")).to_contain_text("<script>")
    assert visit.page.title() != "run"
    assert visit.complaints == []


def test_nothing_moves_once_it_is_painted(rig: Rig, books: Books) -> None:
    """Neither when a proof has been checked, nor for the slider; on a wide and on a narrow screen."""
    with rig.visitor(AUDITOR) as visit:
        page = visit.page
        page.add_init_script(WATCH_SHIFTS)
        for size in (WIDE, NARROW):
            page.set_viewport_size(size)  # type: ignore[arg-type]
            for path in (
                f"events/{books.deposit.event_id}",
                f"accounts/{books.payer.user_id}",
                "checkpoints",
                f"trace?subject={books.saga_id}",
            ):
                visit.open(f"/auditor/{path}")
                expect(page.locator(".verdict.unknown")).to_have_count(0)
                page.wait_for_load_state("networkidle")
                assert page.evaluate(SHIFTED) == [], (path, size)


def test_the_dark_pages_can_be_read(rig: Rig, books: Books) -> None:
    """Boxes, arrows, charts and verdicts, too."""
    with rig.visitor(AUDITOR, color_scheme="dark") as visit:
        for name, path in (
            ("trace", f"trace?subject={books.saga_id}"),
            ("account", f"accounts/{books.payer.user_id}"),
            ("refusal", f"trace?subject={books.withdrawal_id}"),
        ):
            visit.open(f"/auditor/{path}")
            visit.check(f"auditor-{name}-dark")


# --- books ------------------------------------------------------------------------------------------------------------


def test_the_books_add_up(visit: Visit, books: Books) -> None:
    """All cells as one ledger, and each alone, come to zero."""
    page = visit.open("/auditor/trial-balance")
    expect(page.locator(".verdict.good")).to_contain_text("USD: accounts")
    visit.check("auditor-trial-balance")
    page.locator("select[name=cell]").select_option(CELL)
    page.get_by_role("button", name="Show").click()
    expect(page.locator(".verdict.good")).to_contain_text("all postings come to 0.00 USD")
    assert books.saga_id


def test_checkpoints_are_verified_in_the_browser(visit: Visit, books: Books) -> None:
    """Each cell's, by the key that this browser knows."""
    page = visit.open("/auditor/checkpoints")
    expect(page.locator(".checkpoint .verdict.good")).to_have_count(3)
    visit.check("auditor-checkpoints")
    assert books.saga_id


def test_an_auditor_reconciles_all_cells(visit: Visit, books: Books) -> None:
    """The page comes while the cells work, and ends with the result of each."""
    page = visit.open("/auditor/reconciliation")
    visit.check("auditor-reconciliation")
    page.get_by_label("Start at the first event").check()
    page.get_by_role("button", name="Reconcile now").click()
    expect(page.locator(".verdict.good")).to_contain_text("follow from the logs")
    expect(page.locator("tbody tr")).to_have_count(3)
    assert page.locator(".progress li:visible").all_inner_texts() == ["us-east: ended"]
    visit.check("auditor-reconciled")
    page = visit.open("/auditor/reconciliation?earlier=1")
    expect(page.locator("main")).to_contain_text("No pass has found a mismatch")
    assert books.saga_id
