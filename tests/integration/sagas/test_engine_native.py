"""The native engine does what every saga engine must."""

import pytest

from tests.integration.sagas.engine_conformance import SagaEngineConformance, SagaOrdersConformance
from tests.local_cells import EngineOf, native_engine


class TestNativeEngine(SagaEngineConformance, SagaOrdersConformance):
    """The conformance suite without any other server."""

    @pytest.fixture
    def engine_of(self) -> EngineOf:
        return native_engine
