"""Whatever is sent, by whomever: an answer that says what is wrong with it, and everything goes on."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import grpc.aio
import pytest

from cellbook.v1 import ledger_pb2
from server.services import ledger
from server.shell.settings.addresses import Address
from tests.fuzz import frames
from tests.fuzz.messages import Maker, Pool
from tests.fuzz.player import METHODS, NEVER, Asked, Findings, Player, corpus, shown
from tests.fuzz.run import GROWTH_BYTES_MAX, Outcome, check, cluster_in, play
from tests.integration.services_rig import serving
from tests.integration.shell.shell_host import USER, running
from tests.local_cells import until

CALLS = 20_000
SEED = 20_261_125
BALANCE = "/cellbook.v1.LedgerService/GetBalance"
# What chance alone hardly ever gets right: these need a saga at a certain moment, or an asset that is sold just now.
SELDOM = 10


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_twenty_thousand_calls_find_nothing(tmp_path: Path) -> None:
    """Of every RPC, by everybody, beside connections that speak badly; no process ends or swells, the books hold."""
    async with cluster_in(tmp_path / "cluster", secure=False) as cluster:
        outcome = await play(cluster, CALLS, SEED, print)
    await check(tmp_path / "cluster")
    findings = outcome.findings
    print(shown(findings.answers))
    assert findings.wrong == []
    assert outcome.grown == {}
    assert findings.answers.total() >= CALLS
    assert {path for path, _ in findings.answers} == set(METHODS)
    assert len(set(METHODS) - findings.answered) <= SELDOM, set(METHODS) - findings.answered
    # Most of it stays nonsense.
    accepted = sum(count for (_, code), count in findings.answers.items() if code == "OK")
    assert accepted < findings.answers.total() / 2


@pytest.mark.parametrize("plausible", [1.0, 0.5, 0.0])
def test_every_request_can_be_made(plausible: float) -> None:
    """Of whatever kinds of fields: a new one is noticed here, before the long run trips over it."""
    rng = random.Random(SEED)
    maker = Maker(rng, Pool(rng), plausible)
    for method in METHODS.values():
        for _ in range(50):
            made = maker.message(method.input_type)
            assert type(made).FromString(made.SerializeToString()).DESCRIPTOR is method.input_type


@dataclass(frozen=True, slots=True)
class RigDoors:
    """One channel for all."""

    channel: grpc.aio.Channel

    def door(self, target: str, principal: str) -> tuple[grpc.aio.Channel, Sequence[tuple[str, str]]]:
        return self.channel, (("cellbook-principal", principal),)


async def test_an_internal_error_would_be_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ablation: with ids that are not checked, the player finds it, and what it wrote down finds it again."""
    async with serving() as rig:
        player = Player(RigDoors(rig.channel), seed=1)
        maker = Maker(player.rng, player.pool, plausible=0.0)
        descriptor = METHODS[BALANCE].input_type
        requests = [maker.message(descriptor).SerializeToString() for _ in range(40)]
        asked = [Asked(path=BALANCE, target="", principal="auditor/x", request=each) for each in requests]
        assert not NEVER & {await player.call(each) for each in asked}
        monkeypatch.setattr(ledger, "parse_uuid", lambda text, _: UUID(text))
        # A few are enough: each is logged at length.
        for each in asked[:8]:
            await player.call(each)
        assert player.findings.wrong
        player.findings.write(tmp_path / "corpus" / "found.json")
        kept = corpus(tmp_path / "corpus")
        assert [each.request for each in kept] == [each.request for each, _ in player.findings.wrong]
        assert await player.call(kept[0]) == "INTERNAL"


def test_a_process_that_swells_would_be_found() -> None:
    """A little more is no matter, be it large or small."""
    small, large = 50 * 2**20, 10 * GROWTH_BYTES_MAX
    sizes = {
        "still": (small, small),
        "warm": (small, small + GROWTH_BYTES_MAX),
        "swollen": (small, small + GROWTH_BYTES_MAX + 1),
        "large": (large, large + GROWTH_BYTES_MAX + 1),
        "huge": (large, large * 2),
    }
    assert set(Outcome(findings=Findings(), resident=sizes, seconds=1).grown) == {"swollen", "huge"}


def test_the_same_seed_makes_the_same_calls() -> None:
    """As long as what is answered is the same, which here is nothing."""
    asked = [[Player(RigDoors(None), seed)._next() for _ in range(1)] for seed in (1, 1, 2)]  # type: ignore[arg-type]
    assert asked[0] == asked[1] != asked[2]


async def test_what_speaks_badly_could_speak_well(tmp_path: Path) -> None:
    """Else its calls would never get further than the first byte: one in order reaches the handler."""
    async with running(tmp_path) as shell:
        request = ledger_pb2.GetBalanceRequest(user_id=USER).SerializeToString()
        headers = frames.headers_of(BALANCE)
        good = frames.begun(
            frames.frame(frames.HEADERS, frames.END_HEADERS, 1, headers),
            frames.frame(frames.DATA, frames.END_STREAM, 1, frames.message(request)),
        )
        assert isinstance(shell.host.address, Address)
        _, writer = await asyncio.open_connection(shell.host.address.host, shell.host.address.port)
        writer.write(good)
        # However long that takes: a connection that is given up sooner may end its call before the handler has it.
        await until(lambda: shell.ledger.principals == ["service/fuzz"])
        writer.close()
        await frames.speak_badly(str(shell.host.address), 2 * len(frames.BADLY), SEED, [BALANCE])
        assert (await shell.balance()).user_id == USER
