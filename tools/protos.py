"""Generates the stubs under protos/ from the .proto files beside them.

With --check, writes nothing and says which of the committed stubs are not the ones that it would write.
"""

import sys
import sysconfig
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
IMPORTED = ROOT / "third_party" / "googleapis"
PATTERNS = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")
PLUGINS = ("mypy", "mypy_grpc")


def generate(out: Path) -> None:
    """Writes the stubs of every .proto file below `out`."""
    scripts = Path(sysconfig.get_path("scripts"))
    arguments = [
        "protoc",
        f"--proto_path={PROTOS}",
        f"--proto_path={IMPORTED}",
        f"--proto_path={resources.files('grpc_tools') / '_proto'}",
        *(f"--plugin=protoc-gen-{plugin}={scripts / f'protoc-gen-{plugin}'}" for plugin in PLUGINS),
        *(f"--{plugin}_out={out}" for plugin in ("python", "grpc_python")),
        *(f"--{plugin}_out=quiet:{out}" for plugin in PLUGINS),
        *(str(path.relative_to(PROTOS)) for path in sorted(PROTOS.rglob("*.proto"))),
    ]
    if protoc.main(arguments) != 0:
        sys.exit("protoc failed")


def stubs(root: Path) -> dict[Path, bytes]:
    """The stubs below `root`, by their path from there."""
    return {path.relative_to(root): path.read_bytes() for pattern in PATTERNS for path in root.rglob(pattern)}


def fresh() -> dict[Path, bytes]:
    """The stubs that the current .proto files generate."""
    with tempfile.TemporaryDirectory() as out:
        generate(Path(out))
        return stubs(Path(out))


def write() -> None:
    """Brings protos/ up to date, and removes stubs without a .proto file."""
    expected = fresh()
    for path in stubs(PROTOS).keys() - expected.keys():
        (PROTOS / path).unlink()
    for path, stub in expected.items():
        (PROTOS / path).write_bytes(stub)


def check() -> None:
    """Exits with the names of the stubs that are stale, missing or left over."""
    expected, found = fresh(), stubs(PROTOS)
    paths = sorted(expected.keys() | found.keys())
    stale = [path for path in paths if expected.get(path) != found.get(path)]
    if stale:
        names = "\n".join(f"  protos/{path}" for path in stale)
        sys.exit(f"These stubs are not what the .proto files say; run `make protos` and commit:\n{names}")
    print(f"The {len(expected)} stubs are fresh.")


if __name__ == "__main__":
    check() if sys.argv[1:] == ["--check"] else write()
