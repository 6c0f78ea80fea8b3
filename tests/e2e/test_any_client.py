"""A cell of two processes serves any client of gRPC: whichever process it asks, it gets the leader's answer."""

import asyncio
import json
import signal
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from cellbook.v1 import (
    auction_pb2,
    audit_pb2,
    event_pb2,
    ledger_pb2,
    operations_pb2,
    settlement_pb2,
)
from cells.domain.commands import CreditPending
from cells.domain.values import Direction, LegId, Money
from cells.store.ports import LegCall
from server.cli.keys.authority import HOSTS, Authority, Settings, make_keys, settings_of
from server.shell.calls.statuses import refusal_in
from server.shell.channels.forwarding import ANSWER_HERE_KEY
from server.shell.channels.options import OWN_CONNECTIONS, SERVICE_CONFIG
from server.shell.identity.callers import ON_BEHALF_KEY
from server.shell.identity.principal import Principal, Role
from server.shell.identity.tls import Certificates, read_certificate
from server.wire.legs import leg_item_to_proto
from tests.e2e.probes import probed
from tests.e2e.toolchains import done, go_built, node_modules
from tests.faults import rig
from tests.faults.rig import BANK, CELL, OPERATOR, SERVICE, Node, database, deposit, open_user, stubs
from tests.integration.services_rig import Over

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

