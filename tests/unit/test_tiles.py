"""A log's tree as files, C2SP tlog-tiles: the layout of the specification, and a verifier that finds changes.

Also an audit's samples, which follow from a seed and from the signed root.
"""

import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from cells.audit.proofs.keys import checkpoint_body, new_keys
from cells.audit.verify.command import BAD, GOOD, main
from cells.audit.verify.note import Checkpoint, Malformed, checkpoint_in
from cells.audit.verify.proof import check_tiles, positions, tile_path
from cells.audit.verify.tree import tree_root
from server.cli.audit.publish import Published
from server.cli.client import ClientError

KEYS = new_keys("us-east", os.urandom)
KEY = KEYS.log.verifier
# The example of the specification.
SIZE = 70_000


def leaf(index: int) -> bytes:
    return sha256(str(index).encode()).digest()


def note_of(size: int) -> str:
    return KEYS.log.note(checkpoint_body(KEY.name, size, tree_root([leaf(index) for index in range(size)])))


def publish(folder: Path, size: int) -> Published:
    """Publishes the log at that size, on top of the existing tiles."""
    published = Published(folder=folder, keys=[KEY])
    published.open()
    for index in range(published.first - 1, size):
        published.add(leaf(index))
    published.reach(note_of(size), size)
    assert published.finish() == size
    return published


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def held(size: int) -> Checkpoint:
    return checkpoint_in(note_of(size), [KEY])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiles")
    publish(folder, SIZE)
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two full tiles and a partial one."""
    publish(tmp_path, 600)
    return tmp_path


def test_paths_are_those_of_the_specification() -> None:
    """Groups of three digits, all but the last with an x; the width of a partial tile."""
    assert tile_path(0, 0) == "tile/0/000"
    assert tile_path(1, 1_234_067) == "tile/1/x001/x234/067"
    assert tile_path(0, 273, 112) == "tile/0/273.p/112"
    assert tile_path(2, 1_000) == "tile/2/x001/000"


def test_a_tree_is_in_as_many_tiles_as_the_specification_says(whole: Path) -> None:
    """273 full ones and one of 112 hashes, above them one full and one of 17, and one of a single hash."""
    found = files(whole)
    by_level = [sorted(name for name in found if name.startswith(f"tile/{level}/")) for level in range(3)]
    assert by_level[0] == [*(f"tile/0/{place:03}" for place in range(273)), "tile/0/273.p/112"]
    assert by_level[1] == ["tile/1/000", "tile/1/001.p/17"]
    assert by_level[2] == ["tile/2/000.p/1"]
    assert len(found) == 273 + 1 + 2 + 1 + 1
    assert found["tile/0/001"][:32] == leaf(256)
    proven = check_tiles(whole, [KEY], [held(1), held(300), held(65_536), held(SIZE)])
    assert proven.checkpoint.size == SIZE
    assert proven.fact.endswith("over its first 70000 events, and the held ones")


def test_bit_by_bit_it_comes_to_the_same(tmp_path: Path, whole: Path) -> None:
    """Existing tiles are not written again; a partial tile is removed once it is full. Each step verifies."""
    written = 0
    for size in (1, 255, 256, 257, 511, 65_535, 65_536, 65_537, SIZE):
        before = files(tmp_path)
        stamps = {name: (tmp_path / name).stat().st_mtime_ns for name in before if name != "checkpoint"}
        written += publish(tmp_path, size).written
        after = files(tmp_path)
        assert all(after.get(name, content) == content for name, content in before.items() if name != "checkpoint")
        assert all((tmp_path / name).stat().st_mtime_ns == at for name, at in stamps.items() if name in after)
        check_tiles(tmp_path, [KEY], [held(size)])
    assert publish(tmp_path, SIZE).written == 0
    expected, found = files(whole), files(tmp_path)
    assert expected.items() <= found.items()
    # Partial tiles under an earlier checkpoint that have not become full.
    assert set(found) - set(expected) <= {"tile/1/001.p/1", "tile/1/000.p/1", "tile/1/000.p/255", "tile/2/000.p/1"}


def flip(name: str) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[40] ^= 1
        (folder / name).write_bytes(content)

    return do


def cut(folder: Path) -> None:
    path = folder / "tile/0/001"
    path.write_bytes(path.read_bytes()[:-32])


def sign(size: int, *, as_size: int) -> Callable[[Path], object]:
    """Puts the checkpoint of that size there, and makes it say another one."""
    note = note_of(size).replace(f"\n{size}\n", f"\n{as_size}\n")
    return lambda folder: (folder / "checkpoint").write_text(note)


@pytest.mark.parametrize(
    ("tamper", "told"),
    [
        (flip("tile/0/001"), "tile/0/001 does not give its hash in tile/1/000: one of them was changed"),
        (flip("tile/1/000.p/2"), "tile/0/001 does not give its hash in tile/1/000: one of them was changed"),
        (flip("tile/0/002.p/88"), "do not give the root that was signed at size 600"),
        (cut, "tile/0/001 has 8160 bytes"),
        (lambda folder: (folder / "tile/0/001").unlink(), "tile/0/001 is missing"),
        (sign(512, as_size=512), "of size 600 is held, and what is published is of cellbook/us-east and of size 512"),
        (sign(600, as_size=599), "signature of cellbook/us-east is wrong"),
    ],
)
def test_whatever_is_changed_is_found(small: Path, tamper: Callable[[Path], object], told: str) -> None:
    """And named, if two levels disagree."""
    check_tiles(small, [KEY], [held(600)])
    tamper(small)
    with pytest.raises(Malformed, match=told):
        check_tiles(small, [KEY], [held(600)])


def test_another_history_is_found_by_a_checkpoint_that_is_held(small: Path) -> None:
    """Everything made anew with the log's key: the tiles agree with each other, but not with the held checkpoint."""
    fork = Checkpoint(KEY.name, 300, bytes(32))
    with pytest.raises(Malformed, match="root of the held checkpoint of size 300"):
        check_tiles(small, [KEY], [fork])


