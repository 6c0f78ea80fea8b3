"""The router over real gRPC and a real PostgreSQL: users get one home, keep it, and have an account there."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable
from dataclasses import replace
from unittest.mock import AsyncMock
from uuid import UUID

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cellbook.v1 import router_pb2
from router.directory.registration import OPEN_TIMEOUT_S, open_command_id
from router.directory.topology import Cell, Topology
from router.directory.users import Directory, UserEntry
from router.refusals import CellInOtherRegion
from tests.integration.database import connected
from tests.integration.router.rig import Client, FakeCell, cells, new_user, refused, router

CELLS = ("us-east=us", "eu-west=eu", "ap-tokyo=ap")


def by_name(fakes: list[FakeCell]) -> dict[str, FakeCell]:
    return {fake.name: fake for fake in fakes}


async def execute(dsn: str, query: str) -> None:
    async with connected(dsn) as connection:
        await connection.execute(query)


# --- what it is for -----------------------------------------------------------------------------------------


async def test_a_user_gets_a_home_with_an_account(client: Client, fakes: list[FakeCell]) -> None:
    """The home is in the region asked for, in epoch 1, and has opened the account before the answer."""
    user = new_user()
    registered = await client.register(user, "eu")
    eu = by_name(fakes)["eu-west"]
    assert (registered.home.user_id, registered.home.cell) == (user, "eu-west")
    assert (registered.home.epoch, registered.home.region) == (1, "eu")
    assert (registered.cell.name, registered.cell.region) == ("eu-west", "eu")
    assert list(registered.cell.endpoints) == [eu.address]
    assert eu.opened == {user: {str(open_command_id(UUID(user), 1))}}
    assert [call.home_epoch for call in eu.calls] == [1]
    assert eu.principals == ["router/router"]
    # gRPC rounds it up on the way.
    assert 0 < eu.timeouts_s[0] < OPEN_TIMEOUT_S + 0.1
    resolved = await client.resolve(user)
    assert (resolved.home, resolved.cell) == (registered.home, registered.cell)


async def test_without_a_region_any_cell_will_do(client: Client) -> None:
    """Users who are bound to no region go to all cells, and nothing binds them later."""
    homes = [(await client.register(new_user())).home for _ in range(40)]
    assert {home.cell for home in homes} == {"us-east", "eu-west", "ap-tokyo"}
    assert {home.region for home in homes} == {""}


async def test_users_are_told_apart_by_id_not_by_spelling(client: Client) -> None:
    """Upper case names the same user."""
    user = new_user()
    await client.register(user, "eu")
    assert (await client.resolve(user.upper())).home.user_id == user


async def test_cells_are_listed(client: Client, fakes: list[FakeCell]) -> None:
    """All of them, in order, with where they are and what share they take."""
    listed = [(cell.name, cell.region, list(cell.endpoints), cell.weight) for cell in await client.list_cells()]
    assert listed == sorted((fake.name, fake.region, [fake.address], 100) for fake in fakes)


async def test_health_and_reflection_are_served(client: Client) -> None:
    """A probe sees it serving, and tools can ask it for its services; neither says who it is."""
    health = health_pb2_grpc.HealthStub(client.channel)
    for name in ("", "cellbook.v1.RouterService"):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    stub = reflection_pb2_grpc.ServerReflectionStub(client.channel)
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    async for answer in stub.ServerReflectionInfo(iter([ask]), timeout=5):
        names = {service.name for service in answer.list_services_response.service}
        assert "cellbook.v1.RouterService" in names


# --- registering again --------------------------------------------------------------------------------------


async def test_registering_again_changes_nothing(client: Client, fakes: list[FakeCell]) -> None:
    """The same home is answered, and the cell is not asked a second time."""
    user = new_user()
    first = await client.register(user, "us")
    assert [await client.register(user, "us") for _ in range(3)] == [first] * 3
    assert len(by_name(fakes)["us-east"].calls) == 1


async def test_without_the_note_the_cell_is_asked_each_time(
    client: Client, fakes: list[FakeCell], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ablation: it is the directory's note that makes repeated registrations cheap."""
    monkeypatch.setattr(Directory, "mark_open", AsyncMock())
    user = new_user()
    for _ in range(3):
        await client.register(user, "us")
    assert len(by_name(fakes)["us-east"].calls) == 3


async def test_another_region_is_refused_and_the_home_is_named(client: Client) -> None:
    """A registered user is not bound to another region by asking."""
    user = new_user()
    await client.register(user, "eu")
    refusal = await refused(client.register(user, "us"))
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "USER_REGISTERED_ELSEWHERE",
    )
    assert refusal.facts == {"user_id": user, "cell": "eu-west", "residency": "eu", "region": "us"}
    assert (await client.resolve(user)).home.cell == "eu-west"


