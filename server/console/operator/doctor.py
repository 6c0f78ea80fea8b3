"""The doctor's findings on router, processes, clocks and certificates."""

from collections import Counter

from starlette.requests import Request
from starlette.responses import Response

from server.cli.doctor.findings import State
from server.cli.doctor.processes import examine
from server.console.console import console_of, ledger_of, render
from server.console.operator.cells import STATUS
from server.console.pages import get


# For operators alone, as the command is.
@get("/operator/doctor", STATUS, "RouterService.DrainCell", title="Doctor")
async def doctor(request: Request) -> Response:
    """Without the users' homes, all of which it would read: `cellbook doctor` compares them."""
    client = ledger_of(request).client
    findings = await examine(console_of(request).settings.router, client.access, with_homes=False)
    counts = Counter(each.state for each in findings)
    return render(
        request,
        "operator/doctor.html",
        findings=sorted(findings, key=lambda each: [State.FAIL, State.WARN, State.NOTE, State.OK].index(each.state)),
        counts={state: counts[state] for state in State},
        classes={State.OK: "good", State.NOTE: "faint", State.WARN: "warn", State.FAIL: "bad"},
    )
