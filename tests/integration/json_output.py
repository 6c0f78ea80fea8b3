"""Commands as with `--json`, for tests that call their functions."""

from collections.abc import Iterator
from contextlib import contextmanager

from server.cli import report


@contextmanager
def as_json() -> Iterator[None]:
    chosen = report.AS_JSON.set(True)
    try:
        yield
    finally:
        report.AS_JSON.reset(chosen)
