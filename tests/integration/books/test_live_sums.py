"""The sums of a trial balance that are added up while the log is written."""

from collections import Counter

import pytest

from cells.audit.history.questions import History
from cells.audit.reconcile import trial
from cells.audit.reconcile.trial import LiveSums, TrialBalances
from cells.domain.commands import PlaceBid, Transfer, Withdraw
from cells.domain.values import Money
from cells.writer.batch import Commit
from tests.doubles.history import MemoryHistoryLookups
from tests.local_cells import memory_cell, open_auction, open_user, request

EVERY = 4


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "HOUSE_EVERY", EVERY)


async def test_live_sums_are_those_of_the_log() -> None:
    """For each part of the log, and for the whole of it; a part that is only half known is read from the log."""
    async with memory_cell() as (cell, store):
        live, late, commits = LiveSums(), LiveSums(), list[Commit]()
        cell.writer.followers += [live.follow, commits.append]
        seller, payer, payee = [await open_user(cell, 10_000) for _ in range(3)]
        auction_id = await open_auction(cell, seller)
        for bidder_id, amount_minor in ((payer, 100), (payee, 200), (payee, 300), (payer, 400)):
            bid = PlaceBid(
                auction_id=auction_id,
                auction_cell=cell.name,
                bidder_id=bidder_id,
                amount=Money("USD", amount_minor),
            )
            await cell.execute(request(bid))
        await cell.execute(request(Transfer(from_user_id=payer, to_user_id=payee, amount=Money("USD", 7))))
        await cell.execute(request(Withdraw(user_id=payee, amount=Money("USD", 5), external_reference="out")))
        history = History(
            cell=cell.name,
            store=store,
            time=cell.time,
            lookups=MemoryHistoryLookups(store),
            deciding=set,
            placed=cell.routing.placed,
        )
        read, known = TrialBalances(history=history), TrialBalances(history=history, live=live)

        end = len(store.log) - len(store.log) % EVERY
        assert end >= 4 * EVERY
        for until in range(EVERY, end + 1, EVERY):
            expected = Counter(await read.sums_at(until))
            expected.subtract(await read.sums_at(until - EVERY))
            found = live.between(until - EVERY, until)
            # Counters are equal whether a sum of zero is in them or not.
            assert found == expected
            assert sum(found.values()) == 0
            assert await known.sums_at(until) == await read.sums_at(until)

        for commit in commits[2:]:
            late.follow(commit)
        assert late.between(0, EVERY) is None
        assert late.between(end - EVERY, end) == live.between(end - EVERY, end)
        assert late.between(0, end) is None


async def test_a_gap_in_the_commits_is_no_part() -> None:
    """After another process has led, the sums begin anew."""
    async with memory_cell() as (cell, _):
        live, commits = LiveSums(), list[Commit]()
        cell.writer.followers.append(commits.append)
        for _ in range(3 * EVERY):
            await open_user(cell)
        with_events = [commit for commit in commits if commit.events]
        for commit in with_events[: EVERY + 1] + with_events[EVERY + 2 :]:
            live.follow(commit)
        assert live.between(0, EVERY) is not None
        assert live.between(EVERY, 2 * EVERY) is None
        assert live.between(2 * EVERY, 3 * EVERY) is not None
