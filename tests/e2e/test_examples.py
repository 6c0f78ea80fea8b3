"""The examples for clients, as their readers run them, against a cluster as `cellbook up` runs it."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.toolchains import node_modules

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


@pytest.mark.timeout(300)
def test_typescript(router: str, tmp_path: Path) -> None:
    """With @grpc/grpc-js, and stubs made from the protos."""
    folder = node_modules("typescript")
    for script in ("stubs", "build"):
        said("npm", "run", script, cwd=folder)
    assert tells_the_story(said("node", "dist/src/main.js", router, cwd=folder))
