"""`python -m tests.doubles.cell`: a cell's process with failpoints and a clock that can be wrong."""

import sys

from pydantic import Field

from cells.writer import leadership
from lab.member import Member
from server.__main__ import run
from server.process.machine import Machine
from server.process.settings import ServerSettings
from server.shell.settings.host import load_settings_or_exit
from tests.doubles.failpoints import FailingClock, Failpoints

# Its cell has no other process: the predecessor was killed, and waiting for more of its beats would only take time.
TAKEOVER_S = 0.25


def set_failpoints(member: Member, *names: str) -> None:
    """At its next start the process has these faults."""
    member.module = "tests.doubles.cell"
    member.settings["failpoints"] = ",".join(names)


class FaultySettings(ServerSettings):
    failpoints: str = Field(default="", description="failpoints, separated by commas: tests/doubles/failpoints.py")


if __name__ == "__main__":
    settings = load_settings_or_exit(FaultySettings, sys.argv[1:], program="server")
    leadership.TAKEOVER_S = TAKEOVER_S
    failpoints = Failpoints(frozenset(filter(None, settings.failpoints.split(","))))
    run(settings, Machine(FailingClock(failpoints), failpoints))
