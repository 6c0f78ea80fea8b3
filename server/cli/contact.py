"""`cellbook contact`: an operator's commands on a person's name and address."""

import json
from typing import Annotated
from uuid import UUID

import typer

from cellbook.v1 import contact_pb2, router_pb2
from server.cli import report
from server.cli.access import Access, chosen_access
from server.cli.client import Client
from server.cli.ending import run
from server.cli.options import HERE, json_option, router_option
from server.cli.reach import OPERATOR

app = typer.Typer(help="Names and addresses of people: docs/privacy.md.", no_args_is_help=True, rich_markup_mode=None)


# Otherwise typer would make its only command the group itself.
@app.callback()
def contact() -> None:
    """Names and addresses of people: docs/privacy.md."""


@app.command()
def erase(
    user: Annotated[UUID, typer.Argument(metavar="USER", help="The person's id.")],
    router: Annotated[str, router_option("The router that knows the person's home.")] = HERE,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Annotated[bool, json_option("Print JSON.")] = False,
) -> None:
    """Erase a person's name and address for good. The account and its events, which name nobody, stay."""
    if not yes:
        typer.confirm(f"Forget the name and address of {user} for good?", abort=True, err=True)
    run(_erase(user, router, chosen_access(), as_json=as_json))


async def _erase(user: UUID, router: str, access: Access, *, as_json: bool) -> None:
    async with Client(router, access) as client:
        where = router_pb2.ResolveUserRequest(user_id=str(user))
        home = await client.call(client.router.ResolveUser, where, OPERATOR)
        cell = client.cell(name=home.cell.name, region=home.cell.region, address="+".join(home.cell.endpoints))
        await client.call(cell.contacts.EraseContact, contact_pb2.EraseContactRequest(user_id=str(user)), OPERATOR)
    if as_json:
        print(json.dumps({"user_id": str(user), "cell": cell.name, "erased": True}))
    else:
        report.line(f"{cell.name} has forgotten the name and address of {user}, and takes no others")
