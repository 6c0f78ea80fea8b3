"""The picture of a trace: lanes, columns and arrows follow from cells, stamps and causes."""

from collections.abc import Sequence

from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

from cellbook.v1 import audit_pb2, event_pb2, types_pb2
from server.console.auditor.trace_picture import BOX_WIDTH, LINE_CHARS_MAX, POSTINGS_MAX, Box, picture_of

CELLS = ("ap-tokyo", "eu-west", "us-east")


def stamp(physical_ms: int, logical: int = 0) -> types_pb2.HlcStamp:
    return types_pb2.HlcStamp(physical_ms=physical_ms, logical=logical)


def traced(
    event_id: str,
    cell: str,
    at_ms: int,
    *,
    cause: str = "",
    postings: int = 0,
    problem: str = "",
    missing: bool = False,
) -> audit_pb2.TracedEvent:
    lines = [types_pb2.Posting(account="fees", currency="USD", amount_minor=each) for each in range(postings)]
    event = event_pb2.Event(
        event_id=event_id,
        event_type="ESCROW_SENT",
        cell=cell,
        position=at_ms,
        causation_id=cause,
        hlc=stamp(at_ms),
        payload_json='{"leg":"escrow-out"}',
        postings=lines,
    )
    return audit_pb2.TracedEvent(event=event, problem=problem, cause_missing=missing)


def by_id(boxes: Sequence[Box]) -> dict[str, Box]:
    return {box.event_id: box for box in boxes}


def test_an_effect_in_another_cell_stands_right_of_its_cause_in_its_own_lane() -> None:
    """Each cell has a lane, in the order of their names; an arrow leads from the cause to the effect."""
    reply = audit_pb2.TraceResponse(
        events=[traced("a", "us-east", 1), traced("b", "eu-west", 2, cause="a")], cells=CELLS
    )
    picture = picture_of(reply)
    boxes = by_id(picture.boxes)
    assert [lane.cell for lane in picture.lanes] == ["eu-west", "us-east"]
    assert boxes["b"].x > boxes["a"].x + BOX_WIDTH
    assert boxes["b"].y < boxes["a"].y
    [arrow] = picture.arrows
    assert arrow.path.startswith(f"M{boxes['a'].right} {boxes['a'].arrow_y}C")
    assert arrow.path.endswith(f"{boxes['b'].x} {boxes['b'].arrow_y}")


def test_an_arrow_within_a_lane_goes_under_the_boxes_between() -> None:
    """To the next column it is straight."""
    events = [traced("a", "eu-west", 1), traced("b", "eu-west", 2, cause="a"), traced("c", "eu-west", 3, cause="a")]
    picture = picture_of(audit_pb2.TraceResponse(events=events))
    boxes = by_id(picture.boxes)
    straight, around = picture.arrows
    assert straight.path == f"M{boxes['a'].right} {boxes['a'].arrow_y}H{boxes['b'].x}"
    assert str(boxes["b"].y + boxes["b"].height + 11) in around.path


def test_events_that_do_not_touch_share_a_column() -> None:
    """They are of different cells, and neither caused the other."""
    events = [traced("a", "eu-west", 1), traced("b", "us-east", 2), traced("c", "us-east", 3)]
    boxes = by_id(picture_of(audit_pb2.TraceResponse(events=events)).boxes)
    assert boxes["a"].x == boxes["b"].x < boxes["c"].x


def test_what_is_missing_and_wrong_is_in_the_picture() -> None:
    """A silent cell has a lane, an unknown cause an arrow from nowhere, a problem its words, a refusal a box."""
    reply = audit_pb2.TraceResponse(
        events=[traced("a", "eu-west", 1, cause="gone", missing=True, problem="the row was changed")],
        missing=[audit_pb2.MissingCell(cell="us-east", problem="no answer")],
        refused=[audit_pb2.RefusedCommand(cell="eu-west", hlc=stamp(2), refusal=status_pb2.Status(message="too low"))],
    )
    picture = picture_of(reply)
    assert {lane.cell: lane.silence for lane in picture.lanes} == {"eu-west": "", "us-east": "no answer"}
    assert [arrow.cause_missing for arrow in picture.arrows] == [True]
    event, refusal = picture.boxes
    assert event.problem == "the row was changed"
    assert event.lines[-1] == "WRONG: the row was changed"
    assert (refusal.role, refusal.event_id, refusal.lines[-1]) == ("refused", "", "too low")


def test_a_box_says_its_event_within_its_width() -> None:
    """With its leg and its first postings; longer texts are cut, and more postings are counted."""
    [box] = picture_of(audit_pb2.TraceResponse(events=[traced("a", "x" * 32, 7, postings=9)])).boxes
    assert box.lines[0] == "ESCROW_SENT escrow-out"
    assert len(box.lines) == 3 + POSTINGS_MAX
    assert box.lines[-1] == "and 6 more postings"
    assert all(len(line) <= LINE_CHARS_MAX for line in box.lines)
    assert box.lines[1].endswith("…")


def test_no_event_no_picture() -> None:
    """An empty trace has an empty picture."""
    picture = picture_of(audit_pb2.TraceResponse())
    assert (picture.height, picture.boxes, picture.lanes) == (0, [], [])


@given(st.lists(st.tuples(st.sampled_from(CELLS), st.integers(1, 9), st.integers(0, 30)), max_size=30))
def test_boxes_never_cover_one_another_and_follow_the_stamps(events: list[tuple[str, int, int]]) -> None:
    """Whatever caused what: within a lane no two boxes share a column, and no later stamp is further left."""
    reply = audit_pb2.TraceResponse(
        events=[
            traced(f"e{place}", cell, at_ms, cause=f"e{cause}" if cause < place else "")
            for place, (cell, at_ms, cause) in enumerate(events)
        ]
    )
    picture = picture_of(reply)
    places = [(box.x, box.y) for box in picture.boxes]
    assert len(set(places)) == len(places) == len(events)
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    assert all(box.right <= picture.width and box.y + box.height <= picture.height for box in picture.boxes)
    assert len(picture.arrows) == sum(cause < place for place, (_, _, cause) in enumerate(events))
