"""Options shared by several commands."""

from typing import Any

import typer

from server.cli import report
from server.shell.settings.addresses import parse_address

LOOPBACK = "127.0.0.1"
# Where `cellbook up` has its router; its cells take the ports that follow.
DEFAULT_PORT_BASE = 7400
HERE = f"{LOOPBACK}:{DEFAULT_PORT_BASE}"


def router_option(told: str) -> Any:  # noqa: ANN401 - as typer's own
    """`--router HOST:PORT`, or several addresses joined by +. An invalid address is wrong usage: exit code 2."""
    return typer.Option("--router", metavar="HOST:PORT", help=told, callback=_checked)


def json_option(told: str) -> Any:  # noqa: ANN401 - as typer's own
    """`--json`. With it failures are JSON on stderr, too."""
    return typer.Option("--json", help=told, callback=_choose_json)


def _choose_json(chosen: bool) -> bool:
    report.AS_JSON.set(chosen)
    return chosen


def _checked(param: typer.CallbackParam, text: str) -> str:
    if text == param.default:
        return text
    try:
        for endpoint in text.split("+"):
            parse_address(endpoint)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: {error}") from None
    return text
