"""Every test that a page of the docs names exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# `path`, `path::name`, or `::name` in the last path of the same line.
NAMED = re.compile(r"`((?:tests/)?[\w/]*test_\w+\.py)?(?:::(\w+))?`")


def named(line: str) -> list[tuple[str, str]]:
    """Files and tests in a line, as paths from the top of the project."""
    found, path = [], ""
    for file, test in NAMED.findall(line):
        if not (file or test):
            continue
        path = file or path
        found.append((path, test))
    return found


def text_of(path: str) -> str:
    """Of the one file at this path, from the top or somewhere below tests/."""
    found = [ROOT / path] if (ROOT / path).is_file() else [*(ROOT / "tests").rglob(path)]
    assert len(found) == 1, f"{path} is named, and there are {len(found)} of it"
    return found[0].read_text("utf-8")


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_every_test_that_is_named_exists(page: Path) -> None:
    """By its file and its name."""
    checked, last = 0, ""
    for line in page.read_text("utf-8").splitlines():
        for path, test in named(line):
            last = path or last
            text = text_of(last) if last else ""
            assert not test or f"def {test}(" in text, (last, test)
            checked += 1
    assert checked > 80 or page.name != "security.md"
