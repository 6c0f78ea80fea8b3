"""How a request is answered: who asks, whether the page is open to them, whether the form is ours, what went wrong."""

import asyncio
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from urllib.parse import quote
from uuid import UUID

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.cli.client import CallDenied, CellNotListed, ClientError, LedgerRefusal, NoAnswer, SagaNotFound
from server.console.console import COOKIE, console_of, render
from server.console.formats import shown_reason
from server.console.pages import Page
from server.console.visitor import VISITOR, NotSignedIn, current_visitor
from server.shell.calls.statuses import WRONG_CELL

FORM_COOKIE = "cellbook_form"
FORM_BYTES_MAX = 64 * 1024
FORM_FIELDS_MAX = 100
FORM_WITHIN_S = 20
# Of a number that was typed: it fits each field of the wire.
DIGITS_MAX = 18
# Live pages of one visitor. A page beyond them asks again after RETRY_MS, and shows until then what it was loaded with.
STREAMS_OF_ONE_MAX = 10
RETRY_MS = 30_000
SIGN_IN = "/sign-in"
# The cells do not take the proof any longer.
PROOF_LOST = frozenset({"TOKEN_INVALID", "IDENTITY_MISSING", "PRINCIPAL_MISSING", "PRINCIPAL_INVALID"})
SEE_OTHER, FORBIDDEN, UNPROCESSABLE, BAD_GATEWAY, UNAVAILABLE, BAD_REQUEST, TOO_LARGE, TOO_LATE = (
    303, 403, 422, 502, 503, 400, 413, 408,
)  # fmt: skip
NO_CONTENT, NOT_FOUND, CONFLICT = 204, 404, 409

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not no-referrer: a form would not say its origin either.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    # Pages show accounts: no copy of them is kept. Files under /static may be.
    "cache-control": "no-store",
}


class BadInput(Exception):
    """The visitor has typed something that cannot be used. The message says what, and what is expected."""


class Headers:
    """Adds HEADERS to every answer, from wherever it comes."""

    def __init__(self, app: ASGIApp, *, is_https: bool) -> None:
        self._app = app
        self._headers = {**HEADERS, **({"strict-transport-security": "max-age=31536000"} if is_https else {})}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    if name not in headers:
                        headers[name] = value
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


# --- pages ----------------------------------------------------------------------------------------------------------


def open_route(page: Page) -> Route:
    """A page for everybody, such as the one to sign in by."""
    return _route(page, signed_in=False)


def route(page: Page) -> Route:
    """A page for visitors whose role may make all calls that it needs."""
    return _route(page, signed_in=True)


def _route(page: Page, *, signed_in: bool) -> Route:
    async def answer(request: Request) -> Response:
        cookie = _begin(request)
        try:
            response = await _answer(request, page, signed_in=signed_in)
        except Exception as error:  # noqa: BLE001 - one that is not known is raised again
            response = _failed(request, error)
        if cookie_in(request, FORM_COOKIE) != cookie and not request.state.session_id:
            set_cookie(request, response, FORM_COOKIE, cookie)
        return response

    return Route(page.path, answer, methods=[page.method], name=f"{page.method} {page.path}")


def _begin(request: Request) -> str:
    """Finds the visitor; returns the cookie that the forms of this browser are bound to."""
    console, session_id = console_of(request), cookie_in(request, COOKIE)
    visitor = console.sessions.find(session_id) if session_id else None
    request.state.session_id = session_id if visitor is not None else ""
    VISITOR.set(visitor)
    cookie = request.state.session_id or cookie_in(request, FORM_COOKIE) or secrets.token_urlsafe()
    request.state.form_cookie = cookie
    request.state.form_token = console.sessions.form_token(cookie)
    return cookie


async def _answer(request: Request, page: Page, *, signed_in: bool) -> Response:
    if signed_in:
        visitor = current_visitor()
        if not page.is_open_to(visitor.role):
            return problem(
                request,
                FORBIDDEN,
                "Not for your role",
                f"{visitor.principal} may not see this page: it takes {', '.join(page.needs)}.",
            )
    if page.method == "POST":
        await _check_form(request)
    return await page.view(request)


async def _check_form(request: Request) -> None:
    """Raises BadInput for a form that is too large, and HTTPException for one that is not ours."""
    # A body in chunks has no length that it must keep to.
    length = request.headers.get("content-length") if "transfer-encoding" not in request.headers else None
    if int(length or FORM_BYTES_MAX + 1) > FORM_BYTES_MAX:
        raise HTTPException(TOO_LARGE, f"a form has at most {FORM_BYTES_MAX // 1024} KiB")
    try:
        async with asyncio.timeout(FORM_WITHIN_S):
            form = await request.form(max_files=0, max_fields=FORM_FIELDS_MAX)
    except TimeoutError:
        raise HTTPException(TOO_LATE, f"the form did not arrive within {FORM_WITHIN_S} s: send it again") from None
    token = form.get("form_token")
    sent_from = request.headers.get("origin")
    same = sent_from is None or sent_from.partition("://")[2] == request.headers.get("host")
    sessions = console_of(request).sessions
    bound = request.state.session_id or cookie_in(request, FORM_COOKIE)
    if not (same and isinstance(token, str) and sessions.is_form_token(bound, token)):
        raise HTTPException(
            FORBIDDEN, "the form is not from this session: go back, load the page again, and send it again"
        )


async def field(request: Request, name: str) -> str:
    """A field of the form that was sent, or of the query; empty if it is not there."""
    value = (await request.form()).get(name) if request.method == "POST" else request.query_params.get(name)
    return value.strip() if isinstance(value, str) else ""


