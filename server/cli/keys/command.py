"""`cellbook keys`: certificates and tokens for development."""

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from cells.audit.proofs.keys import SEED_BYTES, SigningKey
from cells.audit.verify.note import LOG_KEY
from cells.domain.refusals import PrincipalInvalid
from server.cli import report
from server.cli.command import EXIT_USAGE, Json, failure, wrong_usage
from server.cli.keys.authority import AUDIENCE, DEV_CELLS, HOSTS, ISSUER, ROUTER, Authority, KeysInvalid, make_keys
from server.shell.files import create_secret
from server.shell.identity.principal import Principal, parse_principal

app = typer.Typer(
    help="A development CA, certificates and tokens: docs/security.md.", no_args_is_help=True, rich_markup_mode=None
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of `cellbook keys dev`.")]
Who = Annotated[str, typer.Argument(metavar="ROLE/NAME", help="The principal: user/UUID, service/shop, peer/eu-west..")]
Hosts = Annotated[list[str] | None, typer.Option("--host", help="A name or address of the server; may be repeated.")]


@app.command()
def dev(
    folder: Folder,
    cell: Annotated[list[str] | None, typer.Option("--cell", help="A cell's name; may be repeated.")] = None,
    host: Hosts = None,
    _json: Json = False,
) -> None:
    """Make the keys of a cluster: a CA, a certificate for each process and for the operator, keys for tokens.

    Existing keys stay: run it again to add a cell.
    """
    authority = Authority(folder)
    with wrong_usage(KeysInvalid):
        made = make_keys(authority, cell or DEV_CELLS, host or HOSTS)
    settings = {"jwt_keys": str(authority.jwks), "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}
    report.show_line(
        {"folder": str(folder), "made": made, "settings": settings},
        f"{folder} has certificates for {ROUTER}, {', '.join(cell or DEV_CELLS)} and operator\n"
        f"made now: {', '.join(made) or 'nothing, all were there'}\n"
        f"settings of a cell: {' '.join(f'{name}={value}' for name, value in settings.items())}",
    )


@app.command()
def certificate(folder: Folder, name: str, who: Who, host: Hosts = None) -> None:
    """Sign another certificate, NAME.pem with NAME.key; --host makes it a server certificate."""
    with wrong_usage(KeysInvalid):
        Authority(folder).certify(name, _principal(who), hosts=host or ())
    report.line(f"{folder / name}.pem says cellbook://{who}")


@app.command()
def token(
    folder: Folder,
    who: Who,
    hours: Annotated[float, typer.Option("--hours", min=0.01, max=8_760.0, help="How many hours it is valid.")] = 1.0,
    users: Annotated[
        list[UUID] | None,
        typer.Option("--for", metavar="USER", help="A user that a delegate acts for; may be repeated."),
    ] = None,
    audience: Annotated[
        str, typer.Option("--audience", help="The audience: cellbook/eu-west is for that cell only.")
    ] = AUDIENCE,
) -> None:
    """Print a token, to be sent as metadata `authorization: Bearer TOKEN`."""
    with wrong_usage(KeysInvalid):
        acted_for = [str(user) for user in users or ()]
        valid = timedelta(hours=hours)
        print(Authority(folder).token(_principal(who), valid=valid, users=acted_for, audience=audience))


@app.command()
def caller(
    who: Who, file: Annotated[Path, typer.Argument(help="A new file, for the private key: whoever signs keeps it.")]
) -> None:
    """Make a key with which a caller signs its commands, and print the line for caller_keys_file."""
    if file.exists():
        raise failure(f"{file} is there already", EXIT_USAGE)
    with wrong_usage(KeysInvalid):
        key = SigningKey(name=str(_principal(who)), kind=LOG_KEY, seed=os.urandom(SEED_BYTES))
    create_secret(file, f"{key.text}\n")
    print(f"key {key.verifier}")


@app.command()
def rotate(
    folder: Folder,
    retire: Annotated[
        bool, typer.Option("--retire", help="Make no new key: remove all but the newest, which ends their tokens.")
    ] = False,
) -> None:
    """Sign tokens with a new key from now on; earlier tokens stay valid until --retire."""
    authority = Authority(folder)
    with wrong_usage(KeysInvalid):
        (authority.retire if retire else authority.rotate)()
    keys = json.loads(authority.jwks.read_text())["keys"]
    report.line(f"{authority.jwks} has {len(keys)} key(s); the newest is {keys[-1]['kid']}")


def _principal(text: str) -> Principal:
    try:
        return parse_principal(text)
    except PrincipalInvalid as problem:
        raise KeysInvalid(problem.message) from None
