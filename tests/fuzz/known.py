"""What answers have told, and which of it belongs together: by chance alone a hold hardly ever meets its owner."""

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any, TypeVar

from google.protobuf.message import Message

from cellbook.v1 import (
    auction_pb2,
    audit_pb2,
    contact_pb2,
    ledger_pb2,
    move_pb2,
    router_pb2,
    saga_pb2,
    settlement_pb2,
    types_pb2,
)
from router.routing.routes import ROUTES, is_for_cells, routing_target_of
from tests.fuzz.foreign import checkpoint, foreign_leg, settle_of
from tests.fuzz.messages import CELLS, STRANGER, Maker, Pool

T = TypeVar("T")
ROUTER = "router"
KEPT_MAX = 100
HOMES_MAX = 5_000
PEER = f"peer/{STRANGER}"


@dataclass(slots=True, kw_only=True)
class Plan:
    """A call that is being made up. `cell` is which one the router is told to pass it on to; empty: it is not told."""

    path: str
    principal: str
    request: Any
    target: str = ROUTER
    cell: str = ""

    @property
    def at(self) -> str:
        """The cell that it goes to; empty where the router finds it."""
        return self.target if self.target in CELLS else self.cell

    def go_to(self, cell: str) -> None:
        """Straight, or by the router where it goes there now."""
        if self.target == ROUTER:
            self.cell = cell
        else:
            self.target = cell


class Last(deque[T]):
    """The last KEPT_MAX of what was added."""

    def __init__(self) -> None:
        super().__init__(maxlen=KEPT_MAX)


