"""What the router says of moves before it asks any cell, and what it makes of what cells tell it."""

import pytest

from cellbook.v1 import router_pb2 as pb
from router.refusals import NotInRegion
from server.cli import moving
from server.cli.client import ClientError, LedgerRefusal
from server.cli.router import Asked
from tests.integration.router.rig import Client, new_user, refused

OPERATOR = (("cellbook-principal", "operator/test"),)


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
    await client.stub.DrainCell(pb.DrainCellRequest(name="us-east"), timeout=10, metadata=OPERATOR)
    request = pb.MoveUserRequest(command_id=new_user(), user_id=user, cell=cell, region=region)
    answer = await refused(client.stub.MoveUser(request, timeout=10, metadata=OPERATOR))
    assert answer.reason == reason
    nothing = await refused(client.stub.GetMove(pb.GetMoveRequest(user_id=user), timeout=10, metadata=OPERATOR))
    assert nothing.reason == "MOVE_NOT_FOUND"


async def test_only_a_drained_cell_is_evacuated(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    """And who cannot leave is counted, with the reason; an operator sees it, and that it can be done again."""
    asked = Asked("here", client.stub)
    with pytest.raises(LedgerRefusal, match="CELL_NOT_DRAINING"):
        await moving.evacuate(asked, "eu-west", 100, as_json=False)
    await client.register(new_user(), "eu")
    await client.stub.DrainCell(pb.DrainCellRequest(name="eu-west"), timeout=10, metadata=OPERATOR)
    with pytest.raises(ClientError, match=r"1 users are still at home in eu-west: .*NO_CELL_IN_REGION.*drain it again"):
        await moving.evacuate(asked, "eu-west", 100, as_json=False)
    await client.stub.DrainCell(pb.DrainCellRequest(name="us-east"), timeout=10, metadata=OPERATOR)
    capsys.readouterr()
    await moving.evacuate(asked, "us-east", 100, as_json=True)
    assert '"done": true' in capsys.readouterr().out
