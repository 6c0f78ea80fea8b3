"""A cell's policy table: callers, limits and costs of each RPC. An RPC that is missing here is always denied.

A cost counts against the caller's budget per second: 1 is a plain call, such as a bid within the cell. Everything that
enlarges the work has a price: many items, a page, a past moment. A bid or transfer that may begin a saga costs as much
as the events that it leaves in two logs forever.
"""

from dataclasses import replace
from typing import Any

from google.protobuf.message import Message

from cells.watch.feed import CATCH_UP_MAX
from server.shell.calls.policy import ANYBODY, BATCH_BYTES_MAX, Cost, Policy, PolicyTable, allow
from server.shell.fields.parse import parse_page_size
from server.shell.identity.principal import Role

# Rows of a page.
ROWS_A_COST = 10
# Finding, checking and folding the history of one aggregate.
PAST = 20
# The same for all accounts.
PAST_OF_ALL = 200
# Events of a saga, here and in the other cell, compared with the two or three of a bid here.
SAGA = 5
# Proofs read nodes of the tree.
PROOF = 5
# Trace and FindEvents ask every cell.
TRACE = 20


def page(request: Any) -> int:  # noqa: ANN401 - any request with a page
    return 1 + max(parse_page_size(max(request.page_size, 0)), 0) // ROWS_A_COST


def past(request: Message) -> int:
    return PAST if request.HasField("as_of") else 1


def resumed(request: Any) -> int:  # noqa: ANN401 - any request that may begin in the past
    return PAST + CATCH_UP_MAX // ROWS_A_COST if request.from_position else 1


def pages_of_the_past(request: Message) -> int:
    return page(request) + PAST_OF_ALL


def always(cost: int) -> Cost:
    return lambda _request: cost


def items(each: Cost) -> Cost:
    def cost(request: Any) -> int:  # noqa: ANN401 - any request with items
        return sum(map(each, request.items)) or 1

    return cost


def look(request: Any) -> int:  # noqa: ANN401 - a look at a contact, which is an event if it has a reason
    return SAGA if request.reason else 1


_AUDITOR, _OPERATOR, _PEER, _ROUTER = Role.AUDITOR, Role.OPERATOR, Role.PEER, Role.ROUTER
_SERVICE, _SUPPORT, _TREASURY = Role.SERVICE, Role.SUPPORT, Role.TREASURY

