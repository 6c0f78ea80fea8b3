"""What the router says of moves before it asks any cell, and what it makes of what cells tell it."""

from uuid import UUID

import pytest

from cellbook.v1 import router_pb2 as pb
from router.refusals import NotInRegion
from server.cli import router as cli
from server.cli.client import Client as Asking
from server.cli.client import ClientError, LedgerRefusal
from tests.integration.database import ask
from tests.integration.json_output import as_json
from tests.integration.router.rig import OPERATOR, Client, new_user, refused


def peer(cell: str) -> tuple[tuple[str, str], ...]:
    return (("cellbook-principal", f"peer/{cell}"),)


async def tell(
    client: Client, user: str, cell: str, epoch: int, region: str | None = None, *, by: tuple[tuple[str, str], ...]
) -> pb.Home:
    request = pb.RecordHomeRequest(user_id=user, cell=cell, epoch=epoch, region=region)
    return (await client.stub.RecordHome(request, timeout=10, metadata=by)).home


async def registered(client: Client) -> tuple[str, str, str]:
    """A new user, the home, and the cell that is not."""
    user = new_user()
    home = (await client.register(user, "")).home.cell
    return user, home, "us-east" if home == "eu-west" else "eu-west"


async def test_an_operator_records_no_home_of_a_user_whom_nobody_registers(client: Client) -> None:
    """Ids of version 5 are the ledger's own."""
    refusal = await refused(tell(client, "0198c0de-0000-5000-8000-00000000000a", "eu-west", 2, by=OPERATOR))
    assert refusal.fields == ["user_id"]


async def test_a_home_is_told_by_the_one_before(client: Client) -> None:
    """Whoever is late with an older home changes nothing; told again, it is the same."""
    user, home, other = await registered(client)
    for _ in range(2):
        told = await tell(client, user, other, 2, by=peer(home))
        assert (told.cell, told.epoch) == (other, 2)
    assert (await tell(client, user, home, 1, by=peer(home))).cell == other
    assert (await tell(client, user, home, 3, by=peer(other))).cell == home
    assert (await client.resolve(user)).home.epoch == 3


async def test_no_other_cell_says_where_a_user_is_at_home(client: Client) -> None:
    """Not the one that would have the user, nor a third; and the home itself under no epoch but one that comes next."""
    user, home, other = await registered(client)
    for cell, epoch, by in ((other, 2, other), (other, 2, "ap-tokyo"), (other, 200, home), (home, 2**40, home)):
        answer = await refused(tell(client, user, cell, epoch, by=peer(by)))
        assert answer.reason in {"HOME_NOT_VOUCHED", "FIELD_INVALID"}
    assert (await refused(tell(client, new_user(), other, 2, by=peer(other)))).reason == "USER_NOT_FOUND"
    found = (await client.resolve(user)).home
    assert (found.cell, found.epoch) == (home, 1)


async def test_an_operator_mends_a_directory_that_was_restored(client: Client) -> None:
    """A user whom it has lost is there again, and one whose moves it has forgotten is where the user is."""
    user, _, other = await registered(client)
    assert (await tell(client, user, other, 300, by=OPERATOR)).epoch == 300
    assert (await tell(client, new_user(), "eu-west", 2, "eu", by=OPERATOR)).region == "eu"


async def test_what_a_cell_says_does_not_loosen_a_residency(client: Client) -> None:
    """Bound to a region, a user is recorded in no other unless the move itself has changed that."""
    user = new_user()
    await client.register(user, "eu")
    answer = await refused(tell(client, user, "us-east", 2, by=peer("eu-west")))
    assert answer.reason == NotInRegion.reason
    assert (await client.resolve(user)).home.cell == "eu-west"
    assert (await tell(client, user, "us-east", 2, "us", by=peer("eu-west"))).region == "us"
    unknown = await refused(tell(client, user, "nowhere", 3, by=peer("us-east")))
    assert unknown.reason == "NO_SUCH_CELL"


