"""`cellbook audit export`: writes a cell's log to a file, and resumes after an interruption."""

import asyncio
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpc import aio

from cellbook.v1 import audit_pb2
from server.cli import report
from server.cli.access import chosen_access
from server.cli.audit.ask import AUDITOR
from server.cli.audit.proof import one_cell
from server.cli.client import CellStubs, ClientError, unknown_in
from server.cli.progress import Progress, Stage
from server.cli.reach import Reach

# The end of a file of this size holds at least one line of the longest kind.
TAIL_BYTES = 4 * 1024 * 1024
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
        if line.startswith(b'{"event"'):
            part.position = json.loads(line)["event"]["position"]
            break
    return part


async def run_export(reach: Reach, out: Path, first: int, last: int, *, as_json: bool) -> None:
    """Raises ClientError, LedgerRefusal."""
    await pulled(one_cell(reach), out, first, last, as_json=as_json)
    _tell(out, as_json=as_json)


async def pulled(cell: CellStubs, out: Path, first: int = 1, last: int = 0, *, as_json: bool = False) -> None:
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
    elif not as_json:
        report.stderr().print(f"going on behind position {part.position:,} of {path}")
    with Progress(report.stderr()).stage(f"export of {cell.name}", 0) as stage:
        for attempt in range(ATTEMPTS):
            try:
                await _pull(cell, part.request if part is not None else request, path, stage)
                break
            except ClientError as error:
                if attempt + 1 == ATTEMPTS:
                    raise ClientError(f"{error}; what has come is in {path}: the same command goes on there") from error
            await asyncio.sleep(min(PAUSE_FIRST_S * 2**attempt, PAUSE_MAX_S))
            part = part_of(path)
    path.rename(out)


async def _pull(cell: CellStubs, request: audit_pb2.ExportRequest, path: Path, stage: Stage) -> None:
    """Appends what it receives. Raises ClientError if the stream breaks off, LedgerRefusal if the cell refuses."""
    call = cell.audit.Export(request, metadata=chosen_access().metadata(AUDITOR))
    try:
        with path.open("ab") as file:
            while True:
                async with asyncio.timeout(SILENCE_S):
                    reply = await call.read()
                if not isinstance(reply, audit_pb2.ExportResponse):
                    file.flush()
                    os.fsync(file.fileno())
                    return
                file.write(reply.lines)
                stage.reached(reply.position, reply.to_position)
    except aio.AioRpcError as error:
        raise ClientError(f"{cell.name}: {unknown_in(error, request).told}") from error
    except TimeoutError:
        raise ClientError(f"{cell.name}: nothing has come for {SILENCE_S:.0f} s") from None
    except OSError as error:
        raise SystemExit(f"cellbook: {path}: {error.strerror}") from None
    finally:
        call.cancel()


def _tell(out: Path, *, as_json: bool) -> None:
    """Raises ClientError for an export of a damaged log."""
    with out.open("rb") as file:
        header = json.loads(file.readline())
        file.seek(max(0, out.stat().st_size - TAIL_BYTES))
        end = json.loads(file.read().splitlines()[-1])["end"]
    told = {"file": str(out), "cell": header["cell"], "from": header["from"], **end, "keys": header["keys"]}
    if as_json:
        print(json.dumps(told, indent=2))
    if not end["root"]:
        raise ClientError(
            f"{out}: the log of {header['cell']} is damaged: its signed tree is not complete, so the export has no "
            "root and proves nothing; cellbook verify says what is missing"
        )
    if as_json:
        return
    report.line(
        f"{out}: positions {header['from']:,} to {end['position']:,} of {header['cell']}, root {end['root']}"
        f"{'' if end['whole'] else ' (a part of the log)'}"
    )
    report.line(f"check it by: cellbook verify --key KEY {out}")
