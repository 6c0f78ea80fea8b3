"""`cellbook audit export`: writes a cell's log to a file, and resumes after an interruption. `import`: the way back."""

import asyncio
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import asyncpg
import typer

from cellbook.v1 import audit_pb2
from cells.audit.export.restore import Restored, RestoreRefused
from cells.audit.verify.note import VerifierKey
from cells.store.ports import StoreError
from server.audit.restore import put_back
from server.cli import report
from server.cli.client import CellStubs, ClientError
from server.cli.reach import Reach
from server.cli.report import Stage, stage
from server.shell.hosting.failures import CannotServe

# The end of a file of this size holds at least one line of the longest kind.
TAIL_BYTES = 4 * 1024 * 1024
# The beginning of a line with an event.
EVENT = b'{"event"'
# Missing positions named one by one.
GAPS_MAX = 10
ATTEMPTS = 20
PAUSE_FIRST_S, PAUSE_MAX_S = 0.2, 5.0
# If a cell sends nothing for this long, the call is given up and repeated.
SILENCE_S = 30.0


@dataclass(slots=True, kw_only=True)
class Part:
    """The part of an export that exists so far: FILE.part, in whole lines."""

    path: Path
    header: dict[str, Any]
    position: int
    after_command_id: str = ""
    after_principal: str = ""

    @property
    def request(self) -> audit_pb2.ExportRequest:
        """The request for the next lines."""
        resumption = audit_pb2.ExportResumption(
            whole=self.header["whole"], after_command_id=self.after_command_id, after_principal=self.after_principal
        )
        return audit_pb2.ExportRequest(
            from_position=self.position + 1, to_position=self.header["to"], resumption=resumption
        )


def part_of(path: Path) -> Part | None:
    """Truncates an incomplete last line. None if there is nothing to resume. Raises ClientError."""
    if not path.exists():
        return None
    with path.open("r+b") as file:
        header_line = file.readline()
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        tail = file.read()
        whole = tail.rpartition(b"\n")[0] + b"\n"
        if not header_line.endswith(b"\n"):
            return None
        file.seek(-(len(tail) - len(whole)), os.SEEK_END)
        file.truncate()
    try:
        return _part(path, json.loads(header_line), whole.splitlines())
    except (ValueError, KeyError, TypeError):
        raise ClientError(f"{path} is no export that was broken off: move it away") from None


def _part(path: Path, header: dict[str, Any], lines: list[bytes]) -> Part:
    part = Part(path=path, header=header, position=header["from"] - 1)
    if not isinstance(header["to"], int) or not isinstance(header["cell"], str):
        raise TypeError
    for line in reversed(lines):
        if line.startswith(b'{"outcome"'):
            last = json.loads(line)["outcome"]
            part.position, part.after_command_id, part.after_principal = (
                header["to"],
                last["command_id"],
                last["principal"],
            )
            break
        if line.startswith(EVENT):
            part.position = json.loads(line)["event"]["position"]
            break
    return part


async def run_export(
    reach: Reach,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A new file; an existing FILE.part is resumed.")],
    first: Annotated[int, typer.Option("--from", min=1, help="The first position.")] = 1,
    last: Annotated[int, typer.Option("--to", min=0, help="The last position; by default the log's head.")] = 0,
) -> None:
    """Write a cell's log to a file that `cellbook verify` checks and `cellbook audit import` restores."""
    try:
        await pulled(reach.only, out, first, last)
    except OSError as error:
        raise ClientError(f"{error.filename or out}: {error.strerror}") from None
    _tell(out)


async def pulled(cell: CellStubs, out: Path, first: int = 1, last: int = 0) -> None:
    """Raises ClientError, LedgerRefusal."""
    path = out.with_name(f"{out.name}.part")
    if out.exists():  # noqa: ASYNC240 - nothing else runs here
        raise ClientError(f"{out} is there already: take another name, or move it away")
    request = audit_pb2.ExportRequest(from_position=first, to_position=last)
    part = part_of(path)
    if part is not None and part.header["cell"] != cell.name:
        raise ClientError(f"{path} is of {part.header['cell']}, not of {cell.name}: move it away")
    if part is None:
        path.unlink(missing_ok=True)
    elif not report.AS_JSON.get():
        report.stderr().print(f"going on behind position {part.position:,} of {path}")
    with stage(f"export of {cell.name}") as counted:
        for attempt in range(ATTEMPTS):
            try:
                await _pull(cell, part.request if part is not None else request, path, counted)
                break
            except ClientError as error:
                if attempt + 1 == ATTEMPTS:
                    raise ClientError(f"{error}; what has come is in {path}: the same command goes on there") from error
            await asyncio.sleep(min(PAUSE_FIRST_S * 2**attempt, PAUSE_MAX_S))
            part = part_of(path)
    path.rename(out)


