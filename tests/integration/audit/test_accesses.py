"""Reads by staff of what is others' stand in the log: batched, bounded, and whichever process answered them."""

import json
from typing import Any
from unittest.mock import Mock
from uuid import UUID, uuid4

import grpc.aio
import pytest
from structlog.testing import capture_logs

from cellbook.v1 import audit_pb2, contact_pb2, event_pb2, ledger_pb2
from cells.audit.accesses import ACCESSES_MAX, MINUTE_MS, MORE, SUBJECTS_MAX, WAITING_MAX, AccessLog
from cells.domain.audit.events import Access
from cells.domain.audit.refusals import AccessLogFull
from cells.domain.refusals import NotLeading
from cells.store.ports import PeerUnknown
from cells.time.clocks import SystemClock
from server.audit.build import access_log_of
from server.cli.audit import past as command
from server.cli.client import Client
from server.cli.reach import Reach
from server.contacts.vault import Contact
from server.services.contacts import ContactServicer
from server.shell.calls.call import enter_call
from server.shell.identity.principal import Principal, Role
from server.wire.convert import to_proto
from tests.integration.json_output import as_json
from tests.integration.mail.contact_rig import ANN
from tests.integration.services_rig import AUDITOR, BANK, HERE, OPERATOR, PEER, SHOP, Rig, as_user, refusal_of
from tests.local_cells import until

OURS = (("cellbook-principal", f"peer/{HERE}"),)
# The cell leads: it asks nobody.
NO_PEERS: Any = None
NOW_MS = 1_000 * MINUTE_MS + 7
ONE = Access(principal="auditor/anna", method="GetBalance", subject="", minute_ms=NOW_MS)


class Wall(SystemClock):
    """Stands still."""

    now_ms = NOW_MS

    def wall_ms(self) -> int:
        return self.now_ms


class Recorded:
    def __init__(self) -> None:
        self.parts: list[tuple[Access, ...]] = []
        self.problem: Exception | None = None

    @property
    def all(self) -> list[Access]:
        return [each for part in self.parts for each in part]

    async def __call__(self, accesses: tuple[Access, ...]) -> None:
        if self.problem is not None:
            raise self.problem
        self.parts.append(accesses)


def access_log() -> tuple[AccessLog, Recorded, Wall]:
    recorded, wall = Recorded(), Wall()
    return AccessLog(clock=wall, record=recorded), recorded, wall


async def test_a_read_is_recorded_once_a_minute() -> None:
    """However often it is repeated; of another subject, by another method or principal it is another one."""
    log, recorded, wall = access_log()
    for _ in range(3):
        for principal, method, subject in (("a", "M", "x"), ("a", "M", "y"), ("a", "N", "x"), ("b", "M", "x")):
            log.note(principal, method, subject)
    await log.flush()
    assert len(recorded.all) == 4
    log.note("a", "M", "x")
    await log.flush()
    assert len(recorded.all) == 4
    wall.now_ms += MINUTE_MS
    log.note("a", "M", "x")
    await log.flush()
    assert recorded.all[4:] == [
        Access(principal="a", method="M", subject="x", minute_ms=wall.now_ms - wall.now_ms % MINUTE_MS)
    ]


async def test_reading_fills_no_log() -> None:
    """Thousands of accounts in a minute are one entry more than those that are listed; an event holds so many."""
    log, recorded, _ = access_log()
    for _ in range(10_000):
        log.note("a", "M", str(uuid4()))
        log.note("b", "M", str(uuid4()))
        log.note("c", "M", str(uuid4()))
    await log.flush()
    assert len(recorded.all) == 3 * (SUBJECTS_MAX + 1)
    assert [each.principal for each in recorded.all if each.subject == MORE] == ["a", "b", "c"]
    assert [len(part) for part in recorded.parts] == [ACCESSES_MAX, 3 * (SUBJECTS_MAX + 1) - ACCESSES_MAX]


