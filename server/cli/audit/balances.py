"""`cellbook audit balances`: lists all accounts of the cells at one moment and checks that they add up."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from cellbook.v1 import audit_pb2, types_pb2
from server.cli.audit.past import balances_table
from server.cli.audit.statement import BUCKETS, At, buckets, pages
from server.cli.client import CellStubs, ClientError
from server.cli.reach import Reach
from server.cli.report import plain, show, table, tell_verdict
from server.cli.screen import literal
from server.cli.texts import amount_text, parse_moment, point_text

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


async def run_balances(reach: Reach, at: At = "") -> None:
    """Show the balances of all users and the house, and check that they add up."""
    moment, found, silent = parse_moment(at), [], []
    for cell in reach.cells:
        try:
            found.append(await fetched(cell, moment))
        except ClientError as error:
            silent.append(f"{cell.name} is missing ({error})")
    show(
        lambda: {"cells": [_json(each) for each in found], "missing": silent},
        lambda console: tell_all(console, found),
        [*silent, *(problem for each in found for problem in each.problems())],
    )


async def fetched(cell: CellStubs, moment: types_pb2.AsOf | None) -> CellBalances:
    """All pages are of the same moment, even if it was "now"."""
    request = audit_pb2.ListBalancesRequest(as_of=moment, page_size=PAGE)
    listed = [page async for page in pages(cell, cell.audit.ListBalances, request)]
    point = listed[0].as_of
    same = audit_pb2.GetTrialBalanceRequest(as_of=types_pb2.AsOf(position=point.position))
    trial = await cell.ask(cell.audit.GetTrialBalance, same)
    users = [balance for page in listed for balance in page.balances]
    return CellBalances(cell=cell.name, point=point, users=users, trial=trial)


def _json(each: CellBalances) -> dict[str, Any]:
    return {
        "cell": each.cell,
        "as_of": plain(each.point),
        "adds_up": not each.problems(),
        "users": [plain(user) for user in each.users],
        "accounts": [plain(line) for line in each.trial.accounts],
    }


def tell_all(console: Console, found: Sequence[CellBalances]) -> None:
    for each in found:
        console.print(f"[bold]{literal(each.cell)}[/bold], {literal(point_text(each.point))}", soft_wrap=True)
        if not each.trial.accounts:
            console.print("no money had come in yet")
            continue
        console.print()
        console.print(balances_table((user.user_id, user.balance) for user in each.users[:SHOWN_MAX]))
        if len(each.users) > SHOWN_MAX:
            console.print(f"... and {len(each.users) - SHOWN_MAX:,} more; --json lists all")
        console.print()
        postings = table("account", "all postings", right={"all postings"})
        for line in each.trial.accounts:
            postings.add_row(literal(line.account), literal(amount_text(line.amount_minor, line.currency)))
        console.print(postings)
        proven = f"{each.cell}: postings sum to zero, and users' balances are what theirs come to"
        tell_verdict(console, each.problems(), [proven])
        console.print()
