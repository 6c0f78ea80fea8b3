"""The pages of this room."""

from server.console.auditor.accounts import account, balance, statement, statement_csv
from server.console.auditor.books import checkpoints, reconcile, reconciliation, trial_balance
from server.console.auditor.proofs import consistency, inclusion
from server.console.auditor.search import search
from server.console.auditor.traces import event, trace
from server.console.pages import Page

_TRACE, _INCLUSION, _CHECKPOINT = (
    "AuditService.Trace",
    "AuditService.GetInclusionProof",
    "AuditService.GetCheckpoint",
)
_CONSISTENCY = "AuditService.GetConsistencyProof"
_HOME, _STATEMENT = "RouterService.ResolveUser", "AuditService.GetStatement"
_BALANCE = (_HOME, "LedgerService.GetBalance", "LedgerService.GetAccount")
# Of all cells as one ledger.
_TRIAL = ("AuditService.GetTrialBalance", "AuditService.ListClearing", "AuditService.ListBalances")
_RECONCILE = "AuditService.Reconcile"
_ACCOUNT = "/auditor/accounts/{user_id}"

PAGES: tuple[Page, ...] = (
    Page(path="/auditor", view=search, needs=(_TRACE,), title="Search"),
    Page(path="/auditor/trace", view=trace, needs=(_TRACE,)),
    Page(path="/auditor/events/{event_id}", view=event, needs=(_TRACE, _INCLUSION)),
    Page(path="/auditor/proofs/{cell}/{position}", view=inclusion, needs=(_INCLUSION, _CHECKPOINT)),
    Page(
        path="/auditor/consistency/{cell}/{old_size}/{new_size}",
        view=consistency,
        needs=(_CONSISTENCY,),
    ),
    Page(path=_ACCOUNT, view=account, needs=(*_BALANCE, _STATEMENT)),
    Page(path=f"{_ACCOUNT}/balance", view=balance, needs=_BALANCE),
    Page(path=f"{_ACCOUNT}/statement", view=statement, needs=(_HOME, _STATEMENT)),
    Page(path=f"{_ACCOUNT}/statement.csv", view=statement_csv, needs=(_HOME, _STATEMENT)),
    Page(path="/auditor/trial-balance", view=trial_balance, needs=_TRIAL, title="Trial balance"),
    Page(path="/auditor/checkpoints", view=checkpoints, needs=(_CHECKPOINT, _CONSISTENCY), title="Checkpoints"),
    Page(
        path="/auditor/reconciliation",
        view=reconciliation,
        needs=(_RECONCILE, "EventService.Subscribe"),
        title="Reconciliation",
    ),
    Page(path="/auditor/reconciliation", view=reconcile, needs=(_RECONCILE,), method="POST"),
)
