"""What ships to watch a cluster by: alerts and dashboard speak of what the processes tell, and of nothing else."""

import asyncio
import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from cells.time.clocks import SystemClock
from router.directory.database import Database
from router.directory.topology import LiveTopology, Topology
from router.metrics import router_registry
from server.mail.sender import MailSender
from server.process.metrics import cell_registry, watch_metrics
from server.shell.calls.guard import CallGuard
from server.shell.observability.metrics import CallMetrics, LoopCollector
from tests.saga_world import HERE, world

ROOT = Path(__file__).parents[3]
RULES = ROOT / "docker" / "prometheus"
DASHBOARD = ROOT / "docker" / "grafana" / "dashboards" / "cellbook.json"

METRIC = re.compile(r"\b(?:cellbook|process|python)_\w+\b")
NOTHING: Any = None


def told(*registries: CollectorRegistry) -> set[str]:
    """The names under which Prometheus stores what is told."""
    lines = [line for each in registries for line in generate_latest(each).decode().splitlines()]
    kinds = [line.split()[2:4] for line in lines if line.startswith("# TYPE")]
    parts = {"histogram": ("_bucket", "_sum", "_count")}
    return {f"{name}{part}" for name, kind in kinds for part in parts.get(kind, ("",))}


async def nowhere() -> str:
    return ""


@pytest.fixture(scope="module")
def metrics() -> set[str]:
    """All that a cell with mail and a router tell."""

    async def of_both() -> set[str]:
        mail_sender = MailSender(outbox=NOTHING, vault=NOTHING, server=NOTHING, sender="", clock=SystemClock())
        async with world() as here:
            audit: Any = Mock(cell=here.cells[HERE])
            audit.history.damage, audit.reconciliation = {}, Mock(tally=Counter(), last=None, age_s=0.0)
            signer, watch, witness = Mock(broken="", unsigned_s=0.0), Mock(problems=0), Mock(refused={})
            audit.proofs = Mock(checkpoint_signer=signer, cosigning=Mock(problems={}), log_watch=watch, witness=witness)
            cell = cell_registry(here.cells[HERE], here.all_steps[HERE], mail_sender, audit)
            CallMetrics(cell)
            cell.register(LoopCollector(lambda: watch_metrics(CallGuard({}))))
            router = router_registry(LiveTopology(Topology([])), Database(nowhere))
            return await asyncio.to_thread(told, cell, router)

    return asyncio.run(of_both())


def expressions(dashboard: dict[str, Any]) -> Iterator[str]:
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    for variable in dashboard["templating"]["list"]:
        yield variable.get("definition", "")


def test_the_dashboard_shows_what_there_is(metrics: set[str]) -> None:
    """No panel stays empty for a metric that nobody tells."""
    shown = {name for each in expressions(json.loads(DASHBOARD.read_text())) for name in METRIC.findall(each)}
    assert len(shown) > 25
    assert shown - metrics == set()


def test_the_dashboard_shows_all_of_ours(metrics: set[str]) -> None:
    """Whoever adds a metric gives it a place, or an alert, or says here why it has none."""
    unseen = {
        # Of one process by another: the difference of positions is what subscribers tell.
        "cellbook_position",
        # Beside the cells that the router serves.
        "cellbook_topology_version",
        # Beside what is wrong now; and how far a pass came, beside how long ago.
        "cellbook_mismatches_total",
        "cellbook_reconciled_position",
    }
    used = DASHBOARD.read_text() + (RULES / "alerts.yml").read_text()
    ours = {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in metrics}
    assert {name for name in ours if name.startswith("cellbook_") and name not in used} == unseen


def test_panels_have_places_of_their_own() -> None:
    """No panel lies upon another one."""
    places = [panel["gridPos"] for panel in json.loads(DASHBOARD.read_text())["panels"]]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(cells) == len(set(cells))


def test_alerts_watch_what_there_is(metrics: set[str]) -> None:
    """An alert on a metric that nobody tells would never fire."""
    watched = set(METRIC.findall((RULES / "alerts.yml").read_text()))
    assert len(watched) > 12
    assert watched - metrics == set()


def test_every_alert_has_its_runbook() -> None:
    """Each names a heading of the page on operations that is there."""
    named = re.findall(r"runbook: docs/operations\.md#(\S+)", (RULES / "alerts.yml").read_text())
    page = (ROOT / "docs" / "operations.md").read_text()
    headings = {line.lower().replace(" ", "-") for line in re.findall(r"^#+ ([\w -]+)$", page, re.MULTILINE)}
    assert len(named) == (RULES / "alerts.yml").read_text().count("- alert:")
    assert set(named) - headings == set()


@pytest.mark.parametrize("arguments", [("check", "config", "prometheus.yml"), ("test", "rules", "alerts_test.yml")])
def test_prometheus_takes_its_settings(arguments: tuple[str, ...]) -> None:
    """Its own tool reads them, and plays the alerts through."""
    promtool = shutil.which("promtool") or shutil.which("promtool", path=ROOT / "build")
    if promtool is None:
        pytest.skip("promtool is not there: `make tools` fetches it on Debian")
    done = subprocess.run([promtool, *arguments], cwd=RULES, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