async def test_what_cannot_be_recorded_waits_and_then_nothing_more_is_read() -> None:
    """While no process leads reads go on, up to a bound; then they are refused until what waits has been recorded."""
    log, recorded, _ = access_log()
    recorded.problem = PeerUnknown("nobody leads")
    for number in range(WAITING_MAX):
        log.note(f"auditor/{number}", "M", "x")
    with pytest.raises(PeerUnknown):
        await log.flush()
    with pytest.raises(AccessLogFull):
        log.note("auditor/anna", "M", "x")
    recorded.problem = None
    await log.flush()
    assert len(recorded.all) == WAITING_MAX
    log.note("auditor/anna", "M", "x")


async def test_a_process_that_ends_records_what_waits_or_says_how_much_was_lost() -> None:
    """In order: all of it. Where nobody leads any more, its own log has the count."""
    log, recorded, _ = access_log()
    log.background.start()
    log.note("a", "M", "x")
    await log.stop()
    assert len(recorded.all) == 1
    log.note("a", "M", "y")
    recorded.problem = NotLeading(cell=HERE)
    with capture_logs() as said:
        await log.stop()
    assert [each["accesses_count"] for each in said if each["event"] == "accesses_not_recorded"] == [1]


# --- of a cell ---


async def recorded_in(rig: Rig) -> list[tuple[str, str, str]]:
    await rig.cell.accesses.flush()
    payloads = [json.loads(row.payload) for row in rig.store.log if row.event_type == "ACCESSES_RECORDED"]
    found = [each for payload in payloads for each in payload["accesses"]]
    return [(each["principal"], each["method"], each["subject"]) for each in found]


async def test_staff_that_reads_is_in_the_log(rig: Rig) -> None:
    """Accounts, statements, streams, traces, the whole log. Users, services and cells are not recorded."""
    ann, asked = str(rig.ann), ledger_pb2.GetBalanceRequest(user_id=str(rig.ann))
    own = as_user(ann)
    for caller in (own, SHOP, AUDITOR, OPERATOR, BANK):
        await rig.call(asked, by=caller)
    await rig.ask("GetAccount", user_id=ann, by=AUDITOR)
    await rig.ask("GetStatement", user_id=ann, by=AUDITOR)
    await rig.ask("CheckStream", aggregate_id=ann, by=AUDITOR)
    await rig.ask("Trace", subject=ann, by=AUDITOR)
    await rig.ask("FindEvents", subject=ann, by=AUDITOR)
    await rig.ask("ListBalances", by=AUDITOR)
    await rig.send(audit_pb2.ExportRequest(to_position=1), by=AUDITOR).read()
    for caller in (AUDITOR, SHOP):
        call = rig.send(event_pb2.SubscribeRequest(), by=caller)
        await call.read()
        call.cancel()
    assert await recorded_in(rig) == [
        ("auditor/anna", "GetBalance", ann),
        ("operator/olga", "GetBalance", ann),
        ("treasury/bank", "GetBalance", ann),
        ("auditor/anna", "GetAccount", ann),
        ("auditor/anna", "GetStatement", ann),
        ("auditor/anna", "CheckStream", ann),
        ("auditor/anna", "Trace", ann),
        ("auditor/anna", "FindEvents", ann),
        ("auditor/anna", "ListBalances", ""),
        ("auditor/anna", "Export", ""),
        ("auditor/anna", "Subscribe", ""),
    ]
    assert json.loads(rig.store.log[-1].metadata)["authority"] == {"by": "cell"}


async def test_a_help_desk_that_looks_up_a_contact_is_in_the_log(rig: Rig) -> None:
    """A delegate's token lets it read for the user that it acts for; a user's own look is not recorded."""

    class Kept:
        async def get(self, _user_id: UUID) -> Contact:
            return ANN

    vault: Any = Kept()
    servicer, asked = ContactServicer(rig.cell, vault), contact_pb2.GetContactRequest(user_id=str(rig.ann))
    reconciliation = Principal(role=Role.DELEGATE, name="helpdesk", may_act_for=frozenset({str(rig.ann)}))
    for principal in (reconciliation, Principal(role=Role.USER, name=str(rig.ann))):
        enter_call("/cellbook.v1.ContactService/GetContact", principal, None)
        assert (await servicer.GetContact(asked, Mock())).email == ANN.email
    assert await recorded_in(rig) == [("delegate/helpdesk", "GetContact", str(rig.ann))]


