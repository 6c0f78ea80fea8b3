"""Settings: flags over environment (CELLBOOK_*) over a TOML file over defaults.

Each problem is one line: the setting, its value, where it came from, what is expected.
"""

import argparse
import difflib
import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, SettingsConfigDict

from cells.store.unusable import CannotServe
from server.shell.settings.addresses import parse_address
from server.shell.settings.security import SecuritySettings

ENV_PREFIX = "CELLBOOK_"
CONFIG_ENV = "CELLBOOK_CONFIG"
# The conventional exit code for wrong usage.
EXIT_USAGE = 2
# They may hold a password and are never shown.
_SECRET = frozenset({"dsn", "migrate_dsn"})
_SHOWN_MAX = 80


class SettingsInvalid(CannotServe):
    """The settings are invalid; the message has one line per problem."""


def _checked_address(text: str) -> str:
    return str(parse_address(text)) if text else text


def _checked_endpoints(text: str) -> str:
    return "+".join(str(parse_address(endpoint)) for endpoint in text.split("+"))


def _pairs(value: object) -> object:
    """Reads "name=value,name=value"; a TOML table is a mapping already."""
    if not isinstance(value, str):
        return value
    pairs = {}
    for entry in filter(None, (part.strip() for part in value.split(","))):
        name, equals, text = entry.partition("=")
        if not equals:
            raise ValueError(f"expected name=value, separated by commas, not {entry!r}")
        pairs[name.strip()] = text.strip()
    return pairs


# "host:port", or empty if the setting allows it.
AddressText = Annotated[str, AfterValidator(_checked_address)]
# "host:port+host:port": of the processes of one cell.
EndpointsText = Annotated[str, AfterValidator(_checked_endpoints)]
# name -> endpoints; as text "us-east=127.0.0.1:5001+127.0.0.1:5011,eu-west=127.0.0.1:5002"
EndpointsTable = Annotated[dict[str, EndpointsText], NoDecode, BeforeValidator(_pairs)]
CellName = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")]
LogLevel = Literal["debug", "info", "warning", "error"]


