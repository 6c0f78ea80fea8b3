"""`cellbook audit accesses`: lists the reads by staff that the log records."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from grpc import aio

from cellbook.v1 import event_pb2
from cellbook.v1.event_pb2 import EventFilter
from server.cli import report
from server.cli.access import chosen_access
from server.cli.audit.ask import AUDITOR
from server.cli.client import CellStubs, ClientError, unknown_in
from server.cli.reach import Reach

EVENT_TYPE = "ACCESSES_RECORDED"
# Subjects of entries that cover more than one account.
OF_ALL, MORE = "", "*"
SAID = {OF_ALL: "all", MORE: "more in this minute"}


async def run_accesses(reach: Reach, user_id: str, *, as_json: bool) -> None:
    """With `user_id`, reads of this user and reads of all users. Raises ClientError, LedgerRefusal."""
    for cell in reach.cells:
        async for access in accesses_of(cell):
            if user_id and access["subject"] not in {user_id, *SAID}:
                continue
            report_one(access, as_json=as_json)


async def accesses_of(cell: CellStubs) -> AsyncIterator[dict[str, Any]]:
    """Accesses up to the end of the log at the time of the call."""
    request = event_pb2.SubscribeRequest(filter=EventFilter(event_types=[EVENT_TYPE]))
    call = cell.events.Subscribe(request, metadata=chosen_access().metadata(AUDITOR))
    try:
        async for item in call:
            if item.HasField("caught_up"):
                return
            for access in json.loads(item.event.payload_json)["accesses"]:
                yield {"cell": cell.name, "position": item.event.position, **access}
    except aio.AioRpcError as error:
        raise ClientError(f"{cell.name}: {unknown_in(error, request).told}") from error
    finally:
        call.cancel()


def report_one(access: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(access))
        return
    minute = f"{datetime.fromtimestamp(access['minute_ms'] / 1_000, UTC):%Y-%m-%d %H:%M}"
    who, what, subject = access["principal"], access["method"], SAID.get(access["subject"], access["subject"])
    report.line(f"{minute}  {who:32}  {what:18}  {subject:36}  {access['cell']}/{access['position']}")
