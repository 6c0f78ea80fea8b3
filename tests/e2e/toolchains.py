"""Other languages' tools, where they are: without them their tests are skipped, and say so."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
# Debian's packages of Go: golang-google-grpc-dev and what it needs.
DEBIAN_GOPATH = Path("/usr/share/gocode")
# What npm says where it reaches no registry.
NO_REGISTRY = ("ENOTFOUND", "EAI_AGAIN", "ETIMEDOUT", "ECONNREFUSED")
TIMEOUT_S = 240


def done(*command: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None, stdin: str = "") -> str:
    """What it prints. It must go well."""
    ended = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def require_npm() -> None:
    """Skips without Node, or where npm reaches no registry."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed: nothing is shown of Node")
    asked = subprocess.run(
        ["npm", "ping"], capture_output=True, text=True, timeout=TIMEOUT_S, check=False, cwd=EXAMPLES / "typescript"
    )
    if asked.returncode != 0 and any(word in asked.stderr for word in NO_REGISTRY):
        pytest.skip(f"npm reaches no registry: nothing is shown of Node ({asked.stderr.strip()[:200]})")


def node_modules(name: str) -> Path:
    """A folder of its own with what the TypeScript example depends on."""
    require_npm()
    folder = ROOT / "build" / "examples" / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(EXAMPLES / "typescript", folder, ignore=shutil.ignore_patterns("node_modules", "gen", "dist"))
    done("npm", "ci", "--ignore-scripts", cwd=folder)
    return folder


def require_go_plugins() -> None:
    """Skips without Go, or without what makes its stubs."""
    missing = [name for name in ("go", "protoc-gen-go", "protoc-gen-go-grpc") if shutil.which(name) is None]
    if missing:
        pytest.skip(
            f"{', '.join(missing)} not installed: nothing is shown of Go (docs/quickstart.md names the packages)"
        )
    if not (DEBIAN_GOPATH / "src" / "google.golang.org" / "grpc").is_dir():
        pytest.skip(f"grpc-go is not in {DEBIAN_GOPATH}: nothing is shown of Go")


def go_path() -> Path:
    """Where grpc-go is. Skips without it or without a compiler."""
    if shutil.which("go") is None:
        pytest.skip(
            "go is not installed: nothing is shown of Go (Debian: apt install golang-go golang-google-grpc-dev)"
        )
    for folder in (*map(Path, filter(None, os.environ.get("GOPATH", "").split(":"))), DEBIAN_GOPATH):
        if (folder / "src" / "google.golang.org" / "grpc").is_dir():
            return folder
    pytest.skip(f"grpc-go is not in GOPATH or {DEBIAN_GOPATH}: nothing is shown of Go")


def go_built(source: Path, program: Path, *more: Path) -> Path:
    """`program`, of the package or file `source`; `more` are folders of packages, to be found before grpc-go."""
    path = ":".join(map(str, (*more, go_path())))
    env = {"GO111MODULE": "off", "GOFLAGS": "", "GOPATH": path, "GOCACHE": str(ROOT / "build" / "go-cache")}
    done("go", "build", "-o", program, source, cwd=source.parent, env=env)
    return program
