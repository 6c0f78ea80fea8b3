"""The layout of a trace's picture: a lane for each cell, events from left to right by HLC stamp, arrows from causes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from cellbook.v1 import audit_pb2, types_pb2
from server.cli.audit.trace import leg_of
from server.cli.texts import hlc_text, posting_text

# Pixels.
BOX_WIDTH, BOX_GAP = 196, 44
LINE, PAD, BASELINE = 16, 8, 4
LANE_TITLE, LANE_FOOT = 26, 22
MARGIN = 12
# At most; tables and tooltips have the whole text.
LINE_CHARS_MAX = 27
POSTINGS_MAX = 4

_ROLES = {
    audit_pb2.TRACE_ROLE_SUBJECT: "subject",
    audit_pb2.TRACE_ROLE_CAUSE: "cause",
    audit_pb2.TRACE_ROLE_EFFECT: "effect",
}


@dataclass(slots=True, kw_only=True)
class Box:
    """An event; or a refusal, which has no `event_id`. It gets its place last."""

    cell: str
    hlc: types_pb2.HlcStamp
    event_id: str = ""
    cause: str = ""
    cause_missing: bool = False
    # "subject", "cause", "effect" or "refused".
    role: str
    problem: str = ""
    lines: Sequence[str]
    x: int = 0
    y: int = 0
    width: int = BOX_WIDTH

    @property
    def height(self) -> int:
        return _box_height(len(self.lines))

    @property
    def right(self) -> int:
        return self.x + self.width

    def line_y(self, line: int) -> int:
        """The baseline of a line of text."""
        return self.y + PAD + (line + 1) * LINE - BASELINE

    @property
    def arrow_y(self) -> int:
        """The height of the arrows that end and begin here."""
        return self.y + PAD + LINE // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    cell: str
    # Why the cell does not answer; empty if it does.
    silence: str
    y: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrow:
    # The data of an SVG path.
    path: str
    # The cause is in no cell that answers: the arrow begins nowhere.
    cause_missing: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    width: int
    height: int
    lanes: Sequence[Lane]
    boxes: Sequence[Box]
    arrows: Sequence[Arrow]


def picture_of(reply: audit_pb2.TraceResponse) -> Picture:
    """Later stamps are never further left; an effect is right of its cause, unless its stamp is wrong."""
    boxes = sorted(_boxes(reply), key=lambda each: (each.hlc.physical_ms, each.hlc.logical, each.cell))
    silent = {each.cell: each.problem for each in reply.missing if each.cell}
    lanes = {lane.cell: lane for lane in _lanes(boxes, silent)}
    for box, column in zip(boxes, _columns(boxes), strict=True):
        box.x = MARGIN + BOX_GAP + column * (BOX_WIDTH + BOX_GAP)
        box.y = lanes[box.cell].y + LANE_TITLE
    last = max(lanes.values(), key=lambda lane: lane.y, default=None)
    return Picture(
        width=max((box.right for box in boxes), default=BOX_WIDTH) + MARGIN,
        height=last.y + last.height if last is not None else 0,
        lanes=list(lanes.values()),
        boxes=boxes,
        arrows=list(_arrows(boxes, lanes)),
    )


# --- what is in it ----------------------------------------------------------------------------------------------------


def _boxes(reply: audit_pb2.TraceResponse) -> Iterator[Box]:
    for number, traced in enumerate(reply.events, 1):
        event = traced.event
        yield Box(
            cell=event.cell,
            hlc=event.hlc,
            event_id=event.event_id,
            cause=event.causation_id,
            cause_missing=traced.cause_missing,
            role=_ROLES.get(traced.role, "effect"),
            problem=traced.problem,
            lines=[_short(line) for line in _event_lines(traced, number)],
        )
    for refused in reply.refused:
        lines = ("REFUSED", refused.cell, hlc_text(refused.hlc), refused.refusal.message)
        yield Box(cell=refused.cell, hlc=refused.hlc, role="refused", lines=[_short(line) for line in lines])


def _event_lines(traced: audit_pb2.TracedEvent, number: int) -> Iterator[str]:
    event = traced.event
    yield f"{event.event_type} {leg_of(event)}".rstrip()
    yield f"#{number}  {event.cell}/{event.position}"
    yield hlc_text(event.hlc)
    shown = event.postings if len(event.postings) <= POSTINGS_MAX else event.postings[: POSTINGS_MAX - 1]
    for posting in shown:
        yield posting_text(posting)
    if len(shown) < len(event.postings):
        yield f"and {len(event.postings) - len(shown)} more postings"
    if traced.problem:
        yield f"WRONG: {traced.problem}"


def _short(line: str) -> str:
    return line if len(line) <= LINE_CHARS_MAX else f"{line[: LINE_CHARS_MAX - 1]}…"


# --- where it is ------------------------------------------------------------------------------------------------------


def _columns(boxes: Sequence[Box]) -> list[int]:
    """Each box goes into the last column, or into a new one if its lane is taken there or its cause stands there."""
    columns, lanes_taken, events_here = list[int](), set[str](), set[str]()
    column = 0
    for box in boxes:
        if box.cell in lanes_taken or box.cause in events_here:
            column += 1
            lanes_taken.clear()
            events_here.clear()
        columns.append(column)
        lanes_taken.add(box.cell)
        events_here |= {box.event_id} - {""}
    return columns


def _lanes(boxes: Iterable[Box], silent: Mapping[str, str]) -> Iterator[Lane]:
    lines = dict.fromkeys(silent, 0)
    for box in boxes:
        lines[box.cell] = max(lines.get(box.cell, 0), len(box.lines))
    heights = [LANE_TITLE + _box_height(lines[cell]) + LANE_FOOT for cell in sorted(lines)]
    for cell, y, height in zip(sorted(lines), accumulate(heights, initial=0), heights, strict=False):
        yield Lane(cell=cell, silence=silent.get(cell, ""), y=y, height=height)


def _box_height(lines: int) -> int:
    return 2 * PAD + lines * LINE if lines else 0


def _arrows(boxes: Sequence[Box], lanes: Mapping[str, Lane]) -> Iterator[Arrow]:
    events = {box.event_id: box for box in boxes if box.event_id}
    for box in boxes:
        if box.cause in events:
            cause, lane = events[box.cause], lanes[box.cell]
            under = lane.y + lane.height - LANE_FOOT // 2
            path = _around(cause, box, under) if cause.cell == box.cell else _across(cause, box)
            yield Arrow(path=path, cause_missing=False)
        elif box.cause_missing:
            yield Arrow(path=f"M{box.x - BOX_GAP + PAD} {box.arrow_y}H{box.x}", cause_missing=True)


def _across(cause: Box, effect: Box) -> str:
    """From lane to lane."""
    bend = BOX_GAP
    return (
        f"M{cause.right} {cause.arrow_y}C{cause.right + bend} {cause.arrow_y} "
        f"{effect.x - bend} {effect.arrow_y} {effect.x} {effect.arrow_y}"
    )


def _around(cause: Box, effect: Box, under: int) -> str:
    """Within a lane: straight to the next column, otherwise under the boxes between."""
    if effect.x == cause.right + BOX_GAP:
        return f"M{cause.right} {cause.arrow_y}H{effect.x}"
    half = BOX_GAP // 2
    return (
        f"M{cause.right} {cause.arrow_y}C{cause.right + half} {cause.arrow_y} {cause.right} {under} "
        f"{cause.right + half} {under}H{effect.x - half}C{effect.x} {under} {effect.x - half} {effect.arrow_y} "
        f"{effect.x} {effect.arrow_y}"
    )
