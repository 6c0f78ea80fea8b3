"""A user's balance at a moment, with its chart over time; the statement, page by page and as CSV."""

import io
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from cellbook.v1 import audit_pb2, types_pb2
from server.cli.audit.past import AccountAt, account_at
from server.cli.audit.statement import PAGE, Statement, fetched, pages, proof_text, write_csv
from server.cli.client import CellStubs, ClientError
from server.cli.reach import Reach
from server.cli.texts import parse_moment
from server.console.auditor.balance_chart import Chart, chart_of
from server.console.auditor.search import account_path
from server.console.console import console_of, ledger_of, render
from server.console.pages import get
from server.console.serving import BadInput, field, id_in, require_session, whole_number

# Movements in a chart, and in a statement that is added up here.
CHART_MAX, ADDED_UP_MAX = 5_000, 100_000
ROWS = 100
SLIDER_STEPS = 500
ACCOUNT = "/auditor/accounts/{user_id}"
HOME, STATEMENT = "RouterService.ResolveUser", "AuditService.GetStatement"
BALANCE = (HOME, "LedgerService.GetBalance", "LedgerService.GetAccount")


async def moment_in(request: Request, name: str) -> types_pb2.AsOf | None:
    """The moment in a field, as on the command line; None: it is empty. Raises BadInput."""
    try:
        return parse_moment(await field(request, name))
    except ClientError as error:
        raise BadInput(str(error)) from None


async def cell_of(request: Request, reach: Reach, user_id: str) -> CellStubs:
    """The cell in the query, for an earlier home; otherwise the user's home. Raises ClientError, LedgerRefusal."""
    name = await field(request, "cell")
    return reach.named(name) if name else await ledger_of(request).home_of(user_id)


# --- a balance --------------------------------------------------------------------------------------------------------


@get(ACCOUNT, *BALANCE, STATEMENT)
async def account(request: Request) -> Response:
    user_id, moment = id_in(request, "user_id"), await _moment(request)
    found = await _account_at(request, user_id, moment)
    return render(
        request,
        "auditor/account.html",
        user_id=user_id,
        found=found,
        at=await field(request, "at"),
        timeline=await _timeline(found.cell, user_id, _mark_ms(found.account.as_of, moment)),
        chart_max=CHART_MAX,
    )


@get(f"{ACCOUNT}/balance", *BALANCE)
async def balance(request: Request) -> Response:
    """The part of the page that follows the slider."""
    user_id = id_in(request, "user_id")
    if "hx-request" not in request.headers:
        return RedirectResponse(f"{account_path(user_id)}?{request.url.query}")
    found = await _account_at(request, user_id, await _moment(request))
    return render(request, "auditor/_balance.html", found=found)


async def _account_at(request: Request, user_id: str, moment: types_pb2.AsOf | None) -> AccountAt:
    reach = await ledger_of(request).reach()
    return await account_at(reach, await cell_of(request, reach, user_id), user_id, moment)


async def _moment(request: Request) -> types_pb2.AsOf | None:
    """Of the slider, or of the field beside it. Raises BadInput."""
    slid = await field(request, "at_ms")
    if slid:
        return types_pb2.AsOf(time_ms=whole_number(slid, "time in milliseconds since 1970"))
    return await moment_in(request, "at")


