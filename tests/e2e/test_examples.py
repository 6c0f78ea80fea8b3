"""The examples for clients, as their readers run them, against a cluster as `cellbook up` runs it."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.toolchains import done, require_go_plugins, require_npm

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
BIN = Path(sys.executable).parent
STORY = ("us-east", "eu-west", "replayed: true", "ann has 8750 usd", "ben has 1250 usd", "refused: ")


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of one that runs, with three cells."""
    # Anywhere but at the documented ports, where a developer may have one running.
    port_base = str(random.randrange(33_000, 60_000))
    log = (tmp_path_factory.mktemp("up") / "log").open("w+")
    command = [str(BIN / "cellbook"), "up", "--json", "--port-base", port_base]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as cluster:
        try:
            assert cluster.stdout is not None
            line = cluster.stdout.readline()
            log.seek(0)
            assert line, log.read()
            yield json.loads(line)["router"]
        finally:
            cluster.terminate()
            cluster.wait(60)
            log.close()


def said(*command: str | Path, cwd: Path = ROOT) -> str:
    """What it prints. It must go well."""
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tells_the_story(text: str) -> bool:
    return all(part in text.lower() for part in STORY)


@pytest.mark.parametrize("name", ["python_sync.py", "python_async.py"])
def test_python(router: str, name: str) -> None:
    """By plain gRPC and the router's one address, and by the smart client."""
    assert tells_the_story(said(sys.executable, EXAMPLES / name, router))


def test_any_tool_that_knows_reflection(router: str) -> None:
    """Here buf's: it has no file of ours, and asks the server what there is."""
    plain = ("buf", "curl", "--protocol", "grpc", "--http2-prior-knowledge", "-H", "cellbook-principal: operator/me")
    cells = json.loads(said(*plain, "--data", "{}", f"http://{router}/cellbook.v1.RouterService/ListCells"))["cells"]
    assert [cell["name"] for cell in cells] == ["ap-tokyo", "eu-west", "us-east"]
    cell = f"http://{cells[0]['endpoints'][0]}"
    assert "cellbook.v1.LedgerService" in said(*plain, cell, "--list-services").split()
    assert "sagas" in said(*plain, "--emit-defaults", "--data", "{}", f"{cell}/cellbook.v1.SagaService/ListSagas")


QUICKSTART = ROOT / "docs" / "quickstart.md"
SCRIPTS = (
    "docs/examples/quickstart.py",
    "docs/examples/typescript/src/quickstart.ts",
    "docs/examples/go/quickstart.go",
)
# What the page's commands need of the repository.
WORKPLACE = ("docs/examples", "protos", "third_party")


def test_the_page_holds_the_scripts() -> None:
    """What a reader copies is what the tests run, to the letter."""
    shown = dict(re.findall(r"<!-- (docs/\S+) -->\n\n```\w+\n(.*?\n)```\n", QUICKSTART.read_text(), re.DOTALL))
    assert shown == {name: (ROOT / name).read_text() for name in SCRIPTS}


def commands(heading: str) -> str:
    """What the page has its reader type in a section."""
    section = QUICKSTART.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    [typed] = re.findall(r"```console\n(.*?)```", section, re.DOTALL)
    return "\n".join(line.removeprefix("$ ") for line in typed.splitlines())


def workplace(name: str) -> Path:
    """A copy of what a reader has before them."""
    folder = ROOT / "build" / "quickstart" / name
    shutil.rmtree(folder, ignore_errors=True)
    for part in WORKPLACE:
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("node_modules", "gen", "dist"))
    shutil.copy(ROOT / "buf.yaml", folder)
    (folder / ".venv").symlink_to(BIN.parent)
    return folder


def typed(heading: str, folder: Path, router: str) -> str:
    """What the commands of a section print, in order, the first that fails being the last."""
    script = "set -euo pipefail\n" + commands(heading).replace("127.0.0.1:7400", router)
    return done("bash", "-c", script, cwd=folder, env={"GOCACHE": str(ROOT / "build" / "go-cache")})


def settles(printed: str) -> bool:
    """Whether the auction was played to its end, and everybody has what is theirs."""
    lines = printed.lower().splitlines()
    wanted = (
        "sue lives in eu-west", "ann leads with 4000", "ben leads with 5500", "closed: 5500 wins",
        "settlement: saga_completed saga_state_completed", "the lamp is ben's: true",
        "sue has 5363 usd", "ann has 10000 usd", "ben has 4500 usd",
    )  # fmt: skip
    places = [lines.index(line) for line in wanted]
    return places == sorted(places) and any(line.startswith("ann is refused: ") for line in lines)


def test_quickstart_in_python(router: str) -> None:
    """As its reader types it."""
    assert settles(typed("Python", workplace("python"), router))


@pytest.mark.timeout(300)
def test_quickstart_in_typescript(router: str) -> None:
    """With @grpc/grpc-js, and stubs made from the protos; and in the same folder the other example."""
    require_npm()
    folder = workplace("typescript")
    assert settles(typed("TypeScript", folder, router))
    assert tells_the_story(done("node", "dist/src/main.js", router, cwd=folder / "docs" / "examples" / "typescript"))


@pytest.mark.timeout(300)
def test_quickstart_in_go(router: str) -> None:
    """With grpc-go and its plugins, as Debian has them."""
    require_go_plugins()
    assert settles(typed("Go", workplace("go"), router))
