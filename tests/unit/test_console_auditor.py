"""The auditor's pages over cells that answer as a test says: what is wrong is said, and no text is run."""

import asyncio
import csv
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import pytest
from google.protobuf.message import Message
from google.rpc import status_pb2
from httpx2 import AsyncClient

from cellbook.v1 import audit_pb2, event_pb2, ledger_pb2, types_pb2
from server.cli.audit import statement
from server.cli.client import NoAnswer
from server.console.auditor import accounts
from server.console.console import ADDING_UP_MAX, COOKIE
from server.console.visitor import NotSignedIn
from server.shell.identity.principal import Role
from tests.unit.console_rig import browser, console_app, visitor

SCRIPT = "<script>alert('x')</script>"
ESCAPED = "&lt;script&gt;"
USER = "01890a5d-ac96-774b-bcce-b302099a8057"
EVENT = "01890a5d-ac96-774b-bcce-b302099a8058"
FORM = {"form_token": ""}
Handler = Callable[[Any], Any]


class Names:
    """Stubs whose methods are their names."""

    def __getattr__(self, name: str) -> str:
        return name


@dataclass
class FakeCell:
    """One cell, which is also the ledger, its client and the only cell that there is."""

    answers: dict[str, Handler] = field(default_factory=dict)
    name: str = "eu-west"
    sign_out: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.audit = self.ledger = self.events = Names()
        self.client = self.only = self
        self.cells, self.listed = [self], [self.name]

    async def reach(self, _cell: str = "") -> Self:
        return self

    async def home_of(self, _user_id: str) -> Self:
        return self

    async def ask(self, method: str, request: Message) -> Message:
        reply: Message = self.answers[method](request)
        return reply

    async def items(self, method: str, request: Message) -> AsyncIterator[Message]:
        for item in self.answers[method](request):
            yield item

    async def log(self, _cell: Self, wanted: event_pb2.EventFilter, *, from_position: int) -> list[event_pb2.Event]:
        found: list[event_pb2.Event] = self.answers["Subscribe"]((wanted, from_position))
        return found


@pytest.fixture
def cell() -> FakeCell:
    return FakeCell()


@pytest.fixture
async def auditor(cell: FakeCell) -> AsyncIterator[AsyncClient]:
    """A browser in which an auditor has signed in."""
    async with console_app() as app, browser(app, visitor(Role.AUDITOR)) as made:
        app.state.console.ledger = cell
        sessions, session_id = app.state.console.sessions, made.cookies[COOKIE]
        FORM["form_token"] = sessions.form_token(session_id)
        cell.sign_out = lambda: sessions.end(session_id)
        yield made


def changed(problem: str) -> audit_pb2.TraceResponse:
    event = event_pb2.Event(
        event_id=EVENT,
        cell="eu-west",
        position=7,
        event_type="DEPOSITED",
        payload_json='{"note":"<script>alert()</script>\u202e","list":[]}',
        metadata_json="no JSON <script>",
    )
    missing = [audit_pb2.MissingCell(cell="us-east", problem=SCRIPT)]
    refused = audit_pb2.RefusedCommand(cell="eu-west", refusal=status_pb2.Status(message=SCRIPT), principal=SCRIPT)
    return audit_pb2.TraceResponse(
        events=[audit_pb2.TracedEvent(event=event, problem=problem)],
        missing=missing,
        refused=[refused],
        truncated=True,
        cells=["eu-west"],
    )


async def test_a_trace_says_in_words_what_is_wrong(cell: FakeCell, auditor: AsyncClient) -> None:
    """A changed row, a silent cell, a cut and a refusal; in the picture, in the table and above both."""
    cell.answers["Trace"] = lambda _: changed(f"the row was changed {SCRIPT}")
    page = (await auditor.get("/auditor/trace", params={"subject": SCRIPT})).text
    assert SCRIPT not in page
    assert page.count("the row was changed") >= 3
    for said in ("us-east is missing", "cut off after 1 events", "Show up to 2,000", 'class="box effect wrong"'):
        assert said in page, said
    assert "eu-west refused this command of &lt;script" in page
    assert '<g class="lane silent">' in page


async def test_an_event_is_shown_with_its_problem(cell: FakeCell, auditor: AsyncClient) -> None:
    """Invisible characters are written out, and what is no JSON is shown as it is."""
    cell.answers["Trace"] = lambda _: changed("the row was changed")
    page = (await auditor.get(f"/auditor/events/{EVENT}")).text
    assert "WRONG: the row was changed" in page
    assert "\\u202e" in page
    assert "no JSON &lt;script&gt;" in page
    assert "<script>alert" not in page
    other = await auditor.get(f"/auditor/events/{USER}")
    assert (other.status_code, "silent cells: us-east" in other.text) == (400, True)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("trace?subject=x&limit=2001", "from 1 to 2,000"),
        ("events/junk", "expected a UUID"),
        ("proofs/eu-west/junk", "is no position"),
        ("consistency/eu-west/1/junk", "is no new size"),
        (f"accounts/{USER}?at=yesterday", "is no moment"),
        (f"accounts/{USER}?at_ms=-1", "no time in milliseconds since 1970"),
        ("trial-balance?at=yesterday", "is no moment"),
        (f"?q={'x' * 300}", "at most 240 characters"),
    ],
)
async def test_what_cannot_be_used_is_said(auditor: AsyncClient, path: str, said: str) -> None:
    """Before any cell is asked."""
    answer = await auditor.get(f"/auditor/{path}" if not path.startswith("?") else f"/auditor{path}")
    assert (answer.status_code, said in answer.text) == (400, True), answer.text


