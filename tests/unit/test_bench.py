"""The bench itself: bids that cells accept, a load that counts them, CPU time of processes, and the report."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from io import StringIO
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import grpc
import grpc.aio
import pytest
from google.rpc import code_pb2
from rich.console import Console

from cellbook.v1 import auction_pb2
from cells.domain.refusals import BidTooLow, QueueFull, Refused, UserNotFound
from server.shell.calls.statuses import details_metadata, to_status
from tests.bench.calls import FUNDS_MINOR, TIER_PERIODS, Bids, command_ids, user_id
from tests.bench.cpu import PROC, cpu_s, with_sum
from tests.bench.cpu import told as costs_text
from tests.bench.load import LoadFailed, Plan, run
from tests.bench.peers.guarantees import markdown
from tests.bench.peers.work import TURN, Size
from tests.bench.peers.work import bids as peers_bids
from tests.bench.report import TARGETS, Figure, compared, rounded, save, table

BIDS = Bids(auctions=("cells/a/auctions/1", "cells/a/auctions/2"), bidders_each=3, turn=2, items=4, tier=0, batch=True)


def sent(bids: Bids, calls: int) -> list[auction_pb2.PlaceBidRequest]:
    requests = islice(bids.calls(), calls)
    if not bids.batch:
        return [auction_pb2.PlaceBidRequest.FromString(each) for each in requests]
    return [item for each in requests for item in auction_pb2.BatchPlaceBidsRequest.FromString(each).items]


def test_bidders_take_turns() -> None:
    """The auctions take turns; each has its own bidders, each with as many bids as a turn has."""
    made = sent(BIDS, 6)
    assert [bid.auction for bid in made[:4]] == [*BIDS.auctions, *BIDS.auctions]
    for number, auction in enumerate(BIDS.auctions):
        bidders = [bid.bidder_user_id for bid in made if bid.auction == auction]
        ours = [user_id(3 * number + bidder) for bidder in range(3)]
        turns = [bidder for bidder in ours for _ in range(2)] * 3
        assert bidders == turns[number : number + 12]


@pytest.mark.parametrize("bids", [BIDS, replace(BIDS, batch=False, items=1)])
def test_amounts_rise(bids: Bids) -> None:
    """In each auction over all periods, tiers and continued runs; and no bidder lacks money."""
    calls = (TIER_PERIODS - 10) * 3
    first, rest = sent(bids, calls), sent(replace(bids, first=calls * bids.items), 20)
    amounts = defaultdict(list)
    for bid in [*first, *rest, *sent(replace(bids, tier=1), calls)]:
        amounts[bid.auction].append(bid.amount.amount_minor)
    for offered in amounts.values():
        assert all(lower < higher for lower, higher in pairwise(offered))
        assert offered[-1] < FUNDS_MINOR


def test_each_command_has_an_id_of_its_own() -> None:
    """They are of version 7, as clients are advised to use."""
    pairs = replace(BIDS, items=2)
    ids = [UUID(bid.command_id) for client in (0, 1) for bid in sent(pairs.of(client, 2), 100)]
    assert len(set(ids)) == 400
    assert {each.version for each in ids} == {7}
    several = list(islice(command_ids(), 10_000))
    assert several == sorted(set(several))


def test_each_client_has_auctions_of_its_own() -> None:
    """Together they cover all auctions, each with its own bidders."""
    bids = replace(BIDS, items=1, auctions=(*BIDS.auctions, "cells/a/auctions/3"), batch=False)
    alone = {(bid.auction, bid.bidder_user_id) for bid in sent(bids, bids.period)}
    shares = [{(bid.auction, bid.bidder_user_id) for bid in sent(bids.of(client, 2), 12)} for client in range(2)]
    assert not {auction for auction, _ in shares[0]} & {auction for auction, _ in shares[1]}
    assert shares[0] | shares[1] == alone


def test_one_auction_holds_all_in_one_batch() -> None:
    """The amounts also rise within a batch."""
    hot = Bids(auctions=BIDS.auctions[:1], bidders_each=8, turn=1, items=4, tier=0, batch=True)
    made = sent(hot, 4)
    assert [bid.bidder_user_id for bid in made] == [user_id(number) for number in range(8)] * 2
    assert sorted(made, key=lambda bid: bid.amount.amount_minor) == made


@pytest.mark.parametrize(("items", "first", "turn"), [(5, 0, 2), (4, 2, 2), (4, 0, 2**21)])
def test_what_does_not_fit_is_refused(items: int, first: int, turn: int) -> None:
    """Calls that would straddle two periods, and periods with more steps than amounts, are refused."""
    with pytest.raises(ValueError, match="period"):
        replace(BIDS, items=items, first=first, turn=turn)


def test_a_tier_ends() -> None:
    """It ends before its amounts reach those of the next one."""
    end = TIER_PERIODS * BIDS.period
    with pytest.raises(ValueError, match="tier"):
        sent(replace(BIDS, first=end), 1)


# --- the load generator counts what was accepted, and nothing else ----------------------------------------------------


if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[bytes, bytes]
    Handler = Callable[[bytes, Context], Awaitable[bytes]]

AUCTIONS = ("cells/a/auctions/1", "cells/a/auctions/2")
BATCHES = Bids(auctions=AUCTIONS, bidders_each=1_000, turn=1, items=5, tier=0, batch=True)
UNARY = Bids(auctions=AUCTIONS, bidders_each=10, turn=1, items=1, tier=0, batch=False)


@asynccontextmanager
async def cell(answer: "Handler") -> AsyncIterator[str]:
    server = grpc.aio.server()
    handlers: dict[str, Any] = {
        name: grpc.unary_unary_rpc_method_handler(answer) for name in ("PlaceBid", "BatchPlaceBids")
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("cellbook.v1.AuctionService", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def accept(request: bytes, _context: "Context") -> bytes:
    items = auction_pb2.BatchPlaceBidsRequest.FromString(request).items
    result = auction_pb2.PlaceBidResult(accepted=auction_pb2.PlaceBidResponse(bid_id="1"))
    return auction_pb2.BatchPlaceBidsResponse(results=[result] * len(items)).SerializeToString()


async def test_every_bid_is_counted_once() -> None:
    """All requested bids are counted, with the time of each call."""
    async with cell(accept) as address:
        result = await run(Plan(address=address, bids=BATCHES, in_flight=2, bids_each=50))
    assert (result.accepted, result.placed, len(result.latencies_ms)) == (100, 100, 20)
    assert result.per_s > 0
    assert 0 < result.quantile_ms(0.5) <= result.quantile_ms(0.99)


async def test_what_came_in_the_warm_up_is_not_counted() -> None:
    """Only bids answered after the warm-up and before the end count."""
    async with cell(accept) as address:
        result = await run(Plan(address=address, bids=BATCHES, in_flight=2, seconds=0.2, warm_up_s=0.2))
    assert 0 < result.accepted < result.placed
    assert result.seconds < 0.21


async def refuse_one(request: bytes, context: "Context") -> bytes:
    answer = auction_pb2.BatchPlaceBidsResponse.FromString(await accept(request, context))
    answer.results[3].refused.code = code_pb2.FAILED_PRECONDITION
    answer.results[3].refused.message = "too low"
    return answer.SerializeToString()


async def answer_nothing(_request: bytes, _context: "Context") -> bytes:
    return b""


async def refuse(_request: bytes, context: "Context") -> bytes:
    await context.abort(grpc.StatusCode.UNAVAILABLE, "does not lead")
    raise AssertionError


@pytest.mark.parametrize(
    ("answer", "bids", "said"),
    [
        (refuse_one, BATCHES, "item 3 was refused: too low"),
        (answer_nothing, BATCHES, "0 of 5"),
        (refuse, UNARY, "UNAVAILABLE: does not lead"),
    ],
)
async def test_what_is_not_accepted_ends_the_run(answer: "Handler", bids: Bids, said: str) -> None:
    """One refused item of five, an answer without its items, or any other status; the message says which."""
    async with cell(answer) as address:
        with pytest.raises(LoadFailed, match=said):
            await run(Plan(address=address, bids=bids, in_flight=2, bids_each=50))


async def test_in_one_auction_a_call_may_be_overtaken() -> None:
    """Bids that have become too low are reported and not counted; any other refusal still ends the run."""
    reasons: list[Refused] = [too_low(), too_low(), UserNotFound(user_id="nobody")]

    async def refuse_first(request: bytes, context: "Context") -> bytes:
        answer = auction_pb2.BatchPlaceBidsResponse.FromString(await accept(request, context))
        # Concurrent calls get the same answer as the one that ends the run.
        answer.results[0].refused.CopyFrom(to_status(reasons.pop(0) if len(reasons) > 1 else reasons[0]))
        return answer.SerializeToString()

    one = replace(BATCHES, auctions=AUCTIONS[:1])
    async with cell(refuse_first) as address:
        result = await run(Plan(address=address, bids=one, in_flight=2, bids_each=5))
        assert (result.placed, result.overtaken) == (8, 2)
        with pytest.raises(LoadFailed, match="item 0 was refused"):
            await run(Plan(address=address, bids=one, in_flight=2, bids_each=5))


def too_low() -> Refused:
    return BidTooLow(amount_minor=1, least_minor=2, currency="USD")


async def test_what_is_turned_away_is_sent_again_and_told() -> None:
    """The same bytes are sent again, and count when they are accepted; so is what gRPC dropped before it was read."""
    seen: list[bytes] = []

    async def late_then_full(request: bytes, context: "Context") -> bytes:
        seen.append(request)
        if len(seen) == 1:
            await context.abort(grpc.StatusCode.CANCELLED)
        if len(seen) == 2:
            status = to_status(QueueFull(queued=1, queued_bytes=1))
            context.set_trailing_metadata(tuple(details_metadata(status)))
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, status.message)
        return b"bid"

    async with cell(late_then_full) as address:
        result = await run(Plan(address=address, bids=UNARY, in_flight=1, bids_each=2))
    assert (result.accepted, result.turned_away) == (2, 2)
    assert seen[0] == seen[1] == seen[2] != seen[3]


# --- CPU time of processes, as the bench counts it --------------------------------------------------------------------


# A parent whose child takes a fifth of a second of CPU time and ends; it says so, and waits.
FAMILY = """
import subprocess, sys
WORK = "import time\\nwhile time.process_time() < 0.2: pass"
subprocess.run([sys.executable, "-c", WORK], check=True)
print("done", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not PROC.exists(), reason="this system has no /proc")
async def test_what_an_ended_child_took_still_counts() -> None:
    """PostgreSQL's connections come and go; what they took stays in its sum, and in that of the process above."""
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", FAMILY, stdin=PIPE, stdout=PIPE)
    assert parent.stdout is not None
    try:
        await parent.stdout.readline()
        took_s = cpu_s(parent.pid)
        assert took_s >= 0.19
        assert cpu_s(os.getpid()) >= took_s
    finally:
        await parent.communicate(b"")
    with pytest.raises(ProcessLookupError):
        cpu_s(parent.pid)


