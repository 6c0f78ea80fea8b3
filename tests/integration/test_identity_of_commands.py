"""To know an id is to have no power over what it stands for: ids are their sender's own.

Attacks from outside, over gRPC, by people with a token of their own.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import grpc.aio
import pytest

from cellbook.v1 import auction_pb2, audit_pb2, ledger_pb2
from cellbook.v1.ledger_pb2_grpc import LedgerServiceStub
from cells.domain.commands import ApplyLeg, CompensateLeg, PlaceBid
from cells.domain.refusals import CommandNotFound
from cells.domain.sagas.settlement import SETTLEMENT_LEGS
from cells.domain.values import Money, derived_id
from cells.requests import CommandRequest, Outcome
from cells.sagas import steps
from cells.writer import decider
from router import policies as router_policies
from router.directory.registration import open_command_id
from server.process.policies import POLICIES
from server.shell.calls.guard import CallGuard
from server.shell.calls.statuses import refusal_in
from server.shell.identity.principal import Role
from tests.doubles.store import MemoryStore
from tests.integration.services_rig import (
    AUDITOR,
    BANK,
    HERE,
    OPERATOR,
    PEER,
    ROUTER,
    SHOP,
    Pairs,
    Rig,
    add_services,
    as_user,
    audit_parts,
    new_id,
    refusal_of,
    usd,
)
from tests.local_cells import LocalCell, open_user, request, until

if TYPE_CHECKING:
    from cellbook.v1.ledger_pb2_grpc import LedgerServiceAsyncStub

TIMEOUT_S = 10.0


async def asked(rig: Rig, command_id: str, principal: Pairs, *, of: str = "") -> ledger_pb2.GetCommandResponse | None:
    """What somebody is told; None: that there is no such command."""
    try:
        found: ledger_pb2.GetCommandResponse = await rig.ask(
            "GetCommand", command_id=command_id, principal=of, by=principal
        )
    except grpc.aio.AioRpcError as error:
        refused = refusal_in(error)
        assert isinstance(refused, CommandNotFound)
        assert refused.facts == {"command_id": command_id, "cell": HERE}
        return None
    return found


async def paid(rig: Rig, principal: Pairs, command_id: str = "", amount_minor: int = 5) -> str:
    """Ann pays ben."""
    command_id = command_id or new_id()
    await rig.ask(
        "Transfer",
        command_id=command_id,
        from_user_id=rig.ann,
        to_user_id=rig.ben,
        amount=usd(amount_minor),
        by=principal,
    )
    return command_id


LEGS = {spec.leg for spec in SETTLEMENT_LEGS}
SETTLED, FAILED = auction_pb2.AUCTION_STATE_SETTLED, auction_pb2.AUCTION_STATE_SETTLEMENT_FAILED


pytestmark = pytest.mark.usefixtures("quick_retries")


# --- ids that anybody can work out ------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Ambush:
    """Somebody's command under a leg's id is on its way into the log at the moment when the leg comes."""

    cell: LocalCell
    store: MemoryStore
    ledger: "LedgerServiceAsyncStub"
    payer: UUID
    payee: UUID
    sprung: set[str] = field(default_factory=set)
    over: bool = False

    async def around(self, request: CommandRequest, leg: str, take: Callable[[], Awaitable[Outcome]]) -> Outcome:
        if self.over or leg not in LEGS or leg in self.sprung:
            return await take()
        self.sprung.add(leg)
        self.store.gate.clear()
        call = asyncio.ensure_future(self._pay(request.command_id))
        await until(lambda: self.over or self._in_hand(f"user/{self.payer}"))
        taken = asyncio.ensure_future(take())
        await until(lambda: self.over or taken.done() or self._in_hand(request.principal))
        self.store.gate.set()
        await asyncio.gather(call, return_exceptions=True)
        return await taken

    def _in_hand(self, principal: str) -> set[UUID]:
        requests = [pending.request for pending in self.cell.writer.deciding.values()]
        return {each.command_id for each in requests if each.principal == principal}

    async def _pay(self, command_id: UUID) -> None:
        message = ledger_pb2.TransferRequest(
            command_id=str(command_id), from_user_id=str(self.payer), to_user_id=str(self.payee), amount=usd(1)
        )
        await self.ledger.Transfer(message, metadata=as_user(self.payer), timeout=TIMEOUT_S)


@asynccontextmanager
async def ledger_of(cell: LocalCell, rig: Rig) -> AsyncIterator["LedgerServiceAsyncStub"]:
    """A cell served to people."""
    assert isinstance(cell.store, MemoryStore)
    server = grpc.aio.server(interceptors=[CallGuard(POLICIES)])
    add_services(cell, server, audit_parts(cell, cell.store, rig.peers))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield LedgerServiceStub(channel)
    finally:
        cell.store.gate.set()
        await server.stop(1.0)


@asynccontextmanager
async def ambushed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Ambush]]:
    """Every leg of a settlement that comes to a cell, once."""
    traps: dict[str, Ambush] = {}
    take_leg = LocalCell._take_leg

    async def taken(self: LocalCell, request: CommandRequest, command: ApplyLeg | CompensateLeg) -> Outcome:
        return await traps[self.name].around(request, command.leg_id.leg, lambda: take_leg(self, request, command))

    async with AsyncExitStack() as stack:
        for cell in (rig.cell, rig.there):
            assert isinstance(cell.store, MemoryStore)
            payer, payee = await open_user(cell, 1_000, rig.directory), await open_user(cell, 0, rig.directory)
            ledger = await stack.enter_async_context(ledger_of(cell, rig))
            traps[cell.name] = Ambush(cell=cell, store=cell.store, ledger=ledger, payer=payer, payee=payee)
        monkeypatch.setattr(LocalCell, "_take_leg", taken)
        yield list(traps.values())
        for trap in traps.values():
            trap.over = True
            trap.store.gate.set()


async def sold_under_attack(rig: Rig, monkeypatch: pytest.MonkeyPatch, *, abroad: bool) -> tuple[int, set[str]]:
    """What becomes of a sale whose every leg is ambushed, and which legs were: to carl abroad, or to ben at home."""
    name = await rig.auction()
    auction_id = UUID(name.rpartition("/")[2])
    if abroad:
        bid = PlaceBid(auction_id=auction_id, auction_cell=HERE, bidder_id=rig.carl, amount=Money("USD", 700))
        await rig.there.execute(request(bid))
    else:
        await rig.bid(name, rig.ben, 700)
    async with ambushed(rig, monkeypatch) as traps:
        await rig.ask("CloseAuction", auction=name, by=SHOP)
        async with asyncio.timeout(TIMEOUT_S):
            while (state := await _state(rig, name)) not in {SETTLED, FAILED}:  # noqa: ASYNC110 - as clients see it
                await asyncio.sleep(0.01)
        return state, {leg for trap in traps for leg in trap.sprung}


async def _state(rig: Rig, name: str) -> int:
    return int((await rig.ask("GetAuction", name=name, by=SHOP)).auction.state)


@pytest.mark.parametrize("abroad", [False, True])
async def test_nobody_voids_a_sale_by_its_ids(rig: Rig, monkeypatch: pytest.MonkeyPatch, *, abroad: bool) -> None:
    """All ids of a settlement follow from the auction's, which is public."""
    state, ambushed_at = await sold_under_attack(rig, monkeypatch, abroad=abroad)
    assert ambushed_at == LEGS
    assert state == SETTLED
    assert (await rig.cell.account(rig.ann)).state.balance("USD").available_minor > 100_000


