"""The parts of a process that the lab replaces by faulty ones."""

from typing import NamedTuple

from cells.failpoints import NoFailpoints
from cells.store.ports import Clock
from cells.time.clocks import SystemClock


class Machine(NamedTuple):
    clock: Clock
    failpoints: NoFailpoints


SOUND = Machine(SystemClock(), NoFailpoints())