def _mark_ms(point: types_pb2.AsOfPoint, moment: types_pb2.AsOf | None) -> int | None:
    """The time of the moment; None: now."""
    if moment is None:
        return None
    return moment.time_ms if moment.WhichOneof("moment") == "time_ms" else point.hlc.physical_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """The time from an account's first movement to the last event of its cell, for chart and slider."""

    begin_ms: int
    end_ms: int
    mark_ms: int
    charts: Sequence[Chart]
    # The charts end before the last movement.
    cut_off: bool

    @property
    def step_ms(self) -> int:
        return max((self.end_ms - self.begin_ms) // SLIDER_STEPS, 1)


async def _timeline(cell: CellStubs, user_id: str, mark_ms: int | None) -> Timeline | None:
    """None: no money has moved yet."""
    statement = await fetched(cell, audit_pb2.GetStatementRequest(user_id=user_id), CHART_MAX)
    if not statement.movements:
        return None
    times = [each.hlc.physical_ms for each in statement.movements]
    begin_ms, end_ms = min(times), max(times) if statement.more else statement.head.to.hlc.physical_ms
    mark_ms = end_ms if mark_ms is None else min(max(mark_ms, begin_ms), end_ms)
    charts = [
        chart_of(total, statement.movements, begin_ms, end_ms, mark_ms)
        for total in statement.head.totals
        if any(each.after.currency == total.closing.currency for each in statement.movements)
    ]
    return Timeline(begin_ms=begin_ms, end_ms=end_ms, mark_ms=mark_ms, charts=charts, cut_off=statement.more)


# --- a statement ------------------------------------------------------------------------------------------------------


@get(f"{ACCOUNT}/statement", HOME, STATEMENT)
async def statement(request: Request) -> Response:
    """A page of it. With `check` all of it is read and added up, for so many visitors at once as memory allows."""
    if not await field(request, "check"):
        return await _statement(request, check=False)
    async with console_of(request).adding_up:
        return await _statement(request, check=True)


async def _statement(request: Request, *, check: bool) -> Response:
    user_id, reach = id_in(request, "user_id"), await ledger_of(request).reach()
    cell, wanted = await cell_of(request, reach, user_id), await _wanted(request, user_id)
    added_up = None
    if check:
        added_up = await fetched(cell, await _wanted(request, user_id), ADDED_UP_MAX)
    wanted.page_size, wanted.page_token = ROWS, await field(request, "page")
    page = await cell.ask(cell.audit.GetStatement, wanted)
    if added_up is None and not wanted.page_token and not page.next_page_token:
        added_up = Statement(cell=cell.name, user_id=user_id, head=page, movements=[*page.movements])
    return render(
        request,
        "auditor/statement.html",
        user_id=user_id,
        cell=cell.name,
        page=page,
        start=getattr(page, "from"),
        added_up=added_up,
        problems=list(added_up.problems()) if added_up is not None else [],
        proofs=[proof_text(total) for total in page.totals],
        query={name: await field(request, name) for name in ("from", "to", "currency", "cell")},
        is_first=not wanted.page_token,
    )


async def _wanted(request: Request, user_id: str) -> audit_pb2.GetStatementRequest:
    wanted = audit_pb2.GetStatementRequest(
        user_id=user_id, to=await moment_in(request, "to"), currency=(await field(request, "currency")).upper()
    )
    if (begun := await moment_in(request, "from")) is not None:
        getattr(wanted, "from").CopyFrom(begun)
    return wanted


@get(f"{ACCOUNT}/statement.csv", HOME, STATEMENT)
async def statement_csv(request: Request) -> Response:
    """All pages, one after the other. If one cannot be had, the download breaks off."""
    user_id, reach = id_in(request, "user_id"), await ledger_of(request).reach()
    cell, wanted = await cell_of(request, reach, user_id), await _wanted(request, user_id)
    wanted.page_size = PAGE
    answers = pages(cell, cell.audit.GetStatement, wanted)
    first = await anext(answers)
    headers = {"content-disposition": f'attachment; filename="statement-{user_id}.csv"'}
    return StreamingResponse(_lines(request, first, answers), media_type="text/csv; charset=utf-8", headers=headers)


async def _lines(
    request: Request, first: audit_pb2.GetStatementResponse, others: AsyncIterator[audit_pb2.GetStatementResponse]
) -> AsyncIterator[str]:
    """Raises NotSignedIn, so that a file whose session has ended is not taken for a whole one; and as `ask`."""
    yield _csv(first, header=True)
    async for page in others:
        require_session(request)
        yield _csv(page, header=False)


def _csv(page: audit_pb2.GetStatementResponse, *, header: bool) -> str:
    text = io.StringIO(newline="")
    write_csv(text, page.movements, header=header)
    return text.getvalue()
