"""A hostile cell: it has a certificate and claims anything about anybody, to honest cells and to the router.

It knows everything: the ids of users, auctions, bids, holds and sagas, and their amounts. Its calls should be refused;
those that succeed are recorded in books of its own. Only its bids are taken, in anybody's name. To the legs that follow
from them it answers anything, or nothing, until the faults end.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from cells.domain import commands
from cells.domain.account.account import Account, Hold
from cells.domain.account.balance import Balance
from cells.domain.account.barrier import LegCommand, command_id
from cells.domain.auction.auction import Auction
from cells.domain.moves.commands import ArriveUser
from cells.domain.moves.home import Home
from cells.domain.record import replace
from cells.domain.refusals import BidExpired, Refused, WrongCell
from cells.domain.sagas.leg import LegMark, LegResult
from cells.domain.sagas.saga import Saga
from cells.domain.sagas.saga_events import SettlementFacts
from cells.domain.time.hlc import Stamp
from cells.domain.values import Kind, LegId, Money
from cells.moves.user_bundle import UserBundle
from cells.requests import CommandRequest, Lane, Outcome
from server.process.clock import STAMP_KEY, VECTOR_KEY
from server.shell.identity.principal import Principal
from server.shell.rpc import Metadata
from tests.local_cells import request
from tests.simulation.ground import HOSTILE, must
from tests.simulation.network import Unanswered

if TYPE_CHECKING:
    from cells.store.ports import EventRow
    from tests.simulation.nodes import CellNode
    from tests.simulation.world import World

T = TypeVar("T")
TIMEOUT_S = 2.0
AMOUNTS = (1, 5, 50)
# The events that its legs may cause in other cells: payments by it, notices, bids, and events without an effect.
TAKEN = frozenset(
    {
        "PENDING_CREDITED",
        "PENDING_REVERSED",
        "PENDING_SETTLED",
        "REMOTE_TRANSFER_RECEIVED",
        "PARTY_NOTIFIED",
        "LEG_TOMBSTONED",
        "FUNDS_RELEASED",
        "BID_PLACED",
        "BID_RAISED",
        "SAGA_STARTED",
    }
)
NAMES: dict[type[commands.LegAction], str] = {
    commands.PinHold: "pin",
    commands.SendToEscrow: "escrow-out",
    commands.ReceiveEscrow: "escrow-in",
    commands.PayOutEscrow: "credit-out",
    commands.CreditPending: "credit-in",
    commands.TransferOwnership: "ownership",
    commands.SettlePending: "settle",
    commands.NotifyParty: "notify-winner",
    commands.ReserveForBid: "reserve",
    commands.ReleaseBid: "release",
    commands.SubmitBid: "submit",
    commands.SendTransfer: "send",
    commands.ReceiveTransfer: "receive",
    ArriveUser: "arrive",
}


@dataclass(slots=True)
class HostileBooks:
    """Records the effects of a hostile cell: nobody may lose by it, and it alone pays for what others gain."""

    events: set[UUID] = field(default_factory=set)
    # The events that it claims to have, as effects of legs.
    claimed: set[UUID] = field(default_factory=set)
    # (user, bucket) -> minor units that users gained through it.
    gifts: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))

    def written(self, cell: str, row: "EventRow", payload: dict[str, Any]) -> None:
        """Raises Broken."""
        self.events.add(row.event_id)
        must(row.event_type in TAKEN, "a hostile cell has done what is not its own", cell, row.event_type, payload)
        if row.event_type == "FUNDS_RELEASED":
            # Of the bid that its own one outbids, in the same commit; any other call of it frees nothing.
            outbid = row.causation_id in self.events
            must(outbid or payload["amount_minor"] == "0", "a hostile cell has freed the money of a bid", cell, payload)
            return
        for line in payload.get("postings", ()):
            account, amount = line["account"], int(line["amount_minor"])
            must(account in {f"clearing/{HOSTILE}", "fees"} or account.startswith("users/"), "not its own", account)
            if account.startswith("users/"):
                _, user_id, bucket = account.split("/")
                self.gifts[user_id, bucket] += amount
                left = self.gifts[user_id, bucket]
                must(left >= 0, "a hostile cell has moved money that is not its own", cell, row.event_type, account)


class HostileCell:
    """It calls everybody, and answers about its bids alone."""

    name = place = HOSTILE

    def __init__(self, world: "World") -> None:
        self._world = world
        # Its own source: the others' draws do not depend on whether it exists.
        self._chance = random.Random(f"{world.seed}/hostile")
        self.process = world.clients.process
        self._sagas = [UUID(int=self._chance.getrandbits(128), version=4) for _ in range(3)]

    def admit(self, metadata: Metadata, caller: Principal) -> None:
        """It ignores others' clocks."""

    def outgoing(self) -> Metadata:
        """A valid stamp, and a vector clock with positions of others that do not exist."""
        chance = self._chance
        lies = {cell: chance.choice([2**62, 10_000]) for cell in self._world.cells if chance.random() < 0.15}
        vector = ",".join(f"{cell}={position}" for cell, position in sorted({**lies, HOSTILE: 7}.items()))
        return ((STAMP_KEY, str(Stamp(self._world.wall_ms(), 0).pack())), (VECTOR_KEY, vector))

    async def attack(self) -> None:
        chance = self._chance
        for _ in range(chance.randint(20, 60)):
            await self._world.nap(chance.expovariate(10))
            way = chance.choices([self._leg, self._bid, self._bundle, self._home], weights=[8, 2, 1, 1])[0]
            try:
                await way(chance.choice(self._world.cells))
            except (Refused, Unanswered) as error:
                self._world.tell("{} is told {}", self.name, error)

    # --- its requests -------------------------------------------------------------------------------------------------

    async def _leg(self, target: str) -> None:
        saga_id = self._any([*self._sagas, *self._sagas, *self._world.books.sagas]) or self._sagas[0]
        sale = self._sale() if self._chance.random() < 0.5 else None
        if sale is None:
            action = self._action(target)
        else:
            # As the sale's own saga would request it, and earlier, if possible.
            target, saga_id, action = sale[0], self._chance.choice([sale[1], saga_id]), sale[2]
        if action is not None:
            await self._request(target, saga_id, action)

    async def _bid(self, target: str) -> None:
        if (bid := self._of_bidding(target)) is not None:
            await self._request(target, self._id(), bid)

    async def _request(self, target: str, saga_id: UUID, action: commands.LegAction) -> None:
        leg_id = LegId(saga_id, NAMES[type(action)], 1)
        undo = self._chance.random() < 0.3
        kind: type[LegCommand] = commands.CompensateLeg if undo else commands.ApplyLeg
        command: LegCommand = kind(leg_id=leg_id, action=action, orchestrator=HOSTILE)
        asked = replace(
            request(command, command_id=command_id(command, target), fingerprint=b"", lane=Lane.URGENT, size_bytes=0),
            principal=f"peer/{HOSTILE}",
            correlation_id=leg_id.saga_id,
            user_id=getattr(action, "user_id", None),
        )

        async def take(node: "CellNode") -> Outcome:
            return await node.cell.execute(asked)

        what = f"hostile {kind.__name__} {leg_id.leg}"
        await self._world.network.call(self, target, what, take, timeout_s=TIMEOUT_S)

    async def _bundle(self, target: str) -> None:
        user_id = self._user()

        async def stage(node: "CellNode") -> None:
            await node.cell.user_import.receive(UserBundle(saga_id=self._sagas[0], user_id=user_id), peer=HOSTILE)
            must(False, "a hostile cell has brought a user's history", user_id)  # noqa: FBT003

        await self._world.network.call(self, target, "hostile bundle", stage, timeout_s=TIMEOUT_S)

    async def _home(self, target: str) -> None:
        user_id, home = self._user(), Home(self._chance.choice([target, HOSTILE]), self._chance.choice([2, 3, 2**62]))
        await self._world.network.call(
            self,
            "router",
            "a hostile home",
            lambda router: router.told(user_id, home, None, by=HOSTILE),
            timeout_s=TIMEOUT_S,
        )

    # --- its answers --------------------------------------------------------------------------------------------------

    @property
    def cell(self) -> "HostileCell":
        return self

    async def execute(self, asked: CommandRequest) -> Outcome:
        """The answer to a leg of a settlement that it has won, or of a release. Once the faults end, it is done."""
        world, chance = self._world, self._chance
        result = LegResult.APPLIED if isinstance(asked.command, commands.ApplyLeg) else LegResult.UNDONE
        if world.weather.mischief:
            match chance.choice(["silence", "lie", "moved", "refusal", "done", "done"]):
                case "silence":
                    await world.nap(TIMEOUT_S * 10)
                case "lie":
                    result = chance.choice(list(LegResult))
                case "moved":
                    raise WrongCell(
                        resource=f"user {asked.user_id}", cell=chance.choice(world.cells), here=HOSTILE, epoch=2
                    )
                case "refusal":
                    raise BidExpired(valid_until_ms=0, now_ms=world.wall_ms())
                case _:
                    pass
        event_id = self._id()
        world.books.hostile.claimed.add(event_id)
        return Outcome(
            command_id=asked.command_id,
            principal=asked.principal,
            result=LegMark(result, event_id),
            cell=HOSTILE,
            position=7,
            hlc=Stamp(world.wall_ms(), 0),
            replayed=False,
        )

    # --- their content ------------------------------------------------------------------------------------------------

    def _action(self, target: str) -> commands.LegAction | None:
        makers: list[Callable[[str], commands.LegAction | None]] = [
            self._of_hold,
            self._of_hold,
            self._of_auction,
            self._of_money,
        ]
        return self._chance.choice(makers)(target)

    def _sale(self) -> tuple[str, UUID, commands.LegAction] | None:
        """A leg of a settlement that an honest cell drives: its cell, and the same content as the real one."""
        sagas = [
            (ref.id, state.facts)
            for cell in self._world.cells
            for ref, state in self._states(cell).items()
            if isinstance(state, Saga) and isinstance(state.facts, SettlementFacts)
        ]
        found = self._any(sagas)
        if found is None:
            return None
        saga_id, facts = found
        amount = Money(facts.currency, facts.amount_minor)
        sale: dict[str, Any] = {"user_id": facts.seller_id, "auction_id": facts.auction_id, "amount": amount}
        bid: dict[str, Any] = {"user_id": facts.winner_id, "auction_id": facts.auction_id, "bid_id": facts.bid_id}
        actions: list[tuple[str, commands.LegAction]] = [
            (facts.seller_cell, commands.CreditPending(**sale, from_cell=HOSTILE, clearing_id=self._id())),
            (facts.seller_cell, commands.SettlePending(**sale, fee_minor=facts.amount_minor)),
            (facts.winner_cell, commands.PinHold(**bid, amount=amount)),
            (facts.winner_cell, commands.SendToEscrow(**bid, amount=amount, to_cell=HOSTILE, clearing_id=self._id())),
        ]
        target, action = self._chance.choice(actions)
        return target, saga_id, action

    def _of_hold(self, target: str) -> commands.LegAction | None:
        """For an existing bid of another user."""
        found = self._any(list(_holds(self._states(target))))
        if found is None:
            return None
        user_id, auction_id, hold = found
        bid_id, amount_minor = self._chance.choice(sorted(hold.bids_minor.items()))
        bid: dict[str, Any] = {"user_id": user_id, "auction_id": auction_id, "bid_id": bid_id}
        amount = Money(hold.currency, amount_minor)
        actions: list[commands.LegAction] = [
            commands.PinHold(**bid, amount=amount),
            commands.ReleaseBid(**bid, currency=hold.currency),
            commands.SendToEscrow(**bid, amount=amount, to_cell=self._cell(), clearing_id=self._id()),
            commands.ReserveForBid(**bid, amount=amount),
        ]
        return self._chance.choice(actions)

    def _of_bidding(self, target: str) -> commands.SubmitBid | None:
        """A bid that leads or nearly does, often in the name of the leader and under an id that is in use."""
        chance = self._chance
        found = self._any(
            [(ref.id, state) for ref, state in self._states(target).items() if isinstance(state, Auction)]
        )
        if found is None:
            return None
        auction_id, auction = found
        leading = auction.highest_bid
        prices = [auction.opening_minor] if leading is None else [leading.amount_minor, leading.limit_minor]
        amount_minor = max(1, chance.choice(prices) + chance.choice([-1, 0, 1, 10, 50]))
        bidders = [self._user(), self._sagas[0], *([leading.bidder_id] if leading is not None else [])]
        bids = [self._id(), *sorted(self._world.books.bids), *([leading.bid_id] if leading is not None else [])]
        more = chance.choice([None, None, 1, 50])
        return commands.SubmitBid(
            auction_id=auction_id,
            bid_id=chance.choice([bids[0], bids[-1], chance.choice(bids)]),
            bidder_id=chance.choice(bidders),
            bidder_cell=self._cell(),
            amount=Money(auction.currency, amount_minor),
            valid_until_ms=self._world.wall_ms() + chance.choice([-1, 10_000, 2**40]),
            maximum=None if more is None else Money(auction.currency, amount_minor + more),
        )

    def _of_auction(self, target: str) -> commands.LegAction | None:
        found = self._any(
            [(ref.id, state) for ref, state in self._states(target).items() if isinstance(state, Auction)]
        )
        if found is None:
            return None
        auction_id, auction = found
        money: dict[str, Any] = {
            "auction_id": auction_id,
            "amount": self._amount(auction.highest_bid.amount_minor if auction.highest_bid else 1),
            "clearing_id": self._id(),
        }
        given = commands.TransferOwnership(
            asset_id=auction.asset_id,
            auction_id=auction_id,
            from_user_id=auction.seller_id,
            to_user_id=self._user(),
            to_cell=self._cell(),
        )
        actions: list[commands.LegAction] = [
            commands.ReceiveEscrow(**money, from_cell=self._cell()),
            commands.PayOutEscrow(**money, to_cell=self._cell()),
            given,
        ]
        return self._chance.choice(actions)

    def _of_money(self, _target: str) -> commands.LegAction:
        """Often in its own name: then it credits, settles and takes back amounts that others were credited as well."""
        user_id, amount, auction_id = self._user(), self._amount(), self._any(self._auctions()) or self._sagas[0]
        sale: dict[str, Any] = {"user_id": user_id, "auction_id": auction_id, "amount": amount}
        actions: list[commands.LegAction] = [
            commands.CreditPending(**sale, from_cell=self._cell(), clearing_id=self._id()),
            commands.SettlePending(**sale, fee_minor=self._chance.choice([0, amount.amount_minor])),
            commands.NotifyParty(
                user_id=user_id,
                auction=f"cells/{self._cell()}/auctions/{auction_id}",
                amount=amount,
                notice="AUCTION_WON",
            ),
            commands.SendTransfer(
                user_id=user_id,
                to_user_id=self._user(),
                amount=amount,
                to_cell=self._cell(),
                clearing_id=self._id(),
            ),
            commands.ReceiveTransfer(
                user_id=user_id,
                from_user_id=self._user(),
                amount=amount,
                from_cell=self._cell(),
                clearing_id=self._id(),
                valid_until_ms=2**40,
            ),
            ArriveUser(
                user_id=user_id,
                from_cell=self._cell(),
                epoch=self._chance.choice([1, 2, 3, 2**50]),
                balances={"USD": Balance(available_minor=5)},
            ),
        ]
        return self._chance.choice(actions)

    def _states(self, cell: str) -> dict[Any, Any]:
        return self._world.books.cells[cell].states

    def _auctions(self) -> list[UUID]:
        return [ref.id for cell in self._world.cells for ref in self._states(cell) if ref.kind is Kind.AUCTION]

    def _user(self) -> UUID:
        return self._any(list(self._world.clients.homes)) or self._sagas[0]

    def _cell(self) -> str:
        return self._chance.choice([HOSTILE, HOSTILE, HOSTILE, *self._world.cells])

    def _amount(self, most: int = 50) -> Money:
        return Money("USD", self._chance.choice([*AMOUNTS, most]))

    def _id(self) -> UUID:
        return UUID(int=self._chance.getrandbits(128), version=4)

    def _any(self, of: Sequence[T]) -> T | None:
        return self._chance.choice(of) if of else None


def _holds(states: dict[Any, Any]) -> Iterator[tuple[UUID, UUID, Hold]]:
    for ref, state in states.items():
        if isinstance(state, Account):
            yield from ((ref.id, hold_id, hold) for hold_id, hold in state.holds.items() if hold.bids_minor)
