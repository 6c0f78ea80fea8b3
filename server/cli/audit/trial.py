"""`cellbook audit trial-balance`: all cells at one moment as one ledger, with the money in transit between them."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.table import Table

from cellbook.v1 import audit_pb2, saga_pb2, types_pb2
from cells.audit.reconcile.clearing import Cut, Side, matched
from cells.audit.reconcile.cuts import SidesWanted
from cells.audit.verify.books import CLEARING, CellBooks, Consolidated, InTransit, consolidated
from cells.domain.time.hlc import LOGICAL_MAX, Stamp
from server.cli.audit.statement import At
from server.cli.client import CellStubs, ClientError, LedgerRefusal
from server.cli.reach import Reach
from server.cli.report import Stage, plain, show, stage, table, tell_verdict
from server.cli.screen import literal
from server.cli.texts import amount, parse_moment, stamp_text
from server.wire import audit as wire

# How long to keep asking a cell whose clock has not reached the cut.
PATIENCE_S = 5.0
PAUSE_S = 0.1
TRANSIT_SHOWN_MAX = 40
ESCROW = "escrow/"
ENDED = frozenset({saga_pb2.SAGA_STATE_COMPLETED, saga_pb2.SAGA_STATE_COMPENSATED})


@dataclass(frozen=True, slots=True, kw_only=True)
class CellAtCut:
    """One cell's answers, all for its log up to the cut."""

    trial: audit_pb2.GetTrialBalanceResponse
    # Other cell -> the movements with it.
    sides: Mapping[str, dict[UUID, Side]]

    @property
    def books(self) -> CellBooks:
        return CellBooks(
            cell=self.trial.as_of.cell,
            position=self.trial.as_of.position,
            sums=Counter({(line.account, line.currency): line.amount_minor for line in self.trial.accounts}),
            movements=Counter(
                {
                    (peer, str(side.clearing_id), side.currency): side.amount_minor
                    for peer, sides in self.sides.items()
                    for side in sides.values()
                }
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialOfAll:
    until: Stamp
    cells: Mapping[str, CellAtCut]
    whole: Consolidated

    def problems(self) -> list[str]:
        """The sums that do not add up, and movements that cannot be in transit."""
        found = list(self.whole.problems)
        for one, other in combinations_with_replacement(sorted(self.cells), 2):
            mine = self.cells[one].sides.get(other, {})
            theirs = self.cells[other].sides.get(one, {}) if one != other else {}
            findings, _ = matched(Cut(one, other, mine, theirs))
            found += [f"{each.row}: expected {each.expected}; found {each.found}" for each in findings]
        return found

    def rows(self) -> Iterator[tuple[str, str, Mapping[str, int]]]:
        """Account, currency, and the amount of each cell that has it; all escrows share one row."""
        rows: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for name, each in self.cells.items():
            for (account, currency), amount_minor in each.books.sums.items():
                kind = ESCROW.rstrip("/") if account.startswith(ESCROW) else account
                rows[kind, currency][name] += amount_minor
        for (account, currency), amounts in sorted(rows.items()):
            yield account, currency, amounts

    def saga_of(self, clearing_id: str) -> str:
        """The saga or move that the movement is part of; empty if no event names it."""
        sides = (own.get(UUID(clearing_id)) for cell in self.cells.values() for own in cell.sides.values())
        return next((str(each.saga_id) for each in sides if each and each.saga_id), "")


def is_eliminated(account: str) -> bool:
    """Across cells, clearing leaves only the money in transit."""
    return account.startswith(CLEARING)


async def run_trial(reach: Reach, at: At = "") -> None:
    """Add up all cells at one moment as one ledger: clearing is eliminated, money in transit is listed.

    Exit code 1 if a cell is missing or has not reached the moment, or something does not add up.
    """
    found = await fetched(reach, at)
    show(lambda: trial_json(found), lambda console: tell(console, found), found.problems())


async def fetched(reach: Reach, at: str) -> TrialOfAll:
    """As `trial_of_all`, with its progress on stderr."""
    with stage("trial balance") as counted:
        return await trial_of_all(reach, at, counted)


async def trial_of_all(reach: Reach, at: str, counted: Stage) -> TrialOfAll:
    """Raises ClientError, LedgerRefusal: the answer needs every cell."""
    until = await _cut(reach, at)
    names, cells = [cell.name for cell in reach.cells], {}
    for cell in reach.cells:
        cells[cell.name] = await _cell_at(cell, names, until, counted)
    whole = consolidated([each.books for each in cells.values()])
    for movement in whole.in_transit:
        await _ask_for_saga(reach, cells, movement)
    return TrialOfAll(until=until, cells=cells, whole=whole)


async def _cut(reach: Reach, at: str) -> Stamp:
    """The cut; for "now", the latest stamp that any of the cells has written."""
    moment = parse_moment(at)
    if moment is not None and moment.WhichOneof("moment") == "position":
        raise ClientError("a position is of one log alone: name a time or a stamp, which all cells share")
    if moment is not None and moment.HasField("hlc"):
        return Stamp(moment.hlc.physical_ms, moment.hlc.logical)
    if moment is not None:
        return Stamp(moment.time_ms, LOGICAL_MAX)
    last = Stamp(0, 0)
    for cell in reach.cells:
        page = await cell.ask(cell.audit.ListBalances, audit_pb2.ListBalancesRequest(page_size=1))
        last = max(last, Stamp(page.as_of.hlc.physical_ms, page.as_of.hlc.logical))
    return last


async def _ask_for_saga(reach: Reach, cells: Mapping[str, CellAtCut], movement: InTransit) -> None:
    """Asks the cell that drives a movement's saga whether it has ended, if the cell has no part of the movement yet."""
    clearing_id = UUID(movement.clearing_id)
    pair = {movement.sender: movement.receiver, movement.receiver: movement.sender}
    own = {name: cells[name].sides.get(peer, {}) for name, peer in pair.items() if name in cells}
    known = [sides[clearing_id] for sides in own.values() if clearing_id in sides]
    saga_id = next((each.saga_id for each in known if each.saga_id), None)
    if saga_id is None or any(each.saga_ended is not None for each in known):
        return
    for cell in reach.cells:
        if cell.name not in own or clearing_id in own[cell.name]:
            continue
        as_of = types_pb2.AsOf(position=cells[cell.name].trial.as_of.position)
        try:
            request = saga_pb2.GetSagaRequest(saga_id=str(saga_id), as_of=as_of)
            ended = (await cell.ask(cell.sagas.GetSaga, request)).saga.state in ENDED
        except LedgerRefusal:
            continue
        own[cell.name][clearing_id] = Side(clearing_id, movement.currency, 0, 0, saga_id, ended)


async def _cell_at(cell: CellStubs, names: Sequence[str], until: Stamp, counted: Stage) -> CellAtCut:
    """Reads a cell at the cut. With each list of movements it promises to write nothing more at or below the cut."""
    position, with_itself = await _sides(cell, cell.name, until, counted)
    as_of = types_pb2.AsOf(position=position)
    trial = await cell.ask(cell.audit.GetTrialBalance, audit_pb2.GetTrialBalanceRequest(as_of=as_of))
    peers = {line.account.removeprefix(CLEARING) for line in trial.accounts if line.account.startswith(CLEARING)}
    sides = {cell.name: with_itself}
    for peer in sorted({*names, *peers} - {cell.name}):
        _, sides[peer] = await _sides(cell, peer, until, counted)
    return CellAtCut(trial=trial, sides=sides)


async def _sides(cell: CellStubs, peer: str, until: Stamp, counted: Stage) -> tuple[int, dict[UUID, Side]]:
    sides: dict[UUID, Side] = {}
    wanted = SidesWanted(peer, until)
    while True:
        page = wire.parse_sides(await _promised(cell, wire.sides_wanted_to_proto(wanted)))
        sides |= {side.clearing_id: side for side in page.sides}
        counted.advance(len(page.sides))
        if not page.more:
            return page.position, sides
        wanted = wanted._replace(after_id=page.sides[-1].clearing_id)


async def _promised(cell: CellStubs, request: audit_pb2.ListClearingRequest) -> audit_pb2.ListClearingResponse:
    """Waits for a cell whose clock is slightly behind."""
    give_up_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await cell.ask(cell.audit.ListClearing, request)
        except LedgerRefusal as refusal:
            if refusal.reason != "STAMP_IN_FUTURE":
                raise
            if time.monotonic() > give_up_s:
                cut = stamp_text(request.until)
                raise ClientError(f"{cell.name} has not come to the cut, {cut}: {refusal.message}") from None
        await asyncio.sleep(PAUSE_S)


# --- for programs -------------------------------------------------------------------------------------------------


def trial_json(found: TrialOfAll) -> dict[str, Any]:
    return {
        "cut": {"physical_ms": str(found.until.physical_ms), "logical": found.until.logical},
        "cells": [
            {"as_of": plain(each.trial.as_of), "accounts": [plain(line) for line in each.trial.accounts]}
            for each in found.cells.values()
        ],
        "accounts": [
            {"account": account, "currency": currency, "amount_minor": str(amount_minor)}
            for (account, currency), amount_minor in found.whole.sums.items()
        ],
        "in_transit": [
            {
                "clearing_id": each.clearing_id,
                "from": each.sender,
                "to": each.receiver,
                "currency": each.currency,
                "amount_minor": str(each.amount_minor),
                "saga_id": found.saga_of(each.clearing_id),
            }
            for each in found.whole.in_transit
        ],
        "totals": [
            {"currency": currency, "accounts_minor": str(own), "in_transit_minor": str(transit)}
            for currency, (own, transit) in found.whole.totals().items()
        ],
        "problems": found.problems(),
    }


# --- for people ---------------------------------------------------------------------------------------------------


def tell(console: Console, found: TrialOfAll) -> None:
    positions = ", ".join(f"{name}/{each.trial.as_of.position}" for name, each in found.cells.items())
    title = f"[bold]all cells[/bold] at {stamp_text(found.until)} UTC, after events {literal(positions)}"
    console.print(title, soft_wrap=True)
    console.print()
    console.print(_accounts(found))
    if found.whole.in_transit:
        console.print()
        console.print(_transit(found))
    totals = (
        f"{code}: accounts {amount(own, code)} + in transit {amount(transit, code)} = 0"
        for code, (own, transit) in found.whole.totals().items()
    )
    console.print()
    tell_verdict(console, found.problems(), totals)


def _accounts(found: TrialOfAll) -> Table:
    """One column per cell, and a sum."""
    amounts_of = [*found.cells, "all"]
    made = table("account", "currency", *amounts_of, right=amounts_of, no_wrap=["account", "currency", *amounts_of])
    for account, currency, amounts in found.rows():
        total = "eliminated" if is_eliminated(account) else amount(sum(amounts.values()), currency)
        texts = [amount(amounts[name], currency) if name in amounts else "" for name in found.cells]
        made.add_row(literal(account), literal(currency), *texts, total)
    for currency, (_, transit) in found.whole.totals().items():
        made.add_row("in transit", literal(currency), *("" for _ in found.cells), amount(transit, currency))
    return made


def _transit(found: TrialOfAll) -> Table:
    columns = ("in transit", "currency", "amount", "from", "to", "saga or move")
    made = table(*columns, right={"amount"}, no_wrap=columns)
    for each in found.whole.in_transit[:TRANSIT_SHOWN_MAX]:
        sent, saga = amount(each.amount_minor, each.currency), found.saga_of(each.clearing_id) or "-"
        texts = (each.clearing_id, each.currency, sent, each.sender, each.receiver, saga)
        made.add_row(*map(literal, texts))
    if len(found.whole.in_transit) > TRANSIT_SHOWN_MAX:
        made.add_row(f"... and {len(found.whole.in_transit) - TRANSIT_SHOWN_MAX:,} more; --json lists all")
    return made
