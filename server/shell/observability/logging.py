"""Logs as JSON lines on stderr, or in a readable form if stderr is a terminal.

Only listed fields pass, so personal data and amounts stay out of the log whatever a caller logs.
"""

import contextlib
import json
import logging
import signal
import sys
import traceback
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from server.shell.calls.call import call_or_none
from server.shell.fields.texts import shown, shown_json

log = structlog.get_logger()

ALLOWED_FIELDS = frozenset(
    {
        "event", "level", "timestamp", "logger", "exception", "exc_info", "stack_info", "dropped_fields",
        "correlation_id", "causation_id", "command_id", "event_id", "saga_id", "aggregate_id", "auction_id", "asset_id",
        "cell", "region", "peer", "role", "method", "command", "leg", "direction", "state", "kind",
        "task", "part", "notice_id",
        "address", "database", "migration", "version", "path", "pid", "signal",
        "epoch", "position", "head", "generation", "attempt", "attempts", "applied", "committed", "leading", "claimed",
        "code", "reason", "problem", "sqlstate", "error", "message", "check", "row",
        "known",
    }
)  # fmt: skip
# The most verbose comes first.
LEVELS = ("debug", "info", "warning", "error")
# Suffixes of measures: durations, sizes and counts; never of money.
_MEASURES = ("_ms", "_s", "_bytes", "_count", "_total")


class Lossy:
    """Writes to `output` if possible. Output that cannot be written, as on a full disk, is lost without an error."""

    def __init__(self, output: TextIO) -> None:
        self._output = output

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            return self._output.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._output.flush()


def keep_allowed(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """A processor that drops every field not on the list, and names the dropped fields."""
    # Names that begin with an underscore belong to the logging libraries.
    dropped = [name for name in event.keys() - ALLOWED_FIELDS if not (name.endswith(_MEASURES) or name.startswith("_"))]
    for name in dropped:
        del event[name]
    if dropped:
        event["dropped_fields"] = sorted(dropped)
    return event


def add_call(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Adds the call that is being handled. Of the principal it adds only the role: a name may identify a person."""
    call = call_or_none()
    if call is not None:
        event.setdefault("correlation_id", call.correlation_id)
        event.setdefault("method", call.method)
        event.setdefault("role", call.principal.role.value)
    return event


def configure_logging(level: str, *, stream: TextIO | None = None, **fields: str) -> None:
    """Sets up structlog and the standard library's logging for this process; `fields` go with every line."""
    output = sys.stderr if stream is None else stream
    number = logging.getLevelNamesMapping()[level.upper()]

    def add_fields(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        for name, value in fields.items():
            event.setdefault(name, value)
        return event

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        add_call,
        add_fields,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        keep_allowed,
    ]
    rendered = _rendering(readable=output.isatty())
    structlog.configure(
        processors=[*shared, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", Lossy(output))),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(Lossy(output))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered],
        )
    )
    logging.basicConfig(handlers=[handler], level=number, force=True)


def turn_level_by_signals(level: str, *, stream: TextIO | None = None) -> None:
    """SIGUSR1 raises this process's verbosity by one level, SIGUSR2 lowers it, without a restart or an RPC to guard."""
    now = LEVELS.index(level)

    def turn(by: int) -> None:
        nonlocal now
        now = min(max(now + by, 0), len(LEVELS) - 1)
        configure_logging(LEVELS[now], stream=stream)
        # Logged at that very level, so that it is seen.
        log.log(logging.getLevelNamesMapping()[LEVELS[now].upper()], "log_level", state=LEVELS[now])

    signal.signal(signal.SIGUSR1, lambda *_: turn(-1))
    signal.signal(signal.SIGUSR2, lambda *_: turn(+1))


def _rendering(*, readable: bool) -> list[Processor]:
    # Tracebacks omit the values of variables: they may be anything, and take seconds to format.
    if readable:
        return [_show_values, structlog.dev.ConsoleRenderer(exception_formatter=_show_traceback)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_json)]


def _json(event: EventDict, **how: Any) -> str:  # noqa: ANN401 - the renderer's
    return shown_json(json.dumps(event, ensure_ascii=False, **how))


def _show_values(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Escapes values: they may quote client input, which must not steer the terminal or look like a line of its own."""
    return {name: shown(value) if isinstance(value, str) else value for name, value in event.items()}


def _show_traceback(output: TextIO, exc_info: ExcInfo) -> None:
    lines = "".join(traceback.format_exception(*exc_info)).splitlines()
    output.write("\n".join(map(shown, lines)))
