"""`cellbook router` against a real router: what an operator sees, and what is said when something is wrong."""

import json

import pytest
from typer.testing import CliRunner

from cellbook.v1 import router_pb2 as pb
from server.cli import router as cli
from server.cli.client import ClientError, LedgerRefusal
from server.cli.main import app
from tests.integration.router.rig import Client, new_user

CELLS = ("us-east=us", "eu-west=eu")
NOWHERE = "127.0.0.1:1"


async def test_the_cells_are_shown(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    """With state, weight and users: as a table for people, as JSON for programs."""
    await client.register(new_user(), "eu")
    asked = cli.Asked("here", client.stub)
    await asked.once(client.stub.DrainCell, pb.DrainCellRequest(name="us-east"))
    capsys.readouterr()
    await cli._tell_cells(asked, as_json=False)
    heading, eu, us = (line.split() for line in capsys.readouterr().out.splitlines())
    assert heading == ["cell", "region", "state", "health", "weight", "users", "endpoints"]
    assert (eu[:3], eu[4:6]) == (["eu-west", "eu", "active"], ["100", "1"])
    assert (us[:3], us[4:6]) == (["us-east", "us", "draining"], ["100", "0"])
    await cli._tell_cells(asked, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["read_only"] is False
    assert [(cell["name"], cell["state"], cell["users"]) for cell in told["cells"]] == [
        ("eu-west", "active", 1),
        ("us-east", "draining", 0),
    ]


async def test_what_is_wrong_is_said(client: Client) -> None:
    """A definite no with its reason; a router that is not there with its address."""
    asked = cli.Asked("here", client.stub)
    with pytest.raises(LedgerRefusal, match="CELL_NOT_DRAINING: cell eu-west is ACTIVE: drain it"):
        await asked.once(client.stub.RemoveCell, pb.RemoveCellRequest(name="eu-west"))
    request = pb.RegisterCellRequest(name="x", region="eu", endpoints=["nonsense"])
    with pytest.raises(LedgerRefusal, match="endpoints: expected host:port"):
        await asked.once(client.stub.RegisterCell, request)
    async with cli.asking(NOWHERE) as nobody:
        listing = pb.ListCellsRequest()
        with pytest.raises(ClientError, match=f"the router at {NOWHERE} does not answer"):
            await nobody.once(nobody.stub.ListCells, listing)


def test_a_router_that_is_read_only_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """An operator sees at once that nobody is registered."""
    cli.tell(pb.ListCellsResponse(cells=[pb.Cell(name="eu-west", region="eu")], read_only=True), as_json=False)
    assert "nobody is registered" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command", ["cells", "watch", "resolve", "add", "weight", "drain", "undrain", "down", "remove", "move", "moved"]
)
def test_every_command_has_help(command: str) -> None:
    """And is there."""
    shown = CliRunner().invoke(app, ["router", command, "--help"])
    assert (shown.exit_code, "--json" in shown.output) == (0, True)
