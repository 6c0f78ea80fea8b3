"""Signing in: in development by naming a role, otherwise by a token that is pasted or that an OpenID provider gives."""

import time

import jwt
from starlette.requests import Request
from starlette.responses import Response

from cells.domain.refusals import PrincipalInvalid
from server.cli.client import CallDenied, NoAnswer
from server.console.console import COOKIE, console_of, ledger_of, render
from server.console.pages import get, post
from server.console.serving import SIGN_IN, BadInput, field, see, set_cookie
from server.console.sessions import LIFETIME_S
from server.console.visitor import VISITOR, Visitor
from server.shell.identity.principal import TOKEN_KEY, Role, parse_principal
from server.shell.identity.tokens import TOKEN_BYTES_MAX, TOKEN_ROLES

# For visitors of a development cluster. A delegate's token names users, so it can only be pasted.
DEVELOPMENT_ROLES = [role for role in Role if role in TOKEN_ROLES and role is not Role.DELEGATE]


@get(SIGN_IN)
async def form(request: Request) -> Response:
    console = console_of(request)
    return render(
        request,
        "sign_in.html",
        roles=DEVELOPMENT_ROLES if console.settings.is_for_development else [],
        takes_tokens=console.access.tls is not None,
        has_provider=bool(console.settings.oidc_issuer),
        next_path=safe_path(await field(request, "next")),
    )


@post(SIGN_IN)
async def by_role(request: Request) -> Response:
    """In development."""
    console = console_of(request)
    if not console.settings.is_for_development:
        raise BadInput("this console takes no one's word: sign in by a token")
    role, name = await field(request, "role"), await field(request, "name")
    if role not in DEVELOPMENT_ROLES:
        raise BadInput(f"{role!r} is no role: expected one of {', '.join(DEVELOPMENT_ROLES)}")
    try:
        principal = parse_principal(f"{role}/{name}")
    except PrincipalInvalid as invalid:
        raise BadInput(str(invalid)) from None
    access = console.access
    visitor = Visitor(
        principal=principal, proof=lambda: access.metadata(str(principal)), until_s=time.time() + LIFETIME_S
    )
    return await signed_in(request, visitor, await field(request, "next"))


@post(f"{SIGN_IN}/token")
async def by_token(request: Request) -> Response:
    if console_of(request).access.tls is None:
        raise BadInput("this cluster runs without TLS, where a token would be anybody's: sign in by naming a role")
    token = (await field(request, "token")).removeprefix("Bearer ")
    return await signed_in(request, await visitor_of(request, token), await field(request, "next"))


async def visitor_of(request: Request, token: str) -> Visitor:
    """The visitor whom a token names; the router has checked it. Raises BadInput, and as `Client.once`."""
    if not token or len(token) > TOKEN_BYTES_MAX:
        raise BadInput(f"expected a token, a JWT of at most {TOKEN_BYTES_MAX} bytes")
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
        principal = parse_principal(f"{claims.get('role', Role.USER)}/{claims['sub']}")
        until_s = float(claims["exp"])
    except (jwt.PyJWTError, PrincipalInvalid, KeyError, TypeError, ValueError):
        raise BadInput("this is no token of a caller: a JWT with sub, role and exp") from None
    metadata = ((TOKEN_KEY, f"Bearer {token}"),)
    visitor = Visitor(principal=principal, proof=lambda: metadata, until_s=until_s)
    # Only for the call that checks the token: the page that says why it is not taken is nobody's.
    claimed = VISITOR.set(visitor)
    try:
        await ledger_of(request).listed()
    except CallDenied as denied:
        raise BadInput(f"the router does not take the token: {denied}") from None
    except NoAnswer:
        # Strangers learn no addresses.
        raise BadInput("the router does not answer, so the token cannot be checked: try again later") from None
    finally:
        VISITOR.reset(claimed)
    return visitor


async def signed_in(request: Request, visitor: Visitor, next_path: str) -> Response:
    console = console_of(request)
    console.sessions.end(request.state.session_id)
    session_id = console.sessions.begin(visitor)
    # The form of the answer, if it has one, belongs to the new session.
    request.state.session_id = session_id
    response = see(safe_path(next_path))
    set_cookie(request, response, COOKIE, session_id)
    return response


@post("/sign-out")
async def out(request: Request) -> Response:
    console_of(request).sessions.end(request.state.session_id)
    response = see(SIGN_IN)
    set_cookie(request, response, COOKIE, "", ends=True)
    return response


def safe_path(path: str) -> str:
    """A path of this console; anything else, such as an address elsewhere, becomes the first page."""
    is_ours = path.startswith("/") and not path.startswith("//") and path.isprintable() and "\\" not in path
    return path if is_ours else "/"
