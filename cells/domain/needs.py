"""The state that each command will read. The table in decide.py says which function is whose."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol
from uuid import UUID

from cells.domain import commands
from cells.domain.account.barrier import LegCommand, barrier_needs, carried_id, has_moved
from cells.domain.decision import View
from cells.domain.sagas.definition import EFFECTS, SAGAS
from cells.domain.values import ACCOUNT, AUCTION, Kind, Ref, carried_kind, reference_ref


class Loaded(View, Protocol):
    """A view that also says whether it has a piece of state."""

    def has(self, ref: Ref) -> bool: ...


# The references, loaded or not; those behind a piece that is not loaded yet come in a later round.
Needs = Callable[[Any, Loaded, str], Iterator[Ref]]


def pieces(kind: Kind, *fields: str) -> Needs:
    """The pieces of one kind that the command's fields name."""

    def named(command: commands.Command, _: Loaded, __: str) -> Iterator[Ref]:
        for field in fields:
            yield Ref(kind, getattr(command, field))

    return named


def bid(command: commands.PlaceBid, view: Loaded, cell: str) -> Iterator[Ref]:
    yield Ref(ACCOUNT, command.bidder_id)
    if command.auction_cell == cell:
        yield from auction_and_leader(command.auction_id, view, cell)


def paid_outside(command: commands.Deposit | commands.Withdraw, view: Loaded, _: str) -> Iterator[Ref]:
    kind = "deposit" if isinstance(command, commands.Deposit) else "withdrawal"
    ref = Ref(ACCOUNT, command.user_id)
    yield ref
    yield reference_ref(kind, command.external_reference)
    account = view.account(command.user_id) if view.has(ref) else None
    if account is not None and account.earlier_homes:
        yield reference_ref(carried_kind(kind, command.user_id), command.external_reference)


def transfer(command: commands.Transfer, _: Loaded, __: str) -> Iterator[Ref]:
    yield Ref(ACCOUNT, command.from_user_id)
    if command.to_cell is None:
        yield Ref(ACCOUNT, command.to_user_id)


def asset_and_its_auction(command: commands.CreateAuction, view: Loaded, _: str) -> Iterator[Ref]:
    ref = Ref(Kind.ASSET, command.asset_id)
    yield ref
    asset = view.asset(command.asset_id) if view.has(ref) else None
    if asset is not None and asset.locked_by is not None:
        yield Ref(AUCTION, asset.locked_by)


def whole_auction(command: commands.CloseAuction | commands.CancelAuction, view: Loaded, cell: str) -> Iterator[Ref]:
    ref = Ref(AUCTION, command.auction_id)
    auction = view.auction(command.auction_id) if view.has(ref) else None
    if auction is not None:
        yield Ref(Kind.ASSET, auction.asset_id)
    yield from auction_and_leader(command.auction_id, view, cell)


def auction_and_leader(auction_id: UUID, view: Loaded, cell: str) -> Iterator[Ref]:
    ref = Ref(AUCTION, auction_id)
    yield ref
    auction = view.auction(auction_id) if view.has(ref) else None
    if auction is not None and auction.highest_bid is not None and auction.highest_bid.bidder_cell == cell:
        yield Ref(ACCOUNT, auction.highest_bid.bidder_id)


def leg(command: LegCommand, view: Loaded, cell: str) -> Iterator[Ref]:
    yield from barrier_needs(command, cell)
    effect = EFFECTS[type(command.action)]
    yield effect.ref(command.action)
    if effect.needs is not None:
        yield from effect.needs(command.action, view, cell)
    if command.orchestrator != cell:
        if effect.counterpart is not None:
            yield from barrier_needs(effect.counterpart(command), cell)
        return
    yield from _saga(command.leg_id.saga_id, view)
    # Another home may have taken the leg for its user before the user moved here.
    user_id = getattr(command.action, "user_id", None)
    if user_id is not None and view.has(Ref(ACCOUNT, user_id)) and has_moved(command, view):
        yield Ref(Kind.LEG, carried_id(command))


def progress(command: commands.SagaProgress, view: Loaded, _: str) -> Iterator[Ref]:
    return _saga(command.leg_id.saga_id, view)


def _saga(saga_id: UUID, view: Loaded) -> Iterator[Ref]:
    """The saga, and the state that its end reads or changes."""
    ref = Ref(Kind.SAGA, saga_id)
    yield ref
    saga = view.saga(saga_id) if view.has(ref) else None
    if saga is not None:
        for kind, fact in SAGAS[type(saga.facts)].needs:
            yield Ref(kind, getattr(saga.facts, fact))


USER, SAGA, NOTHING = pieces(ACCOUNT, "user_id"), pieces(Kind.SAGA, "saga_id"), pieces(Kind.AUDIT)
