"""The packages of the shell import one another in one direction."""

from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.unit.test_tidy import Source, sources, within

SHELL = "server.shell"


def imported(found: Iterable[Source]) -> dict[str, set[str]]:
    """Package of the shell -> the others that it imports."""
    graph: dict[str, set[str]] = {}
    for source in found:
        package = source.module.split(".")[:3]
        if within(source.module, SHELL) and len(source.module.split(".")) > 3:
            names = {tuple(each.name.split(".")[:3]) for each in source.imports if within(each.name, SHELL)}
            graph.setdefault(".".join(package), set()).update(".".join(name) for name in names - {tuple(package)})
    return graph


def test_no_circle_of_packages() -> None:
    """A package can be understood before those that use it."""
    TopologicalSorter(imported(source for _, source in sources())).prepare()


def test_a_circle_is_found() -> None:
    """Each of two packages imports the other."""
    here = Source(module="server.shell.calls.guard", text="from server.shell.hosting import host")
    there = Source(module="server.shell.hosting.host", text="from server.shell.calls import guard")
    with pytest.raises(CycleError):
        TopologicalSorter(imported([here, there])).prepare()
