"""Sessions of the console end in time, and forms belong to one of them."""

from contextlib import nullcontext
from pathlib import Path

import pytest

from server.console import sessions as module
from server.console.sessions import IDLE_S, LIFETIME_S, SESSIONS_MAX, Sessions
from server.console.settings import ConsoleSettings
from server.console.sign_in import safe_path
from server.console.visitor import Visitor
from server.shell.identity.principal import Role
from tests.unit.console_rig import visitor


class Clock:
    now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


def ann(until_s: float = 4e9) -> Visitor:
    return visitor(Role.AUDITOR, until_s=until_s)


def test_a_session_ends_when_it_is_not_used() -> None:
    """A request keeps it open; a live page does not."""
    clock = Clock()
    sessions = Sessions(wall_s=clock)
    used, watched = sessions.begin(ann()), sessions.begin(ann())
    clock.now_s += IDLE_S - 1
    assert sessions.find(used)
    assert sessions.find(watched, used=False)
    clock.now_s += 1
    assert sessions.find(used)
    assert sessions.find(watched, used=False) is None


@pytest.mark.parametrize(("until_s", "ends_s"), [(4e9, LIFETIME_S), (1_000_060.0, 60.0)])
def test_a_session_ends_with_its_lifetime_or_its_proof(until_s: float, ends_s: float) -> None:
    """Whichever is first, however much it is used."""
    clock = Clock()
    sessions = Sessions(wall_s=clock)
    session_id = sessions.begin(ann(until_s))
    left_s = ends_s
    while left_s > IDLE_S / 2:
        clock.now_s += IDLE_S / 2
        left_s -= IDLE_S / 2
        assert (sessions.find(session_id) is not None) == (left_s > 0)
    clock.now_s += left_s
    assert sessions.find(session_id) is None


def test_sessions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was used longest ago gives way."""
    assert SESSIONS_MAX <= 10_000
    monkeypatch.setattr(module, "SESSIONS_MAX", 2)
    sessions = Sessions()
    first, second = sessions.begin(ann()), sessions.begin(ann())
    assert sessions.find(first)
    third = sessions.begin(ann())
    assert [bool(sessions.find(each)) for each in (first, second, third)] == [True, False, True]


def test_one_visitor_ends_no_sessions_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many sign-ins of one, the last ones count."""
    monkeypatch.setattr(module, "SESSIONS_OF_ONE_MAX", 2)
    monkeypatch.setattr(module, "SESSIONS_MAX", 4)
    sessions = Sessions()
    others = sessions.begin(visitor(Role.AUDITOR, "ben"))
    mine = [sessions.begin(ann()) for _ in range(5)]
    assert sessions.find(others)
    assert [bool(sessions.find(each)) for each in mine] == [False] * 3 + [True] * 2


def test_a_form_token_is_of_one_browser() -> None:
    """Neither of another one, nor of another start of the console, nor of none."""
    sessions, restarted = Sessions(), Sessions()
    token = sessions.form_token("mine")
    assert sessions.is_form_token("mine", token)
    assert not sessions.is_form_token("another", token)
    assert not restarted.is_form_token("mine", token)
    assert not sessions.is_form_token("", sessions.form_token(""))


@pytest.mark.parametrize(
    ("path", "safe"),
    [
        ("/trace?subject=1", "/trace?subject=1"),
        ("", "/"),
        ("trace", "/"),
        ("//strange.example", "/"),
        ("/\\strange.example", "/"),
        ("https://strange.example", "/"),
        ("/a\nb", "/"),
        ("/\t/[", "/"),
        ("//[", "/"),
    ],
)
def test_a_sign_in_leads_to_paths_of_ours(path: str, safe: str) -> None:
    """Anything that a browser could take for another site leads to the first page."""
    assert safe_path(path) == safe


@pytest.mark.parametrize(
    ("public_url", "starts"),
    [
        ("https://books.example.org", True),
        ("http://127.0.0.1:7405", True),
        ("http://[::1]:7405", True),
        ("http://localhost", True),
        ("", False),
        ("http://books.example.org", False),
    ],
)
def test_sessions_are_not_sent_by_http_to_other_machines(public_url: str, starts: bool) -> None:  # noqa: FBT001 - a case
    """A console behind a proxy knows that browsers come by https, or does not start."""
    pem = Path("x.pem")
    with nullcontext() if starts else pytest.raises(ValueError, match="public_url: needed with insecure_listen"):
        ConsoleSettings(
            listen="0.0.0.0:7405",
            insecure_listen=True,
            public_url=public_url,
            tls_cert=pem,
            tls_key=pem,
            tls_ca=pem,
        )
