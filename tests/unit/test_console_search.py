"""The console's search: what an id is, by what each cell itself says, and who says nothing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import UUID

import pytest
from google.rpc import status_pb2

from cellbook.v1 import audit_pb2, event_pb2
from server.cli.client import LedgerRefusal
from server.cli.reach import Answers, Reach
from server.console.auditor.search import find
from server.console.serving import BadInput

ONE, OTHER = str(UUID(int=1)), str(UUID(int=2))
CELLS = ["eu-west", "us-east"]


@dataclass
class FakeReach:
    """Cells that answer each request alike."""

    given: Mapping[str, audit_pb2.FindEventsResponse] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)
    refused: dict[str, LedgerRefusal] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    listed: list[str] = field(default_factory=lambda: CELLS)

    async def ask_all(self, _method: Callable[..., Any], request: audit_pb2.FindEventsRequest) -> Answers[Any]:
        self.asked.append(request.subject)
        return Answers(given=dict(self.given), silent=self.silent, refused=self.refused)


def cells(**how: Any) -> Reach:  # noqa: ANN401 - fields of FakeReach
    return cast("Reach", FakeReach(**how))


def reply(cell: str, *, event_type: str = "DEPOSITED", **ids: str) -> audit_pb2.FindEventsResponse:
    event = event_pb2.Event(cell=cell, event_type=event_type, **{"event_id": OTHER, **ids})  # type: ignore[arg-type]
    effect = audit_pb2.FoundEvent(event=event_pb2.Event(event_id=ONE), role=audit_pb2.TRACE_ROLE_EFFECT)
    subject = audit_pb2.FoundEvent(event=event, role=audit_pb2.TRACE_ROLE_SUBJECT)
    return audit_pb2.FindEventsResponse(events=[subject, effect])


@pytest.mark.parametrize(
    ("event", "what", "path"),
    [
        ({"event_id": ONE}, "event DEPOSITED", f"/auditor/events/{ONE}"),
        ({"aggregate_id": ONE}, "account", f"/auditor/accounts/{ONE}"),
        ({"aggregate_id": ONE, "event_type": "BID_PLACED"}, "auction", f"/auditor/trace?subject={ONE}"),
        ({"aggregate_id": ONE, "event_type": "OF_LATER"}, "stream", f"/auditor/trace?subject={ONE}"),
        ({"correlation_id": ONE}, "flow", f"/auditor/trace?subject={ONE}"),
        ({"correlation_id": OTHER}, "command", f"/auditor/trace?subject={ONE}"),
    ],
)
async def test_an_id_leads_to_what_it_is(event: dict[str, str], what: str, path: str) -> None:
    """By the events that a cell has of it; its effects are not it."""
    answer = await find(cells(given={"eu-west": reply("eu-west", **event)}), ONE)
    [found] = answer.found
    assert (found.what, found.cell, found.path) == (what, "eu-west", path)
    assert answer.only_path == path


async def test_a_silent_cell_is_named_and_nothing_is_opened() -> None:
    """It may have more, and it may have another thing of that name."""
    answer = await find(cells(given={"eu-west": reply("eu-west", event_id=ONE)}, silent={"us-east": "no answer"}), ONE)
    assert (answer.silent, answer.cells, answer.only_path) == ({"us-east": "no answer"}, ["eu-west"], "")


async def test_several_cells_are_all_named() -> None:
    """One reference may be of a deposit in two cells."""
    given = {cell: reply(cell, event_id=event_id) for cell, event_id in zip(CELLS, (ONE, OTHER), strict=True)}
    answer = await find(cells(given=given), "bank/7")
    assert [(each.cell, each.path) for each in answer.found] == [
        ("eu-west", f"/auditor/trace?subject={ONE}"),
        ("us-east", f"/auditor/trace?subject={OTHER}"),
    ]
    assert answer.only_path == ""


async def test_a_refused_command_is_found() -> None:
    """It has no event."""
    refused = audit_pb2.RefusedCommand(cell="eu-west", refusal=status_pb2.Status(message="too low"))
    answer = await find(cells(given={"eu-west": audit_pb2.FindEventsResponse(refused=refused)}), ONE)
    assert [each.what for each in answer.found] == ["command that was refused"]


async def test_a_text_is_a_reference_of_money_in_or_out() -> None:
    """Unless it is an id or a name, or says which of both it is."""
    for query, count in ((ONE.replace("-", ""), 1), (f"cells/eu-west/assets/{ONE}", 1), ("7", 2), ("deposits/7", 1)):
        reach = FakeReach()
        assert (await find(cast("Reach", reach), query)).found == []
        assert len(reach.asked) == count, query


async def test_what_can_be_nothing_is_said() -> None:
    """A name that is none, a reference that no bank may send, and a cell that refuses."""
    for query in ("cells/eu-west/assets/junk", " x", "x\u202e"):
        with pytest.raises(BadInput):
            await find(cells(), query)
    refusal = LedgerRefusal(method="FindEvents", reason="X", message="no", facts={})
    with pytest.raises(LedgerRefusal):
        await find(cells(refused={"eu-west": refusal}), ONE)
