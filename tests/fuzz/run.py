"""One run: a cluster of real processes, calls and connections at it, and what must hold afterwards."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cellbook.v1 import ledger_pb2, router_pb2, types_pb2
from lab.cluster import CELLS, Cluster, four
from lab.member import Member
from server.cli.access import Access
from server.cli.keys.authority import Authority
from server.shell.identity.principal import Principal, Role
from tests.e2e.cellbook_command import check_kept
from tests.fuzz.frames import speak_badly
from tests.fuzz.known import ROUTER
from tests.fuzz.messages import STRANGER
from tests.fuzz.player import AT_ONCE, METHODS, Asked, Findings, Player, corpus

USERS_EACH = 4
SETTLED_WITHIN_S = 30.0
# A connection that speaks badly for so many calls.
CALLS_A_CONNECTION = 40
# Of memory: what a process may have more at the end than when it had seen half of it all.
GROWTH_BYTES_MAX = 48 * 2**20
GROWTH_SHARE_MAX = 0.15
HEALTH: Any = health_pb2_grpc.HealthStub
BANK, SHOP = "treasury/fuzz", "service/fuzz"

Told = Callable[[str], None]


@dataclass(slots=True)
class TownDoors:
    """Channels to the processes of a cluster; of a secure one, by certificates for peers and router, and by tokens."""

    cluster: Cluster
    channels: dict[tuple[str, str], grpc.aio.Channel] = field(default_factory=dict)

    def door(self, target: str, principal: str) -> tuple[grpc.aio.Channel, Sequence[tuple[str, str]]]:
        member = next(member for member in self.cluster.members if member.name == target)
        who, access = self._access(principal)
        key = (target, who)
        if key not in self.channels:
            self.channels[key] = access.channel(member.address, [("grpc.enable_retries", 0)])
        return self.channels[key], self._metadata(access, principal)

    def _access(self, principal: str) -> tuple[str, Access]:
        role = principal.partition("/")[0]
        if self.cluster.keys is None or role not in {Role.PEER, Role.ROUTER}:
            return "", self.cluster.access
        return role, Access(tls=Authority(self.cluster.keys).tls(STRANGER if role == Role.PEER else ROUTER))

    def _metadata(self, access: Access, principal: str) -> Sequence[tuple[str, str]]:
        if self.cluster.keys is None:
            return (("cellbook-principal", principal),) if principal else ()
        role = principal.partition("/")[0]
        if role in {*Role} - {Role.PEER, Role.ROUTER, Role.DELEGATE} and len(principal) < 60:
            try:
                return access.metadata(principal)
            except Exception:  # noqa: BLE001 - no principal, then a token that is none
                return (("authorization", f"Bearer {principal}"),)
        return (("cellbook-principal", principal),) if principal else ()

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self.channels.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    findings: Findings
    # Process -> resident bytes at half time and at the end.
    resident: Mapping[str, tuple[int, int]]
    seconds: float

    @property
    def grown(self) -> dict[str, tuple[int, int]]:
        """Processes that have grown by more than they may."""
        return {
            name: (half, end)
            for name, (half, end) in self.resident.items()
            if end - half > max(GROWTH_BYTES_MAX, half * GROWTH_SHARE_MAX)
        }


@asynccontextmanager
async def cluster_in(folder: Path, *, secure: bool) -> AsyncIterator[Cluster]:
    def plan(data: Path, ports: Sequence[int]) -> list[Member]:
        members = four(data, ports)
        for member in members:
            # What is bounded elsewhere is not what is looked at here.
            member.settings["user_calls_per_s"] = "0"
        return members

    async with Cluster(folder, plan=plan, secure=secure) as cluster:
        if cluster.keys is not None:
            Authority(cluster.keys).certify(STRANGER, Principal(role=Role.PEER, name=STRANGER))
        yield cluster


async def play(cluster: Cluster, calls: int, seed: int, told: Told, *, at_once: int = AT_ONCE) -> Outcome:
    """Raises ClusterError where a process ends."""
    return await cluster.while_alive(_played(cluster, calls, seed, told, at_once))


async def _played(cluster: Cluster, calls: int, seed: int, told: Told, at_once: int) -> Outcome:
    began_s, doors = time.monotonic(), TownDoors(cluster)
    try:
        player = Player(doors, seed, at_once)
        await settle(player)
        for asked in corpus():
            await player.call(asked)
        await _half(cluster, player, calls // 2, seed, told)
        half = resident(cluster)
        await _half(cluster, player, calls - calls // 2, seed + 1, told)
        end = resident(cluster)
        await still_serving(cluster, doors)
    finally:
        await doors.close()
    return Outcome(
        findings=player.findings,
        resident={name: (half[name], end[name]) for name in end},
        seconds=time.monotonic() - began_s,
    )


async def settle(player: Player) -> None:
    """Users in each region with some money, to begin with."""
    for cell in CELLS:
        for _ in range(USERS_EACH):
            user = str(UUID(int=player.rng.getrandbits(128), version=4))
            money = types_pb2.Money(currency="USD", amount_minor=10**9)
            registered = router_pb2.RegisterUserRequest(user_id=user, region=cell.region)
            paid = ledger_pb2.DepositRequest(command_id=user, user_id=user, amount=money, external_reference=user)
            for path, principal, request in (
                ("/cellbook.v1.RouterService/RegisterUser", SHOP, registered),
                ("/cellbook.v1.LedgerService/Deposit", BANK, paid),
            ):
                asked = Asked(path=path, target=ROUTER, principal=principal, request=request.SerializeToString())
                async with asyncio.timeout(SETTLED_WITHIN_S):
                    while await player.call(asked) != "OK":  # noqa: ASYNC110 - asked again
                        await asyncio.sleep(0.2)
            player.pool.add("user", user)


async def _half(cluster: Cluster, player: Player, calls: int, seed: int, told: Told) -> None:
    """Calls and bad connections side by side, in slices that are told of."""
    slices = max(calls // 20_000, 1)
    for number in range(slices):
        share = calls // slices
        speaking = (
            speak_badly(member.address, share // CALLS_A_CONNECTION // 4, seed + number, list(METHODS))
            for member in cluster.members
        )
        began_s = time.monotonic()
        await asyncio.gather(player.play(share), *speaking)
        rate = share / (time.monotonic() - began_s)
        wrong = len(player.findings.wrong)
        megabytes = ", ".join(f"{name} {size / 2**20:.0f}" for name, size in resident(cluster).items())
        told(f"{player.findings.answers.total():,} calls, {rate:,.0f}/s, {wrong} wrong; MiB: {megabytes}")


async def still_serving(cluster: Cluster, doors: TownDoors) -> None:
    """Each process says so, and a call of each is answered at once."""
    for member in cluster.members:
        channel, _ = doors.door(member.name, SHOP)
        answer = await HEALTH(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING, member.name


def resident(cluster: Cluster) -> dict[str, int]:
    """Resident bytes of each process."""
    sizes = {}
    for member in cluster.members:
        lines = Path(f"/proc/{member.pid}/status").read_text().splitlines()
        sizes[member.name] = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))
    return sizes


async def check(folder: Path) -> None:
    """All invariants, from the databases that a cluster has left: nothing is written any more.

    Not that all is settled: what a stranger began stays as it is.
    """
    await check_kept(folder, settled=False)
