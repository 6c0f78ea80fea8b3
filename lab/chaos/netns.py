"""A real link: each cell in a network namespace of its own, a veth pair to each of the others.

                router and this command
                 │        │        │           core: one veth pair a cell
              us-east  eu-west  ap-tokyo
                 └──us-eu─┘        │           between cells: a bridge a pair, the cable's middle; its two ends
                 └───────us-ap─────┘           notice nothing when it goes down

The namespaces have no names: each lives as long as the processes in it, and the interfaces as long as the namespaces,
so nothing is left behind, however this ends. The command itself runs in one (`enter`): the machine's own network is
neither used nor touched.
"""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Never

from lab.chaos.links import FAR, NEAR, Link, LinkKind
from lab.cluster import CELLS, CellPlan, four
from lab.member import ClusterError, Member
from server.cli.keys.authority import ROUTER

# Followed by the namespace that the command comes from.
ENTERED_FLAG = "--entered-from"
PORT = 7400
# In our own namespaces all addresses are free.
CORE = "10.0.0.1"
_TOOLS = ("ip", "nsenter", "unshare")
_PROBE_TIMEOUT_S = 10.0


def obstacle() -> str:
    """Why no namespaces can be created here; empty: they can."""
    if os.geteuid() != 0:
        return "that takes root"
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        return f"{' and '.join(missing)} not found (Debian and Ubuntu: apt install iproute2 util-linux)"
    probe = ("unshare", "--net", "--", "ip", "-batch", "-")
    lines = "link add probe type bridge\nlink add near type veth peer name far\n"
    try:
        ran = subprocess.run(probe, input=lines, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as problem:
        return str(problem)
    return ran.stderr.strip().partition("\n")[0] if ran.returncode else ""


def enter() -> Never:
    """Re-executes this command in a network namespace of its own."""
    again = (sys.executable, "-P", "-m", "server.cli.main", *sys.argv[1:], ENTERED_FLAG, _namespace())
    path = os.pathsep.join(filter(None, sys.path))
    os.execvpe("unshare", ["unshare", "--net", "--", *again], {**os.environ, "PYTHONPATH": path})  # noqa: S606, S607


def has_entered(outside: str) -> bool:
    """Whether `enter` re-executed this command from `outside`; if so, it has left the machine's own namespace."""
    return outside not in {"", _namespace()}


def _namespace() -> str:
    return str(Path("/proc/self/ns/net").readlink())


@dataclass(frozen=True, slots=True)
class Cable:
    """Between two cells; "us-eu" is the bridge in its middle."""

    ends: tuple[CellPlan, CellPlan]

    @property
    def name(self) -> str:
        return "-".join(end.region for end in self.ends)

    def address(self, cell: str) -> str:
        """The address of `cell` on this cable."""
        first, second = (_number(end.name) for end in self.ends)
        return f"10.0.{first}{second}.{_number(cell)}"

    def mac(self, cell: str) -> str:
        return "02:00:" + ":".join(f"{int(part):02x}" for part in self.address(cell).split("."))

    def other(self, cell: str) -> str:
        return next(end.name for end in self.ends if end.name != cell)


CABLES = tuple(Cable(pair) for pair in combinations(CELLS, 2))


@dataclass(slots=True)
class NetnsLink(Link):
    kind: LinkKind = LinkKind.NETNS
    made_of: str = "network namespaces, joined by veth pairs"
    cut_by: str = "ip link set us-eu down"

    async def prepare(self) -> None:
        await _ip("link set lo up", f"addr add {CORE}/32 dev lo")

    def plan(self, folder: Path, ports: Sequence[int]) -> list[Member]:
        """All use the same port, each in its own network; `ports` are not needed."""
        members = four(folder, ports)
        for member in members:
            # No other processes are in these networks.
            member.settings["insecure_listen"] = "true"
            if member.name == ROUTER:
                member.address = member.settings["listen"] = f"{CORE}:{PORT}"
                cells = (f"{cell.name}={cell.region}={_core_address(cell.name)}:{PORT}" for cell in CELLS)
                member.settings["cells"] = list(cells)
            else:
                member.address = f"{_core_address(member.name)}:{PORT}"
                others = {cable.other(member.name): cable for cable in _cables_of(member.name)}
                peers = {other: f"{cable.address(other)}:{PORT}" for other, cable in others.items()}
                listen = f"0.0.0.0:{PORT}"
                member.settings |= {"listen": listen, "router": f"{CORE}:{PORT}", "peers": peers}
                member.runner = ("unshare", "--net", "--")
        return members

    async def connect(self, members: Sequence[Member]) -> None:
        pids = {member.name: member.pid for member in members if member.pid is not None}
        await _ip(*_ours(pids))
        for cell in CELLS:
            await _ip(*_theirs(cell.name), pid=pids[cell.name])

    async def cut(self) -> None:
        await _ip(f"link set {_between(NEAR, FAR).name} down")

    async def mend(self) -> None:
        await _ip(f"link set {_between(NEAR, FAR).name} up")


def _ours(pids: dict[str, int]) -> Iterator[str]:
    """This command's ends of all links. The far ends go to the cells' namespaces."""
    for cell in CELLS:
        yield f"link add {cell.region}-core type veth peer name core netns {pids[cell.name]}"
        yield f"addr add {CORE} peer {_core_address(cell.name)} dev {cell.region}-core"
        yield f"link set {cell.region}-core up"
    for cable in CABLES:
        yield f"link add {cable.name} type bridge"
        yield f"link set {cable.name} up"
        for end in cable.ends:
            port = f"{cable.name}.{end.region}"
            peer = f"name {cable.other(end.name)} address {cable.mac(end.name)} netns {pids[end.name]}"
            yield f"link add {port} type veth peer {peer}"
            yield f"link set {port} master {cable.name} up"


def _theirs(cell: str) -> Iterator[str]:
    """In the cell's namespace: an interface towards each other cell, named after it."""
    yield "link set lo up"
    yield f"addr add {_core_address(cell)} peer {CORE} dev core"
    yield "link set core up"
    for cable in _cables_of(cell):
        other = cable.other(cell)
        yield f"addr add {cable.address(cell)}/24 dev {other}"
        yield f"link set {other} up"
        # As between regions: ARP does not notice a lost neighbor, and packets just vanish.
        yield f"neigh replace {cable.address(other)} lladdr {cable.mac(other)} dev {other} nud permanent"


async def _ip(*lines: str, pid: int | None = None) -> None:
    """Runs lines of `ip`, in the network namespace of the process `pid` or in ours."""
    inside = ("nsenter", "--target", str(pid), "--net", "--") if pid is not None else ()
    command, text = (*inside, "ip", "-batch", "-"), "\n".join(lines)
    # Not asyncio's: its fork runs grpc's handlers, which complain; this one is a vfork.
    ran = await asyncio.to_thread(subprocess.run, command, input=text, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise ClusterError(f"ip: {ran.stderr.strip()}")


def _number(cell: str) -> int:
    return next(number for number, plan in enumerate(CELLS, start=1) if plan.name == cell)


def _core_address(cell: str) -> str:
    return f"10.0.0.{10 + _number(cell)}"


def _cables_of(cell: str) -> list[Cable]:
    return [cable for cable in CABLES if any(end.name == cell for end in cable.ends)]


def _between(near: str, far: str) -> Cable:
    return next(cable for cable in _cables_of(near) if cable.other(near) == far)
