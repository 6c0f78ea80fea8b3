"""Fixtures of the integration tests."""

import pytest

from tests.integration.database import cell_dsn, cluster, postgres, superuser, template
from tests.integration.played import market, played
from tests.integration.services_rig import rig

# Its tests are inherited: without this a failing assert would not say what it compared.
pytest.register_assert_rewrite(
    "tests.integration.store.store_conformance", "tests.integration.store.saga_list_conformance"
)

__all__ = ["cell_dsn", "cluster", "market", "played", "postgres", "rig", "superuser", "template"]