_LEDGER = {
    # The router opens the accounts of users that it registers.
    "OpenAccount": allow(_ROUTER, _OPERATOR),
    # Money comes from outside and goes there: neither a user nor a shop may move it in or out.
    "Deposit": allow(_TREASURY),
    "BatchDeposit": allow(_TREASURY, bytes_max=BATCH_BYTES_MAX, cost=items(always(1))),
    "Withdraw": allow(_TREASURY),
    "Transfer": allow(_SERVICE, subject_field="from_user_id", cost=always(SAGA)),
    "Reserve": allow(_SERVICE, subject_field="user_id"),
    "Capture": allow(_SERVICE, subject_field="user_id"),
    "Release": allow(_SERVICE, subject_field="user_id"),
    "GetBalance": allow(_SERVICE, _TREASURY, _AUDITOR, _OPERATOR, _SUPPORT, subject_field="user_id", cost=past),
    "GetAccount": allow(_SERVICE, _TREASURY, _AUDITOR, _OPERATOR, _SUPPORT, subject_field="user_id", cost=past),
    "GetCommand": Policy(roles=ANYBODY),
}
_AUCTION = {
    "RegisterAsset": allow(_SERVICE, subject_field="owner_user_id"),
    "GetAsset": Policy(roles=ANYBODY, cost=past),
    "CreateAuction": allow(_SERVICE, subject_field="seller_user_id"),
    "GetAuction": Policy(roles=ANYBODY, cost=past),
    "ListAuctions": Policy(roles=ANYBODY, cost=page),
    "WatchAuction": Policy(roles=ANYBODY, cost=resumed),
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
    "GetSaga": allow(_OPERATOR, _AUDITOR, _SERVICE, _SUPPORT, _ROUTER, cost=past),
    "ListSagas": allow(_OPERATOR, _AUDITOR, _SERVICE, cost=page),
    "WatchSaga": allow(_OPERATOR, _AUDITOR, _SERVICE),
    "RetrySaga": allow(_OPERATOR),
    "PauseSaga": allow(_OPERATOR),
    "ResumeSaga": allow(_OPERATOR),
    "CompensateSaga": allow(_OPERATOR),
    "AdvanceSaga": allow(_OPERATOR),
}
_EVENT = {
    "Subscribe": allow(_AUDITOR, _OPERATOR, _SERVICE),
    # Events name the principals of others' commands, so users read their statements instead.
    "ListUserEvents": allow(_AUDITOR, _OPERATOR, _SUPPORT, cost=page),
}
# A role that may read everything may change nothing; these calls write no events.
_AUDIT = {
    "Trace": allow(_AUDITOR, _OPERATOR, cost=always(TRACE)),
    "ListBalances": allow(_AUDITOR, _OPERATOR, cost=pages_of_the_past),
    "GetTrialBalance": allow(_AUDITOR, _OPERATOR, cost=always(PAST_OF_ALL)),
    "GetStatement": allow(_AUDITOR, _OPERATOR, _SERVICE, _TREASURY, _SUPPORT, subject_field="user_id", cost=page),
    "CheckStream": allow(_AUDITOR, _OPERATOR, cost=always(PAST)),
    "ListHomes": allow(_AUDITOR, _OPERATOR, cost=page),
    "FindEvents": allow(_PEER, _AUDITOR, _OPERATOR, bytes_max=BATCH_BYTES_MAX, cost=always(TRACE)),
    # Signed checkpoints are for everybody to keep; the signed content is not.
    "GetCheckpoint": Policy(roles=ANYBODY),
    "GetConsistencyProof": Policy(roles=ANYBODY, cost=always(PROOF)),
    "GetInclusionProof": allow(_AUDITOR, _OPERATOR, cost=always(PROOF)),
    "Export": allow(_AUDITOR, _OPERATOR),
    "Cosign": allow(_PEER),
    # The signature itself proves the witness, so any caller may deliver it.
    "AddCosignature": Policy(roles=ANYBODY, cost=always(PROOF)),
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
    # Support only with a reason, which goes into the log.
    "GetContact": allow(_SERVICE, _SUPPORT, subject_field="user_id", cost=look),
    "EraseContact": allow(_SERVICE, _OPERATOR, subject_field="user_id"),
}

_MOVE = {
    "BeginMove": allow(_ROUTER, _OPERATOR),
    "BringBaggage": allow(_PEER, bytes_max=BATCH_BYTES_MAX),
    "HandOverContact": allow(_PEER),
    "EraseEarlierContact": allow(_PEER),
    "ListEarlierEvents": allow(_SERVICE, _AUDITOR, _OPERATOR, _SUPPORT, subject_field="user_id", cost=page),
}
_OPERATIONS = {
    "GetCellStatus": allow(_OPERATOR, _AUDITOR),
}

_SERVICES = {
    "LedgerService": _LEDGER,
    "AuctionService": _AUCTION,
    "SettlementService": _SETTLEMENT,
    "SagaService": _SAGA,
    "EventService": _EVENT,
    "AuditService": _AUDIT,
    "ContactService": _CONTACT,
    "MoveService": _MOVE,
    "OperationsService": _OPERATIONS,
}


def bid_in(cell: str) -> Cost:
    here = f"cells/{cell}/"

    def cost(request: Any) -> int:  # noqa: ANN401 - one bid, or an item of a batch
        return 1 if request.auction.startswith(here) else SAGA

    return cost


def policies_of(cell: str) -> PolicyTable:
    """By each method's full name; a bid costs less in the cell of its auction."""
    bids = {"PlaceBid": bid_in(cell), "BatchPlaceBids": items(bid_in(cell))}
    return {
        f"/cellbook.v1.{service}/{rpc}": replace(policy, cost=bids.get(rpc, policy.cost))
        for service, policies in _SERVICES.items()
        for rpc, policy in policies.items()
    }


# For callers that need the roles but not the costs.
POLICIES = policies_of("")

# Clients' commands join the cell's queue; while it is full they are rejected unread.
QUEUED = frozenset(
    f"/cellbook.v1.{service}/{rpc}"
    for service, policies in (("LedgerService", _LEDGER), ("AuctionService", _AUCTION))
    for rpc in policies
    if not rpc.startswith(("Get", "List", "Watch"))
)
