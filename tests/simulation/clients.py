"""Clients of the simulation: they retry until they are answered, and record their answers."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from cells.domain import commands
from cells.domain.moves.commands import BeginMove
from cells.domain.record import replace
from cells.domain.refusals import Refused, WrongCell
from cells.domain.values import Money
from cells.requests import CommandRequest, CommandState, Outcome
from cells.store.outcomes import outcome_of
from router.moves.moves import Began
from router.moves.store import MoveRequest
from server.shell.identity.principal import Principal
from server.shell.rpc import Metadata
from tests.local_cells import request
from tests.simulation.ground import must
from tests.simulation.network import NO_CLOCK, Unanswered

if TYPE_CHECKING:
    from tests.simulation.nodes import CellNode
    from tests.simulation.world import World

PRINCIPAL = "service/clients"


@dataclass(slots=True)
class Paper:
    """The sums of the answers, added up independently."""

    available: dict[UUID, int] = field(default_factory=lambda: defaultdict(int))
    reserved: dict[UUID, int] = field(default_factory=lambda: defaultdict(int))
    outside: int = 0
    # The accepted ones.
    bids: set[UUID] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Sent:
    """A command with its definite answer. `cell` is empty if the router finds it by the user."""

    command_id: UUID
    command: commands.Command | MoveRequest
    user_id: UUID
    cell: str
    answer: Outcome | Began | Refused


@dataclass(frozen=True, slots=True)
class OpenAuction:
    auction_id: UUID
    cell: str
    opening: int
    ends_ms: int


class Clients:
    """One process, outside all cells, that suffers no faults."""

    name = place = "clients"

    def __init__(self, world: "World") -> None:
        self._world = world
        self.process = world.loop.process(self.name)
        self.paper = Paper()
        self.homes: dict[UUID, str] = {}
        # As registered.
        self.residencies: dict[UUID, str] = {}
        self.auctions: list[OpenAuction] = []
        self.opened = 0
        self.moved = 0
        # All definite answers, in order.
        self.sent: list[Sent] = []

    def admit(self, metadata: Metadata, caller: Principal) -> None:
        """Clients have no such clock."""

    def outgoing(self) -> Metadata:
        return NO_CLOCK

    # --- asking -----------------------------------------------------------------------------------------------------

    async def ask(self, cell: str, command: commands.Command, user_id: UUID) -> Outcome | Refused:
        """The definite answer, requested under one id as often as needed."""
        command_id = self._world.new_id()
        # The router would find the cell by the user, but that of an asset or an auction by its name.
        by_user = self.homes[user_id] == cell and not isinstance(
            command, commands.CreateAuction | commands.CloseAuction | commands.CancelAuction
        )
        answer = await self.answer(cell, command, user_id, command_id)
        # Given up at a payee who lives elsewhere, it may be done later, and would stand on no paper.
        if not isinstance(answer, WrongCell):
            self.sent.append(Sent(command_id, command, user_id, "" if by_user else cell, answer))
        return answer

    async def answer(
        self, cell: str, command: commands.Command, user_id: UUID, command_id: UUID, principal: str = PRINCIPAL
    ) -> Outcome | Refused:
        world, chance = self._world, self._world.chance
        what = type(command).__name__
        while True:
            patience_s = chance.choice([0.3, 2.0, 6.0])

            async def execute(node: "CellNode", patience_s: float = patience_s) -> Outcome:
                now_s = world.loop.time()
                return await node.cell.execute(
                    self.request(command_id, command, user_id, now_s + patience_s, principal)
                )

            try:
                answer: Outcome = await world.network.call(self, cell, what, execute, timeout_s=patience_s)
            except Unanswered as error:
                world.tell("{} {} is not answered: {}", what, str(command_id)[-6:], error)
            except Refused as refused:
                world.tell("{} {} is refused: {}", what, str(command_id)[-6:], refused.reason)
                if isinstance(refused, WrongCell):
                    if refused.facts["resource"] != f"user {user_id}":
                        # The payee lives elsewhere: a hold can be captured only for users of the same cell.
                        return refused
                    cell = self._sent_after(user_id, refused)
                if refused.final:
                    self._check_kept(cell, command_id, refused, principal)
                    return refused
            else:
                world.tell("{} {} is done: {}", what, str(command_id)[-6:], answer.result)
                self._check_kept(cell, command_id, answer, principal)
                return answer
            await world.nap(chance.uniform(0.05, 1.0))

    def _sent_after(self, user_id: UUID, refused: WrongCell) -> str:
        """The cell to ask next; now and then a client ignores the redirect."""
        moved_to = str(refused.facts["cell"])
        if self._world.chance.random() < 0.8:
            self.homes[user_id] = moved_to
        return moved_to

    def _check_kept(self, cell: str, command_id: UUID, answer: Outcome | Refused, principal: str) -> None:
        """An answer is durable, and stays the same forever."""
        if isinstance(answer, Refused) and (answer.stable or not answer.stored):
            return
        row = self._world.databases[cell].kept_outcomes.get(command_id, {}).get(principal)
        kept = outcome_of(row, cell) if row else None
        if isinstance(answer, Refused):
            refused = kept.refusal.reason if kept and kept.refusal else None
            must(refused == answer.reason, "a refusal was not kept", answer.reason, kept)
        else:
            accepted = kept.result if kept and kept.state is CommandState.ACCEPTED else None
            must(accepted == answer.result, "an answer was not kept", answer.result, kept)

    # --- people -----------------------------------------------------------------------------------------------------

    async def join(self, residency: str) -> UUID:
        """Registers with the router, and deposits some money."""
        world = self._world
        user_id = world.new_id()
        self.residencies[user_id] = residency
        while user_id not in self.homes:
            try:
                self.homes[user_id] = await world.network.call(
                    self, "router", "register", lambda router: router.register(user_id, residency), timeout_s=5.0
                )
            except (Refused, Unanswered) as error:
                world.tell("registration is not answered: {}", error)
                await world.nap(world.chance.uniform(0.05, 1.0))
        for _ in range(world.chance.randint(1, 2)):
            await self.deposit(user_id)
        return user_id

    async def deposit(self, user_id: UUID) -> None:
        amount = self._world.chance.randint(100, 800)
        command = commands.Deposit(user_id=user_id, amount=usd(amount), external_reference=str(self._world.new_id()))
        if isinstance(await self.ask(self.homes[user_id], command, user_id), Outcome):
            self.paper.available[user_id] += amount
            self.paper.outside += amount

    async def sell(self, residency: str) -> None:
        """Opens an auction in any cell, and lets it end in one way or another."""
        world, chance = self._world, self._world.chance
        seller, cell = await self.join(residency), chance.choice(world.cells)
        registering = commands.RegisterAsset(owner_id=seller, owner_cell=self.homes[seller], description="a lamp")
        registered = await self.ask(cell, registering, seller)
        if isinstance(registered, Refused):
            return
        opening = chance.randint(1, 60)
        command = commands.CreateAuction(
            asset_id=registered.result.asset_id,
            seller_id=seller,
            opening=usd(opening),
            increment_minor=chance.randint(1, 10),
            end_time_ms=world.wall_ms() + chance.randint(1_000, 4_000),
            extension_ms=chance.choice([0, 500]),
            settlement_timeout_ms=chance.choice([None, 300, 1_000, 3_000, 8_000]),
        )
        created = await self.ask(cell, command, seller)
        if isinstance(created, Refused):
            return
        auction = OpenAuction(created.result.auction_id, cell, opening, command.end_time_ms)
        self.auctions.append(auction)
        self.opened += 1
        await world.nap(chance.uniform(0.5, 3))
        self.auctions.remove(auction)
        way = chance.random()
        if way < 0.4:
            await self.ask(cell, commands.CloseAuction(auction_id=auction.auction_id, by_command=True), seller)
        elif way < 0.5:
            await self.ask(cell, commands.CancelAuction(auction_id=auction.auction_id), seller)

    async def bid(self, residency: str) -> None:
        world, chance = self._world, self._world.chance
        bidder = await self.join(residency)
        for _ in range(chance.randint(10, 20)):
            await world.nap(chance.uniform(0.05, 0.4))
            # Now and then a bid goes to one that has just ended.
            auctions = [auction for auction in self.auctions if auction.ends_ms > world.wall_ms() - 300]
            if not auctions:
                continue
            auction = chance.choice(auctions)
            amount = auction.opening + chance.randint(-5, 40) + int(15 * world.loop.time())
            more = chance.choice([None, None, 10, 60])
            command = commands.PlaceBid(
                auction_id=auction.auction_id,
                auction_cell=auction.cell,
                bidder_id=bidder,
                amount=usd(max(1, amount)),
                maximum=None if more is None else usd(max(1, amount) + more),
            )
            answer = await self.ask(self.homes[bidder], command, bidder)
            if isinstance(answer, Outcome):
                self.paper.bids.add(answer.result.bid_id)

    async def move(self) -> None:
        """Moves users, whatever they are doing; now and then two callers move the same one at once."""
        world, chance = self._world, self._world.chance
        for _ in range(chance.randint(3, 8)):
            await world.nap(chance.uniform(0.1, 1.0))
            if self.homes:
                user_id = chance.choice(list(self.homes))
                cell = chance.choice(world.cells)
                if chance.random() < 0.3:
                    # An operator who calls the user's home, not the router.
                    wish = BeginMove(user_id=user_id, to_cell=cell, region=None)
                    self.moved += isinstance(await self.ask(self.homes[user_id], wish, user_id), Outcome)
                    continue
                asked = MoveRequest(user_id, cell, chance.choice(["", cell]), "operator/clients", world.new_id())
                answer = await self.ask_router(asked)
                self.sent.append(Sent(asked.command_id, asked, user_id, "router", answer))
                self.moved += isinstance(answer, Began)

    async def ask_router(self, asked: MoveRequest) -> Began | Refused:
        """The definite answer to a move, requested under one id as often as needed."""
        world, what = self._world, f"move to {asked.to_cell}"
        while True:
            try:
                began: Began = await world.network.call(
                    self, "router", what, lambda router: router.move(asked, 6.0), timeout_s=6.0
                )
            except Unanswered as error:
                world.tell("{} {} is not answered: {}", what, str(asked.command_id)[-6:], error)
            except Refused as refused:
                world.tell("{} {} is refused: {}", what, str(asked.command_id)[-6:], refused.reason)
                if refused.final:
                    return refused
            else:
                if began.done:
                    world.tell("{} {} is done: {}", what, str(asked.command_id)[-6:], began)
                    return began
            await world.nap(world.chance.uniform(0.05, 1.0))

    async def pay(self, residency: str) -> None:
        """Moves money within the home cell."""
        user_id, chance = await self.join(residency), self._world.chance
        for _ in range(chance.randint(2, 6)):
            await self._world.nap(chance.uniform(0.1, 1.5))
            await chance.choice([self._transfer, self._withdraw, self._hold, self.deposit])(user_id)

    async def _transfer(self, user_id: UUID) -> None:
        """To a user of the same cell or, as often, of another one."""
        home, amount = self.homes[user_id], self._world.chance.randint(1, 300)
        payee = self._world.chance.choice([self._neighbour(user_id), *self.homes])
        command = commands.Transfer(from_user_id=user_id, to_user_id=payee, amount=usd(amount))
        if isinstance(await self.ask(home, command, user_id), Outcome):
            self.paper.available[user_id] -= amount
            self.paper.available[payee] += amount

    async def _withdraw(self, user_id: UUID) -> None:
        amount = self._world.chance.randint(1, 300)
        command = commands.Withdraw(user_id=user_id, amount=usd(amount), external_reference=str(self._world.new_id()))
        if isinstance(await self.ask(self.homes[user_id], command, user_id), Outcome):
            self.paper.available[user_id] -= amount
            self.paper.outside -= amount

    async def _hold(self, user_id: UUID) -> None:
        world, home, amount = self._world, self.homes[user_id], self._world.chance.randint(1, 200)
        expires_ms = world.chance.choice([None, None, world.wall_ms() + 2_000])
        reserved = await self.ask(
            home, commands.Reserve(user_id=user_id, amount=usd(amount), expire_time_ms=expires_ms), user_id
        )
        if isinstance(reserved, Refused):
            return
        hold_id, payee = reserved.result.hold_id, self._neighbour(user_id)
        way, part = world.chance.random(), world.chance.randint(1, amount)
        if way < 0.4:
            capture = commands.Capture(user_id=user_id, hold_id=hold_id, to_user_id=payee, amount_minor=part)
            if isinstance(await self.ask(home, capture, user_id), Outcome):
                self.paper.available[user_id] -= part
                self.paper.available[payee] += part
                return
        elif way < 0.7 and isinstance(
            await self.ask(home, commands.Release(user_id=user_id, hold_id=hold_id), user_id), Outcome
        ):
            return
        if expires_ms is None:
            self.paper.available[user_id] -= amount
            self.paper.reserved[user_id] += amount

    def request(
        self, command_id: UUID, command: commands.Command, user_id: UUID, deadline_s: float, principal: str = PRINCIPAL
    ) -> CommandRequest:
        asked = request(command, command_id=command_id, deadline_s=deadline_s)
        return replace(asked, principal=principal, user_id=user_id)

    def _neighbour(self, user_id: UUID) -> UUID:
        """A user of the same cell, or the user itself if there is no other."""
        home = self.homes[user_id]
        return self._world.chance.choice([other for other, cell in self.homes.items() if cell == home])


def usd(amount: int) -> Money:
    return Money("USD", amount)