# --- statements -------------------------------------------------------------------------------------------------------


def balance(available_minor: int) -> ledger_pb2.Balance:
    return ledger_pb2.Balance(currency="USD", available_minor=available_minor)


def movements(count: int) -> list[audit_pb2.Movement]:
    return [
        audit_pb2.Movement(
            position=place,
            event_id=EVENT,
            event_type="DEPOSITED",
            before=balance(place - 1),
            change=balance(1),
            after=balance(place),
            principal="=treasury/bank",
            counter_postings=[types_pb2.Posting(account="-external", currency="USD", amount_minor=-1)],
        )
        for place in range(1, count + 1)
    ]


def pages_of(rows: list[audit_pb2.Movement], closing: int) -> Handler:
    """The pages of a statement, by the number of the first row."""

    def answer(request: audit_pb2.GetStatementRequest) -> audit_pb2.GetStatementResponse:
        begin = int(request.page_token or 0)
        end = begin + request.page_size
        total = audit_pb2.StatementTotal(
            opening=balance(0), change=balance(closing), closing=balance(closing), movements=len(rows), proved=True
        )
        return audit_pb2.GetStatementResponse(
            movements=rows[begin:end],
            totals=[] if begin else [total],
            next_page_token=str(end) if end < len(rows) else "",
        )

    return answer


async def test_a_statement_of_many_pages_is_added_up_on_request(cell: FakeCell, auditor: AsyncClient) -> None:
    """Until then the cell's word is the cell's word."""
    cell.answers["GetStatement"] = pages_of(movements(250), 250)
    path = f"/auditor/accounts/{USER}/statement"
    page = (await auditor.get(path)).text
    assert "The cell says proved" in page
    assert "Proved:" not in page
    assert "page=100" in page
    assert "Proved:" in (await auditor.get(path, params={"check": "1"})).text
    last = (await auditor.get(path, params={"page": "200"})).text
    assert ("Next page" in last, "proved" in last) == (False, False)


