"""ListUserEvents: what happened to an account, newest first."""

import json
from uuid import UUID

from cellbook.v1 import event_pb2
from tests.integration.services_rig import AUDITOR, SHOP, SUPPORT, Rig, as_user, refusal_of, usd


async def pages(rig: Rig, user_id: UUID, size: int) -> list[list[event_pb2.Event]]:
    found = await rig.pages("ListUserEvents", user_id=user_id, page_size=size, by=SUPPORT)
    return [list(page.events) for page in found]


async def test_the_events_of_an_account_come_newest_first(rig: Rig) -> None:
    """All of them and no other's, page by page, whole and with their postings; a page may be the last one."""
    for _ in range(3):
        await rig.ask("Reserve", user_id=rig.ann, amount=usd(100))
        await rig.ask("Reserve", user_id=rig.ben, amount=usd(100))
    # Opened, paid in, three times reserved.
    for size, shape in ((2, [2, 2, 1]), (5, [5]), (100, [5])):
        found = await pages(rig, rig.ann, size)
        assert [len(page) for page in found] == shape
        events = [event for page in found for event in page]
        assert [event.stream_version for event in events] == [5, 4, 3, 2, 1]
        assert {event.aggregate_id for event in events} == {str(rig.ann)}
        assert events[0].event_type == "FUNDS_RESERVED"
        assert json.loads(events[0].payload_json)["amount_minor"] == "100"
        assert [each.amount_minor for each in events[0].postings] == [-100, 100]


async def test_what_happens_meanwhile_moves_no_page(rig: Rig) -> None:
    """The next page goes on below the last one."""
    request = event_pb2.ListUserEventsRequest(user_id=str(rig.ann), page_size=1)
    first = await rig.call(request, by=SUPPORT)
    await rig.ask("Reserve", user_id=rig.ann, amount=usd(100))
    request.page_token = first.next_page_token
    second = await rig.call(request, by=SUPPORT)
    assert [each.stream_version for each in (*first.events, *second.events)] == [2, 1]
    assert not second.next_page_token


async def test_staff_alone_reads_them_and_is_in_the_log(rig: Rig) -> None:
    """They name the principals of others' commands. A user of another cell is asked for there."""
    request = event_pb2.ListUserEventsRequest(user_id=str(rig.ann))
    for caller in (SHOP, as_user(rig.ann)):
        assert (await refusal_of(rig.call(request, by=caller))).reason == "NOT_PERMITTED"
    for caller in (AUDITOR, SUPPORT):
        await rig.call(request, by=caller)
    await rig.cell.accesses.flush()
    [recorded] = [row for row in rig.store.log if row.event_type == "ACCESSES_RECORDED"]
    assert [
        (each["principal"], each["method"], each["subject"]) for each in json.loads(recorded.payload)["accesses"]
    ] == [("auditor/anna", "ListUserEvents", str(rig.ann)), ("support/sue", "ListUserEvents", str(rig.ann))]
    assert (await refusal_of(rig.ask("ListUserEvents", user_id=rig.carl, by=SUPPORT))).reason == "WRONG_CELL"
