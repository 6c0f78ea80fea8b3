"""`cellbook audit publish`: writes a log's tree as files for any web server (C2SP tlog-tiles), incrementally.

It publishes only hashes and the checkpoint. Events name users and amounts, so they are not published.
"""

import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

from cellbook.v1 import audit_pb2
from cells.audit.verify.export import ExportCheck, Findings
from cells.audit.verify.note import Checkpoint, Malformed, VerifierKey, any_of, checkpoint_in, unbase64
from cells.audit.verify.proof import CHECKPOINT, tile_path
from cells.audit.verify.tree import HASH_BYTES, TILE_LEVELS, TILE_WIDTH, Frontier, Tile, root_of
from server.cli.client import CellStubs, ClientError
from server.cli.reach import Reach
from server.cli.report import show_line
from server.shell.files import write_durably


@dataclass(slots=True, kw_only=True)
class Published:
    """A folder with tiles up to a checkpoint, and the tiles to add. Every method may raise ClientError."""

    folder: Path
    keys: Sequence[VerifierKey]
    # The published checkpoint; None if there is none.
    last: Checkpoint | None = None
    written: int = 0
    _frontier: Frontier = field(default_factory=Frontier)
    # Full tiles that no checkpoint covers yet.
    _waiting: list[Tile] = field(default_factory=list)
    # The last checkpoint reached, its size, and the hashes of the tiles that are not full at that size.
    _reached: tuple[str, int, list[bytes]] | None = None

    @property
    def first(self) -> int:
        """The position to resume from: the first one of the tile that is not full."""
        return self._frontier.size + 1

    def open(self) -> None:
        try:
            note = (self.folder / CHECKPOINT).read_text("utf-8")
        except FileNotFoundError:
            return
        try:
            self.last = checkpoint_in(note, self.keys)
        except Malformed as error:
            raise ClientError(f"{self.folder / CHECKPOINT}: {error}") from None
        count, self._frontier.size = self.last.size // TILE_WIDTH, self.last.size // TILE_WIDTH * TILE_WIDTH
        self._frontier.edges.append(bytearray())
        level = 1
        while count:
            self._frontier.edges.append(bytearray(self._read(level, *divmod(count, TILE_WIDTH))))
            count, level = count // TILE_WIDTH, level + 1

    def _read(self, level: int, place: int, width: int) -> bytes:
        path = self.folder / tile_path(level, place, width or TILE_WIDTH)
        content = path.read_bytes() if width else b""
        if len(content) != width * HASH_BYTES:
            raise ClientError(f"{path} has {len(content)} bytes: publish into a new folder")
        return content

    def compare(self, prefix: Sequence[str]) -> None:
        """Compares the folder with the prefix of the export, which the published checkpoint proves later."""
        if root_of([unbase64(peak, "a hash") for peak in prefix]) != self._frontier.root():
            raise ClientError(f"the tiles in {self.folder} are not those of its checkpoint: publish into a new folder")

    def add(self, leaf: bytes) -> None:
        self._waiting += self._frontier.add(leaf)

    def reach(self, note: str, size: int) -> None:
        """Records a checkpoint over all leaves so far. Full tiles do not change any more."""
        for tile in self._waiting:
            self._write(tile_path(tile.level, tile.place), tile.hashes)
            shutil.rmtree(self.folder / f"{tile_path(tile.level, tile.place)}.p", ignore_errors=True)
        self._waiting.clear()
        self._reached = note, size, [bytes(edge) for edge in self._frontier.edges]

    def finish(self) -> int:
        """Returns the size of the last checkpoint. It is written last, so that its readers find the tiles."""
        if self._reached is None:
            return self.last.size if self.last is not None else 0
        note, size, edges = self._reached
        for level, edge in enumerate(edges):
            if edge:
                place = size >> level * TILE_LEVELS + TILE_LEVELS
                self._write(tile_path(level, place, len(edge) // HASH_BYTES), edge)
        write_durably(self.folder / CHECKPOINT, note.encode())
        return size

    def _write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(path, content)
            self.written += 1
        elif path.read_bytes() != content:
            raise ClientError(f"{path} is not what the log gives: a tile that was published is never written over")


async def run_publish(reach: Reach, folder: Path, keys: Sequence[VerifierKey], witnesses: int) -> None:
    """Raises ClientError, LedgerRefusal."""
    cell = reach.only
    try:
        quorum = any_of(witnesses, keys)
        published = Published(folder=folder, keys=keys)
        published.open()
        now = await cell.ask(cell.audit.GetCheckpoint, audit_pb2.GetCheckpointRequest())
        request = audit_pb2.ExportRequest(from_position=published.first, to_position=now.last_size)
        held = [published.last] if published.last is not None else []
        if held and held[0].size > now.last_size:
            raise ClientError(f"{cell.name} has signed {now.last_size} events, and {held[0].size} are published")
        check = ExportCheck(keys=keys, held=held, found=Findings())
        async for line in _lines(cell, request):
            content = check.read(line)
            if check.found.problems:
                raise ClientError(f"the log does not hold: {check.found.problems[0]}")
            if "prefix" in content:
                published.compare(content["prefix"])
            elif "position" in content:
                # The hash was checked against the leaf.
                published.add(bytes.fromhex(line.rstrip()[-66:-2].decode()))
            elif "checkpoint" in content and "consistency" not in content:
                found = checkpoint_in(content["checkpoint"], keys)
                if quorum.met([name for name, _ in found.cosigned]) and found.size >= (held[0].size if held else 0):
                    published.reach(content["checkpoint"], found.size)
        size = published.finish()
    except Malformed as error:
        raise ClientError(str(error)) from error
    except OSError as error:
        raise ClientError(f"{error.filename or folder}: {error.strerror}") from None
    content = {"folder": str(folder), "cell": cell.name, "size": size, "tiles_written": published.written}
    show_line(content, f"{folder}: the first {size:,} events of {cell.name}, {published.written} tiles")


async def _lines(cell: CellStubs, request: audit_pb2.ExportRequest) -> AsyncIterator[bytes]:
    async with aclosing(cell.items(cell.audit.Export, request)) as replies:
        async for reply in replies:
            for line in reply.lines.splitlines(keepends=True):
                yield line
