"""Traces of this process, if a collector is configured."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from server.shell.settings.host import HostSettings, SettingsInvalid

if TYPE_CHECKING:
    from server.shell.calls.otel import OtelTracing


def nothing_outgoing() -> Sequence[tuple[str, str]]:
    return ()


def build_tracing(settings: HostSettings, *, name: str) -> "OtelTracing | None":
    """None: traces are off. Raises SettingsInvalid if the package is not installed."""
    if not settings.otlp:
        return None
    try:
        from server.shell.calls.otel import OtelTracing  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise SettingsInvalid(f"otlp: traces need an extra, pip install 'cellbook[otel]' ({error})") from None
    return OtelTracing.to_collector(settings.otlp, tls=settings.otlp_tls, name=name, ratio=settings.otlp_ratio)
