"""The page for clients shows the service config from the code."""

import json
import re
from pathlib import Path

from server.shell.channels.options import SERVICE_CONFIG

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"


def test_the_page_shows_the_service_config() -> None:
    """Readers copy the same config that the tests use."""
    [shown] = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert json.loads(shown) == json.loads(SERVICE_CONFIG)
