"""A cell's text is visible and stays in its place on a terminal: it adds no line, style or picture."""

import io
import json
import re
from collections.abc import Callable, Iterator
from typing import TypeVar
from uuid import UUID

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from cellbook.v1 import auction_pb2, audit_pb2, ledger_pb2, router_pb2, saga_pb2
from server.cli import command, report, router
from server.cli.audit import balances, books, past, statement, trace
from server.cli.saga import show
from server.cli.screen import Screen, literal
from server.shell.fields.texts import shown

M = TypeVar("M", bound=Message)

HOSTILE = "x\n\r\x1b[2J\x9b31m\u202e\u2028[red]FORGED[/red][link=http://evil.test]:warning:"
STYLES = re.compile(r"\x1b\[[0-9;]*m")


def hostile(kind: type[M], depth: int = 0) -> M:
    """All fields are set, and every text in it is hostile."""
    message = kind()
    for field in message.DESCRIPTOR.fields:
        if field.containing_oneof is not None and field.index != field.containing_oneof.fields[0].index:
            continue
        if field.message_type is not None:
            inner = getattr(message, field.name)
            if field.message_type.GetOptions().map_entry or depth > 6:
                continue
            made = hostile(type(inner.add() if field.is_repeated else inner), depth + 1)
            if field.is_repeated:
                inner.pop()
            (inner.append if field.is_repeated else inner.CopyFrom)(made)
        elif field.type == FieldDescriptor.TYPE_STRING:
            in_json = field.name.endswith("_json")
            text = json.dumps({"leg": HOSTILE, "note": HOSTILE, "failure_message": HOSTILE}) if in_json else HOSTILE
            (getattr(message, field.name).append(text) if field.is_repeated else setattr(message, field.name, text))
        elif field.enum_type is not None:
            (getattr(message, field.name).append(1) if field.is_repeated else setattr(message, field.name, 1))
        elif field.type != FieldDescriptor.TYPE_BYTES and not field.is_repeated:
            setattr(message, field.name, 1)
    return message


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def statement_of(reply: audit_pb2.GetStatementResponse) -> statement.Statement:
    return statement.Statement(cell=HOSTILE, user_id=HOSTILE, head=reply, movements=list(reply.movements))


def reconciled() -> books.Reconciled:
    summary, finding = hostile(audit_pb2.ReconcileSummary), hostile(audit_pb2.AuditFinding)
    return books.Reconciled({HOSTILE: summary}, {HOSTILE: [finding]}, {HOSTILE: HOSTILE})


def balances_of() -> balances.CellBalances:
    page, trial = hostile(audit_pb2.ListBalancesResponse), hostile(audit_pb2.GetTrialBalanceResponse)
    return balances.CellBalances(cell=HOSTILE, point=page.as_of, users=list(page.balances), trial=trial)


TOLD: dict[str, Callable[[Screen], None]] = {
    "trace": lambda screen: trace.tell_trace(screen, HOSTILE, HOSTILE, hostile(audit_pb2.TraceResponse)),
    "statement": lambda screen: statement.tell(screen, statement_of(hostile(audit_pb2.GetStatementResponse))),
    "reconciled": lambda screen: books.tell_reconciled(screen, reconciled()),
    "rebuilt": lambda screen: books.tell_rebuilt(screen, hostile(audit_pb2.RebuildSummary), []),
    "balances": lambda screen: balances.tell_all(screen, [balances_of()]),
    "account": lambda screen: past.tell_account(screen, HOSTILE, HOSTILE, hostile(ledger_pb2.GetAccountResponse), ""),
    "auction": lambda screen: past.tell_auction(screen, HOSTILE, hostile(auction_pb2.GetAuctionResponse), ""),
    "asset": lambda screen: past.tell_asset(screen, HOSTILE, hostile(auction_pb2.GetAssetResponse), ""),
    "stream": lambda screen: past.tell_stream(screen, HOSTILE, HOSTILE, hostile(audit_pb2.CheckStreamResponse)),
    "saga": lambda screen: show.tell_saga(screen, HOSTILE, hostile(saga_pb2.Saga), 5),
    "sagas": lambda screen: screen.print(show.list_table([(HOSTILE, hostile(saga_pb2.Saga))], 5)),
    "history": lambda screen: show.tell_history(screen, hostile(saga_pb2.GetSagaResponse).history),
    "news": lambda screen: screen.print(show.news_line(hostile(saga_pb2.WatchSagaResponse))),
    "no news": lambda screen: screen.print(show.news_line(saga_pb2.WatchSagaResponse(saga=hostile(saga_pb2.Saga)))),
    "cells": lambda screen: screen.print(router.cells_table([hostile(router_pb2.Cell)])),
    "home": lambda screen: screen.print(router.home_line(hostile(router_pb2.ResolveUserResponse))),
    "move": lambda screen: screen.print(router.move_line(hostile(router_pb2.Move))),
    "failure": lambda screen: screen.print(command.failure_text(shown(HOSTILE))),
}  # fmt: skip


