"""Options shared by several commands."""

from typing import Any

import typer

from server.shell.addresses import parse_address


def router_option(told: str) -> Any:  # noqa: ANN401 - as typer's own
    """`--router HOST:PORT`, or several addresses joined by +. An invalid address is wrong usage: exit code 2."""
    return typer.Option("--router", metavar="HOST:PORT", help=told, callback=_checked)


def _checked(param: typer.CallbackParam, text: str) -> str:
    if text == param.default:
        return text
    try:
        for endpoint in text.split("+"):
            parse_address(endpoint)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: {error}") from None
    return text
