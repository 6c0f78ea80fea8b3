"""Sessions and forms: who signs in, how long that holds, and what a stranger's page cannot do."""

import pytest

from tests.console.rig import Rig

pytestmark = pytest.mark.e2e


def test_a_visitor_signs_in_and_out(rig: Rig) -> None:
    """The first page is plain, accessible and small; it works without JavaScript."""
    with rig.visitor(java_script_enabled=False) as visit:
        page = visit.open("/")
        assert page.url == f"{rig.base}/sign-in"
        page.get_by_label("Role").select_option("auditor")
        page.get_by_role("button", name="Sign in").click()
        assert page.get_by_text("auditor/cellbook").count() == 2
        page.get_by_role("button", name="Sign out").click()
        assert page.url == f"{rig.base}/sign-in"
        page.goto(f"{rig.base}/")
        assert page.url == f"{rig.base}/sign-in"
    with rig.visitor("auditor/cellbook") as visit:
        visit.open("/")
        visit.check("home")


def test_the_first_page_is_small(rig: Rig) -> None:
    """Everything that it loads has less than 100 KB, and nothing moves once it is painted."""
    with rig.visitor() as visit:
        sizes: list[int] = []
        visit.page.on("response", lambda response: sizes.append(len(response.body())))
        visit.page.add_init_script(
            "window.shift = 0; new PerformanceObserver(list => {"
            " for (const each of list.getEntries()) window.shift += each.value;"
            "}).observe({type: 'layout-shift', buffered: true});"
        )
        visit.open("/sign-in")
        visit.page.wait_for_load_state("networkidle")
        assert 0 < sum(sizes) < 100_000
        assert visit.page.evaluate("window.shift") == 0


def test_a_session_is_new_with_each_sign_in(rig: Rig) -> None:
    """A cookie that somebody has put into the browser before is not the session afterwards."""
    with rig.visitor() as visit:
        visit.context.add_cookies([{"name": "cellbook_session", "value": "planted", "url": rig.base}])
        page = visit.open("/sign-in")
        page.get_by_role("button", name="Sign in").click()
        cookies = {each["name"]: each for each in visit.context.cookies()}
        session = cookies["cellbook_session"]
        assert session["value"] != "planted"
        assert (session["httpOnly"], session["sameSite"]) == (True, "Lax")


def test_a_form_of_another_page_does_nothing(rig: Rig) -> None:
    """Neither without the form's token, nor with that of another session, nor from another origin."""
    with rig.visitor("auditor/cellbook") as visit, rig.visitor("operator/cellbook") as other:
        token = other.open("/").locator("input[name=form_token]").first.get_attribute("value")
        mine = visit.open("/").locator("input[name=form_token]").first.get_attribute("value")
        assert token != mine
        assert mine is not None
        request = visit.context.request
        assert request.post(f"{rig.base}/sign-out", form={}).status == 403
        assert request.post(f"{rig.base}/sign-out", form={"form_token": token or ""}).status == 403
        strange = {"origin": "https://strange.example"}
        assert request.post(f"{rig.base}/sign-out", form={"form_token": mine}, headers=strange).status == 403
        assert visit.open("/").get_by_role("button", name="Sign out").count() == 1
        assert request.post(f"{rig.base}/sign-out", form={"form_token": mine}).ok
        assert visit.open("/").url == f"{rig.base}/sign-in"


def test_no_page_can_be_framed(rig: Rig) -> None:
    """Another site cannot lay a page under its own."""
    with rig.visitor("operator/cellbook") as visit:
        page = visit.context.new_page()
        page.set_content(f"<iframe src='{rig.base}/'></iframe>")
        page.wait_for_load_state("networkidle")
        assert page.frames[1].url.startswith("chrome-error:")


def test_another_name_for_the_console_is_refused(rig: Rig) -> None:
    """A name that a stranger points at this address would make the stranger's pages ours."""
    with rig.visitor() as visit:
        answer = visit.context.request.get(f"{rig.base}/sign-in", headers={"host": "strange.example"})
        assert answer.status == 400
        assert answer.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize("path", ["https://strange.example/", "//strange.example/", "/\\strange.example"])
def test_a_sign_in_leads_to_our_own_pages_only(rig: Rig, path: str) -> None:
    """Wherever the link that was followed wants to go."""
    with rig.visitor() as visit:
        page = visit.open(f"/sign-in?next={path}")
        page.get_by_role("button", name="Sign in").click()
        assert page.url == f"{rig.base}/"
