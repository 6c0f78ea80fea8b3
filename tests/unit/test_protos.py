"""The protos as users of other languages need them for stubs."""

from importlib import import_module, resources
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

ROOT = Path(__file__).parents[2]
FILES = sorted(path.relative_to(ROOT / "protos").as_posix() for path in (ROOT / "protos").rglob("*.proto"))
THEIRS = sorted((ROOT / "third_party" / "googleapis").rglob("*.proto"))


@pytest.mark.parametrize("name", FILES)
def test_each_file_says_where_its_code_goes(name: str) -> None:
    """One package in each language, the same for all files."""
    import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2")
    found = descriptor_pb2.FileDescriptorProto()
    descriptor_pool.Default().FindFileByName(name).CopyToProto(found)
    options = found.options
    assert options.go_package == "cellbook/v1;cellbookv1"
    assert (options.java_package, options.java_multiple_files) == ("cellbook.v1", True)
    assert options.csharp_namespace == "Cellbook.V1"


def test_what_refusals_are_made_of_is_shipped_beside_ours() -> None:
    """As in the Python package: the details of a status, for users who generate code from these folders alone."""
    assert [path.name for path in THEIRS] == ["error_details.proto", "status.proto"]
    for path in THEIRS:
        assert path.read_bytes() == (resources.files("google.rpc") / path.name).read_bytes()