CLIENTS = Path(__file__).parent / "clients"
DEPOSIT = "/cellbook.v1.LedgerService/Deposit"
CALLS = 20
RETRY_MS, SLOW_MAX = 400, 3
# As a client that ignores `healthCheckConfig` and retries nothing: the standby gets every other call.
PLAIN = [
    OWN_CONNECTIONS,
    ("grpc.enable_retries", 0),
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    leader: Node
    standby: Node

    @property
    def addresses(self) -> list[str]:
        return [self.leader.address, self.standby.address]


@asynccontextmanager
async def pair(folder: Path, dsn: str, authority: Authority | None = None) -> AsyncIterator[Pair]:
    """Two processes that keep contacts; with an authority they want proof."""
    vault_key = folder / "vault.key"
    vault_key.write_text("5e" * 32)
    vault_key.chmod(0o600)
    settings: Settings = {"metrics": "127.0.0.1:0", "vault_key_file": str(vault_key)}
    if authority is not None:
        settings |= {**settings_of(authority, CELL), "public_listen": "127.0.0.1:0"}
    async with rig.pair(folder, dsn, known=True, settings=settings) as (leader, standby):
        yield Pair(leader=leader, standby=standby)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plain(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    folder = tmp_path_factory.mktemp("plain")
    async with database(folder) as (_, dsn), pair(folder, dsn) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def proven(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Pair, Authority]]:
    folder = tmp_path_factory.mktemp("proven")
    authority = Authority(folder / "keys")
    make_keys(authority, [CELL, "eu-west"], HOSTS)
    authority.certify("bank", Principal(role=Role.TREASURY, name="bank"))
    authority.certify("shop", Principal(role=Role.SERVICE, name="shop"))
    async with database(folder) as (_, dsn), pair(folder, dsn, authority) as running:
        yield running, authority


def channel_as(authority: Authority, name: str, address: str) -> grpc.aio.Channel:
    """With the certificate `name`; a connection of its own."""
    credentials = Certificates(authority.tls(name)).channel_credentials()
    return grpc.aio.secure_channel(address, credentials, options=[OWN_CONNECTIONS, ("grpc.enable_retries", 0)])


async def reason(call: Any) -> str:  # noqa: ANN401 - a call of any method
    """Why it is refused; empty where nothing is known of it."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    refused = refusal_in(failed.value)
    return refused.reason if refused is not None else ""


async def test_plain_round_robin_over_leader_and_standby(plain: Pair) -> None:
    """Twenty of twenty, without a retry; what is read through the standby is what was written."""
    async with stubs(plain.leader.address) as to:
        user_id = await open_user(to)
    before = await balance(plain.standby.address, user_id)
    async with grpc.aio.insecure_channel(f"ipv4:{','.join(plain.addresses)}", options=PLAIN) as channel:
        for _ in range(CALLS):
            await Over(channel).send(deposit(user_id), by=BANK, timeout_s=10)
    assert await balance(plain.standby.address, user_id) == before + CALLS
    assert await balance(plain.leader.address, user_id) == before + CALLS


async def balance(address: str, user_id: str) -> int:
    async with stubs(address) as to:
        return int((await to.ask("GetBalance", user_id=user_id, by=SERVICE)).balances[0].available_minor)


def requests_for(user_id: str) -> str:
    """Deposits of 0.01, as the clients in `clients` take them."""
    return "\n".join(b64encode(deposit(user_id).SerializeToString()).decode() for _ in range(CALLS))


async def all_accepted(running: Pair, told: Callable[[str], str]) -> None:
    """`told` gives what a client prints that sends the requests: each is accepted, and none waits for a retry."""
    async with stubs(running.leader.address) as to:
        user_id = await open_user(to)
    before = await balance(running.leader.address, user_id)
    lines = [json.loads(line) for line in (await asyncio.to_thread(told, requests_for(user_id))).splitlines()]
    assert [line["code"] for line in lines] == ["OK"] * CALLS, lines
    # The first one connects. Before, half of them took at least half a second: a retry's pause. A machine may stall.
    assert sum(line["ms"] >= RETRY_MS for line in lines) <= SLOW_MAX, lines
    assert await balance(running.leader.address, user_id) == before + CALLS


async def test_node_with_the_published_config(plain: Pair) -> None:
    """@grpc/grpc-js asks for no health and waits for no process: twenty of twenty all the same."""
    folder = await asyncio.to_thread(node_modules, "any_client")
    target = f"ipv4:{','.join(plain.addresses)}"
    command = ("node", CLIENTS / "any_client.js", target, SERVICE_CONFIG, DEPOSIT)
    await all_accepted(
        plain, lambda stdin: done(*command, stdin=stdin, env={"NODE_PATH": str(folder / "node_modules")})
    )


async def test_go_with_the_published_config(plain: Pair, tmp_path: Path) -> None:
    """grpc-go without the import that lets it ask for health."""
    program = await asyncio.to_thread(go_built, CLIENTS / "any_client.go", tmp_path / "any_client")
    await all_accepted(
        plain, lambda stdin: done(program, ",".join(plain.addresses), SERVICE_CONFIG, DEPOSIT, stdin=stdin)
    )


async def test_both_can_serve(plain: Pair) -> None:
    """As a supervisor asks over HTTP: a process that stands by is as ready as the one that leads."""
    for each in (plain.leader, plain.standby):
        for path in ("/livez", "/readyz"):
            assert await probed(each.metrics, path) == (200, "ok")


async def test_each_process_tells_its_own_state(plain: Pair) -> None:
    """A standby is not asked for the leader's: it says that it stands by, and where the log ends."""
    roles, places = [], []
    for address in plain.addresses:
        async with grpc.aio.insecure_channel(address) as channel:
            status = await Over(channel).ask("GetCellStatus", by=OPERATOR)
        roles.append(status.role)
        places.append((status.cell, status.epoch, status.position, status.trouble))
    assert roles == [operations_pb2.PROCESS_ROLE_LEADS, operations_pb2.PROCESS_ROLE_STANDS_BY]
    assert places[0] == places[1]


async def test_a_stream_that_only_the_leader_has(plain: Pair) -> None:
    """An audit, asked of the standby, is the leader's, from the first message to the last."""
    async with grpc.aio.insecure_channel(plain.standby.address) as channel:
        call = Over(channel).send(audit_pb2.ReconcileRequest(), by=OPERATOR, timeout_s=30)
        told = [each async for each in call]
    assert told[-1].HasField("summary")


async def test_legs_that_travel_together(plain: Pair) -> None:
    """Another cell that has met the standby: each leg gets the leader's answer, not its own `NOT_LEADING`."""
    async with stubs(plain.leader.address) as to:
        user_id = UUID(await open_user(to))
    ids = {"auction_id": uuid4(), "clearing_id": uuid4()}
    action = CreditPending(user_id=user_id, amount=Money("USD", 10), from_cell="eu-west", **ids)
    legs = [
        leg_item_to_proto(
            LegCall(
                leg_id=LegId(saga_id, "credit-in", 1),
                action=action,
                orchestrator="eu-west",
                causation_id=uuid4(),
                user_id=user_id,
            ),
            Direction.COMPENSATION,
        )
        for saga_id in (uuid4(), uuid4())
    ]
    async with grpc.aio.insecure_channel(plain.standby.address) as channel:
        answer = await Over(channel).ask("BatchLegs", items=legs, by=(("cellbook-principal", "peer/eu-west"),))
    tombstoned = settlement_pb2.COMPENSATION_RESULT_TOMBSTONED
    assert [result.compensated.result for result in answer.results] == [tombstoned] * 2, answer


async def test_the_log_is_followed_at_the_standby(plain: Pair) -> None:
    """What the leader writes is seen there, from the database."""
    async with stubs(plain.leader.address) as to, grpc.aio.insecure_channel(plain.standby.address) as channel:
        user_id = await open_user(to)
        wanted = event_pb2.SubscribeRequest(filter=event_pb2.EventFilter(user_id=user_id))
        async with asyncio.timeout(10):
            async for item in Over(channel).send(wanted, by=OPERATOR):
                if item.HasField("caught_up"):
                    await to.send(deposit(user_id, 17), by=BANK, timeout_s=10)
                if any(posting.amount_minor == 17 for posting in item.event.postings):
                    break


async def test_an_auction_is_watched_at_the_standby(plain: Pair) -> None:
    """Each bid that the leader takes is seen there, from the database."""
    async with stubs(plain.leader.address) as to, grpc.aio.insecure_channel(plain.standby.address) as channel:
        seller, bidder = await open_user(to), await open_user(to)
        auction = await rig.open_auction(to, seller)
        wanted = auction_pb2.WatchAuctionRequest(auction=auction)
        kinds = []
        async for item in Over(channel).send(wanted, by=SERVICE, timeout_s=20):
            kinds += [change.kind for change in item.changes]
            if not kinds:
                await to.ask("PlaceBid", auction=auction, bidder_user_id=bidder, amount=rig.usd(1), by=SERVICE)
                await to.ask("CancelAuction", auction=auction, by=SERVICE)
    assert kinds == [auction_pb2.AUCTION_CHANGE_KIND_BID, auction_pb2.AUCTION_CHANGE_KIND_CANCELLED]


async def test_a_forwarded_call_is_not_forwarded_again(plain: Pair) -> None:
    """However many stand by and take each other for the leader: the one that is asked by another answers itself."""
    async with stubs(plain.standby.address) as to:
        marked = (*BANK, (ANSWER_HERE_KEY, "1"))
        request = deposit(str(uuid4()))
        assert await reason(to.send(request, by=marked, timeout_s=10)) == "NOT_LEADING"


async def test_the_caller_stays_who_it_is(proven: tuple[Pair, Authority]) -> None:
    """By certificate or by token, through the standby as at the leader: neither more may be done nor less."""
    running, authority = proven
    user_id = str(uuid4())
    async with (
        channel_as(authority, "operator", running.standby.address) as operator,
        channel_as(authority, "bank", running.standby.address) as bank,
        channel_as(authority, "shop", running.standby.address) as shop,
    ):
        await Over(operator).ask("OpenAccount", user_id=user_id, home_epoch=1, by=None)
        money = deposit(user_id, 1_000)
        await Over(bank).send(money, by=None, timeout_s=10)
        assert await reason(Over(shop).send(deposit(user_id), by=None, timeout_s=10)) == "NOT_PERMITTED"
        held = ledger_pb2.ReserveRequest(command_id=str(uuid4()), user_id=user_id, amount=money.amount)
        token = authority.token(Principal(role=Role.USER, name=user_id), valid=timedelta(hours=1))
        theirs = (("authorization", f"Bearer {token}"),)
        await Over(shop).send(held, by=theirs, timeout_s=10)
        held.user_id, held.command_id = str(uuid4()), str(uuid4())
        assert await reason(Over(shop).send(held, by=theirs, timeout_s=10)) == "NOT_YOUR_ACCOUNT"


async def test_the_log_says_who_has_asked_the_standby(proven: tuple[Pair, Authority]) -> None:
    """A deposit that it forwards names the bank's certificate; an operator's read is recorded by the leader."""
    running, authority = proven
    user_id = str(uuid4())
    bank, shop = (channel_as(authority, name, running.standby.address) for name in ("bank", "shop"))
    async with channel_as(authority, "operator", running.standby.address) as operator, bank, shop:
        await Over(operator).ask("OpenAccount", user_id=user_id, home_epoch=1, by=None)
        await Over(bank).send(deposit(user_id), by=None, timeout_s=10)
        await Over(operator).ask("GetBalance", user_id=user_id, by=None)
        proofs: dict[str, Any] = {}
        async with asyncio.timeout(30):
            async for item in Over(shop).send(event_pb2.SubscribeRequest(), by=None):
                said = json.loads(item.event.metadata_json or "{}")
                if item.event.user_id == user_id or user_id in item.event.payload_json:
                    proofs[item.event.event_type] = said["authority"]
                if "ACCESSES_RECORDED" in proofs:
                    break
    pem = {name: authority.tls(name).cert.read_bytes() for name in ("operator", "bank", CELL)}
    named = {name: {"by": "certificate", "sha256": read_certificate(each)[1]} for name, each in pem.items()}
    assert proofs == {"ACCOUNT_OPENED": named["operator"], "DEPOSITED": named["bank"], "ACCESSES_RECORDED": named[CELL]}


async def test_a_look_through_the_standby_is_in_the_log(proven: tuple[Pair, Authority]) -> None:
    """Support's, at a contact: the leader has written it, with the reason and the token's proof, before the answer."""
    running, authority = proven
    user_id = str(uuid4())
    token = authority.token(Principal(role=Role.SUPPORT, name="sue"), valid=timedelta(hours=1))
    operator, shop = (channel_as(authority, name, running.standby.address) for name in ("operator", "shop"))
    async with operator, shop:
        await Over(operator).ask("OpenAccount", user_id=user_id, home_epoch=1, by=None)
        await Over(shop).ask("SetContact", user_id=user_id, name="Ann", email="ann@people.test", by=None)
        by_support = (("authorization", f"Bearer {token}"),)
        found = await Over(shop).ask("GetContact", user_id=user_id, reason="ticket 4711", by=by_support)
        assert found.email == "ann@people.test"
        request = event_pb2.SubscribeRequest(filter=event_pb2.EventFilter(event_types=["ACCESSES_RECORDED"]))
        looks = []
        async for item in Over(shop).send(request, by=None, timeout_s=30):
            if item.HasField("caught_up"):
                break
            [access, *others] = json.loads(item.event.payload_json)["accesses"]
            if access.get("reason"):
                looks.append((access["principal"], access["subject"], access["reason"], len(others)))
                assert json.loads(item.event.metadata_json)["authority"]["by"] == "token"
    assert looks == [("support/sue", user_id, "ticket 4711", 0)]


@pytest.mark.parametrize("name", ["shop", "eu-west", "operator"])
async def test_nobody_else_calls_on_behalf_of_others(proven: tuple[Pair, Authority], name: str) -> None:
    """Not a client, not another cell: only the certificate of the cell itself is believed."""
    running, authority = proven
    said = ((ON_BEHALF_KEY, "treasury/bank"),)
    for address in running.addresses:
        async with channel_as(authority, name, address) as channel:
            call = Over(channel).send(deposit(str(uuid4())), by=said, timeout_s=10)
            assert await reason(call) == "IDENTITY_MISSING"


async def test_what_a_token_proves_is_all_that_its_bearer_is(proven: tuple[Pair, Authority]) -> None:
    """A client that has a token and says besides for whom it calls is who the token says."""
    running, authority = proven
    token = authority.token(Principal(role=Role.SERVICE, name="shop"), valid=timedelta(hours=1))
    said = (("authorization", f"Bearer {token}"), (ON_BEHALF_KEY, "treasury/bank"))
    async with channel_as(authority, "shop", running.standby.address) as channel:
        call = Over(channel).send(deposit(str(uuid4())), by=said, timeout_s=10)
        assert await reason(call) == "NOT_PERMITTED"


async def test_a_call_waits_for_the_next_leader(tmp_path: Path) -> None:
    """The leader is killed; calls that meet the standby before it leads are answered once it does.

    The one that was on its way to the leader may end with it: then nothing is known of it, and it is sent again.
    """
    async with database(tmp_path) as (_, dsn), pair(tmp_path, dsn) as running, stubs(running.standby.address) as to:
        user_id = await open_user(to)
        running.leader.signal(signal.SIGKILL)
        request = deposit(user_id)
        first = to.send(request, by=BANK, timeout_s=20)
        if await first.code() is not grpc.StatusCode.OK:
            assert await reason(first) == ""
            await to.send(request, by=BANK, timeout_s=20)
        assert await running.standby.health() == "SERVING"
