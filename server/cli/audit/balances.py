"""`cellbook audit balances`: lists all accounts of the cells at one moment and checks that they add up."""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from cellbook.v1 import audit_pb2, types_pb2
from server.cli import report
from server.cli.audit.ask import answer_of
from server.cli.audit.moment import parse_moment, point_text
from server.cli.audit.past import balances_table, plain
from server.cli.audit.statement import BUCKETS, buckets
from server.cli.client import CellStubs, ClientError
from server.cli.reach import Reach
from server.cli.screen import literal
from server.cli.texts import amount_text

PAGE = 1_000
SHOWN_MAX = 40


@dataclass(slots=True, kw_only=True)
class CellBalances:
    """One cell's accounts, all at `point`."""

    cell: str
    point: types_pb2.AsOfPoint
    users: list[audit_pb2.UserBalance] = field(default_factory=list)
    trial: audit_pb2.GetTrialBalanceResponse

    def problems(self) -> list[str]:
        """The sums that do not add up."""
        sums: dict[str, int] = defaultdict(int)
        users: dict[tuple[str, str], int] = defaultdict(int)
        for line in self.trial.accounts:
            sums[line.currency] += line.amount_minor
            users[line.account, line.currency] += line.amount_minor
        wrong = [f"{self.cell}: all postings in {code} come to {left}, not to 0" for code, left in sums.items() if left]
        for each in self.users:
            for bucket, amount in zip(BUCKETS, buckets(each.balance), strict=True):
                users[f"users/{bucket}", each.balance.currency] -= amount
        return wrong + [
            f"{self.cell}: {account} in {code} is by {left} more in the postings than in the users' balances"
            for (account, code), left in users.items()
            if left and account.startswith("users/")
        ]


async def run_balances(reach: Reach, at: str, *, as_json: bool) -> None:
    """Raises ClientError if a cell is missing or does not add up."""
    moment, told, silent = parse_moment(at), [], []
    for cell in reach.cells:
        try:
            told.append(await fetched(cell, moment))
        except ClientError as error:
            silent.append(f"{cell.name} is missing ({error})")
    if as_json:
        content: dict[str, Any] = {"cells": [_json(each) for each in told], "missing": silent}
        print(json.dumps(content, indent=2))
    else:
        with report.stdout() as console:
            for each in told:
                tell(console, each)
    wrong = [*silent, *(problem for each in told for problem in each.problems())]
    if wrong:
        raise ClientError("; ".join(wrong))


async def fetched(cell: CellStubs, moment: types_pb2.AsOf | None) -> CellBalances:
    request = audit_pb2.ListBalancesRequest(as_of=moment, page_size=PAGE)
    page = await answer_of(cell, cell.audit.ListBalances, request)
    # Later pages use the same moment, even if it was "now".
    same = types_pb2.AsOf(position=page.as_of.position)
    trial = await answer_of(cell, cell.audit.GetTrialBalance, audit_pb2.GetTrialBalanceRequest(as_of=same))
    found = CellBalances(cell=cell.name, point=page.as_of, users=list(page.balances), trial=trial)
    while page.next_page_token:
        request.page_token = page.next_page_token
        page = await answer_of(cell, cell.audit.ListBalances, request)
        found.users += page.balances
    return found


def _json(each: CellBalances) -> dict[str, Any]:
    return {
        "cell": each.cell,
        "as_of": plain(each.point),
        "adds_up": not each.problems(),
        "users": [plain(user) for user in each.users],
        "accounts": [plain(line) for line in each.trial.accounts],
    }


def tell(console: Console, each: CellBalances) -> None:
    console.print(f"[bold]{literal(each.cell)}[/bold], {literal(point_text(each.point))}", soft_wrap=True)
    if not each.trial.accounts:
        console.print("no money had come in yet")
        return
    console.print()
    console.print(balances_table((user.user_id, user.balance) for user in each.users[:SHOWN_MAX]))
    if len(each.users) > SHOWN_MAX:
        console.print(f"... and {len(each.users) - SHOWN_MAX:,} more; --json lists all")
    console.print()
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    table.add_column("account")
    table.add_column("all postings", justify="right")
    for line in each.trial.accounts:
        table.add_row(literal(line.account), literal(amount_text(line.amount_minor, line.currency)))
    console.print(table)
    wrong = each.problems()
    for said in wrong or [f"{each.cell}: postings sum to zero, and users' balances are what theirs come to"]:
        console.print(f"{'[red bold]NO[/red bold]' if wrong else '[green]ok[/green]'} {literal(said)}", soft_wrap=True)
    console.print()
