"""Fixtures of the integration tests."""

import pytest

from cells.sagas import circuit_breaker, steps
from tests.integration.database import cell_dsn, cluster, postgres, superuser, template
from tests.integration.played import market, played
from tests.integration.services_rig import rig

# Its tests are inherited: without this a failing assert would not say what it compared.
pytest.register_assert_rewrite(
    "tests.integration.store.store_conformance", "tests.integration.store.saga_list_conformance"
)


@pytest.fixture
def quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent peer is asked again within milliseconds."""
    monkeypatch.setattr(circuit_breaker, "PROBE_FIRST_S", 0.02)
    monkeypatch.setattr(circuit_breaker, "PROBE_MAX_S", 0.05)


@pytest.fixture
def quick_retries(quick_probes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """So is a leg that has failed."""
    monkeypatch.setattr(steps, "BACKOFF_MAX_S", 0.05)


__all__ = ["cell_dsn", "cluster", "market", "played", "postgres", "rig", "superuser", "template"]
