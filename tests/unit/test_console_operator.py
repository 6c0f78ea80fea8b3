"""Of the operator's pages: the leader of a cell, money between two cells, rates while somebody looks."""

import asyncio
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from html import unescape
from typing import ClassVar
from unittest.mock import AsyncMock, Mock

import pytest

from cellbook.v1 import operations_pb2 as pb
from cellbook.v1 import router_pb2, saga_pb2
from cellbook.v1.types_pb2 import Money
from server.cli.client import LedgerRefusal, NoAnswer
from server.cli.saga.command import Listed
from server.console.console import Ledger
from server.console.operator import sagas
from server.console.operator.charts import HEIGHT, WIDTH, chart
from server.console.operator.jobs import Job, Jobs
from server.console.operator.status import KEPT_S, SAMPLES_MAX, CellState, Courses, Process, Status, links_of
from server.console.serving import BadInput
from server.shell.identity.principal import Role
from tests.unit.console_rig import browser, console_app, visitor

HERE, THERE = "us-east", "eu-west"


def cell(name: str, *processes: Process) -> CellState:
    return CellState(router_pb2.Cell(name=name), processes)


def status(
    role: "pb.ProcessRole.ValueType" = pb.PROCESS_ROLE_LEADS, *, epoch: int = 1, position: int = 0, **peers: Money
) -> Status:
    known = [pb.PeerStatus(cell=name.replace("_", "-"), clearing=[money]) for name, money in peers.items()]
    return Status(role=role, epoch=epoch, position=position, peers=known)


def usd(amount_minor: int) -> Money:
    return Money(currency="USD", amount_minor=amount_minor)


def test_the_leader_is_the_one_of_the_highest_epoch() -> None:
    """During a takeover two processes may say that they lead; without a leader any process tells of the cell."""
    old, new = Process("a:1", status(epoch=1)), Process("b:1", status(epoch=2))
    standby, silent = Process("c:1", status(pb.PROCESS_ROLE_STANDS_BY)), Process("d:1", None, "no answer")
    assert cell(HERE, old, new, standby).leader is new
    assert cell(HERE, silent, standby).leader is None
    assert cell(HERE, silent, standby).status is standby.status
    assert cell(HERE, silent).status is None


def test_money_is_in_transit_until_both_sides_have_it() -> None:
    """What one has sent and the other not received; nothing is said of a cell that does not answer."""
    sent, received = Process("a:1", status(eu_west=usd(500))), Process("b:1", status(us_east=usd(-500)))
    nothing, silent = Process("b:1", status()), Process("b:1", None, "no answer")
    for other, expected in ((received, {}), (nothing, {"USD": 500}), (silent, None)):
        [link] = links_of([cell(HERE, sent), cell(THERE, other)])
        assert link.in_transit == expected


def test_rates_are_of_positions_and_of_the_last_minutes() -> None:
    """Two looks within a second are one; a new leader, who counts anew, changes nothing; what is old is forgotten."""
    now_s = 100.0
    courses = Courses(monotonic_s=lambda: now_s)
    for at_s, position in ((100.0, 10), (100.5, 15), (102.0, 30), (106.0, 30)):
        now_s = at_s
        courses.note([cell(HERE, Process("a:1", status(position=position)))])
    assert courses.events_per_s(HERE) == [(4.0, 10.0), (0.0, 0.0)]
    now_s += KEPT_S
    courses.note([cell(HERE, Process("a:1", status(position=31)))])
    assert len(courses.queued(HERE)) == 2
    for _ in range(2 * SAMPLES_MAX):
        now_s += 0.1
        courses.note([cell(HERE, Process("a:1", status(position=31)))])
    assert len(courses.queued(HERE)) <= SAMPLES_MAX