@dataclass(slots=True)
class Known:
    rng: random.Random
    pool: Pool
    # User -> home.
    homes: dict[str, str] = field(default_factory=dict)
    # Assets and holds with their owners, auctions with their currencies, sagas with their cells.
    assets: Last[tuple[str, str]] = field(default_factory=Last)
    holds: Last[tuple[str, str]] = field(default_factory=Last)
    auctions: Last[tuple[str, str]] = field(default_factory=Last)
    sagas: Last[tuple[str, str]] = field(default_factory=Last)
    # Those of them that had not ended: orders are for such.
    open_sagas: Last[tuple[str, str]] = field(default_factory=Last)
    # Commands with who has sent them, and the cell that has decided.
    commands: Last[tuple[str, str, str]] = field(default_factory=Last)
    # Of whom something is known.
    persons: Last[str] = field(default_factory=Last)
    # Sizes of checkpoints with the cells that have signed them.
    sizes: Last[tuple[int, str]] = field(default_factory=Last)
    # Legs that were taken of us, with the cells that have.
    legs: Last[tuple[settlement_pb2.Leg, str]] = field(default_factory=Last)
    # Users whose home we are, who may bring to another cell; and those who are on the way to us, with cell and saga.
    ours: Last[str] = field(default_factory=Last)
    coming: Last[tuple[str, str, str]] = field(default_factory=Last)

    def remember(self, plan: Plan, answer: Message) -> None:
        request = plan.request
        match answer:
            case router_pb2.RegisterUserResponse() | router_pb2.ResolveUserResponse() | router_pb2.RecordHomeResponse():
                self._remember_home(answer.home)
            case router_pb2.GetMoveResponse() | router_pb2.MoveUserResponse() if answer.move.to_cell == STRANGER:
                self.coming.append((answer.move.user_id, answer.move.from_cell, answer.move.saga_id))
            case auction_pb2.RegisterAssetResponse():
                self.assets.append((answer.asset, request.owner_user_id))
            case ledger_pb2.ReserveResponse():
                self.holds.append((answer.hold_id, request.user_id))
            case auction_pb2.CreateAuctionResponse():
                self.auctions.append((answer.auction, request.opening_price.currency))
            case saga_pb2.ListSagasResponse() if plan.at:
                self.sagas.extend((saga.saga_id, plan.at) for saga in answer.sagas)
                running = (saga for saga in answer.sagas if saga.state == saga_pb2.SAGA_STATE_RUNNING)
                self.open_sagas.extend((saga.saga_id, plan.at) for saga in running)
            case contact_pb2.SetContactResponse():
                self.persons.append(request.user_id)
            case audit_pb2.GetCheckpointResponse() if plan.at:
                self.sizes.append((answer.size, plan.at))
            case settlement_pb2.ApplyLegResponse() if plan.at:
                self.legs.append((request.leg, plan.at))
            case _:
                pass
        receipt: types_pb2.CommandReceipt | None = getattr(answer, "receipt", None)
        if receipt is not None:
            self.commands.append((receipt.command_id, plan.principal, receipt.token.cell))

    def _remember_home(self, home: router_pb2.Home) -> None:
        if home.cell == STRANGER:
            self.ours.append(home.user_id)
        elif len(self.homes) < HOMES_MAX:
            self.homes[home.user_id] = home.cell

    def fit(self, plan: Plan) -> None:
        """Mostly what is asked for is there, where it is asked for, and the one's who asks."""
        if self.rng.random() < 0.9 and is_for_cells(plan.path):
            self._to_its_cell(plan)
        if self.rng.random() < 0.9:
            self._of_its_owner(plan)
            self._of_its_sender(plan)
            self._of_its_cell(plan)
            self._at_a_border(plan)

    def _to_its_cell(self, plan: Plan) -> None:
        """Where the user of the request is at home, the thing is, or else to any cell."""
        if plan.path not in ROUTES:
            plan.go_to(self.homes.get(getattr(plan.request, "user_id", "")) or self.rng.choice(CELLS))
        elif plan.target != ROUTER:
            target = routing_target_of(plan.path, plan.request)
            cell = (target.cell or self.homes.get(target.user_id)) if target is not None else None
            plan.target = cell if cell in CELLS else plan.target

    def _of_its_owner(self, plan: Plan) -> None:
        """What is sold, captured or released. A user's own request stays one of that user."""
        if plan.principal.startswith("user/"):
            return
        match request := plan.request:
            case auction_pb2.CreateAuctionRequest() if self.assets:
                request.asset, request.seller_user_id = self.rng.choice(self.assets)
            case auction_pb2.PlaceBidRequest() if self.auctions:
                request.auction, request.amount.currency = self.rng.choice(self.auctions)
                request.amount.amount_minor = self.rng.randrange(1, 10**6)
            case ledger_pb2.CaptureRequest() | ledger_pb2.ReleaseRequest() if self.holds:
                request.hold_id, request.user_id = self.rng.choice(self.holds)
            case _:
                pass

    def _of_its_sender(self, plan: Plan) -> None:
        """What became of a command is told to who has sent it; what is known of a person, where there is something."""
        match request := plan.request:
            case ledger_pb2.GetCommandRequest() if self.commands:
                request.command_id, plan.principal, cell = self.rng.choice(self.commands)
                request.principal = self.rng.choice(("", plan.principal))
                plan.go_to(cell)
            case contact_pb2.SetContactRequest() if not plan.principal.startswith("service/"):
                # To answer for an address is for services alone.
                request.email_proven = False
            case contact_pb2.GetContactRequest() | contact_pb2.ConfirmContactRequest() if self.persons:
                if not plan.principal.startswith("user/"):
                    request.user_id = self.rng.choice(self.persons)
                    self._to_its_cell(plan)
            case _:
                pass

    def _of_its_cell(self, plan: Plan) -> None:
        """Sagas and checkpoints, where they are; and legs of our own sagas that a cell takes of another."""
        match request := plan.request:
            case audit_pb2.GetInclusionProofRequest() if self.sizes:
                request.size, cell = self.rng.choice(self.sizes)
                request.position = self.rng.randint(1, max(request.size, 1))
                plan.go_to(cell)
            case audit_pb2.GetConsistencyProofRequest() if self.sizes:
                request.old_size, cell = self.rng.choice(self.sizes)
                request.new_size = 0
                plan.go_to(cell)
            case audit_pb2.CosignRequest() if plan.principal == PEER:
                request.CopyFrom(checkpoint(old_size=self.rng.randrange(2)))
            case saga_pb2.ListSagasRequest() if self.rng.random() < 0.5:
                # Those that orders are for.
                del request.states[:]
                request.states.append(saga_pb2.SAGA_STATE_RUNNING)
            case settlement_pb2.ApplyLegRequest() | settlement_pb2.CompensateLegRequest():
                self._fit_leg(plan)
            case _ if "saga_id" in request.DESCRIPTOR.fields_by_name and self.sagas and self.rng.random() < 0.8:
                open_ones = self.open_sagas if self.rng.random() < 0.7 else ()
                request.saga_id, cell = self.rng.choice(open_ones or self.sagas)
                plan.go_to(cell)
            case _:
                pass

    def _at_a_border(self, plan: Plan) -> None:
        """Cells and users that come new to the cluster, and go from it to us."""
        match request := plan.request:
            case ledger_pb2.OpenAccountRequest() if self.rng.random() < 0.5:
                request.user_id, request.home_epoch = self.pool.new_id(), 1
                plan.target, plan.cell = self.rng.choice(CELLS), ""
            case router_pb2.RegisterCellRequest():
                request.region, request.weight, request.bring_back = "ap", 0, True
            case router_pb2.RecordHomeRequest() if request.cell == STRANGER:
                # Of nobody who has a home elsewhere.
                request.user_id, request.epoch = self.pool.new_id(), 1
            case move_pb2.BringBaggageRequest() if self.ours:
                request.user_id = self.rng.choice(self.ours)
                request.ClearField("events")
                request.ClearField("outcomes")
            case move_pb2.HandOverContactRequest() if self.coming:
                request.user_id, cell, request.saga_id = self.rng.choice(self.coming)
                plan.go_to(cell)
            case _:
                pass

    def _fit_leg(self, plan: Plan) -> None:
        """One of ours anew, or one that was taken before, to be taken again, undone or gone on from."""
        known = self.rng.choice(self.legs) if self.legs and self.rng.random() < 0.5 else None
        if known is None:
            here = [user for user, home in self.homes.items() if home == plan.at]
            plan.request.leg.CopyFrom(foreign_leg(Maker(self.rng, self.pool), here, self.ours))
            return
        leg, cell = known
        onward = self.rng.random() < 0.3 and leg.HasField("credit_pending")
        plan.request.leg.CopyFrom(settle_of(leg) if onward else leg)
        plan.go_to(cell)
