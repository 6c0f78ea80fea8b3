"""`python -m lab.cell`: a cell's process like `python -m server`, which holds sagas before the legs named in a file."""

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from cells.failpoints import NoFailpoints
from cells.time.clocks import SystemClock
from server.__main__ import run
from server.process.machine import Machine
from server.process.settings import ServerSettings
from server.shell.settings.host import load_settings_or_exit

POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Holds(NoFailpoints):
    """The file may change meanwhile. Without it nothing is held."""

    file: Path

    async def hold(self, leg: str, direction: str) -> None:
        while f"{leg}/{direction}" in self._held():  # noqa: ASYNC110 - another process writes the file
            await asyncio.sleep(POLL_S)

    def _held(self) -> list[str]:
        try:
            return self.file.read_text().splitlines()
        except FileNotFoundError:
            return []


class HoldingSettings(ServerSettings):
    hold_file: Path = Field(description="the file of LEG/DIRECTION, one a line, before which sagas are held")


if __name__ == "__main__":
    settings = load_settings_or_exit(HoldingSettings, sys.argv[1:], program="server")
    run(settings, Machine(SystemClock(), Holds(settings.hold_file)))