def test_a_tile_that_was_published_is_never_written_over(small: Path) -> None:
    """It stops, names the tile, and the checkpoint stays as it was."""
    before = files(small)
    fork = Published(folder=small, keys=[KEY])
    fork.open()
    (small / "tile/0/002").write_bytes(bytes(8_192))
    for index in range(512, 800):
        fork.add(leaf(index))
    with pytest.raises(ClientError, match="tile/0/002 is not what the log gives: a tile that was published is never"):
        fork.reach(note_of(800), 800)
    assert (small / "checkpoint").read_bytes() == before["checkpoint"]


def test_what_is_there_is_held_against_the_log(small: Path) -> None:
    """Before anything is added."""
    published = Published(folder=small, keys=[KEY])
    published.open()
    with pytest.raises(ClientError, match="are not those of its checkpoint"):
        published.compare([])
    flip("tile/1/000.p/2")(small)
    (small / "checkpoint").write_text("junk\n")
    with pytest.raises(ClientError, match="no signed note"):
        Published(folder=small, keys=[KEY]).open()


def test_the_command_checks_a_folder(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As it checks a file."""
    (small.parent / "kept").write_text(note_of(300))
    arguments = ["--key", str(KEY), "--checkpoint", str(small.parent / "kept"), str(small)]
    assert main(arguments, program="verify") == GOOD
    assert "HOLDS: the tiles of cellbook/us-east give the root" in capsys.readouterr().out
    flip("tile/0/001")(small)
    assert main(arguments, program="verify") == BAD
    assert "DOES NOT HOLD: tile/0/001 does not give its hash" in capsys.readouterr().out


def test_a_draw_is_the_same_for_everybody_and_reaches_everything() -> None:
    """Only the seed and the root decide; another of either gives another sample; all numbers are equally likely."""
    first = Checkpoint("cellbook/eu-west", 1_000, b"r" * 32)
    drawn = positions("7", first, 5)
    assert drawn == positions("7", first, 5) == [90, 151, 461, 579, 781]
    assert drawn != positions("8", first, 5)
    assert drawn != positions("7", first._replace(root=b"s" * 32), 5)
    assert positions("7", first, 2_000) == [*range(1, 1_001)]
    counts = [0] * 10
    for seed in range(400):
        for position in positions(str(seed), first._replace(size=10), 3):
            counts[position - 1] += 1
    assert 80 < min(counts) <= max(counts) < 160
