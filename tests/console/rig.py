"""A cluster, a console and a browser for the tests of one module, and what several of them look for."""

import asyncio
import os
import shutil
import signal
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from lab.cluster import Cluster
from lab.market import Market

PICTURES = Path("build/pictures")
# `make pictures` puts the upper part of these pages into the docs.
DOCS = Path(os.environ["CONSOLE_PICTURES"]) if "CONSOLE_PICTURES" in os.environ else None
SHOWN = frozenset({"auction", "auditor-trace", "operator-cells"})
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
# On a busy machine a page takes longer than the 5 s of Playwright.
EXPECTED_WITHIN_MS = 30_000
SERIOUS = frozenset({"serious", "critical"})
# A text that would be run, were it not escaped. Chromium reports what it does by the title.
SCRIPT = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>'\"></svg>"

Made = TypeVar("Made")


def chromium() -> str:
    """The program; skips the test where there is none. `make tools` installs it."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("there is no Chromium here: `make tools` installs it, as root on Debian")
    return found


@dataclass(slots=True, kw_only=True)
class Visit:
    """One visitor's browser, with cookies of its own."""

    context: BrowserContext
    page: Page
    base: str
    # What the browser has complained of: blocked scripts, errors, missing files.
    complaints: list[str] = field(default_factory=list)

    def open(self, path: str) -> Page:
        self.page.goto(f"{self.base}{path}")
        return self.page

    def check(self, name: str) -> None:
        """The page is accessible, fits a narrow screen, ran no foreign script, and is kept as a picture."""
        found = Axe().run(self.page).response["violations"]
        serious = [(each["id"], each["nodes"][0]["html"]) for each in found if each["impact"] in SERIOUS]
        assert not serious, f"{name}: {serious}"
        assert self.page.title() != "run"
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=PICTURES / f"{name}.png", full_page=True)
        if DOCS is not None and name in SHOWN:
            self.page.screenshot(path=DOCS / f"{name}.png")
        self.page.set_viewport_size(NARROW)  # type: ignore[arg-type]
        wide = self.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= NARROW["width"], f"{name} is {wide} px wide on a screen of {NARROW['width']}"
        self.page.set_viewport_size(WIDE)  # type: ignore[arg-type]
        assert self.complaints == []


@dataclass(slots=True, kw_only=True)
class Rig:
    cluster: Cluster
    browser: Browser

    @property
    def base(self) -> str:
        assert self.cluster.console is not None
        return f"http://{self.cluster.console.address}"

    def played(self, play: Callable[[Market], Awaitable[Made]]) -> Made:
        """Something happens in the ledger first."""

        async def work() -> Made:
            async with Market(self.cluster.router, self.cluster.access) as market:
                return await play(market)

        # In this thread Playwright's own loop runs.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, work()).result()

    @contextmanager
    def visitor(self, principal: str = "", **how: object) -> Iterator[Visit]:
        """A browser in which `principal` has signed in; empty: nobody."""
        context = self.browser.new_context(viewport=WIDE, locale="en-GB", timezone_id="Europe/Berlin", **how)  # type: ignore[arg-type]
        try:
            page = context.new_page()
            visit = Visit(context=context, page=page, base=self.base)
            page.on("console", lambda said: visit.complaints.append(said.text) if said.type == "error" else None)
            page.on("pageerror", lambda error: visit.complaints.append(str(error)))
            if principal:
                sign_in(visit, principal)
            yield visit
        finally:
            context.close()


@contextmanager
def silenced(rig: Rig, cell: str) -> Iterator[None]:
    """The cell's process stands still meanwhile."""
    [member] = [each for each in rig.cluster.members if each.name == cell]
    assert member.pid is not None
    os.kill(member.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(member.pid, signal.SIGCONT)


def sign_in(visit: Visit, principal: str) -> None:
    role, _, name = principal.partition("/")
    page = visit.open("/sign-in")
    page.get_by_label("Role").select_option(role)
    page.get_by_label("Name, or the id of a user").fill(name)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{visit.base}/")


@contextmanager
def running() -> Iterator[Rig]:
    program = chromium()
    expect.set_options(timeout=EXPECTED_WITHIN_MS)
    cluster = Cluster(None, with_console=True)
    asyncio.run(_entered(cluster))
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
            try:
                yield Rig(cluster=cluster, browser=browser)
            finally:
                browser.close()
    finally:
        asyncio.run(cluster.stop())


async def _entered(cluster: Cluster) -> None:
    await cluster.__aenter__()
