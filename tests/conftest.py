"""The order of the tests where several processes run them."""

import pytest

# What takes long, by its marker or its folder.
LONG = ("slow", "e2e", "faults")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Modules with long tests go first: begun last, one would go on while the other processes have nothing to do."""
    if hasattr(config, "workerinput"):
        long = {item.path for item in items if any(map(item.get_closest_marker, LONG))}
        items.sort(key=lambda item: item.path not in long)
