"""Named queries: SQL lives in `.sql` files, each query under a line `-- name: the_name`."""

import re
from importlib import resources

_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)


def queries(package: str, file: str) -> dict[str, str]:
    """The queries of a file that a package ships, by name. Comments above and within a query stay with it."""
    parts = _NAME.split((resources.files(package) / file).read_text(encoding="utf-8"))
    return {name: text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}
