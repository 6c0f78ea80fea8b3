"""The operator's pages in Chromium: cells and links, a saga that waits for a silent cell, moves, drains, passes."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest
from playwright.sync_api import Locator, Page, expect

from cellbook.v1 import router_pb2
from lab.market import Market, Person, Won
from server.cli.client import new_command_id
from tests.console.rig import SCRIPT, Rig, Visit, silenced

pytestmark = pytest.mark.e2e

OPERATOR = "operator/cellbook"
HERE, SILENT = "us-east", "ap-tokyo"
# A takeover takes a few seconds, and this machine may be busy.
PATIENCE_MS = 30_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """A settled sale, and two that can be closed."""

    settled_id: str
    sales: tuple[Won, Won]


async def play(market: Market) -> Played:
    won = await market.won(
        SCRIPT, winner_cell="eu-west", auction_cell=HERE, seller_cell=SILENT, funds_minor=50_000, price_minor=700
    )
    settled_id = await settlement(market, won)
    await market.wait_until_quiet()
    return Played(settled_id=settled_id, sales=(await sale(market), await sale(market)))


@pytest.fixture(scope="module")
def played(rig: Rig) -> Played:
    return rig.played(play)


@pytest.fixture
def visit(rig: Rig) -> Iterator[Visit]:
    with rig.visitor(OPERATOR) as visit:
        yield visit


async def sale(market: Market) -> Won:
    """One that can be closed: its money goes from HERE to a seller in SILENT."""
    return await market.won(
        SCRIPT, winner_cell=HERE, auction_cell=HERE, seller_cell=SILENT, funds_minor=50_000, price_minor=12_345
    )


async def settlement(market: Market, sale: Won) -> str:
    return (await market.close(sale.auction)).saga_id


def form_of(page: Page, button: str) -> Locator:
    return page.locator("form").filter(has=page.get_by_role("button", name=button, exact=True))


def fields_of(page: Page, button: str) -> dict[str, str | float | bool]:
    form = form_of(page, button)
    return {name: form.locator(f"input[name={name}]").input_value() for name in ("form_token", "command_id")}


def press(page: Page, button: str, *, reason: str = "", confirm: bool = False) -> None:
    """Sends the form with that button."""
    form = form_of(page, button)
    if reason:
        form.get_by_label("Reason").fill(reason)
    if confirm:
        form.get_by_role("checkbox", name=re.compile("mean|Rebuild")).check()
    form.get_by_role("button", name=button, exact=True).click()


def test_the_cells_are_there_with_their_leaders(rig: Rig, played: Played, visit: Visit) -> None:
    """Positions, sagas, signing, what is between the cells; the page is live, and without JavaScript it has a link."""
    page = visit.open("/operator/cells")
    for cell in (HERE, "eu-west", SILENT):
        expect(page.get_by_role("heading", name=cell)).to_be_visible()
    expect(page.get_by_text("none: it takes no commands")).to_have_count(0)
    links = page.get_by_role("region", name="Between the cells")
    expect(links.get_by_role("row", name=re.compile(f"{SILENT} and eu-west"))).to_contain_text("nothing")
    expect(page.get_by_role("img", name=re.compile("events a second: [0-9.]+ now")).first).to_be_visible(
        timeout=PATIENCE_MS
    )
    visit.check("operator-cells")
    with rig.visitor(OPERATOR, java_script_enabled=False) as plain:
        plain.open("/operator/cells").get_by_role("link", name="Refresh").click()
        expect(plain.page.get_by_role("heading", name=HERE)).to_be_visible()


def test_sagas_wait_for_a_silent_cell(rig: Rig, played: Played, visit: Visit) -> None:
    """One is paused and resumed, once each, and goes on when the cell answers; the other is called off, and turns back.

    The reasons are in the log. An auditor sees a saga, and none of the buttons.
    """
    page = visit.page
    with silenced(rig, SILENT):
        saga_id, other_id = (rig.played(partial(settlement, sale=sale)) for sale in played.sales)
        visit.open(f"/sagas/{other_id}")
        press(page, "Compensate", reason="ticket 4712")
        expect(page.get_by_role("region", name="History")).to_contain_text("ticket 4712")
        with rig.visitor("auditor/cellbook") as other:
            other.open(f"/sagas/{other_id}")
            expect(other.page.get_by_role("heading", name=re.compile("Settlement"))).to_be_visible()
            expect(other.page.get_by_role("button", name="Compensate")).to_have_count(0)
        visit.open("/operator/cells")
        row = page.get_by_role("row", name=re.compile(f"{SILENT} and {HERE}"))
        expect(row).to_contain_text("not known")
        expect(row).to_contain_text("no answer for", timeout=PATIENCE_MS)
        visit.open("/sagas?kind=settlement")
        page.get_by_role("row", name=re.compile(saga_id[-4:])).get_by_role("link").click()
        expect(page).to_have_url(f"{rig.base}/sagas/{HERE}/{saga_id}")
        pause_and_resume(rig, visit, saga_id)
    # The page is live: it shows the end by itself.
    expect(page.locator("dl dd").first).to_have_text("completed", timeout=PATIENCE_MS)
    visit.open(f"/sagas/{other_id}")
    expect(page.locator("dl dd").first).to_have_text("compensated", timeout=PATIENCE_MS)


def pause_and_resume(rig: Rig, visit: Visit, saga_id: str) -> None:
    page, history = visit.page, visit.page.get_by_role("region", name="History")
    form = {**fields_of(page, "Pause"), "note": "ticket 4711"}
    press(page, "Pause", reason=f"ticket 4711 {SCRIPT}")
    expect(page.get_by_role("status")).to_have_text("Done: pause.")
    visit.check("operator-saga")
    expect(history).to_contain_text("saga paused")
    expect(history).to_contain_text(SCRIPT)
    # Another form under the same id is no second command.
    answer = visit.context.request.post(f"{rig.base}/sagas/{HERE}/{saga_id}/pause", form=form)
    assert (answer.status, "command id reused" in answer.text()) == (422, True)
    press(page, "Resume", reason="ticket 4711")
    expect(history).to_contain_text("saga resumed")
    press(page, "Retry now")
    expect(page.get_by_role("status")).to_have_text("Done: retry.")


def test_a_settlement_is_a_time_line(played: Played, visit: Visit) -> None:
    """Each leg with its cell and state, in the list of those that have ended, too."""
    page = visit.open("/sagas?state=completed&kind=settlement")
    page.get_by_role("row", name=re.compile(played.settled_id[-4:])).get_by_role("link").click()
    legs = page.locator("ol.legs > li")
    expect(legs).to_have_count(9)
    expect(legs.filter(has_text="ownership")).to_contain_text("pivot")
    visit.check("operator-settlement")


def test_a_drain_is_confirmed_and_done_once(rig: Rig, visit: Visit) -> None:
    """Without the confirmation nothing happens; a form that is sent again later undoes nothing."""

    async def state(market: Market) -> "router_pb2.CellState.ValueType":
        listed = await market.client.ask_router(market.client.router.ListCells, router_pb2.ListCellsRequest())
        return next(cell.state for cell in listed.cells if cell.name == SILENT)

    page = visit.open(f"/operator/cells/{SILENT}")
    visit.check("operator-cell")
    fields = fields_of(page, f"Drain {SILENT}")
    answer = visit.context.request.post(f"{rig.base}/operator/cells/{SILENT}/drain", form=fields)
    assert answer.status == 400
    assert rig.played(state) == router_pb2.CELL_STATE_ACTIVE
    press(page, f"Drain {SILENT}", confirm=True)
    expect(page.get_by_role("status")).to_have_text("Done: drain.")
    assert rig.played(state) == router_pb2.CELL_STATE_DRAINING
    press(page, f"Undrain {SILENT}", confirm=True)
    assert visit.context.request.post(
        f"{rig.base}/operator/cells/{SILENT}/drain", form={**fields, "confirmed": "yes"}
    ).ok
    assert rig.played(state) == router_pb2.CELL_STATE_ACTIVE
    form_of(page, "Set the weight").get_by_role("spinbutton").fill("90")
    press(page, "Set the weight", confirm=True)
    expect(page.locator("dl")).to_contain_text("90")


def test_a_user_moves(rig: Rig, visit: Visit) -> None:
    """The page shows how far it is, and leads to its saga."""
    person = rig.played(lambda market: market.person("mover", "eu-west", 1_000))
    page = visit.open("/operator/moves")
    page.get_by_label("User").fill(person.user_id)
    page.get_by_role("button", name="Look up").click()
    expect(page.locator("dl")).to_contain_text("eu-west, epoch 1")
    page.locator("select[name=cell]").select_option(HERE)
    page.get_by_label("Residency afterwards").fill("us")
    press(page, "Move", confirm=True)
    expect(page.locator("dl")).to_contain_text(f"eu-west to {HERE}: done", timeout=PATIENCE_MS)
    expect(page.locator("dl")).to_contain_text(f"{HERE}, epoch 2")
    visit.check("operator-moves")


def test_users_are_moved_off_a_cell(rig: Rig, visit: Visit) -> None:
    """Once it is drained, and after a confirmation. Those who are bound to its region stay, and the page says why."""

    async def free_and_bound(market: Market) -> tuple[Person, Person]:
        """Both at home in SILENT, the first one bound to no region."""
        free, bound = [await market.person(label, SILENT, 1_000) for label in ("free", "bound")]
        for cell, region in ((HERE, "us"), (SILENT, "")):
            order = router_pb2.MoveUserRequest(
                command_id=new_command_id(), user_id=free.user_id, cell=cell, region=region
            )
            await market.client.call(market.client.router.MoveUser, order, OPERATOR)
        await market.wait_until_quiet()
        return free, bound

    free, bound = rig.played(free_and_bound)
    page = visit.open(f"/operator/cells/{SILENT}")
    page.get_by_role("link", name=f"Evacuate {SILENT}").click()
    expect(page.get_by_role("link", name="drain it first")).to_be_visible()
    expect(page.get_by_role("button", name="Evacuate")).to_have_count(0)
    page.get_by_role("link", name="drain it first").click()
    press(page, f"Drain {SILENT}", confirm=True)
    page.get_by_role("link", name=f"Evacuate {SILENT}").click()
    fields = {"form_token": form_of(page, f"Evacuate {SILENT}").locator("input[name=form_token]").input_value()}
    path = f"{rig.base}/operator/evacuations/{SILENT}"
    for wrong in ({"rate": "100"}, {"rate": "0", "confirmed": "yes"}, {"rate": "1001", "confirmed": "yes"}):
        assert visit.context.request.post(path, form={**fields, **wrong}).status == 400
    visit.check("operator-evacuation-form")
    form_of(page, f"Evacuate {SILENT}").get_by_role("spinbutton").fill("100")
    press(page, f"Evacuate {SILENT}", confirm=True)
    # The page is live: it shows the end by itself, and then has the form for another one.
    expect(page.locator("#far")).to_contain_text("users are still at home", timeout=PATIENCE_MS)
    expect(page.locator("main dl")).to_contain_text("Last problem")
    expect(page.locator("main dl")).to_contain_text("NO_CELL_IN_REGION")
    expect(form_of(page, f"Evacuate {SILENT}")).to_be_visible(timeout=PATIENCE_MS)
    visit.check("operator-evacuation")
    homes = [rig.played(partial(Market.home, user_id=user.user_id)) for user in (free, bound)]
    assert homes[0] != SILENT
    assert homes[1] == SILENT
    visit.open(f"/operator/cells/{SILENT}")
    press(page, f"Undrain {SILENT}", confirm=True)


def test_tables_are_rebuilt(visit: Visit) -> None:
    """With a reason and a confirmation; the page shows its end."""
    page = visit.open("/operator/tables")
    press(page, f"Rebuild {HERE}", reason=f"ticket 4713 {SCRIPT}", confirm=True)
    status = page.locator("section", has=page.get_by_role("heading", name=HERE)).get_by_role("status")
    for _ in range(PATIENCE_MS // 200):
        if "0 findings before, 0 left" in status.inner_text():
            break
        page.get_by_role("link", name="Refresh").click()
    expect(status).to_contain_text("0 findings before, 0 left")
    visit.check("operator-rebuild")


def test_the_doctor_looks_at_processes(visit: Visit) -> None:
    """As `cellbook doctor` does: what is wrong comes first."""
    page = visit.open("/operator/doctor")
    expect(page.get_by_role("row", name=re.compile("leads, in")).first).to_be_visible()
    visit.check("operator-doctor")
