"""`cellbook router` against a real router: what an operator sees, and what is said when something is wrong."""

import json

import pytest
from typer.testing import CliRunner

from cellbook.v1 import router_pb2 as pb
from server.cli import router as cli
from server.cli.client import Client as Asking
from server.cli.client import ClientError, LedgerRefusal
from server.cli.main import app
from server.cli.screen import Screen
from tests.integration.json_output import as_json
from tests.integration.router.rig import Client, new_user

CELLS = ("us-east=us", "eu-west=eu")
NOWHERE = "127.0.0.1:1"


async def test_the_cells_are_shown(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    """With state, weight and users: as a table for people, as JSON for programs."""
    await client.register(new_user(), "eu")
    async with Asking(client.address) as asking:
        await asking.ask_router(asking.router.DrainCell, pb.DrainCellRequest(name="us-east"))
        capsys.readouterr()
        await cli._show_cells(asking)
        heading, eu, us = (line.split() for line in capsys.readouterr().out.splitlines())
        with as_json():
            await cli._show_cells(asking)
    assert heading == ["cell", "region", "state", "health", "weight", "users", "endpoints"]
    assert (eu[:3], eu[4:6]) == (["eu-west", "eu", "active"], ["100", "1"])
    assert (us[:3], us[4:6]) == (["us-east", "us", "draining"], ["100", "0"])
    told = json.loads(capsys.readouterr().out)
    assert told["read_only"] is False
    assert [(cell["name"], cell["state"], cell["users"]) for cell in told["cells"]] == [
        ("eu-west", "active", 1),
        ("us-east", "draining", 0),
    ]


async def test_what_is_wrong_is_said(client: Client) -> None:
    """A definite no with its reason; a router that is not there with its address."""
    async with Asking(client.address) as asking:
        with pytest.raises(LedgerRefusal, match="CELL_NOT_DRAINING: cell eu-west is ACTIVE: drain it"):
            await asking.ask_router(asking.router.RemoveCell, pb.RemoveCellRequest(name="eu-west"))
        request = pb.RegisterCellRequest(name="x", region="eu", endpoints=["nonsense"])
        with pytest.raises(LedgerRefusal, match="endpoints: expected host:port"):
            await asking.ask_router(asking.router.RegisterCell, request)
    async with Asking(NOWHERE) as nobody:
        with pytest.raises(ClientError, match=f"the router at {NOWHERE} does not answer"):
            await nobody.ask_router(nobody.router.ListCells, pb.ListCellsRequest())


def test_a_router_that_is_read_only_says_so() -> None:
    """An operator sees at once that nobody is registered."""
    screen = Screen(width=200)
    with screen.capture() as captured:
        cli.tell_cells(screen, pb.ListCellsResponse(cells=[pb.Cell(name="eu-west", region="eu")], read_only=True))
    assert "nobody is registered" in captured.get()


@pytest.mark.parametrize(
    "command", ["cells", "watch", "resolve", "add", "weight", "drain", "undrain", "down", "remove", "move", "moved"]
)
def test_every_command_has_help(command: str) -> None:
    """And is there."""
    shown = CliRunner().invoke(app, ["router", command, "--help"])
    assert (shown.exit_code, "--json" in shown.output) == (0, True)