def test_costs_have_their_sum() -> None:
    """First, as `all`."""
    assert costs_text(with_sum({"cell": 100.0, "postgres": 50.0})) == "all 150, cell 100, postgres 50 us"


# --- the table of what Cellbook and its peers guarantee ---------------------------------------------------------------


BENCHMARKS = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def test_the_page_has_the_table_that_is_printed() -> None:
    """Line by line."""
    assert "\n".join(markdown()) in BENCHMARKS.read_text()


def test_bids_of_different_clients_never_meet() -> None:
    """Each has auctions and bidders of its own; in each auction amounts rise, also from tier to tier."""
    size = Size(users=40, auctions=4)
    each = [
        [bid for tier in range(2) for bid in islice(peers_bids(size, tier, client, 2), 10 * TURN)]
        for client in range(2)
    ]
    for attribute in ("auction", "bidder", "command_id"):
        first, second = ({getattr(bid, attribute) for bid in own} for own in each)
        assert first.isdisjoint(second)
    for auction in range(size.auctions):
        amounts = [bid.amount_minor for own in each for bid in own if bid.auction == auction]
        assert amounts == sorted(set(amounts))


def test_a_bidder_is_outbid_after_its_turn() -> None:
    """The first bid of a turn outbids another bidder, the rest raise its own."""
    bidders = [bid.bidder for bid in islice(peers_bids(Size(users=10, auctions=1), 0), 5 * TURN)]
    assert bidders == [turn for turn in range(5) for _ in range(TURN)]


