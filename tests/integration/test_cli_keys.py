"""`cellbook keys`: what it makes gets in, and is for its owner alone."""

import json
from pathlib import Path

import jwt
import pytest
from cryptography import x509
from typer.testing import CliRunner, Result

from cells.audit.proofs.keys import signing_key
from cells.audit.verify.callers import callers_in
from server.cli.keys.authority import Authority
from server.cli.main import app
from server.shell.identity.keyset import parse_keys
from server.shell.identity.principal import Role
from server.shell.identity.tls import read_pem
from server.shell.identity.tokens import TokenVerifier

USER = "0198c0de-0000-7000-8000-00000000000a"


def keys(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["keys", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = keys("dev", tmp_path / "keys", "--cell", "us-east", "--host", "db.example.org", "--host", "10.0.0.1")
    assert made.exit_code == 0, made.output
    return tmp_path / "keys"


def uris(folder: Path, name: str) -> list[str]:
    certificate = x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)


async def principal_of(folder: Path, token: str) -> tuple[Role, str]:
    verifier = TokenVerifier(
        issuer="cellbook-development", audiences=("cellbook",), source=str(folder / "jwks.json"), refresh_s=60
    )
    verifier.keys.load()
    principal = await verifier.principal(token)
    return principal.role, principal.name


def test_a_folder_has_all_that_a_cluster_needs(folder: Path) -> None:
    """Certificates by name, each with its key; nobody else can read any of it, and none is made twice."""
    assert {path.name for path in folder.iterdir()} == {
        "ca.pem", "ca.key", "router.pem", "router.key", "operator.pem", "operator.key", "us-east.pem", "us-east.key",
        "console.pem", "console.key", "jwks.json", "tokens.key",
    }  # fmt: skip
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [uris(folder, name) for name in ("router", "operator", "us-east")] == [
        ["cellbook://router/router"],
        ["cellbook://operator/cellbook"],
        ["cellbook://peer/us-east"],
    ]
    before = {path: path.read_bytes() for path in folder.iterdir()}
    again = json.loads(keys("dev", folder, "--cell", "us-east", "--json").stdout)
    assert again["made"] == []
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_certificate_more(folder: Path) -> None:
    """For whoever has one; people have tokens instead."""
    assert keys("certificate", folder, "shop", "service/shop").exit_code == 0
    assert uris(folder, "shop") == ["cellbook://service/shop"]
    read_pem(Authority(folder).tls("shop"))
    refused = keys("certificate", folder, "ann", f"user/{USER}")
    assert (refused.exit_code, "keys token" in refused.output) == (2, True)


@pytest.mark.parametrize(
    ("who", "more", "role", "name"),
    [
        (f"user/{USER}", (), Role.USER, USER),
        ("treasury/bank", ("--hours", "0.5"), Role.TREASURY, "bank"),
        ("delegate/helpdesk", ("--for", USER), Role.DELEGATE, "helpdesk"),
    ],
)
async def test_a_token_is_printed(folder: Path, who: str, more: tuple[str, ...], role: Role, name: str) -> None:
    """It alone, so that a script can take it."""
    printed = keys("token", folder, who, *more)
    assert await principal_of(folder, printed.stdout.strip()) == (role, name)


def test_a_callers_key_is_made_once(tmp_path: Path) -> None:
    """The line that is printed is one of caller_keys_file; the file is for its owner alone, and is never replaced."""
    file = tmp_path / "giro.key"
    printed = keys("caller", "treasury/giro", file).stdout
    assert callers_in(printed).keys == (signing_key(file.read_text()).verifier,)
    assert file.stat().st_mode & 0o077 == 0
    before = file.read_text()
    assert keys("caller", "treasury/giro", file).exit_code == 2
    assert keys("caller", "king/george", tmp_path / "other.key").exit_code == 2
    assert file.read_text() == before


@pytest.mark.parametrize(
    ("who", "more", "said"),
    [
        ("peer/eu-west", (), "certificate"),
        ("king/george", (), "is not a principal"),
        ("user/me", (), "is not a principal"),
        ("delegate/helpdesk", (), "--for"),
        ("service/shop", ("--for", USER), "--for"),
    ],
)
def test_what_cannot_be_signed_is_said(folder: Path, who: str, more: tuple[str, ...], said: str) -> None:
    """With what to do instead."""
    refused = keys("token", folder, who, *more)
    assert (refused.exit_code, said in refused.output) == (2, True), refused.output


def test_without_keys_it_says_where_they_come_from(tmp_path: Path) -> None:
    """Not a traceback."""
    refused = keys("token", tmp_path, "service/shop")
    assert refused.exit_code == 2
    assert "cellbook keys dev" in refused.output


async def test_keys_of_tokens_rotate(folder: Path) -> None:
    """Old tokens stay good until their key is retired."""
    old = keys("token", folder, "service/old").stdout.strip()
    assert keys("rotate", folder).exit_code == 0
    new = keys("token", folder, "service/new").stdout.strip()
    assert len(parse_keys((folder / "jwks.json").read_text(), "here")) == 2
    assert [(await principal_of(folder, token))[1] for token in (old, new)] == ["old", "new"]
    assert keys("rotate", folder, "--retire").exit_code == 0
    known = parse_keys((folder / "jwks.json").read_text(), "here")
    assert set(known) == {jwt.get_unverified_header(new)["kid"]}


def test_half_an_identity_is_none() -> None:
    """The options of a certificate belong together."""
    refused = CliRunner().invoke(app, ["--tls-cert", "x.pem", "router", "cells"])
    assert refused.exit_code == 2
    assert "belong together" in refused.output


def test_a_cluster_of_somebody_elses_is_as_secure_as_it_is() -> None:
    """--secure makes keys for a cluster of one's own; it would change nothing about another one."""
    refused = CliRunner().invoke(app, ["demo", "--secure", "--router", "127.0.0.1:1"])
    assert refused.exit_code == 2
    assert "cellbook --keys DIR" in refused.output


def test_a_folder_without_keys_is_named(tmp_path: Path) -> None:
    """Where the operator's certificate should be, and is not."""
    refused = CliRunner().invoke(app, ["--keys", str(tmp_path), "router", "cells"])
    assert refused.exit_code == 1
    assert f"cannot read {tmp_path / 'operator.pem'}" in refused.output.replace("\n", "")
