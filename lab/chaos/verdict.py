"""The checks of the scenario, from SagaService's answers and from the logs of all cells."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict

from cellbook.v1 import auction_pb2, event_pb2, ledger_pb2, saga_pb2
from lab.books import CONSERVATION, ESCROW, Check, Logs, check_log, clearing_left, found
from lab.chaos.bids import Window
from lab.chaos.links import Link
from lab.chaos.scenario import Scenario
from lab.chaos.settlements import CURRENCY, DOOMED, FUNDS_MINOR, LEGS, TOTAL, Settlement, spread_text
from lab.market import Market, whole
from lab.play import side_by_side
from server.cli.texts import enum_text

RECOVERY_MAX_S = 30.0
RATE_RATIO_LEAST = 0.9
# Events that a command may leave in the log at most once under its id.
ONCE = frozenset({"BID_PLACED", "SAGA_COMPLETED", "SAGA_COMPENSATED", "AUCTION_SETTLED", "SETTLEMENT_FAILED"})


class Verdict:
    """The checks, and the figures of --json."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.checks: list[Check] = []
        self.states: Counter[saga_pb2.SagaState.ValueType] = Counter()

    async def reach(self, market: Market) -> None:
        scenario, logs = self.scenario, self.scenario.keeper.logs
        books = list(scenario.keeper.books.values())
        ends = await side_by_side(scenario.fleet.settlements, lambda each: _wrong_end(market, each))
        wrong_ends = [line for lines in ends for line in lines]
        self.checks += [
            self._in_flight(),
            self._stranded(),
            await self._ended(market),
            found("winners, sellers and assets as they must be", wrong_ends, f"{TOTAL} auctions"),
            found("no step done twice", double_effects(logs), f"{sum(map(len, logs.values())):,} events"),
            found("money conserved at every look", scenario.keeper.wrong, f"{len(scenario.keeper.observations)} looks"),
            self._recovered(),
            *self._local_bids(),
            *scenario.remote.checks(logs),
            *check_log(logs, books),
        ]

    def _in_flight(self) -> Check:
        spread = self.scenario.spread
        wrong = [f"{spread.total()} instead of {TOTAL}"] * (spread.total() != TOTAL)
        wrong += [f"none at {leg}" for leg in LEGS if not spread[leg]]
        return found(f"{TOTAL} settlements in flight when the link was cut, at every leg", wrong, spread_text(spread))

    def _stranded(self) -> Check:
        """No settlement may get around the cut; only those whose deadline passed may have turned back."""
        scenario, count = self.scenario, self.scenario.stranded.total()
        wrong = [f"{count} instead of {TOTAL}"] * (count != TOTAL)
        if early := scenario.turned_back - scenario.fleet.doomed:
            wrong.append(f"{len(early)} turned back before their time")
        name = "none of them ended before the link was mended"
        return found(name, wrong, f"{len(scenario.turned_back)} past their deadline")

    async def _ended(self, market: Market) -> Check:
        settlements = self.scenario.fleet.settlements
        sagas = await side_by_side(settlements, lambda each: market.saga(each.won.auction.cell, each.saga_id))
        self.states = Counter(saga.state for saga in sagas)
        wrong = [
            f"saga {saga.saga_id} is {enum_text(saga, 'state')}, not {_due_state(each)}"
            for each, saga in zip(settlements, sagas, strict=True)
            if enum_text(saga, "state") != _due_state(each)
        ]
        name = f"{TOTAL - DOOMED} completed, and the {DOOMED} whose deadline passed compensated"
        return found(name, wrong, f"{TOTAL} sagas")

    def _recovered(self) -> Check:
        late = [f"{saga.saga_id}: {saga.last_error}" for saga in self.scenario.left]
        if self.scenario.recovery_s > RECOVERY_MAX_S:
            late.append(f"it took {self.scenario.recovery_s:.1f} s")
        name = f"all recovered within {RECOVERY_MAX_S:.0f} s of the link's return"
        return found(name, late, f"{self.scenario.recovery_s:.1f} s")

    def _local_bids(self) -> list[Check]:
        bids = self.scenario.load.bids
        silent = [bid.problem for bid in bids if not bid.answered]
        before, during = self.windows()
        rates = f"{during.answered_per_s:.1f}/s, {before.answered_per_s:.1f}/s before"
        slow = [rates] if self.rate_ratio < RATE_RATIO_LEAST else []
        name = f"local bids at {RATE_RATIO_LEAST:.0%} of the rate before the cut, or more"
        return [found("every local bid answered", silent, f"{len(bids):,} bids"), found(name, slow, rates)]

    def windows(self) -> tuple[Window, Window]:
        """Before the cut, and during it."""
        run, window = self.scenario, self.scenario.load.window
        return window(run.loaded_s, run.cut_s), window(run.cut_s, run.mended_s)

    @property
    def rate_ratio(self) -> float:
        before, during = self.windows()
        return during.answered_per_s / before.answered_per_s if before.answered_per_s else 0.0