@pytest.mark.parametrize(
    ("cell", "region", "reason"),
    [
        ("nowhere", None, "NO_SUCH_CELL"),
        ("eu-west", None, "ALREADY_AT_HOME"),
        ("us-east", None, "NOT_IN_REGION"),
        ("us-east", "eu", "NOT_IN_REGION"),
        ("us-east", "us", "CELL_TAKES_NOBODY"),
    ],
)
async def test_a_move_that_cannot_be_is_refused_at_once(
    client: Client, cell: str, region: str | None, reason: str
) -> None:
    """And says why; nothing was asked of any cell."""
    user = new_user()
    await client.register(user, "eu")
    await client.operate("DrainCell", name="us-east")
    answer = await refused(client.operate("MoveUser", command_id=new_user(), user_id=user, cell=cell, region=region))
    assert answer.reason == reason
    nothing = await refused(client.operate("GetMove", user_id=user))
    assert nothing.reason == "MOVE_NOT_FOUND"


async def test_only_a_drained_cell_is_evacuated(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    """And who cannot leave is counted, with the reason; an operator sees it, and that it can be done again."""
    async with Asking(client.address) as asking:
        with pytest.raises(LedgerRefusal, match="CELL_NOT_DRAINING"):
            await cli.evacuate(asking, "eu-west", 100)
        await client.register(new_user(), "eu")
        await client.operate("DrainCell", name="eu-west")
        left = r"1 users are still at home in eu-west: .*NO_CELL_IN_REGION.*drain it again"
        with pytest.raises(ClientError, match=left):
            await cli.evacuate(asking, "eu-west", 100)
        await client.operate("DrainCell", name="us-east")
        capsys.readouterr()
        with as_json():
            await cli.evacuate(asking, "us-east", 100)
    assert '"done": true' in capsys.readouterr().out


async def test_what_became_of_a_move_out_of_a_cell_that_is_gone_is_not_known(client: Client, dsn: str) -> None:
    """It may have been done: no answer is made up, and none is kept."""
    user, command_id = new_user(), new_user()
    await client.register(user, "eu")
    begun = """INSERT INTO move_commands (principal, command_id, user_id, to_cell, from_cell, from_epoch, residency)
        VALUES ('operator/test', $1, $2, 'eu-west', 'eu-gone', 1, 'eu')"""
    await ask(dsn, begun, UUID(command_id), UUID(user))
    asked = {"command_id": command_id, "user_id": user}
    for _ in range(2):
        assert (await refused(client.operate("MoveUser", **asked, cell="eu-west"))).reason == "MOVE_UNKNOWN"
    assert (await refused(client.operate("MoveUser", **asked, cell="us-east"))).reason == "COMMAND_ID_REUSED"


async def test_a_refused_move_stays_refused(client: Client) -> None:
    """Sent again under its id when it could be done: a no was final."""
    user = new_user()
    await client.register(user, "eu")
    await client.change("DrainCell", "us-east")
    asked = {"command_id": new_user(), "user_id": user, "cell": "us-east", "region": "us"}
    first = await refused(client.operate("MoveUser", **asked))
    await client.change("UndrainCell", "us-east")
    assert (first.reason, await refused(client.operate("MoveUser", **asked))) == ("CELL_TAKES_NOBODY", first)


async def test_a_registration_is_the_same_one_after_a_move(client: Client) -> None:
    """Also where the move has changed the region: sent again, it says where the user is at home now."""
    user = new_user()
    assert (await client.register(user, "us")).home.cell == "us-east"
    await tell(client, user, "eu-west", 2, "eu", by=peer("us-east"))
    for region in ("us", "eu", ""):
        again = (await client.register(user, region)).home
        assert (again.cell, again.epoch, again.region) == ("eu-west", 2, "eu")
    assert (await refused(client.register(user, "ap"))).reason == "USER_REGISTERED_ELSEWHERE"