def whole_number(text: str, what: str, *, digits_max: int = DIGITS_MAX) -> int:
    """Raises BadInput."""
    if not (text.isascii() and text.isdecimal() and len(text) <= digits_max):
        raise BadInput(f"{text[:60]!r} is no {what}: expected a number of at most {digits_max} digits")
    return int(text)


def id_in(request: Request, name: str) -> str:
    """A UUID in the path. Raises BadInput."""
    text = str(request.path_params[name])
    try:
        return str(UUID(text))
    except ValueError:
        raise BadInput(f"{text[:60]!r} is no id: expected a UUID") from None


async def require_confirmed(request: Request) -> None:
    """Raises BadInput."""
    if await field(request, "confirmed") != "yes":
        raise BadInput("nothing was changed: go back, and confirm that you mean it")


async def require_reason(request: Request, name: str = "note") -> str:
    """The reason in the form, for the log. Raises BadInput."""
    reason = await field(request, name)
    if not reason:
        raise BadInput("say why, for the log: 1 to 200 characters that name nobody; a ticket's number is best")
    return reason


def require_session(request: Request) -> None:
    """For answers that are sent for long. Raises NotSignedIn."""
    if console_of(request).sessions.find(request.state.session_id) is None:
        raise NotSignedIn("the session has ended, so the answer is not complete")


def see(path: str) -> RedirectResponse:
    """After a form: the browser loads `path`, and loading again does not send the form again."""
    return RedirectResponse(path, SEE_OTHER)


def cookie_in(request: Request, name: str) -> str:
    return request.cookies.get(_full_name(request, name), "")


def set_cookie(request: Request, response: Response, name: str, value: str, *, ends: bool = False) -> None:
    """With `ends` the browser drops it."""
    response.set_cookie(
        _full_name(request, name),
        value,
        max_age=0 if ends else None,
        httponly=True,
        samesite="lax",
        secure=console_of(request).settings.is_https,
        path="/",
    )


def _full_name(request: Request, name: str) -> str:
    """By https browsers take a cookie of this prefix from this very host alone: no neighbor signs a visitor in."""
    return f"__Host-{name}" if console_of(request).settings.is_https else name


# --- what went wrong ------------------------------------------------------------------------------------------------


def problem(request: Request, status: int, title: str, message: str) -> Response:
    return render(request, "problem.html", status=status, title=title, message=message)


def _failed(request: Request, error: Exception) -> Response:
    match error:
        case NotSignedIn():
            return _sign_in(request)
        case CallDenied() if error.reason in PROOF_LOST:
            console_of(request).sessions.end(request.state.session_id)
            return _sign_in(request)
        case CallDenied() if error.reason == WRONG_CELL:
            return _elsewhere(request, **error.facts)
        case CallDenied():
            return problem(request, FORBIDDEN, "The cell has denied it", str(error))
        case LedgerRefusal():
            return problem(request, UNPROCESSABLE, f"Refused: {shown_reason(error.reason)}", error.message)
        case NoAnswer():
            return problem(
                request, UNAVAILABLE, "No answer", f"{error}. It may or may not have happened: look, then try again."
            )
        case CellNotListed() | SagaNotFound():
            return problem(request, NOT_FOUND, "Not found", str(error))
        case ClientError():
            return problem(request, BAD_GATEWAY, "The call failed", str(error))
        case BadInput():
            return problem(request, BAD_REQUEST, "This cannot be used", str(error))
        case HTTPException():
            return problem(request, error.status_code, "This did not work", error.detail)
        case _:
            raise error


def _elsewhere(request: Request, *, resource: str, cell: str, here: str, **_: str) -> Response:
    """The router, or a link, has named a cell where it is not, or no longer."""
    if not resource.startswith("user "):
        return problem(request, CONFLICT, "It is in another cell", f"{resource} is in {cell}, not in {here}.")
    message = f"The {resource} is moving from {here} to {cell}, or has moved there: load the page again in a moment."
    return problem(request, CONFLICT, f"The user moves to {cell}", message)


def _sign_in(request: Request) -> Response:
    where = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return see(f"{SIGN_IN}?next={quote(where)}" if request.method == "GET" and where != "/" else SIGN_IN)


async def not_found(request: Request, _error: Exception) -> Response:
    _begin(request)
    return problem(request, NOT_FOUND, "There is no such page", f"{request.url.path} leads nowhere.")


# --- live -----------------------------------------------------------------------------------------------------------


def event_stream(request: Request, items: AsyncIterator[str]) -> Response:
    """Server-sent events: each item is one event's data. Ends with the session, also while there is nothing to say."""
    console, one = console_of(request), str(current_visitor().principal)
    sessions, session_id = console.sessions, request.state.session_id

    async def lines() -> AsyncIterator[str]:
        if console.streams[one] >= STREAMS_OF_ONE_MAX:
            yield f"retry: {RETRY_MS}\n\n"
            return
        console.streams[one] += 1
        try:
            async with aclosing(items) as open_items:  # type: ignore[type-var]
                while True:
                    async with sessions.while_open(session_id):
                        item = await anext(open_items, None)
                    if item is None:
                        return
                    # A browser takes each of these for the end of a line.
                    yield "".join(f"data: {line}\n" for line in re.split(r"\r\n?|\n", item)) + "\n"
        except TimeoutError:
            if sessions.find(session_id, used=False) is not None:
                raise
        finally:
            console.streams[one] -= 1
            console.streams += Counter()

    return StreamingResponse(lines(), media_type="text/event-stream")