async def _pull(cell: CellStubs, request: audit_pb2.ExportRequest, path: Path, counted: Stage) -> None:
    """Appends what it receives. Raises ClientError if the stream breaks off, LedgerRefusal if the cell refuses."""
    try:
        async with aclosing(cell.items(cell.audit.Export, request)) as replies:
            with path.open("ab") as file:
                while True:
                    async with asyncio.timeout(SILENCE_S):
                        reply = await anext(replies, None)
                    if reply is None:
                        break
                    file.write(reply.lines)
                    counted.reached(reply.position, reply.to_position)
                file.flush()
                os.fsync(file.fileno())
    except TimeoutError:
        raise ClientError(f"{cell.name}: nothing has come for {SILENCE_S:.0f} s") from None


def _tell(out: Path) -> None:
    """Raises ClientError for an export of a damaged log."""
    with out.open("rb") as file:
        header = json.loads(file.readline())
        events_count = sum(line.startswith(EVENT) for line in file)
        file.seek(max(0, out.stat().st_size - TAIL_BYTES))
        end = json.loads(file.read().splitlines()[-1])["end"]
    content = {"file": str(out), "cell": header["cell"], "from": header["from"], **end, "keys": header["keys"]}
    problem = ""
    if not end["root"]:
        problem = (
            "its signed tree is not complete, so the export has no root and proves nothing; cellbook verify says what "
            "is missing"
        )
    elif events_count != end["position"] - header["from"] + 1:
        problem = f"it has no event at position {_gaps(out, header['from'], end['position'])}"
    whole = "" if end["whole"] else " (a part of the log)"
    said = (
        f"{out}: positions {header['from']:,} to {end['position']:,} of {header['cell']}, root {end['root']}{whole}\n"
        f"check it by: cellbook verify --key KEY {out}"
    )
    problems = [f"{out}: the log of {header['cell']} is damaged: {problem}"] * bool(problem)
    report.show(lambda: content, lambda console: None if problem else console.print(said, soft_wrap=True), problems)


def _gaps(out: Path, first: int, last: int) -> str:
    """The positions of the first missing events."""
    with out.open("rb") as file:
        there = {json.loads(line)["event"]["position"] for line in file if line.startswith(EVENT)}
    missing = [str(position) for position in range(first, last + 1) if position not in there]
    return ", ".join([*missing[:GAPS_MAX], *(["..."] if len(missing) > GAPS_MAX else [])])


# --- import ---------------------------------------------------------------------------------------------------------


async def run_import(file: Path, dsn: str, data: Path | None, keys: Sequence[VerifierKey]) -> None:
    """Raises ClientError."""
    try:
        with stage(f"import of {file.name}") as counted:
            done = await put_back(file, dsn, data, keys, counted.reached)
    except (RestoreRefused, StoreError, CannotServe, asyncpg.PostgresError, OSError) as error:
        raise ClientError(f"{file} was not put back: {error}") from error
    report.show(lambda: asdict(done), "\n".join(_restored_lines(done)))


def _restored_lines(done: Restored) -> Iterator[str]:
    yield (
        f"{done.cell} is put back up to position {done.events:,}, root {done.root}: {done.outcomes:,} outcomes of "
        f"commands, {done.checkpoints:,} checkpoints"
    )
    if done.signed < done.events:
        yield f"not signed: positions {done.signed + 1:,} to {done.events:,}"
    if done.outcomes_too_old:
        yield f"{done.outcomes_too_old:,} outcomes are older than they are kept, and were left out"
    yield "names, addresses and mail are in no export: put vault.key, its list of erasures and their backup back, too"
