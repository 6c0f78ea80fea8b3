"""Starting and stopping a cluster, with fake processes."""

import asyncio
import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from lab.cluster import Cluster, four
from lab.member import STOP_TIMEOUT_S, ClusterError, Member, _environment

pytestmark = pytest.mark.asyncio


class Plan:
    """Two fake processes; the second one's behavior is given."""

    def __init__(self, second: str = "is well") -> None:
        self._second = second
        self.members: list[Member] = []

    def __call__(self, folder: Path, ports: Sequence[int]) -> list[Member]:
        self.members = [
            Member(
                name=name,
                module="tests.unit.lab_member",
                address=f"127.0.0.1:{port}",
                folder=folder / name,
                settings={"name": name, "behaviour": behaviour},
            )
            for name, behaviour, port in (("first", "is well", ports[0]), ("second", self._second, ports[1]))
        ]
        return self.members

    def alive(self) -> list[str]:
        return [member.name for member in self.members if member.pid is not None and _is_alive(member.pid)]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _of(plan: Plan, data: Path | None = None, port_base: int | None = None) -> Cluster:
    return Cluster(data, port_base=port_base, plan=plan)


async def test_all_run_while_entered_and_none_afterwards() -> None:
    """Inside, the processes are alive and ready; afterwards they are gone, and so is the temporary folder."""
    plan = Plan()
    async with _of(plan) as cluster:
        assert plan.alive() == ["first", "second"]
        assert all(member.ready_file.exists() for member in cluster.members)
        folder = cluster.folder
    assert plan.alive() == []
    assert not folder.exists()


async def test_a_named_folder_is_kept_with_its_logs(tmp_path: Path) -> None:
    """A folder given by the caller stays: logs are appended, not overwritten."""
    for _ in range(2):
        async with _of(Plan(), tmp_path / "kept"):
            pass
    assert (tmp_path / "kept/first/first.log").read_text() == "this one is well\n" * 2


async def test_a_process_that_dies_at_the_start_is_shown_with_its_log() -> None:
    """The error has the process, its exit and the end of its log, and the others are stopped."""
    plan = Plan("dies")
    with pytest.raises(ClusterError, match=r"second ended with exit code 3 (?s:.*)this one dies"):
        await _of(plan).__aenter__()
    assert plan.alive() == []


async def test_a_process_that_is_never_ready_is_given_up() -> None:
    """The wait is bounded, and the error names the process."""
    plan = Plan("is never ready")
    with pytest.raises(ClusterError, match=r"second was not ready within (?s:.*)this one is never ready"):
        await Cluster(None, plan=plan, start_timeout_s=3).__aenter__()
    assert plan.alive() == []


async def test_a_process_that_ignores_the_request_to_end_is_killed() -> None:
    """If it ignores SIGTERM, it gets SIGKILL when its time is up."""
    plan = Plan("stays deaf")
    async with _of(plan):
        plan.members[1].stop_timeout_s = 0.2
    assert plan.alive() == []
    assert plan.members[1].ended() == -signal.SIGKILL


async def test_a_second_cancellation_hastens_the_stop() -> None:
    """If it is cancelled while it waits for an unresponsive process, it kills at once, and still raises."""
    plan = Plan("stays deaf")
    cluster = await _of(plan).__aenter__()
    stopping = asyncio.ensure_future(cluster.stop())
    await asyncio.wait_for(plan.members[0].wait(), 10)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(stopping, STOP_TIMEOUT_S / 2)
    assert plan.alive() == []


async def test_cancelling_the_start_stops_what_was_started() -> None:
    """Ctrl-C during the wait for readiness leaves nothing behind."""
    plan = Plan("is never ready")
    starting = asyncio.ensure_future(_of(plan).__aenter__())
    while not (plan.members and plan.members[0].ready_file.exists()):  # noqa: ASYNC110 - another process writes it
        await asyncio.sleep(0.01)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert plan.alive() == []


async def test_a_death_is_told() -> None:
    """A process that ends unasked is named, with the signal that ended it."""
    plan = Plan()
    async with _of(plan) as cluster:
        pid = plan.members[1].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        told = await asyncio.wait_for(cluster.death(), 10)
    assert "second has ended unasked, with signal SIGKILL" in str(told)


async def test_work_ends_with_the_cluster() -> None:
    """The death of a process ends the work at once; otherwise the work's result or error is returned."""
    ended = asyncio.Event()

    async def work_without_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def work_that_fails() -> None:
        raise LookupError("no such thing")

    plan = Plan()
    async with _of(plan) as cluster:
        assert await cluster.while_alive(asyncio.sleep(0, "done")) == "done"
        with pytest.raises(LookupError, match="no such thing"):
            await cluster.while_alive(work_that_fails())
        assert plan.members[0].process is not None
        plan.members[0].process.kill()
        with pytest.raises(ClusterError, match="first has ended unasked"):
            await asyncio.wait_for(cluster.while_alive(work_without_end()), 10)
    assert ended.is_set()


async def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    """Two clusters never share a data folder; when the first has ended, the folder is free again."""
    async with _of(Plan(), tmp_path):
        with pytest.raises(ClusterError, match="in use by another"):
            await _of(Plan(), tmp_path).__aenter__()
    async with _of(Plan(), tmp_path):
        pass


async def test_a_taken_port_is_named() -> None:
    """The error names the port, before anything is started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        plan = Plan()
        with pytest.raises(ClusterError, match=f"port {port} of 127.0.0.1 is taken"):
            await _of(plan, port_base=port).__aenter__()
    assert plan.members == []


async def test_settings_of_ours_do_not_leak_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CELLBOOK_DSN in the shell would give all processes one database; other settings pass."""
    monkeypatch.setenv("CELLBOOK_DSN", "postgresql:///elsewhere")
    monkeypatch.setenv("CELLBOOK_FEE_BPS", "100")
    environment = _environment()
    assert "CELLBOOK_DSN" not in environment
    assert environment["CELLBOOK_FEE_BPS"] == "100"


async def test_the_plan_of_four_lets_everybody_know_everybody(tmp_path: Path) -> None:
    """The router lists the three cells; each cell knows the router and the two others."""
    router, *cells = four(tmp_path, [1, 2, 3, 4])
    assert router.settings["cells"] == [
        "us-east=us=127.0.0.1:2", "eu-west=eu=127.0.0.1:3", "ap-tokyo=ap=127.0.0.1:4",
    ]  # fmt: skip
    assert [cell.settings["router"] for cell in cells] == ["127.0.0.1:1"] * 3
    assert cells[0].settings["peers"] == {"eu-west": "127.0.0.1:3", "ap-tokyo": "127.0.0.1:4"}