# --- the report of a benchmark's measurements -------------------------------------------------------------------------


def figure(name: str, value: float, yardstick_value: float | None = None) -> Figure:
    return Figure(name=name, value=value, unit="bids/s", yardstick="echo", yardstick_value=yardstick_value)


def test_rounds_come_to_their_medians() -> None:
    """Each side has its own median; the rounds are kept."""
    made = compared("batch_bids", "bids/s", [10.0, 30.0, 20.0], "TPC-B", [4.0, 8.0, 5.0], p50_ms=1.5)
    assert (made.value, made.yardstick_value, made.ratio) == (20.0, 5.0, 4.0)
    assert made.extra == {"rounds": [10.0, 30.0, 20.0], "yardstick_rounds": [4.0, 8.0, 5.0], "p50_ms": 1.5}


@pytest.mark.parametrize(
    ("shown", "verdict"),
    [
        (figure("batch_bids", 24, 10), "no"),
        (figure("batch_bids", 25, 10), "yes"),
        (figure("batch_bids", 35, 10), "aim"),
        (figure("resident_memory", 400.5), "no"),
        (figure("resident_memory", 400), "yes"),
        (figure("resident_memory", 249), "aim"),
        (figure("takeover", 2.5), "yes"),
        (figure("reconcile_fold", 49_999), "no"),
        (figure("reconcile_fold", 50_000), "yes"),
        (figure("reconcile_fold", 150_000), "aim"),
        (figure("settlements", 9, 100), ""),
        (figure("settlements", 10, 100), "aim"),
        (figure("batch_bids", 24), ""),
        (figure("unheard_of", 24, 10), ""),
    ],
)
def test_verdicts(shown: Figure, verdict: str) -> None:
    """A ratio must be high, and a bounded value low."""
    assert shown.verdict == verdict


