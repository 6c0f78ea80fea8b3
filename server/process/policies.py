"""A cell's policy table. An RPC that is missing here is always denied."""

from dataclasses import replace

from server.process.costs import costs_in
from server.shell.calls.policy import ANYBODY, BATCH_BYTES_MAX, Policy, PolicyTable, allow, one
from server.shell.identity.principal import Role

_AUDITOR, _OPERATOR, _PEER, _ROUTER = Role.AUDITOR, Role.OPERATOR, Role.PEER, Role.ROUTER
_SERVICE, _TREASURY = Role.SERVICE, Role.TREASURY

_LEDGER = {
    # The router opens the accounts of users that it registers.
    "OpenAccount": allow(_ROUTER, _OPERATOR),
    # Money comes from outside and goes there: neither a user nor a shop may move it in or out.
    "Deposit": allow(_TREASURY),
    "BatchDeposit": allow(_TREASURY, bytes_max=BATCH_BYTES_MAX),
    "Withdraw": allow(_TREASURY),
    "Transfer": allow(_SERVICE, subject_field="from_user_id"),
    "Reserve": allow(_SERVICE, subject_field="user_id"),
    "Capture": allow(_SERVICE, subject_field="user_id"),
    "Release": allow(_SERVICE, subject_field="user_id"),
    "GetBalance": allow(_SERVICE, _TREASURY, _AUDITOR, _OPERATOR, subject_field="user_id"),
    "GetAccount": allow(_SERVICE, _TREASURY, _AUDITOR, _OPERATOR, subject_field="user_id"),
    "GetCommand": Policy(roles=ANYBODY),
}
_AUCTION = {
    "RegisterAsset": allow(_SERVICE, subject_field="owner_user_id"),
    "GetAsset": Policy(roles=ANYBODY),
    "CreateAuction": allow(_SERVICE, subject_field="seller_user_id"),
    "GetAuction": Policy(roles=ANYBODY),
    "ListAuctions": Policy(roles=ANYBODY),
    "PlaceBid": allow(_SERVICE, subject_field="bidder_user_id"),
    "BatchPlaceBids": allow(_SERVICE, subject_field="items.bidder_user_id", bytes_max=BATCH_BYTES_MAX),
    "CloseAuction": allow(_SERVICE, _OPERATOR),
    "CancelAuction": allow(_SERVICE, _OPERATOR),
}
_SETTLEMENT = {
    "ApplyLeg": allow(_PEER, bytes_max=BATCH_BYTES_MAX),
    "CompensateLeg": allow(_PEER),
    "BatchLegs": allow(_PEER),
}
_SAGA = {
    # The router asks for the progress of a move.
    "GetSaga": allow(_OPERATOR, _AUDITOR, _SERVICE, _ROUTER),
    "ListSagas": allow(_OPERATOR, _AUDITOR, _SERVICE),
    "WatchSaga": allow(_OPERATOR, _AUDITOR, _SERVICE),
    "RetrySaga": allow(_OPERATOR),
    "PauseSaga": allow(_OPERATOR),
    "ResumeSaga": allow(_OPERATOR),
    "CompensateSaga": allow(_OPERATOR),
    "AdvanceSaga": allow(_OPERATOR),
}
_EVENT = {
    "Subscribe": allow(_AUDITOR, _OPERATOR, _SERVICE),
}
# A role that may read everything may change nothing; these calls write no events.
_AUDIT = {
    "Trace": allow(_AUDITOR, _OPERATOR),
    "ListBalances": allow(_AUDITOR, _OPERATOR),
    "GetTrialBalance": allow(_AUDITOR, _OPERATOR),
    "GetStatement": allow(_AUDITOR, _OPERATOR, _SERVICE, _TREASURY, subject_field="user_id"),
    "CheckStream": allow(_AUDITOR, _OPERATOR),
    "ListHomes": allow(_AUDITOR, _OPERATOR),
    "FindEvents": allow(_PEER, _AUDITOR, _OPERATOR, bytes_max=BATCH_BYTES_MAX),
    # Signed checkpoints are for everybody to keep; the signed content is not.
    "GetCheckpoint": Policy(roles=ANYBODY),
    "GetConsistencyProof": Policy(roles=ANYBODY),
    "GetInclusionProof": allow(_AUDITOR, _OPERATOR),
    "Export": allow(_AUDITOR, _OPERATOR),
    "Cosign": allow(_PEER),
    # The signature itself proves the witness, so any caller may deliver it.
    "AddCosignature": Policy(roles=ANYBODY),
    # Auditors may start it; findings are recorded whoever started it.
    "Reconcile": allow(_AUDITOR, _OPERATOR),
    "ListClearing": allow(_PEER, _AUDITOR, _OPERATOR, bytes_max=BATCH_BYTES_MAX),
    # It changes tables, not events or money, so auditors, who check the tables, may not run it.
    "Rebuild": allow(_OPERATOR),
    "RecordAccesses": allow(_PEER),
}
# Auditors have no access: events name nobody.
_CONTACT = {
    "SetContact": allow(_SERVICE, subject_field="user_id"),
    "ConfirmContact": allow(_SERVICE, subject_field="user_id"),
    "GetContact": allow(_SERVICE, subject_field="user_id"),
    "EraseContact": allow(_SERVICE, _OPERATOR, subject_field="user_id"),
}

_MOVE = {
    "BeginMove": allow(_ROUTER, _OPERATOR),
    "BringBaggage": allow(_PEER, bytes_max=BATCH_BYTES_MAX),
    "HandOverContact": allow(_PEER),
    "EraseEarlierContact": allow(_PEER),
    "ListEarlierEvents": allow(_SERVICE, _AUDITOR, _OPERATOR, subject_field="user_id"),
}


def policies_of(cell: str) -> PolicyTable:
    """By each method's full name, with its cost in that cell."""
    costs = costs_in(cell)
    return {
        f"/cellbook.v1.{service}/{rpc}": replace(policy, cost=costs.get(rpc, one))
        for service, policies in (
            ("LedgerService", _LEDGER),
            ("AuctionService", _AUCTION),
            ("SettlementService", _SETTLEMENT),
            ("SagaService", _SAGA),
            ("EventService", _EVENT),
            ("AuditService", _AUDIT),
            ("ContactService", _CONTACT),
            ("MoveService", _MOVE),
        )
        for rpc, policy in policies.items()
    }


# For callers that need the roles but not the costs.
POLICIES = policies_of("")

# Clients' commands join the cell's queue; while it is full they are rejected unread.
QUEUED = frozenset(
    f"/cellbook.v1.{service}/{rpc}"
    for service, policies in (("LedgerService", _LEDGER), ("AuctionService", _AUCTION))
    for rpc in policies
    if not rpc.startswith(("Get", "List"))
)
