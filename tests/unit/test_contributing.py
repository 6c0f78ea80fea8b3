"""CONTRIBUTING.md is right: the packages that it lists are there, and its recipes list the files that they touch."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
# Where an example may be mentioned besides tests.
SEARCHED = ("cells", "server", "router", "protos", "docs", "docker", "tests/golden", "README.md")
# Stubs follow from the .proto files; decisions and the output of a recorded run are never changed.
FOLLOWS = re.compile(r"_pb2(_grpc)?\.pyi?$|^docs/decisions/|^docs/chaos\.md$")
TOLD = re.compile(r"`([A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)+/?)`")


class Recipe(NamedTuple):
    name: str
    example: str
    files: list[str]

    @property
    def mentions(self) -> re.Pattern[str]:
        """The example in each of its spellings: of Python, of the log, of messages, of the command line."""
        last = self.example.rpartition(" ")[2]
        stored = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", self.example).upper()
        if self.example.startswith("cellbook "):
            return re.compile(rf'{self.example.removeprefix("cellbook ")}\b|command\("{last}"\)')
        return re.compile(rf"\b({re.escape(self.example)}(Request|Response)?|{stored})\b")


def recipes() -> Iterator[Recipe]:
    for section in PAGE.split("\n### ")[1:]:
        found = re.search(r"^Example: `([^`]+)`$", section, re.MULTILINE)
        if found is not None:
            files = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
            yield Recipe(section.partition("\n")[0], found[1], files)


def paths(folder: str) -> Iterator[Path]:
    start = ROOT / folder
    yield from (start,) if start.is_file() else (path for path in start.rglob("*") if path.is_file())


def mentioning(recipe: Recipe) -> set[str]:
    found = set()
    for path in (path for folder in SEARCHED for path in paths(folder)):
        name = path.relative_to(ROOT).as_posix()
        if "__pycache__" in name or FOLLOWS.search(name):
            continue
        if recipe.mentions.search(path.read_text("utf-8", errors="ignore")):
            found.add(name)
    return found


def is_test(file: str) -> bool:
    return file.startswith("tests/") and not file.startswith("tests/golden/")


def test_there_is_a_recipe_for_each_common_task() -> None:
    """A newcomer finds each of them."""
    tasks = ["A refusal", "An event", "An RPC", "A saga leg", "A command of the command line"]
    tasks += ["A page of the console", "A metric"]
    assert [recipe.name for recipe in recipes()] == tasks


@pytest.mark.parametrize("recipe", [*recipes()], ids=lambda recipe: recipe.name)
def test_a_recipe_lists_the_files_of_its_example(recipe: Recipe) -> None:
    """No file that mentions the example is missing, and none is listed that does not; tests are listed if needed."""
    assert {file for file in recipe.files if not is_test(file)} == mentioning(recipe)
    for file in filter(is_test, recipe.files):
        # A test may name a command by its last word.
        text = (ROOT / file).read_text("utf-8")
        assert recipe.mentions.search(text) or f'"{recipe.example.rpartition(" ")[2]}"' in text, file


@pytest.mark.parametrize("path", sorted(set(TOLD.findall(PAGE))))
def test_each_path_is_there(path: str) -> None:
    """A file that has moved is named by its new path."""
    assert (ROOT / path).exists() or path == "path/to/python3.13", path


def test_each_package_is_listed() -> None:
    """A package that is added says in the table what it holds; those within a listed leaf are its own affair."""
    packages = {
        init.parent.relative_to(ROOT).as_posix()
        for top in ("cells", "server", "router", "lab")
        for pattern in ("__init__.py", "*/__init__.py")
        for init in (ROOT / top).glob(pattern)
    }
    table = PAGE[PAGE.index("## Where things are") : PAGE.index("## Conventions")]
    listed = {
        name for row in re.findall(r"^\|([^|]*)\|", table, re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)
    }
    assert {name for name in packages if not name.startswith("lab/")} - listed == set()