def test_json_has_the_keys_that_were_promised(tmp_path: Path) -> None:
    """A list with six keys each, and further information."""
    path = tmp_path / "bench.json"
    save(path, [compared("unary_bids", "bids/s", [1234.567], "echo", [3000.0], note="small"), figure("takeover", 2.5)])
    assert json.loads(path.read_text()) == [
        {
            "name": "unary_bids", "value": 1235, "unit": "bids/s",
            "yardstick": "echo", "yardstick_value": 3000, "ratio": 0.4115,
            "rounds": [1235], "yardstick_rounds": [3000], "note": "small",
        },
        {
            "name": "takeover", "value": 2.5, "unit": "bids/s",
            "yardstick": "echo", "yardstick_value": None, "ratio": None,
        },
    ]  # fmt: skip


def test_rounding() -> None:
    """To four digits; integers are unchanged."""
    assert rounded([0.123456, 12345.6, 7, None, "text"]) == [0.1235, 12346, 7, None, "text"]


def test_the_table_fits_a_terminal() -> None:
    """Every figure with its target, nothing cut off, in 80 columns."""
    shown = StringIO()
    console = Console(width=80, file=shown)
    measured = [compared(name, "bids/s", [12345.6], "TPC-B", [3210.0], p50_ms=123.4, p99_ms=234.5) for name in TARGETS]
    console.print(table(measured))
    text = shown.getvalue()
    assert all(name in text for name in TARGETS)
    assert "12,346 bids/s" in text
    assert "123/234" in text
    assert "3,210 TPC-B" in text
    assert "…" not in text


def test_the_table_says_what_was_different() -> None:
    """It appears once, however many figures it applies to."""
    shown = StringIO()
    small = [compared(name, "bids/s", [1.0], "empty", [1.0], note="a small store") for name in TARGETS]
    Console(width=80, file=shown).print(table(small))
    assert shown.getvalue().count("a small store") == 1