def _due_state(settlement: Settlement) -> str:
    return "compensated" if settlement.shape.doomed else "completed"


async def _wrong_end(market: Market, settlement: Settlement) -> list[str]:
    """The winner has paid and owns, or has paid nothing and owns nothing; the seller accordingly."""
    won, sold = settlement.won, not settlement.shape.doomed
    auction, asset = await market.auction(won.auction), await market.asset(won.auction)
    winner = (await market.balances(won.winner.cell, won.winner.user_id))[CURRENCY]
    seller = won.auction.seller
    proceeds = whole((await market.balances(seller.cell, seller.user_id)).get(CURRENCY, ledger_pb2.Balance()))
    owner = won.winner if sold else seller
    due_state = auction_pb2.AUCTION_STATE_SETTLED if sold else auction_pb2.AUCTION_STATE_SETTLEMENT_FAILED
    due = FUNDS_MINOR - (won.price_minor if sold else 0)
    wrong = []
    if auction.state != due_state:
        wrong.append(f"{auction.name} is {auction_pb2.AuctionState.Name(auction.state)}")
    if (asset.owner_user_id, asset.locked_by) != (owner.user_id, ""):
        wrong.append(f"{asset.name} is not {owner.label}'s, or still locked")
    if (winner.available_minor, winner.reserved_minor) != (due, 0):
        wrong.append(f"{won.winner.label} has {winner.available_minor} and {winner.reserved_minor} reserved")
    if (proceeds > 0) != sold or proceeds > won.price_minor:
        wrong.append(f"{seller.label} has {proceeds}")
    return wrong


def double_effects(logs: Logs) -> list[str]:
    """Legs whose effect or compensation is in the logs more than once; also bids and saga ends."""
    times = Counter(key for events in logs.values() for event in events for key in _effects(event))
    return [f"{' '.join(key)}: {count} times" for key, count in times.items() if count > 1]


def _effects(event: event_pb2.Event) -> Iterator[tuple[str, ...]]:
    if leg := json.loads(event.metadata_json).get("leg"):
        yield tuple(str(leg[name]) for name in ("saga_id", "leg", "generation", "direction"))
    if event.event_type in ONCE:
        yield event.correlation_id, event.event_type, event.aggregate_id


def summary(verdict: Verdict, link: Link, elapsed_s: float) -> dict[str, object]:
    """The one JSON object of --json."""
    scenario = verdict.scenario
    logs, books = scenario.keeper.logs, scenario.keeper.books.values()
    before, during = verdict.windows()
    failed = {check.name for check in verdict.checks if not check.held}
    accounts = [each for own in books for each in own.accounts.items()]
    bids = scenario.load.bids
    return {
        "ok": not failed,
        "link": link.kind.value,
        "cut_seconds": round(scenario.mended_s - scenario.cut_s, 3),
        "in_flight": scenario.spread.total(),
        "in_flight_by_leg": {leg: scenario.spread[leg] for leg in LEGS},
        "stranded_by_leg": dict(scenario.stranded),
        "completed": verdict.states[saga_pb2.SAGA_STATE_COMPLETED],
        "compensated": verdict.states[saga_pb2.SAGA_STATE_COMPENSATED],
        "double_effects": len(double_effects(logs)),
        "conservation_ok": not scenario.keeper.wrong and not failed.intersection(CONSERVATION),
        "looks": len(scenario.keeper.observations),
        "escrow_minor": sum(abs(left) for (account, _), left in accounts if account.startswith(ESCROW)),
        "clearing_in_transit_minor": sum(abs(left) for left in clearing_left(logs).values()),
        "in_transit_most_minor": max(observation.in_transit_minor for observation in scenario.keeper.observations),
        "recovery_s": round(scenario.recovery_s, 3),
        "local_bids": len(bids),
        "local_bids_refused": sum(bool(bid.problem) for bid in bids),
        "local_bids_per_s": {"before": round(before.answered_per_s, 2), "during": round(during.answered_per_s, 2)},
        "local_bid_p99_ms": {"before": round(before.p99_ms, 1), "during": round(during.p99_ms, 1)},
        "local_bid_rate_ratio": round(verdict.rate_ratio, 3),
        "remote_bids_across": dict(Counter(bid.first for bid in scenario.remote.across)),
        "remote_bids_around": len(scenario.remote.around),
        "events": sum(map(len, logs.values())),
        "elapsed_s": round(elapsed_s, 3),
        "checks": [asdict(check) for check in verdict.checks],
    }
