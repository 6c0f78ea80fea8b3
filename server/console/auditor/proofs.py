"""Proofs for the checks in the browser, as JSON: as the cell gives them, or why there is none."""

from base64 import b64encode
from collections.abc import Awaitable, Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from cellbook.v1 import audit_pb2
from server.cli.client import CellStubs, LedgerRefusal, NoAnswer
from server.console.console import cell_in
from server.console.pages import get
from server.console.serving import whole_number

# Refusals that say that the log is not what it was, or what it was said to be.
TAMPERED = frozenset({"LOG_TAMPERED", "EVENT_NOT_FOUND", "CHECKPOINT_NOT_FOUND"})


@get("/auditor/proofs/{cell}/{position}", "AuditService.GetInclusionProof", "AuditService.GetCheckpoint")
async def inclusion(request: Request) -> Response:
    """Of an event, with the keys that the cell names."""
    return await _answer(_inclusion(await cell_in(request), _number(request, "position")))


@get("/auditor/consistency/{cell}/{old_size}/{new_size}", "AuditService.GetConsistencyProof")
async def consistency(request: Request) -> Response:
    """Between two checkpoints."""
    return await _answer(
        _consistency(await cell_in(request), _number(request, "old_size"), _number(request, "new_size"))
    )


async def _inclusion(cell: CellStubs, position: int) -> dict[str, Any]:
    found = await cell.ask(cell.audit.GetInclusionProof, audit_pb2.GetInclusionProofRequest(position=position))
    named = await cell.ask(cell.audit.GetCheckpoint, audit_pb2.GetCheckpointRequest())
    return {
        "checkpoint": found.checkpoint,
        "path": _texts(found.path),
        "event_json": b64encode(found.event_json).decode(),
        "keys": [*named.keys],
    }


async def _consistency(cell: CellStubs, old_size: int, new_size: int) -> dict[str, Any]:
    wanted = audit_pb2.GetConsistencyProofRequest(old_size=old_size, new_size=new_size)
    return {"path": _texts((await cell.ask(cell.audit.GetConsistencyProof, wanted)).path)}


async def _answer(proof: Awaitable[dict[str, Any]]) -> Response:
    try:
        return JSONResponse(await proof)
    except LedgerRefusal as refusal:
        return JSONResponse({"problem": refusal.message, "tampered": refusal.reason in TAMPERED})
    except NoAnswer as silence:
        return JSONResponse({"problem": str(silence), "tampered": False})


def _number(request: Request, name: str) -> int:
    """Raises BadInput."""
    return whole_number(str(request.path_params[name]), name.replace("_", " "))


def _texts(path: Iterable[bytes]) -> list[str]:
    return [b64encode(each).decode() for each in path]
