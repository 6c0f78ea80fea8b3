"""The order of the tests where several processes run them, a module at a time; and how errors are logged in tests."""

import pytest
import structlog

# With the locals of each frame, as is structlog's default, one logged error takes seconds.
_PLAIN = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
structlog.configure(processors=[*structlog.get_config()["processors"][:-1], _PLAIN])

# Their modules take minutes, the others seconds.
LONG = {"bench", "e2e", "faults", "fuzz", "simulation"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long modules are spread over the first half, the simulations first.

    Side by side they would compete for the processors; a last one would leave the other processes without work.
    """
    if not hasattr(config, "workerinput"):
        return
    modules = list(dict.fromkeys(item.path for item in items))
    long = sorted((path for path in modules if path.parent.name in LONG), reverse=True)
    short = [path for path in modules if path.parent.name not in LONG]
    step = len(short) / 2 / max(len(long), 1)
    place = {path: (index * step, 0) for index, path in enumerate(long)}
    place |= {path: (index, 1) for index, path in enumerate(short)}
    items.sort(key=lambda item: place[item.path])
