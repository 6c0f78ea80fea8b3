"""What a process does unasked is supervised: no task is started whose end nobody would notice."""

import ast

import pytest

from tests.unit.test_tidy import Offences, Source, sources, within

# Who may start a bare task: whoever started it, or asked for it, gets its result or its error.
TASK_OWNERS = frozenset(
    {
        "cells.audit.reconcile", "cells.background", "cells.failpoints", "cells.leadership", "cells.sagas.desk",
        # A group, whose errors the background task around it gets.
        "cells.sagas.temporal",
        # It asks once whether the server is at work, and ends what it watches where it is not.
        "cells.store_sessions",
        "cells.waits", "cells.writer", "router.__main__", "router.atlas", "router.evacuation", "router.grouping",
        "server.__main__", "server.audit_process", "server.collector", "server.peers", "server.services.books",
        "server.shell.hosting", "server.shell.keyset", "server.shell.places", "server.shell.postgres",
        "server.shell.process",
    }
)  # fmt: skip


def background_work_is_supervised(source: Source) -> Offences:
    """What a process does unasked is a BackgroundTask, or an error that nobody foresaw ends it without a word.

    Tasks that somebody waits for are another thing: their owners are named in TASK_OWNERS.
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
    """Nobody is on the list who starts no task any more."""
    starting = {
        source.module
        for _, source in sources()
        if list(background_work_is_supervised(Source(module=f"cells.{source.module}", text=source.text)))
    }
    assert TASK_OWNERS - starting == set()


@pytest.mark.parametrize(
    ("module", "text", "bites"),
    [
        ("cells.timers", "import asyncio\nasyncio.create_task(run())", True),
        ("server.mail.courier", "import asyncio as a\na.ensure_future(run())", True),
        ("router.probes", "async def f(group):\n    group.create_task(run())", True),
        ("cells.writer", "import asyncio\nasyncio.create_task(commit())", False),
        ("server.cli.play", "import asyncio\nasyncio.create_task(bid())", False),
        ("tests.unit.test_x", "import asyncio\nasyncio.create_task(run())", False),
    ],
)
def test_the_rule_bites(module: str, text: str, *, bites: bool) -> None:
    """It finds what it is there for, and nothing else."""
    assert bool(list(background_work_is_supervised(Source(module=module, text=text)))) is bites