async def test_a_read_waits_for_no_commit(rig: Rig) -> None:
    """The database takes nothing, and the answer comes; the entry follows when it takes something again."""
    rig.store.gate.clear()
    await rig.ask("GetBalance", user_id=rig.ann, by=AUDITOR)
    rig.store.gate.set()
    assert await recorded_in(rig) == [("auditor/anna", "GetBalance", str(rig.ann))]


async def test_another_process_of_the_cell_has_its_reads_recorded(rig: Rig) -> None:
    """By a call to the process that leads, which takes them from its own cell alone."""
    asked = to_proto(audit_pb2.RecordAccessesRequest, accesses=[ONE])
    await rig.call(asked, by=OURS)
    refused = await refusal_of(rig.call(asked, by=PEER))
    assert refused.reason == "NOT_PERMITTED"
    refused = await refusal_of(rig.call(to_proto(audit_pb2.RecordAccessesRequest, accesses=[]), by=OURS))
    assert refused.reason == "FIELD_INVALID"
    assert await recorded_in(rig) == [("auditor/anna", "GetBalance", "")]


async def test_a_standby_sends_what_it_has_noted_to_the_leader(rig: Rig) -> None:
    """And keeps it while nobody is there. Where the leader was is not where it is: the address is looked up again."""
    sent: list[Any] = []
    looked: list[str] = []
    gone = grpc.aio.insecure_channel("127.0.0.1:1")

    class Standby:
        leading, time = False, rig.cell.time

    class Peers:
        @property
        def locations(self) -> "Peers":
            return self

        async def channel(self, cell: str) -> Any:  # noqa: ANN401 - a channel
            sent.append(cell)
            if len(sent) == 1:
                raise PeerUnknown("not known yet")
            return rig.channel if looked else gone

        def look_again(self, cell: str) -> None:
            looked.append(cell)

    standby: Any = Standby()
    peers: Any = Peers()
    accesses = access_log_of(standby, peers)
    accesses.note("operator/olga", "GetAccount", str(rig.ben))
    for _ in range(2):
        with pytest.raises(PeerUnknown):
            await accesses.flush()
    await accesses.flush()
    await gone.close()
    assert (sent, looked) == ([HERE] * 3, [HERE])
    assert await recorded_in(rig) == [("operator/olga", "GetAccount", str(rig.ben))]


async def test_the_log_is_written_by_itself(rig: Rig) -> None:
    """Within a few seconds of the read."""
    log = access_log_of(rig.cell.writer, NO_PEERS)
    log.background.every_s = 0.01
    log.background.start()
    log.note("auditor/anna", "GetBalance", str(rig.ann))
    await until(lambda: rig.store.log[-1].event_type == "ACCESSES_RECORDED")
    await log.stop()


async def test_the_command_lists_who_has_read(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    """Of one user, with those who have read all; or of everybody, for people and for programs."""
    for user in (rig.ann, rig.ben):
        await rig.ask("GetBalance", user_id=user, by=OPERATOR)
    await rig.ask("ListBalances", by=AUDITOR)
    assert len(await recorded_in(rig)) == 3
    async with Client(rig.address) as client:
        here = client.cell(name=HERE, region="", address=rig.address)
        reach = Reach(client=client, cells=[here], listed=[HERE])
        with as_json():
            await command.run_accesses(reach, str(rig.ann))
        found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        await command.run_accesses(reach, "")
        text = capsys.readouterr().out
    assert [(each["principal"], each["subject"]) for each in found] == [
        ("operator/olga", str(rig.ann)),
        ("auditor/anna", ""),
    ]
    assert [line.split()[3] for line in text.splitlines()] == ["GetBalance", "GetBalance", "ListBalances"]
    assert "all" in text.splitlines()[-1]
