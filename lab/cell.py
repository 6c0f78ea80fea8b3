"""`python -m lab.cell`: a cell's process like `python -m server`, with failpoints and a clock that can be wrong."""

import sys

from pydantic import Field

from lab.failpoints import FailingClock, Failpoints
from server.__main__ import run
from server.process.machine import Machine
from server.process.settings import ServerSettings
from server.shell.settings.host import load_settings_or_exit


class FaultySettings(ServerSettings):
    failpoints: str = Field(default="", description="failpoints, separated by commas: lab/failpoints.py")


if __name__ == "__main__":
    settings = load_settings_or_exit(FaultySettings, sys.argv[1:], program="server")
    failpoints = Failpoints(frozenset(filter(None, settings.failpoints.split(","))))
    run(settings, Machine(FailingClock(failpoints), failpoints))