async def test_a_bound_user_suits_a_caller_to_whom_any_region_will_do(client: Client) -> None:
    """Asking for no region finds the home; asking for one does not bind a user who was free."""
    bound, free = new_user(), new_user()
    first = await client.register(bound, "eu")
    assert await client.register(bound) == first
    home = (await client.register(free)).home
    refusal = await refused(client.register(free, home.cell.split("-")[0]))
    assert refusal.reason == "USER_REGISTERED_ELSEWHERE"


async def race(dsn: str, fakes: list[FakeCell], monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[str]]:
    """What two routers that place at random answer when asked for the same users at once."""
    users = [new_user() for _ in range(60)]
    monkeypatch.setattr("router.directory.registration.place", lambda _, among: random.choice(among))
    async with router(dsn, fakes) as one, router(dsn, fakes) as two:
        asked = [registered(each, user) for user in users for each in (one, two)]
        homes = [answer.home.cell for answer in await asyncio.gather(*asked)]
    return homes[::2], homes[1::2]


async def registered(client: Client, user: str) -> router_pb2.RegisterUserResponse:
    """Asks again if gRPC has dropped the call, as a loaded server does after a second: the outcome is unknown."""
    while True:
        try:
            return await client.register(user)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.CANCELLED:
                raise


async def test_routers_that_race_agree_on_one_home(
    dsn: str, fakes: list[FakeCell], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes second answers what the first has written; an account is opened once, in one cell."""
    one, two = await race(dsn, fakes, monkeypatch)
    assert one == two
    opened = Counter(user for fake in fakes for user in fake.opened)
    assert set(opened.values()) == {1}
    assert all(len(commands) == 1 for fake in fakes for commands in fake.opened.values())


async def test_routers_that_believe_themselves_disagree(
    dsn: str, fakes: list[FakeCell], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ablation: had each answered its own proposal, users would be told two homes."""
    add = Directory.add

    async def believing(self: Directory, user_id: UUID, cell: Cell, residency: str) -> UserEntry:
        home = await add(self, user_id, cell, residency)
        assert home is not None
        return replace(home, cell=cell)

    monkeypatch.setattr(Directory, "add", believing)
    one, two = await race(dsn, fakes, monkeypatch)
    assert one != two


# --- residency ----------------------------------------------------------------------------------------------


async def test_a_region_without_a_cell_is_refused(client: Client, fakes: list[FakeCell]) -> None:
    """There is no falling back to another region: no home, no account, and the region is named."""
    user = new_user()
    refusal = await refused(client.register(user, "sa"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_CELL_IN_REGION")
    assert refusal.facts == {"region": "sa"}
    assert (await refused(client.resolve(user))).code is grpc.StatusCode.NOT_FOUND
    assert not any(fake.calls for fake in fakes)


async def test_a_cell_that_settings_no_longer_name_goes_on(dsn: str, fakes: list[FakeCell]) -> None:
    """What operators have added is not for the settings of one start to take away."""
    async with router(dsn, fakes):
        pass
    async with router(dsn, fakes[:2]) as client:
        assert (await client.register(new_user(), "ap")).home.cell == "ap-tokyo"
    async with router(dsn, []) as client:
        assert [cell.name for cell in await client.list_cells()] == ["ap-tokyo", "eu-west", "us-east"]


async def test_the_database_holds_residency_too(
    dsn: str, fakes: list[FakeCell], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ablation: with a placement that looks at no region, the directory stores no user in the wrong one."""
    look = Topology.open_to_new_users
    monkeypatch.setattr(Topology, "open_to_new_users", lambda self, _: look(self, "us"))
    user = new_user()
    async with router(dsn, fakes) as client:
        assert (await refused(client.register(user, "eu"))).code is grpc.StatusCode.INTERNAL
        assert (await refused(client.resolve(user))).code is grpc.StatusCode.NOT_FOUND
    assert not any(fake.calls for fake in fakes)


async def test_a_cell_does_not_change_its_region(dsn: str, fakes: list[FakeCell]) -> None:
    """Settings that put a known cell elsewhere stop the start: its users may be bound to where it is."""
    async with router(dsn, fakes):
        pass
    moved = [replace_region(fake, "us") if fake.name == "eu-west" else fake for fake in fakes]
    with pytest.raises(CellInOtherRegion, match="eu-west is in region eu"):
        async with router(dsn, moved):
            pass
    async with router(dsn, fakes) as client:
        assert (await client.register(new_user(), "eu")).home.cell == "eu-west"


def replace_region(fake: FakeCell, region: str) -> FakeCell:
    return FakeCell(fake.name, region, address=fake.address)


async def test_weights_share_out_new_users(dsn: str) -> None:
    """Weights of 3 to 1 get users 3 to 1; a start does not undo the weight that an operator has set."""
    async with cells("eu-west=eu", "eu-north=eu", "us-east=us") as fakes:
        async with router(dsn, fakes):
            pass
        await execute(dsn, "UPDATE cells SET weight = 300 WHERE name = 'eu-west'")
        async with router(dsn, fakes) as client:
            # So many at once as a loaded machine gets to before gRPC drops them.
            answers = [
                answer
                for _ in range(8)
                for answer in await asyncio.gather(*(client.register(new_user(), "eu") for _ in range(50)))
            ]
    homes = Counter(answer.home.cell for answer in answers)
    # Five standard deviations of 8.7 each way.
    assert abs(homes["eu-west"] - 300) <= 44
    assert homes["eu-west"] + homes["eu-north"] == 400


# --- requests that cannot be answered -----------------------------------------------------------------------


async def test_nobody_is_found_who_is_not_registered(client: Client) -> None:
    """The refusal has a reason and names the user."""
    user = new_user()
    refusal = await refused(client.resolve(user))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND")
    assert refusal.facts == {"user_id": user}


# Fixed: the names of tests must be the same in every process that collects them.
USER = "6f1de43c-97b2-4f11-a52e-f3ab3a1cf1fd"
MALFORMED = {
    "empty": "",
    "word": "ann",
    "nil": "00000000-0000-0000-0000-000000000000",
    "short": USER[:-1],
    "a brace": f"{{{USER}",
    "nul": f"{USER}\0",
    "hyphens elsewhere": USER.replace("-", "") + "----",
    "long": "x" * 100_000,
    "other digits": "\u0661" * 36,
}


@pytest.mark.parametrize("user", MALFORMED.values(), ids=MALFORMED)
async def test_malformed_users_are_refused(client: Client, user: str) -> None:
    """Whatever is not a UUID is said to be wrong by its field."""
    for call in (client.register(user), client.resolve(user)):
        refusal = await refused(call)
        assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["user_id"])


async def test_no_user_has_an_id_of_the_ledgers_own_kind(client: Client) -> None:
    """Ids of version 5 are those of sagas and legs, and follow from what is public."""
    refusal = await refused(client.register("0198c0de-0000-5000-8000-00000000000a"))
    assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["user_id"])


@pytest.mark.parametrize("spelled", [USER.upper(), f"{{{USER}}}", f"urn:uuid:{USER}", USER.replace("-", "")])
async def test_a_user_spelled_in_another_way_is_the_same(client: Client, spelled: str) -> None:
    """Braces, capitals, a URN, no hyphens: registered and found under one id."""
    assert (await client.register(spelled)).home.user_id == USER
    assert (await client.resolve(spelled)).home.user_id == USER


@pytest.mark.parametrize(
    "region", ["EU", "e u", "eu\n", "eu\0", "x" * 33, pytest.param("x" * 100_000, id="long"), "\u00e9u"]
)
async def test_malformed_regions_are_refused(client: Client, region: str) -> None:
    """What no region can be called is said to be wrong by its field."""
    refusal = await refused(client.register(new_user(), region))
    assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["region"])


EVERYBODY = {f"user/{USER}", "service/x", "treasury/x", "auditor/x", "operator/x", "peer/x"}


async def code_of(call: Awaitable[object]) -> grpc.StatusCode:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_who_may_call_what(client: Client) -> None:
    """The table of policies, role by role; a user may look itself up, and nobody else."""
    await client.register(USER)
    may: dict[str, set[str]] = {"register": set(), "resolve": set(), "list": set()}
    for who in EVERYBODY:
        calls = {
            "register": client.register(USER, principal=who),
            "resolve": client.resolve(USER, principal=who),
            "list": client.list_cells(principal=who),
        }
        for rpc, call in calls.items():
            if await code_of(call) is not grpc.StatusCode.PERMISSION_DENIED:
                may[rpc].add(who)
    assert may == {"register": {"service/x", "operator/x"}, "resolve": EVERYBODY, "list": EVERYBODY}
    refusal = await refused(client.resolve(USER, principal=f"user/{new_user()}"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "NOT_YOUR_ACCOUNT")
    assert (await refused(client.list_cells(principal="anybody"))).code is grpc.StatusCode.UNAUTHENTICATED
