"""`cellbook contact`: an operator's commands on a person's name and address."""

from typing import Annotated
from uuid import UUID

import typer

from cellbook.v1 import contact_pb2, router_pb2
from server.cli import report
from server.cli.client import OPERATOR, Client
from server.cli.command import HERE, Json, for_router, router_option

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
    _json: Json = False,
) -> None:
    """Erase a person's name and address for good. The account and its events, which name nobody, stay."""
    if not yes:
        typer.confirm(f"Forget the name and address of {user} for good?", abort=True, err=True)
    for_router(_erase)(router=router, user_id=str(user))


async def _erase(client: Client, user_id: str) -> None:
    home = await client.call(client.router.ResolveUser, router_pb2.ResolveUserRequest(user_id=user_id), OPERATOR)
    cell = client.cell_of(home.cell)
    await client.call(cell.contacts.EraseContact, contact_pb2.EraseContactRequest(user_id=user_id), OPERATOR)
    report.show_line(
        {"user_id": user_id, "cell": cell.name, "erased": True},
        f"{cell.name} has forgotten the name and address of {user_id}, and takes no others",
    )
