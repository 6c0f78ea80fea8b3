"""The state that a command will read. Asked again after each load, since one piece may point at the next."""

from collections.abc import Iterator
from typing import Protocol, assert_never
from uuid import UUID

from cells.domain.account.barrier import barrier_needs, carried_id, has_moved
from cells.domain.commands import (
    ApplyLeg,
    CancelAuction,
    Capture,
    CloseAuction,
    Command,
    CompensateLeg,
    CompensateSaga,
    CreateAuction,
    CreditPending,
    Deposit,
    ExpireHold,
    FailSaga,
    LegAction,
    MoveParty,
    NotifyParty,
    OpenAccount,
    PauseSaga,
    PayOutEscrow,
    PinHold,
    PlaceBid,
    RebuildProjections,
    ReceiveEscrow,
    ReceiveTransfer,
    RecordAccesses,
    RecordLeg,
    RegisterAsset,
    Release,
    ReleaseBid,
    ReportMismatches,
    Reserve,
    ReserveForBid,
    ResumeSaga,
    SendToEscrow,
    SendTransfer,
    SettlePending,
    SkipLeg,
    SubmitBid,
    Transfer,
    TransferOwnership,
    Withdraw,
)
from cells.domain.decision import View
from cells.domain.events import SettlementFacts, TransferFacts
from cells.domain.moves.commands import AnnounceMove, ArriveUser, BeginMove, DepartUser, LeaveUser, StopFlows, TellHome
from cells.domain.peer_rules import credit_of, settle_of
from cells.domain.values import Kind, Ref, carried_kind, reference_ref


class Loaded(View, Protocol):
    """A view that also says whether it has a piece of state."""

    def has(self, ref: Ref) -> bool: ...


def needs(command: Command, view: Loaded, cell: str) -> Iterator[Ref]:
    """References to state, loaded or not; those behind a piece that is not loaded yet come in a later round."""
    match command:
        case PlaceBid():
            yield Ref(Kind.ACCOUNT, command.bidder_id)
            if command.auction_cell == cell:
                yield from _auction_and_leader(command.auction_id, view, cell)
        case Deposit():
            yield from _account_and_reference(command, "deposit", view)
        case Withdraw():
            yield from _account_and_reference(command, "withdrawal", view)
        case Transfer():
            yield Ref(Kind.ACCOUNT, command.from_user_id)
            if command.to_cell is None:
                yield Ref(Kind.ACCOUNT, command.to_user_id)
        case Capture():
            yield Ref(Kind.ACCOUNT, command.user_id)
            yield Ref(Kind.ACCOUNT, command.to_user_id)
        case OpenAccount() | Reserve() | Release() | ExpireHold() | BeginMove():
            yield Ref(Kind.ACCOUNT, command.user_id)
        case RegisterAsset():
            yield Ref(Kind.ACCOUNT, command.owner_id)
        case ReportMismatches() | RebuildProjections() | RecordAccesses():
            pass
        case CreateAuction():
            yield from _asset_and_its_auction(command.asset_id, view)
        case CloseAuction() | CancelAuction():
            yield from _auction_and_asset(command.auction_id, view)
            yield from _auction_and_leader(command.auction_id, view, cell)
        case ApplyLeg() | CompensateLeg():
            yield from barrier_needs(command, cell)
            yield from _of_action(command.action, view, cell)
            if command.orchestrator == cell:
                yield from _of_saga(command.leg_id.saga_id, view)
                yield from _carried_leg(command, view)
            else:
                yield from _of_sale(command, cell)
        case RecordLeg() | SkipLeg() | FailSaga() | MoveParty():
            yield from _of_saga(command.leg_id.saga_id, view)
        case PauseSaga() | ResumeSaga() | CompensateSaga():
            yield Ref(Kind.SAGA, command.saga_id)
        case _:
            assert_never(command)


def _account_and_reference(command: Deposit | Withdraw, kind: str, view: Loaded) -> Iterator[Ref]:
    ref = Ref(Kind.ACCOUNT, command.user_id)
    yield ref
    yield reference_ref(kind, command.external_reference)
    account = view.account(command.user_id) if view.has(ref) else None
    if account is not None and account.earlier_homes:
        yield reference_ref(carried_kind(kind, command.user_id), command.external_reference)


def _of_action(action: LegAction, view: Loaded, cell: str) -> Iterator[Ref]:
    match action:
        case (
            PinHold()
            | SendToEscrow()
            | CreditPending()
            | SettlePending()
            | NotifyParty()
            | ReserveForBid()
            | ReleaseBid()
            | SendTransfer()
            | ReceiveTransfer()
            | AnnounceMove()
            | StopFlows()
            | DepartUser()
            | ArriveUser()
            | LeaveUser()
            | TellHome()
        ):
            yield Ref(Kind.ACCOUNT, action.user_id)
        case ReceiveEscrow() | PayOutEscrow():
            yield Ref(Kind.AUCTION, action.auction_id)
        case TransferOwnership():
            yield Ref(Kind.ASSET, action.asset_id)
        case SubmitBid():
            yield from _auction_and_leader(action.auction_id, view, cell)
        case _:
            assert_never(action)


def _carried_leg(command: ApplyLeg | CompensateLeg, view: Loaded) -> Iterator[Ref]:
    """Another home may have taken the leg for its user before the user moved here."""
    user_id = getattr(command.action, "user_id", None)
    if user_id is not None and view.has(Ref(Kind.ACCOUNT, user_id)) and has_moved(command, view):
        yield Ref(Kind.LEG, carried_id(command))


def _of_sale(command: ApplyLeg | CompensateLeg, cell: str) -> Iterator[Ref]:
    """A sale that another cell settles must have been credited by it; one that it takes back must not be settled."""
    match command.action:
        case SettlePending():
            yield from barrier_needs(credit_of(command, command.action), cell)
        case CreditPending():
            yield from barrier_needs(settle_of(command, command.action), cell)
        case _:
            pass


def _auction_and_leader(auction_id: UUID, view: Loaded, cell: str) -> Iterator[Ref]:
    ref = Ref(Kind.AUCTION, auction_id)
    yield ref
    auction = view.auction(auction_id) if view.has(ref) else None
    if auction is not None and auction.highest_bid is not None and auction.highest_bid.bidder_cell == cell:
        yield Ref(Kind.ACCOUNT, auction.highest_bid.bidder_id)


def _auction_and_asset(auction_id: UUID, view: Loaded) -> Iterator[Ref]:
    ref = Ref(Kind.AUCTION, auction_id)
    yield ref
    auction = view.auction(auction_id) if view.has(ref) else None
    if auction is not None:
        yield Ref(Kind.ASSET, auction.asset_id)


def _asset_and_its_auction(asset_id: UUID, view: Loaded) -> Iterator[Ref]:
    ref = Ref(Kind.ASSET, asset_id)
    yield ref
    asset = view.asset(asset_id) if view.has(ref) else None
    if asset is not None and asset.locked_by is not None:
        yield Ref(Kind.AUCTION, asset.locked_by)


def _of_saga(saga_id: UUID, view: Loaded) -> Iterator[Ref]:
    ref = Ref(Kind.SAGA, saga_id)
    yield ref
    saga = view.saga(saga_id) if view.has(ref) else None
    facts = None if saga is None else saga.facts
    if isinstance(facts, SettlementFacts):
        yield Ref(Kind.AUCTION, facts.auction_id)
        yield Ref(Kind.ASSET, facts.asset_id)
    elif isinstance(facts, TransferFacts):
        yield Ref(Kind.ACCOUNT, facts.from_user_id)