def lines_of(output: str) -> Iterator[str]:
    for line in output.removesuffix("\n").split("\n"):
        yield STYLES.sub("", line)


@pytest.mark.parametrize("what", TOLD)
def test_no_text_leaves_its_place(what: str) -> None:
    """Controls, directions, line ends and markup are shown as characters."""
    terminal = Terminal()
    TOLD[what](Screen(file=terminal, width=4_000, force_terminal=True))
    output = terminal.getvalue()
    for line in lines_of(output):
        assert line.isprintable(), ascii(line)
        assert not line.lstrip().startswith(r"\r"), line
        assert line.count("FORGED") == line.count("[red]FORGED[/red][link=http://evil.test]")
    assert r"x\n\r\x1b[2J\x9b31m\u202e\u2028[red]FORGED[/red][link=http://evil.test]:warning:" in STYLES.sub("", output)
    assert "evil.test\x1b\\" not in output


@pytest.mark.parametrize("width", [40, 80, 100])
def test_a_narrow_terminal_shows_ids_and_amounts_whole(width: int) -> None:
    """A cut id is a wrong one. A long text is folded."""
    saga_id, error, terminal = str(UUID(int=7)), "word " * 60, Terminal()
    one_line = ("saga", "kind", "amount")
    made = report.table(*one_line, "attempts", "last error", right={"attempts"}, no_wrap=one_line)
    made.add_row(saga_id, "remote bid into another cell", "1,000,000.00 USD", "12", error)
    screen = Screen(file=terminal, width=width, force_terminal=True)
    screen.print(made)
    first = terminal.getvalue().replace("\x1b[0m", "").splitlines()[1]
    assert first.split("  ")[:3] == [saga_id, "remote bid into another cell", "1,000,000.00 USD"]
    assert terminal.getvalue().count("word") == error.count("word")
    assert screen.width == width


def test_further_lines_of_a_failure_are_indented() -> None:
    """A message that quotes a log has several lines; none of them looks like a message of ours."""
    terminal = Terminal()
    Screen(file=terminal, width=200).print(command.failure_text("first\ncellbook: forged\n    third"))
    assert list(lines_of(terminal.getvalue())) == ["cellbook: first", "  cellbook: forged", "  third"]


def test_the_screen_shows_what_nobody_made_literal() -> None:
    """A second safeguard: even if no caller escapes, no control or direction reaches the terminal."""
    terminal = Terminal()
    screen = Screen(file=terminal, width=200, force_terminal=True)
    screen.print("[red]one[/red]\ntwo \x1b[2J\x9b\u202e \N{WARNING SIGN} :warning:")
    assert list(lines_of(terminal.getvalue())) == ["one", "two \\x1b[2J\\x9b\\u202e \N{WARNING SIGN} :warning:"]
    assert "\x1b[31mone" in terminal.getvalue()


@pytest.mark.parametrize("text", ["", "plain", "a [b] c", "[red]x[/red]", "back\\slash", "é 漢"])
def test_a_visible_text_is_shown_as_it_is(text: str) -> None:
    """This includes brackets and backslashes."""
    terminal = Terminal()
    Screen(file=terminal, width=200).print(f"<{literal(text)}>")
    assert terminal.getvalue() == f"<{text}>\n"


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("DEPOSITED", "DEPOSITED"),
        ("-5.00", "-5.00"),
        ("=cmd|'/C calc'!A0", "'=cmd|'/C calc'!A0"),
        ("+1+1", "'+1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("a\n=1\x1b\u202e", "a\\n=1\\x1b\\u202e"),
    ],
)
def test_a_statement_holds_no_formula(text: str, cell: str) -> None:
    """Spreadsheets open its CSV."""
    assert statement.csv_cell(text) == cell


def test_a_pipe_gets_no_more_than_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Piped output may be shown later."""
    report.line(f"a \x1b[2J\u202e {literal(HOSTILE)}")
    assert capsys.readouterr().out.removesuffix("\n").isprintable()
