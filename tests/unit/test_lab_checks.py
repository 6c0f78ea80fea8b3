"""The checks of logs: sound logs pass all of them, and each kind of damage fails the right one."""

import json
from collections.abc import Callable, Sequence

import pytest

from cellbook.v1 import event_pb2, ledger_pb2
from cellbook.v1.types_pb2 import HlcStamp, Posting
from lab.books import add_up, balances_agree, check_log, clearing_left, money_rows, over_all

Logs = dict[str, list[event_pb2.Event]]
Entry = tuple[str, int]
SETTLED = [("users/s/pending", -50), ("users/s/available", 48), ("fees", 2)]


def event(
    cell: str,
    position: int,
    event_type: str,
    entries: Sequence[Entry] = (),
    clearing_id: str = "",
    *,
    cause: str = "",
    at_ms: int | None = None,
) -> event_pb2.Event:
    """Its id is "{cell}/{position}"; all entries are in USD."""
    amount = max((abs(amount) for _, amount in entries), default=0)
    payload = {"currency": "USD", "amount_minor": str(amount)}
    if clearing_id:
        payload["clearing_id"] = clearing_id
    return event_pb2.Event(
        cell=cell,
        position=position,
        event_id=f"{cell}/{position}",
        event_type=event_type,
        causation_id=cause,
        hlc=HlcStamp(physical_ms=position * 10 if at_ms is None else at_ms),
        payload_json=json.dumps(payload),
        postings=[Posting(account=account, currency="USD", amount_minor=change) for account, change in entries],
    )


def sound() -> Logs:
    """A winner of `us` pays 50 to a seller of `eu` for an auction there; 2 of it are the fee."""
    return {
        "us": [
            event("us", 1, "DEPOSITED", [("users/w/available", 80), ("external", -80)]),
            event("us", 2, "FUNDS_RESERVED", [("users/w/available", -50), ("users/w/reserved", 50)]),
            event("us", 3, "ESCROW_SENT", [("users/w/reserved", -50), ("clearing/eu", 50)], "c1"),
        ],
        "eu": [
            event("eu", 1, "SAGA_STARTED"),
            event("eu", 2, "ESCROW_FUNDED", [("clearing/us", -50), ("escrow/a", 50)], "c1", cause="us/3", at_ms=40),
            event("eu", 3, "ESCROW_PAID_OUT", [("escrow/a", -50), ("clearing/eu", 50)], "c2", at_ms=50),
            event("eu", 4, "PENDING_CREDITED", [("clearing/eu", -50), ("users/s/pending", 50)], "c2", at_ms=60),
            event("eu", 5, "PENDING_SETTLED", SETTLED, cause="eu/4", at_ms=70),
            event("eu", 6, "WITHDRAWN", [("users/s/available", -8), ("external", 8)], at_ms=80),
        ],
    }


def broken(logs: Logs) -> set[str]:
    return {check.name for check in check_log(logs, add_up(logs)) if not check.held}


def test_sound_logs_pass_every_check() -> None:
    """Sound logs give no findings."""
    assert broken(sound()) == set()


def test_the_books_say_where_the_money_is() -> None:
    """Per cell: 80 came into us and 30 are there; eu sent none, has 40 with the seller and 2 as fees."""
    rows = {row.cell: row for row in money_rows(add_up(sound()))}
    assert (rows["us"].deposited, rows["us"].users, rows["us"].clearing) == (80, 30, 50)
    assert (rows["eu"].withdrawn, rows["eu"].users, rows["eu"].fees, rows["eu"].clearing) == (8, 40, 2, -50)
    (total,) = over_all(list(rows.values()))
    assert (total.deposited - total.withdrawn, total.inside, total.clearing) == (72, 72, 0)


def dollars(amount_minor: int) -> str:
    return json.dumps({"currency": "USD", "amount_minor": str(amount_minor)})


def lose(logs: Logs, since: int) -> None:
    del logs["eu"][since:]


def overdraw(logs: Logs) -> None:
    """More is withdrawn than there is, and the event says so."""
    withdrawn = event("eu", 6, "WITHDRAWN", [("users/s/available", -49), ("external", 49)], at_ms=80)
    logs["eu"][5].CopyFrom(withdrawn)


CONSERVED = {"money conserved in each cell", "money conserved over all cells"}
DAMAGE: list[tuple[Callable[[Logs], object], set[str]]] = [
    (lambda logs: setattr(logs["eu"][5], "position", 7), {"positions without gaps"}),
    (lambda logs: setattr(logs["eu"][5].hlc, "physical_ms", 70), {"HLC strictly rising in each cell"}),
    (lambda logs: setattr(logs["eu"][1], "causation_id", "us/9"), {"every cause is logged and older"}),
    (lambda logs: setattr(logs["us"][2].hlc, "physical_ms", 40), {"every cause is logged and older"}),
    (
        lambda logs: setattr(logs["eu"][4].postings[1], "amount_minor", 47),
        {"postings of each event sum to zero", *CONSERVED},
    ),
    (lambda logs: setattr(logs["us"][0], "payload_json", dollars(81)), CONSERVED),
    (overdraw, {"no user or escrow ever below zero"}),
    (
        lambda logs: lose(logs, since=1),
        {"clearing legs matched one by one", "clearing accounts net to zero", "money conserved over all cells"},
    ),
    # The sums still match: only comparing leg by leg detects it.
    (
        lambda logs: setattr(logs["eu"][1], "payload_json", '{"clearing_id": "c3"}'),
        {"clearing legs matched one by one"},
    ),
    (lambda logs: lose(logs, since=2), {"escrow empty at the end"}),
]


@pytest.mark.parametrize(("damage", "found"), DAMAGE)
def test_damage_is_found(damage: Callable[[Logs], object], found: set[str]) -> None:
    """Each damage fails exactly the checks that cover it."""
    logs = sound()
    damage(logs)
    assert broken(logs) == found


def test_what_is_in_transit_is_told_leg_by_leg() -> None:
    """A leg out without its leg in is in transit, under its id, between its two cells."""
    logs = sound()
    lose(logs, since=1)
    assert clearing_left(logs) == {("c1", "eu|us", "USD"): 50}


def test_balances_told_are_held_against_the_log() -> None:
    """A bucket that differs, or a user that a cell does not know, is named."""
    books = add_up(sound())
    told = {
        "us": {"w": {"USD": ledger_pb2.Balance(available_minor=30)}},
        "eu": {"s": {"USD": ledger_pb2.Balance(available_minor=40)}},
    }
    assert balances_agree(books, told).held
    assert not balances_agree(books, {"us": told["us"]}).held
    told["us"]["w"]["USD"].reserved_minor = 1
    assert "us w" in balances_agree(books, told).detail


def test_who_has_moved_is_not_asked_after_at_the_old_home() -> None:
    """The log's balance there is zero; a user who has come back is at home again."""
    logs = sound()
    for event_type, left in (("ACCOUNT_LEFT", {"w"}), ("ACCOUNT_ARRIVED", set[str]())):
        moved = event("us", len(logs["us"]) + 1, event_type)
        moved.aggregate_id = "w"
        logs["us"].append(moved)
        assert next(own for own in add_up(logs) if own.cell == "us").left == left