def one_space_of_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was, whoever sends what."""
    monkeypatch.setattr(CommandRequest, "key", property(lambda self: ("", self.command_id)))
    monkeypatch.setattr(decider, "by_key", lambda rows: {("", row.command_id): row for row in rows})


async def test_a_taken_id_is_no_answer_to_a_leg(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were ids one space for all again, the sale would be held up, and no more."""
    one_space_of_ids(monkeypatch)
    assert (await sold_under_attack(rig, monkeypatch, abroad=True))[0] == SETTLED


async def test_with_one_space_of_ids_a_sale_was_void(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the two above are held against: the attack is real."""
    one_space_of_ids(monkeypatch)
    monkeypatch.setattr(steps, "_is_no", lambda error: error.final)
    assert (await sold_under_attack(rig, monkeypatch, abroad=True))[0] == FAILED


async def test_no_user_sits_where_a_settlement_is_to_begin(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams of all kinds share one space of ids, and a settlement's follows from the auction's name.

    Without the rule an account under that id makes an auction that can never be closed.
    """
    name = await rig.auction()
    await rig.bid(name, rig.ben, 700)
    taken = derived_id(UUID(name.rpartition("/")[2]), "settlement")
    opening = ledger_pb2.OpenAccountRequest(command_id=new_id(), user_id=str(taken), home_epoch=1)
    refused = await refusal_of(rig.call(opening, by=OPERATOR))
    assert (refused.reason, refused.facts["field"]) == ("FIELD_INVALID", "user_id")
    monkeypatch.setattr("server.shell.fields.parse.is_derived", lambda _: False)
    await rig.call(opening, by=OPERATOR)
    with pytest.raises(grpc.aio.AioRpcError):
        await rig.ask("CloseAuction", auction=name, by=SHOP)


async def test_nobody_keeps_a_user_from_being_registered(rig: Rig) -> None:
    """The router opens accounts under ids that follow from the user's."""
    user_id = uuid4()
    command_id = str(open_command_id(user_id, 1))
    await rig.ask(
        "Transfer", command_id=command_id, from_user_id=rig.ben, to_user_id=rig.ann, amount=usd(1), by=as_user(rig.ben)
    )
    for replayed in (False, True):
        answer = await rig.ask("OpenAccount", command_id=command_id, user_id=user_id, home_epoch=1, by=ROUTER)
        assert answer.receipt.replayed is replayed


async def test_what_commands_of_one_id_make_are_two_things(rig: Rig) -> None:
    """Holds, assets, bids and flows have ids that follow from the command's: the sender's is in them."""
    command_id = new_id()
    made = []
    for principal in (SHOP, (("cellbook-principal", "service/another"),), as_user(rig.ann)):
        made.append(
            (
                await rig.ask(
                    "RegisterAsset",
                    command_id=command_id,
                    owner_user_id=rig.ann,
                    description=f"a lamp of {principal}",
                    by=principal,
                )
            ).asset
        )
        hold = ledger_pb2.ReserveRequest(command_id=new_id(), user_id=str(rig.ann), amount=usd(5))
        hold.command_id = str(derived_id(UUID(command_id), "hold"))
        made.append((await rig.call(hold, by=principal)).hold_id)
    assert len(set(made)) == 6


# --- what became of somebody else's command ---------------------------------------------------------------------------


async def test_an_id_is_no_right_to_an_answer(rig: Rig) -> None:
    """Its sender is told, the user whose command it was, and whoever reads all; to others there is no such command."""
    by_shop, by_ann = await paid(rig, SHOP), await paid(rig, as_user(rig.ann))
    for command_id in (by_shop, by_ann):
        for principal in (as_user(rig.ann), AUDITOR, OPERATOR):
            told = await asked(rig, command_id, principal)
            assert told is not None
            assert told.result["available_minor"]
        for stranger in (as_user(rig.ben), as_user(rig.carl), BANK, PEER, ROUTER):
            assert await asked(rig, command_id, stranger) is None
    assert await asked(rig, by_shop, SHOP) is not None
    assert await asked(rig, by_ann, SHOP) is None
    assert await asked(rig, by_shop, (("cellbook-principal", "service/another"),)) is None


async def test_nor_while_the_command_is_under_way(rig: Rig) -> None:
    """That it is there at all is told to nobody else."""
    rig.store.gate.clear()
    command_id = new_id()
    call = asyncio.ensure_future(paid(rig, as_user(rig.ann), command_id))
    await until(lambda: rig.cell.writer.under_way(UUID(command_id)))
    for principal in (as_user(rig.ann), AUDITOR):
        told = await asked(rig, command_id, principal)
        assert told is not None
        assert told.state == ledger_pb2.COMMAND_STATE_IN_PROGRESS
    assert await asked(rig, command_id, as_user(rig.ben)) is None
    rig.store.gate.set()
    await call


async def test_of_two_senders_of_one_id_each_is_told_of_its_own(rig: Rig) -> None:
    """Whoever reads all is told whose it is, and may ask for either; a planted one hides nothing."""
    command_id = await paid(rig, (("cellbook-principal", "service/mallory"),))
    await paid(rig, as_user(rig.ann), command_id, 7)
    told = await asked(rig, command_id, as_user(rig.ann))
    assert told is not None
    assert told.principal == f"user/{rig.ann}"
    for sender in ("service/mallory", f"user/{rig.ann}"):
        told = await asked(rig, command_id, AUDITOR, of=sender)
        assert told is not None
        assert told.principal == sender
    assert await asked(rig, command_id, AUDITOR, of="service/shop") is None
    first = await asked(rig, command_id, AUDITOR)
    assert first is not None
    assert first.principal == "service/mallory"


async def test_a_statement_names_no_command_of_somebody_else(rig: Rig) -> None:
    """The payee has the movement, the payer and the amount, and not the id of the payer's command."""
    command_id = await paid(rig, as_user(rig.ann))
    for user_id, named in ((rig.ben, False), (rig.ann, True)):
        message = audit_pb2.GetStatementRequest(user_id=str(user_id))
        mine = await rig.call(message, by=as_user(user_id))
        last = mine.movements[-1]
        assert last.principal == f"user/{rig.ann}"
        assert (last.command_id, last.correlation_id) == ((command_id, command_id) if named else ("", ""))
        assert (command_id in str(mine)) is named
        full = await rig.call(message, by=AUDITOR)
        assert full.movements[-1].command_id == command_id


# What people may ask of others' without being asked for whom, and why. All else is for themselves, or not for people.
FOR_EVERYBODY = {
    "GetAsset": "assets can be looked at by everybody",
    "GetAuction": "auctions as well",
    "ListAuctions": "auctions as well",
    "WatchAuction": "the same, as it changes",
    "GetCommand": "answered command by command: Outcomes",
    "GetCheckpoint": "what is signed is for everybody to keep",
    "GetConsistencyProof": "hashes of it",
    "AddCosignature": "a signature says itself whose it is",
    "ListCells": "where to call",
    "WatchTopology": "where to call",
}


def test_no_rpc_answers_people_by_a_bare_id() -> None:
    """By table, of cells and router: a new one has to be thought about."""
    people = {Role.USER, Role.DELEGATE}
    policies = {**POLICIES, **router_policies.POLICIES}
    bare = {
        path.rpartition("/")[2]
        for path, policy in policies.items()
        if policy.subject_field is None and policy.roles & people
    }
    assert bare == FOR_EVERYBODY.keys()


async def test_a_hold_is_its_owners(rig: Rig) -> None:
    """Whoever has its id can neither take nor free it, in their own name or in the owner's."""
    hold_id = (await rig.ask("Reserve", user_id=rig.ann, amount=usd(50), by=as_user(rig.ann))).hold_id
    for user_id, reason in ((rig.ben, "HOLD_NOT_FOUND"), (rig.ann, "NOT_YOUR_ACCOUNT")):
        ben = as_user(rig.ben)
        assert (
            await refusal_of(rig.ask("Capture", user_id=user_id, hold_id=hold_id, to_user_id=rig.carl, by=ben))
        ).reason == reason
        assert (await refusal_of(rig.ask("Release", user_id=user_id, hold_id=hold_id, by=ben))).reason == reason
