"""Who may call what in a cell. An RPC that is missing here is denied to everybody."""

from dataclasses import replace

from server.costs import costs_in
from server.shell.policy import ANYBODY, BATCH_BYTES_MAX, Policy, PolicyTable, allow, one
from server.shell.principal import Role

_AUDITOR, _OPERATOR, _PEER, _ROUTER = Role.AUDITOR, Role.OPERATOR, Role.PEER, Role.ROUTER
_SERVICE, _TREASURY = Role.SERVICE, Role.TREASURY

_LEDGER = {
    # The router opens the account of a user that it registers.
    "OpenAccount": allow(_ROUTER, _OPERATOR),
    # Money comes from outside and goes there: not a user's own word, nor a shop's.
    "Deposit": allow(_TREASURY),
    "BatchDeposit": allow(_TREASURY, bytes_max=BATCH_BYTES_MAX),
    "Withdraw": allow(_TREASURY),
    "Transfer": allow(_SERVICE, own="from_user_id"),
    "Reserve": allow(_SERVICE, own="user_id"),
    "Capture": allow(_SERVICE, own="user_id"),
    "Release": allow(_SERVICE, own="user_id"),
    "GetBalance": allow(_SERVICE, _TREASURY, _AUDITOR, _OPERATOR, own="user_id"),
    "GetAccount": allow(_SERVICE, _TREASURY, _AUDITOR, _OPERATOR, own="user_id"),
    "GetCommand": Policy(roles=ANYBODY),
}
_AUCTION = {
    "RegisterAsset": allow(_SERVICE, own="owner_user_id"),
    "GetAsset": Policy(roles=ANYBODY),
    "CreateAuction": allow(_SERVICE, own="seller_user_id"),
    "GetAuction": Policy(roles=ANYBODY),
    "ListAuctions": Policy(roles=ANYBODY),
    "PlaceBid": allow(_SERVICE, own="bidder_user_id"),
    "BatchPlaceBids": allow(_SERVICE, own="items.bidder_user_id", bytes_max=BATCH_BYTES_MAX),
    "CloseAuction": allow(_SERVICE, _OPERATOR),
    "CancelAuction": allow(_SERVICE, _OPERATOR),
}
_SETTLEMENT = {
    "ApplyLeg": allow(_PEER, bytes_max=BATCH_BYTES_MAX),
    "CompensateLeg": allow(_PEER),
    "BatchLegs": allow(_PEER),
}
_SAGA = {
    # The router asks how a move gets on.
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
# Whoever sees all may not change anything: what is written here is no event.
_AUDIT = {
    "Trace": allow(_AUDITOR, _OPERATOR),
    "ListBalances": allow(_AUDITOR, _OPERATOR),
    "GetTrialBalance": allow(_AUDITOR, _OPERATOR),
    "GetStatement": allow(_AUDITOR, _OPERATOR, _SERVICE, _TREASURY, own="user_id"),
    "CheckStream": allow(_AUDITOR, _OPERATOR),
    "FindEvents": allow(_PEER, _AUDITOR, _OPERATOR, bytes_max=BATCH_BYTES_MAX),
    # What is signed is for everybody to keep; what it is over is not.
    "GetCheckpoint": Policy(roles=ANYBODY),
    "GetConsistencyProof": Policy(roles=ANYBODY),
    "GetInclusionProof": allow(_AUDITOR, _OPERATOR),
    "Export": allow(_AUDITOR, _OPERATOR),
    "Cosign": allow(_PEER),
    # To look is an auditor's right; what is found is recorded, whoever looked.
    "Reconcile": allow(_AUDITOR, _OPERATOR),
    "ListClearing": allow(_PEER, _AUDITOR, _OPERATOR, bytes_max=BATCH_BYTES_MAX),
    # It moves no money and changes no event, but tables: whoever checks the books does not write them.
    "Rebuild": allow(_OPERATOR),
}
# Not an auditor's business: events name nobody.
_CONTACT = {
    "SetContact": allow(_SERVICE, own="user_id"),
    "ConfirmContact": allow(_SERVICE, own="user_id"),
    "GetContact": allow(_SERVICE, own="user_id"),
    "EraseContact": allow(_SERVICE, _OPERATOR, own="user_id"),
}

_MOVE = {
    "BeginMove": allow(_ROUTER, _OPERATOR),
    "BringBaggage": allow(_PEER, bytes_max=BATCH_BYTES_MAX),
    "HandOverContact": allow(_PEER),
    "EraseEarlierContact": allow(_PEER),
    "ListEarlierEvents": allow(_SERVICE, _AUDITOR, _OPERATOR, own="user_id"),
}


def policies_of(cell: str) -> PolicyTable:
    """By the full name of each method of the cell, with what it costs there."""
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


# For whoever asks who may, and not what it costs.
POLICIES = policies_of("")

# Clients' commands: they join the cell's queue, and while that is full they are turned away unread.
QUEUED = frozenset(
    f"/cellbook.v1.{service}/{rpc}"
    for service, policies in (("LedgerService", _LEDGER), ("AuctionService", _AUCTION))
    for rpc in policies
    if not rpc.startswith(("Get", "List"))
)
