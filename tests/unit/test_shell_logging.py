"""The content of the log, and what is kept out of it."""

import ast
import contextvars
import errno
import io
import json
import logging
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from server.shell.calls.call import call_or_none, current_call, enter_call
from server.shell.identity.principal import Principal, Role
from server.shell.observability.logging import configure_logging, keep_allowed, turn_level_by_signals

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Logging is configured per process: restores the previous state."""
    before = logging.root.handlers[:], logging.root.level, structlog.get_config()
    yield
    logging.root.handlers[:], logging.root.level = before[0], before[1]
    structlog.configure(**before[2])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def output() -> io.StringIO:
    """The log at level info, as a machine reads it."""
    stream = io.StringIO()
    configure_logging("info", stream=stream)
    return stream


@pytest.fixture
def terminal() -> io.StringIO:
    """The log at level info, as a person reads it."""
    stream = Terminal()
    configure_logging("info", stream=stream)
    return stream


def lines(output: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.getvalue().splitlines()]


class Full(io.StringIO):
    """A file on a full disk."""

    def write(self, _text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_line_that_cannot_be_written_ends_nothing() -> None:
    """Once the first line on a full disk ended a cell's own work, and tasks that had failed."""
    configure_logging("info", stream=Full())
    structlog.get_logger().warning("deposed")
    logging.getLogger("asyncio").warning("slow")


def test_a_line_is_json_with_time_and_level() -> None:
    """One object per line, machine readable, with the process's name."""
    output = io.StringIO()
    configure_logging("info", stream=output, cell="us-east")
    structlog.get_logger().info("leading", epoch=3, ahead_ms=7)
    [line] = lines(output)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "leading", "level": "info", "cell": "us-east", "epoch": 3, "ahead_ms": 7}


@pytest.mark.parametrize("said", ["a\nforged", "\x1b[2J", "\x9b2J", "\u202elive", "\u2028forged", "\U000e0041", "\x7f"])
def test_no_value_steers_who_reads_the_log(said: str, output: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine reads the original value; a person sees only visible characters, in one line."""
    structlog.get_logger().warning("refused", problem=f"é {said}")
    assert output.getvalue().removesuffix("\n").isprintable()
    assert [line["problem"] for line in lines(output)] == [f"é {said}"]
    monkeypatch.setattr(output, "isatty", lambda: True)
    configure_logging("info", stream=output)
    structlog.get_logger().warning("refused", problem=f"é {said}")
    [_, line] = output.getvalue().removesuffix("\n").split("\n")
    assert re.sub(r"\x1b\[[0-9;]*m", "", line).isprintable()


def test_people_and_amounts_stay_out(output: io.StringIO) -> None:
    """A field that is not on the list is dropped, whoever logs it, and its name is reported."""
    structlog.get_logger().info("paid", user_id="u", amount_minor=5, email="a@b", leg="pin")
    [line] = lines(output)
    assert line["dropped_fields"] == ["amount_minor", "email", "user_id"]
    assert line["leg"] == "pin"
    assert {"user_id", "amount_minor", "email"}.isdisjoint(line)


def test_the_level_counts_for_both_loggers() -> None:
    """Lines of the standard library take the same path, and lines below the level are not written."""
    output = io.StringIO()
    configure_logging("warning", stream=output)
    structlog.get_logger().info("quiet")
    logging.getLogger("grpc").info("quiet")
    structlog.get_logger().warning("ours")
    logging.getLogger("grpc").warning("%s is theirs", "this")
    assert [(line["event"], line.get("logger")) for line in lines(output)] == [
        ("ours", None),
        ("this is theirs", "grpc"),
    ]


def test_a_traceback_holds_no_values(output: io.StringIO) -> None:
    """The exception's lines are there, the variables' contents are not."""

    def fail(password: str) -> None:
        raise ZeroDivisionError(len(password))

    try:
        fail("hunter" + str(2))
    except ZeroDivisionError:
        structlog.get_logger().exception("failed")
    [line] = lines(output)
    assert "ZeroDivisionError: 7" in line["exception"]
    assert "hunter2" not in output.getvalue()


def test_the_level_is_turned_while_it_runs(output: io.StringIO) -> None:
    """SIGUSR1 raises the verbosity, SIGUSR2 lowers it. Each is logged, and stops at the last level."""
    before = [(number, signal.getsignal(number)) for number in (signal.SIGUSR1, signal.SIGUSR2)]
    log = structlog.get_logger()
    try:
        turn_level_by_signals("info", stream=output)
        for number in (signal.SIGUSR1, signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR2):
            log.debug("mutter")
            log.info("say")
            signal.raise_signal(number)
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    assert [line.get("state") or line["event"] for line in lines(output)] == [
        *("say", "debug", "mutter", "say", "debug", "mutter", "say", "info", "say", "warning"),
    ]


async def test_lines_of_a_call_carry_its_correlation_id(output: io.StringIO) -> None:
    """Method, role and id of the call; not its principal's name, which may identify a person."""
    call = enter_call("/x/Y", Principal(role=Role.AUDITOR, name="anna"), 1.0)
    structlog.get_logger().info("seen")
    [line] = lines(output)
    assert (line["correlation_id"], line["method"], line["role"]) == (call.correlation_id, "/x/Y", "auditor")
    assert "anna" not in output.getvalue()
    assert current_call() is call


def test_outside_of_calls_there_is_none() -> None:
    """A timer has no caller, and gets an error."""
    assert call_or_none() is None
    with pytest.raises(LookupError):
        current_call()


def test_two_calls_have_two_ids() -> None:
    """Each call has its own id."""
    principal = Principal(role=Role.SERVICE, name="shop")
    ids = {contextvars.copy_context().run(enter_call, "/x/Y", principal, None).correlation_id for _ in range(100)}
    assert len(ids) == 100


def test_a_terminal_gets_readable_lines(terminal: io.StringIO) -> None:
    """People get no JSON."""
    structlog.get_logger().info("leading", cell="us-east")
    assert not terminal.getvalue().startswith("{")
    assert "leading" in terminal.getvalue()


def test_a_traceback_on_a_terminal_shows_no_values(terminal: io.StringIO) -> None:
    """There, too, local variables may hold anything."""
    try:
        email = "ann" + "@people.test"
        int(email[:0])
    except ValueError:
        structlog.get_logger().exception("call_failed")
    assert "invalid literal" in terminal.getvalue()
    assert "ann@people.test" not in terminal.getvalue()


def test_every_field_that_is_logged_is_on_the_list() -> None:
    """No field that the code logs is dropped on output."""
    unknown = [
        f"{path.relative_to(ROOT)}:{call.lineno}: {keyword.arg}"
        for package in ("cells", "server", "router", "lab")
        for path in (ROOT / package).rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and ast.unparse(call.func).startswith(("log.", "note_failure"))
        for keyword in call.keywords
        if keyword.arg and "dropped_fields" in keep_allowed(None, "info", {keyword.arg: None})
    ]
    assert not unknown