def test_a_chart_stays_in_its_box_and_has_words() -> None:
    """One value is no line yet; zero all the time is a line at the bottom."""
    assert chart("events", [(0.0, 5.0)], 10).text == "events: not known yet"
    drawn = chart("events", [(20.0, 1.0), (5.0, 100.0), (0.0, 2.5)], 10)
    assert drawn.text == "events: 2.5 now, 100 at most"
    points = [tuple(map(float, point.split(","))) for point in drawn.points.split()]
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)
    assert points[0][0] == 0
    assert points[-1][0] == WIDTH
    assert {y for _, y in (point.split(",") for point in chart("e", [(1.0, 0), (0.0, 0)], 10).points.split())} == {
        f"{HEIGHT - 0.5}"
    }


@dataclass(slots=True, kw_only=True)
class Counting(Job[Money]):
    """It tells a number, and the next one when it is let."""

    name: ClassVar[str] = "count"
    error: Exception | None = None
    taken: list[int] = field(default_factory=list)
    let: asyncio.Event = field(default_factory=asyncio.Event)

    async def stream(self) -> AsyncGenerator[Money, None]:
        yield usd(1)
        await self.let.wait()
        if self.error is not None:
            raise self.error
        yield usd(2)

    def take(self, told: Money) -> None:
        self.taken.append(told.amount_minor)


async def others_ended() -> None:
    """All tasks but the test's own."""
    await asyncio.gather(*(task for task in asyncio.all_tasks() if task is not asyncio.current_task()))


async def test_a_cell_has_one_job_at_a_time() -> None:
    """A second one waits for the end of the first, which is kept to be shown; those of other cells do not."""
    jobs = Jobs[Counting]()
    first, other = Counting(cell=HERE, by="operator/ann"), Counting(cell=THERE, by="operator/ann")
    jobs.start(first)
    jobs.start(other)
    with pytest.raises(BadInput, match=f"the count of {HERE} by operator/ann is under way"):
        jobs.start(Counting(cell=HERE, by="operator/ben"))
    for each in (first, other):
        each.let.set()
    await others_ended()
    assert (first.taken, first.running, first.problem) == ([1, 2], False, "")
    assert jobs.by_cell[HERE] is first
    second = Counting(cell=HERE, by="operator/ben")
    jobs.start(second)
    await second.stop("operator/ann")
    assert (second.running, second.problem) == (False, "operator/ann has stopped it")
    await first.stop("operator/ann")
    assert first.problem == ""


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (NoAnswer("the router does not answer"), "the router does not answer"),
        (LedgerRefusal(method="EvacuateCell", reason="CONFLICT", message="drain it", facts={}), "drain it"),
        (ZeroDivisionError(), "the console has stopped following it: ZeroDivisionError"),
    ],
)
async def test_a_job_that_fails_says_why_and_is_not_begun_again(error: Exception, problem: str) -> None:
    job = Counting(cell=HERE, by="operator/ann", error=error)
    job.let.set()
    job.start()
    await others_ended()
    assert (job.taken, job.running, job.problem) == ([1], False, problem)


async def test_each_saga_is_on_one_page_of_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where many of them began in one millisecond, in two cells, and pages break among them."""
    known = [
        (HERE if number % 2 else THERE, saga_pb2.Saga(saga_id=f"{number:04}", start_time_ms=1_000 + number // 70))
        for number in range(3 * sagas.SHOWN + 7)
    ]

    async def listed(_reach: object, wanted: saga_pb2.ListSagasRequest, limit: int) -> Listed:
        found = [each for each in known if each[1].start_time_ms >= wanted.started_from_ms]
        return Listed(sagas=found[:limit], more=len(found) > limit)

    monkeypatch.setattr(sagas, "listed", listed)
    monkeypatch.setattr(Ledger, "reach", AsyncMock(return_value=Mock(listed=[HERE, THERE])))
    seen, path = list[str](), "/sagas?state=all"
    async with console_app() as app, browser(app, visitor(Role.OPERATOR)) as olga:
        while path:
            page = (await olga.get(path)).text
            seen += re.findall(r'href="/sagas/[a-z-]+/(\d{4})"', page)
            following = re.search(r'href="(/sagas\?[^"]+after=[^"]+)"', page)
            path = unescape(following[1]) if following else ""
    assert seen == [saga.saga_id for _, saga in known]
