"""What stands for a part of a server that is not there, as in tests."""


def always_room(principal: str) -> None:
    """There is no bound but those of gRPC."""


def no_trouble() -> str:
    """There is no log to be wrong."""
    return ""


def nobody_counts(method: str, code: str, seconds: float) -> None:
    """Where no metrics are kept."""


def nobody_counts_denied(method: str, reason: str) -> None:
    """Where no metrics are kept."""