async def test_so_many_statements_are_added_up_at_once(
    cell: FakeCell, auditor: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a hundred thousand rows in memory; the others wait for their turn."""
    cell.answers["GetStatement"] = pages_of(movements(1), 1)
    at_once: list[int] = [0]

    async def fetched(*asked: Any) -> statement.Statement:  # noqa: ANN401 - as of the real one
        at_once.append(at_once[-1] + 1)
        await asyncio.sleep(0)
        made = await statement.fetched(*asked)
        at_once.append(at_once[-1] - 1)
        return made

    monkeypatch.setattr(accounts, "fetched", fetched)
    path = f"/auditor/accounts/{USER}/statement"
    answers = await asyncio.gather(*(auditor.get(path, params={"check": "1"}) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {200}
    assert (max(at_once), at_once[-1], len(at_once)) == (ADDING_UP_MAX, 0, 11)


async def test_a_statement_that_does_not_add_up_is_red(cell: FakeCell, auditor: AsyncClient) -> None:
    """Whatever the cell says of it."""
    rows = movements(3)
    rows[1].after.CopyFrom(balance(9))
    cell.answers["GetStatement"] = pages_of(rows, 3)
    page = (await auditor.get(f"/auditor/accounts/{USER}/statement")).text
    assert "NOT proved: position 2" in page
    assert "Proved:" not in page


async def test_a_csv_has_all_pages_and_no_formula(cell: FakeCell, auditor: AsyncClient) -> None:
    """One head, every row, and a quote before what a spreadsheet would run."""
    cell.answers["GetStatement"] = pages_of(movements(2_500), 2_500)
    answer = await auditor.get(f"/auditor/accounts/{USER}/statement.csv")
    assert answer.headers["content-disposition"] == f'attachment; filename="statement-{USER}.csv"'
    rows = list(csv.DictReader(answer.text.splitlines()))
    assert [int(row["position"]) for row in rows] == list(range(1, 2_501))
    assert {row["principal"] for row in rows} == {"'=treasury/bank"}
    assert {row["counter_postings"] for row in rows} == {"'-external -0.01"}


async def test_a_csv_that_breaks_off_is_no_whole_file(cell: FakeCell, auditor: AsyncClient) -> None:
    """If a later page cannot be had, or the session ends, so does the download, with an error."""
    whole = pages_of(movements(2_500), 2_500)

    def breaking(request: audit_pb2.GetStatementRequest) -> audit_pb2.GetStatementResponse:
        if request.page_token == "2000":
            raise NoAnswer("eu-west: UNAVAILABLE")
        answer: audit_pb2.GetStatementResponse = whole(request)
        return answer

    cell.answers["GetStatement"] = breaking
    path = f"/auditor/accounts/{USER}/statement.csv"
    with pytest.raises(NoAnswer):
        await auditor.get(path)

    def signed_out(request: audit_pb2.GetStatementRequest) -> audit_pb2.GetStatementResponse:
        cell.sign_out()
        return breaking(request)

    cell.answers["GetStatement"] = signed_out
    with pytest.raises(NotSignedIn):
        await auditor.get(path)


# --- books ------------------------------------------------------------------------------------------------------------


async def test_findings_are_shown_after_the_progress(cell: FakeCell, auditor: AsyncClient) -> None:
    """As they are, in words, with what was expected."""
    finding = audit_pb2.AuditFinding(check="projection", row=SCRIPT, expected="1", found=SCRIPT)
    summary = audit_pb2.ReconcileSummary(cell="eu-west", finding_count=1, position=10)

    def told(request: audit_pb2.ReconcileRequest) -> Iterator[audit_pb2.ReconcileResponse]:
        assert request.full
        yield audit_pb2.ReconcileResponse(progress=audit_pb2.AuditProgress(stage="replay", done=5, total=10))
        yield audit_pb2.ReconcileResponse(finding=finding)
        yield audit_pb2.ReconcileResponse(summary=summary)

    cell.answers["Reconcile"] = told
    page = (await auditor.post("/auditor/reconciliation", data=FORM | {"full": "1"})).text
    assert page.index("eu-west: replay, 5 of 10") < page.index("Not well: eu-west: 1 mismatches") < page.index(ESCAPED)
    assert SCRIPT not in page
    assert page.rstrip().endswith("</html>")


async def test_a_cell_that_cannot_be_reconciled_is_missing(cell: FakeCell, auditor: AsyncClient) -> None:
    """And nothing is called well."""

    def silent(_request: object) -> Iterator[audit_pb2.ReconcileResponse]:
        raise NoAnswer("eu-west: UNAVAILABLE")

    cell.answers["Reconcile"] = silent
    page = (await auditor.post("/auditor/reconciliation", data=FORM)).text
    assert "eu-west is missing (eu-west: UNAVAILABLE)" in page
    assert "The tables follow" not in page


async def test_a_pass_ends_with_the_session(cell: FakeCell, auditor: AsyncClient) -> None:
    """Of somebody who has signed out meanwhile."""
    told = []

    def signed_out(_request: object) -> Iterator[audit_pb2.ReconcileResponse]:
        cell.sign_out()
        for stage in ("replay", "states", "books"):
            told.append(stage)
            yield audit_pb2.ReconcileResponse(progress=audit_pb2.AuditProgress(stage=stage))

    cell.answers["Reconcile"] = signed_out
    with pytest.raises(NotSignedIn):
        await auditor.post("/auditor/reconciliation", data=FORM)
    assert told == ["replay"]


async def test_earlier_findings_are_read_from_the_end_of_the_log(cell: FakeCell, auditor: AsyncClient) -> None:
    """With the reason that an operator has given for a rebuild."""
    payload = f'{{"findings":[{{"check":"books","row":"r","expected":"e","found":"{SCRIPT}"}}],"note":"{SCRIPT}"}}'
    asked = []

    def failed(wanted: tuple[event_pb2.EventFilter, int]) -> list[event_pb2.Event]:
        asked.append(wanted[1])
        return [event_pb2.Event(event_id=EVENT, cell="eu-west", event_type="X", position=5, payload_json=payload)]

    cell.answers |= {
        "GetCheckpoint": lambda _: audit_pb2.GetCheckpointResponse(position=150_000),
        "Subscribe": failed,
    }
    page = (await auditor.get("/auditor/reconciliation", params={"earlier": "1"})).text
    assert asked == [50_001]
    assert page.count(ESCAPED) == 2
    assert SCRIPT not in page


async def test_a_trial_balance_that_does_not_come_to_zero_is_red(cell: FakeCell, auditor: AsyncClient) -> None:
    """In each currency by itself."""
    lines = [
        types_pb2.Posting(account="fees", currency=code, amount_minor=each) for code, each in (("USD", 5), ("EUR", 0))
    ]
    cell.answers["GetTrialBalance"] = lambda _: audit_pb2.GetTrialBalanceResponse(accounts=lines)
    page = (await auditor.get("/auditor/trial-balance", params={"cell": "eu-west"})).text
    assert "USD: all postings come to" in page
    assert page.count("and not to zero") == page.count('class="verdict bad"') == 1
