"""Defaults for the parts of a server that are absent, as in tests."""


def always_room(principal: str) -> None:
    """No limit besides those of gRPC."""


def no_trouble() -> str:
    """No log to report on."""
    return ""


def nobody_counts(method: str, code: str, seconds: float) -> None:
    """No metrics are kept."""


def nobody_counts_denied(method: str, reason: str) -> None:
    """No metrics are kept."""