class HostSettings(SecuritySettings):
    """The settings of every process that hosts a gRPC server; each process adds its own fields in a subclass."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", validate_default=True
    )

    listen: AddressText = Field(
        default="127.0.0.1:0", min_length=1, description="host:port to serve on; port 0: any free one"
    )
    public_listen: AddressText = Field(
        default="", description="host:port for callers with a token and no certificate; empty: not served"
    )
    insecure_listen: bool = Field(
        default=False, description="serve in plain text to other machines too (a trusted network)"
    )
    connections_max: int = Field(default=2_000, ge=1, le=1_000_000, description="the most connections at once")
    address_connections_max: int = Field(
        default=1_000,
        ge=0,
        le=1_000_000,
        description="the most connections from one address; 0: no limit, for use behind a load balancer",
    )
    streams_max: int = Field(
        default=1_000,
        ge=1,
        le=100_000,
        description="the most streams open at once; watches of auctions are counted apart, and four times as many",
    )
    reflection: bool | None = Field(
        default=None, description="offer gRPC reflection; unset: in plain text on loopback only"
    )
    dsn: str = Field(default="", description="PostgreSQL to use; empty: an embedded one", repr=False)
    migrate_dsn: str = Field(
        default="",
        description="login for migrations only, with the right to make roles and tables; empty: dsn",
        repr=False,
    )
    data: Path | None = Field(default=None, description="folder of the embedded PostgreSQL")
    ready_file: Path | None = Field(
        default=None, description='file to write once serving: {"pid", "address", "name", "metrics"}'
    )
    drain_grace_ms: int = Field(
        default=10_000, ge=0, le=600_000, description="how long running calls may continue after SIGTERM"
    )
    metrics: AddressText = Field(
        default="", description="host:port to serve /metrics for Prometheus; port 0: any free one; empty: not served"
    )
    otlp: AddressText = Field(
        default="", description="host:port of an OpenTelemetry collector, OTLP over gRPC; empty: no traces"
    )
    otlp_tls: bool = Field(default=False, description="use TLS to the collector")
    otlp_ratio: float = Field(default=1.0, ge=0, le=1, description="the share of traces that is kept")
    log_level: LogLevel = Field(default="info", description="debug, info, warning or error")

    @model_validator(mode="after")
    def _has_tokens_for_the_public(self) -> Self:
        if self.public_listen and not self.jwt_keys:
            raise ValueError("jwt_keys: needed together with public_listen: callers without a certificate need a token")
        return self

    @model_validator(mode="after")
    def _has_a_database(self) -> Self:
        if not self.dsn and self.data is None:
            raise ValueError(
                "data: needed where dsn is empty: set CELLBOOK_DATA or --data to a folder for the embedded "
                "PostgreSQL, or CELLBOOK_DSN to a server of your own"
            )
        return self


S = TypeVar("S", bound=BaseSettings)


def load_settings(settings: type[S], argv: Sequence[str], *, program: str) -> S:
    """Settings from the flags in `argv`, the environment and the file that one of them names.

    Raises:
        SettingsInvalid: what is wrong, one line a problem.
        SystemExit: raised by argparse for --help or an unknown flag.
    """
    flags = vars(_parser(settings, program).parse_args(argv))
    config = flags.pop("config", None) or os.environ.get(CONFIG_ENV)
    from_file = _read_file(Path(config)) if config else {}
    try:
        return settings(**(from_file | EnvSettingsSource(settings)() | flags))
    except ValidationError as invalid:
        problems = [_line(settings, problem, flags, config) for problem in invalid.errors()]
        raise SettingsInvalid("\n".join(problems)) from None


def load_settings_or_exit(settings: type[S], argv: Sequence[str], *, program: str) -> S:
    """As load_settings, but problems go to stderr and the process ends with exit code 2."""
    try:
        return load_settings(settings, argv, program=program)
    except SettingsInvalid as invalid:
        for line in str(invalid).splitlines():
            sys.stderr.write(f"{program}: {line}\n")
        raise SystemExit(EXIT_USAGE) from None


def _parser(settings: type[BaseSettings], program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description=f"Settings: flags over variables {ENV_PREFIX}* over a TOML file over defaults.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--config", metavar="FILE", help="TOML file with settings by name")
    for name, field in settings.model_fields.items():
        default = "" if field.is_required() or field.default in (None, "") else f" (default {field.default})"
        text = f"{field.description or ''}{default}".replace("%", "%%")
        if bool in (field.annotation, *get_args(field.annotation)):
            parser.add_argument(_flag(name), action=argparse.BooleanOptionalAction, help=text)
        else:
            parser.add_argument(_flag(name), metavar="VALUE", help=text)
    return parser


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as problem:
        raise SettingsInvalid(f"config: cannot read {path}: {problem}") from None
    except tomllib.TOMLDecodeError as problem:
        raise SettingsInvalid(f"config: {path} is not TOML: {problem}") from None


def _line(settings: type[BaseSettings], problem: ErrorDetails, flags: Mapping[str, object], config: str | None) -> str:
    """One problem: the setting, what is wrong, its value and where that came from, what is expected."""
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return message
    name = str(problem["loc"][0])
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, settings.model_fields, n=1)
        return f"{path}: no such setting (in {config})" + (f": {near[0]}?" if near else "")
    variable = f"{ENV_PREFIX}{name.upper()}"
    description = settings.model_fields[name].description or ""
    if problem["type"] == "missing":
        return f"{path}: needed: set {variable} or {_flag(name)} ({description})"
    if name in flags:
        origin = _flag(name)
    elif any(key.upper() == variable for key in os.environ):
        origin = variable
    else:
        origin = config or "the default"
    value = "" if name in _SECRET else f" {problem['input']!r:.{_SHOWN_MAX}}"
    return f"{path}:{value} from {origin}: {message} ({description})"
