"""Background work is supervised: no task is started whose end would go unnoticed."""

import ast

import pytest

from tests.unit.test_tidy import Offences, Source, sources, within

# Modules that may start a bare task: the starter, or its caller, gets the result or the error.
TASK_OWNERS = frozenset(
    {
        "cells.audit.reconcile.one_pass", "cells.background", "cells.home_cache",
        "cells.sagas.admin",
        "cells.writer.leadership",
        # A group, whose errors go to the surrounding background task.
        "cells.sagas.temporal",
        # It asks once whether the server is working, and otherwise ends the task that it watches.
        "cells.store.sessions",
        "cells.routing", "cells.writer.writer", "router.__main__", "router.moves.evacuation",
        "server.__main__", "server.audit.process", "server.services.audit", "server.shell.coalescer",
        "server.shell.channels.location_cache",
        "server.shell.channels.channel_pool", "server.shell.hosting.host", "server.shell.hosting.process",
        "server.shell.identity.keyset", "server.shell.postgres.embedded",
    }
)  # fmt: skip


def background_work_is_supervised(source: Source) -> Offences:
    """Background work is a BackgroundTask; otherwise an unforeseen error would end it silently.

    Tasks that their starter waits for are different: TASK_OWNERS names the modules.
    """
    served = any(within(source.module, package) for package in ("cells", "server", "router"))
    if not served or within(source.module, "server.cli") or source.module in TASK_OWNERS:
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and node.attr in {"create_task", "ensure_future"}:
            yield node.lineno, f"{node.attr}: use cells.background.BackgroundTask"


def test_no_task_goes_without_somebody_who_minds() -> None:
    """A BackgroundTask, or one that its owner waits for."""
    offences = [
        f"{path}:{line}: {what}" for path, source in sources() for line, what in background_work_is_supervised(source)
    ]
    assert not offences, "\n".join(["", *offences])


def test_the_owners_are_there() -> None:
    """No module is on the list that no longer starts a task."""
    starting = {
        source.module
        for _, source in sources()
        if list(background_work_is_supervised(Source(module=f"cells.{source.module}", text=source.text)))
    }
    assert TASK_OWNERS - starting == set()


@pytest.mark.parametrize(
    ("module", "text", "bites"),
    [
        ("cells.writer.timers", "import asyncio\nasyncio.create_task(run())", True),
        ("server.mail.sender", "import asyncio as a\na.ensure_future(run())", True),
        ("router.probes", "async def f(group):\n    group.create_task(run())", True),
        ("cells.writer.writer", "import asyncio\nasyncio.create_task(commit())", False),
        ("lab.play", "import asyncio\nasyncio.create_task(bid())", False),
        ("tests.unit.test_x", "import asyncio\nasyncio.create_task(run())", False),
    ],
)
def test_the_rule_bites(module: str, text: str, *, bites: bool) -> None:
    """It finds its offence, and nothing else."""
    assert bool(list(background_work_is_supervised(Source(module=module, text=text)))) is bites
