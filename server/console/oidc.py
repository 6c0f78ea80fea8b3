"""Signing in by an OpenID provider: the code flow with PKCE (RFC 6749 section 4.1, RFC 7636), by authlib."""

import secrets
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

import httpx
import jwt
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.httpx_client import AsyncOAuth2Client
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from server.console.console import console_of
from server.console.pages import get
from server.console.serving import SEE_OTHER, SIGN_IN, BadInput, cookie_in, set_cookie
from server.console.settings import ConsoleSettings
from server.console.sign_in import signed_in, visitor_of

CALLBACK = f"{SIGN_IN}/callback"
TIMEOUT_S = 10.0
STATE_BYTES = 32
VALID_S = 600
NEXT_COOKIE = "cellbook_next"


@dataclass(slots=True, kw_only=True)
class Provider:
    """Keeps nothing of visitors who are at the provider: strangers may begin as many sign-ins as they like.

    The state says until when it is valid, and is signed for the browser that began; nonce and verifier are signatures
    of it, which nobody else can make.
    """

    settings: ConsoleSettings
    wall_s: Callable[[], float] = time.time
    # Made once: it takes longer than all else that a request of a stranger does.
    _tls: ssl.SSLContext = field(default_factory=httpx.create_ssl_context)
    _endpoints: dict[str, str] = field(default_factory=dict)

    async def begin(self, request: Request, redirect_uri: str) -> str:
        """The address at the provider to go to. Raises BadInput."""
        begun = f"{int(self.wall_s()) + VALID_S}.{secrets.token_urlsafe(STATE_BYTES)}"
        signature = console_of(request).sessions.signature
        state = f"{begun}.{signature('state', begun, request.state.form_cookie)}"
        async with self._client(redirect_uri) as client:
            url, _ = client.create_authorization_url(
                await self._endpoint("authorization_endpoint"),
                state=state,
                code_verifier=signature("verifier", state),
                nonce=signature("nonce", state),
            )
        return str(url)

    async def finish(self, request: Request, redirect_uri: str) -> str:
        """The token of the visitor who comes back. Raises BadInput."""
        sessions, state = console_of(request).sessions, request.query_params.get("state", "")
        begun, _, signature = state.rpartition(".")
        is_ours = sessions.is_signature(signature, "state", begun, request.state.form_cookie)
        if not is_ours or self.wall_s() > int(begun.partition(".")[0]):
            raise BadInput("this sign-in was not begun here, or took too long: begin again")
        code = request.query_params.get("code")
        if not code:
            raise BadInput(
                f"the provider has not signed you in: {request.query_params.get('error', 'it says no more')}"
            )
        try:
            async with self._client(redirect_uri) as client:
                endpoint, verifier = await self._endpoint("token_endpoint"), sessions.signature("verifier", state)
                tokens = await client.fetch_token(endpoint, code=code, code_verifier=verifier)
        except (httpx.HTTPError, AuthlibBaseError, ValueError) as error:
            raise BadInput(f"the provider gives no token: {error}") from None
        return _token(tokens, self.settings.oidc_token, sessions.signature("nonce", state))

    def _client(self, redirect_uri: str) -> Any:  # noqa: ANN401 - authlib has no types
        secret_file = self.settings.oidc_client_secret_file
        return AsyncOAuth2Client(
            self.settings.oidc_client_id,
            secret_file.read_text("utf-8").strip() if secret_file is not None else None,
            scope=self.settings.oidc_scope,
            redirect_uri=redirect_uri,
            code_challenge_method="S256",
            token_endpoint_auth_method="client_secret_basic" if secret_file is not None else "none",
            timeout=TIMEOUT_S,
            verify=self._tls,
        )

    async def _endpoint(self, name: str) -> str:
        """By OpenID Connect Discovery 1.0. Raises BadInput."""
        if not self._endpoints:
            try:
                async with httpx.AsyncClient(timeout=TIMEOUT_S, verify=self._tls) as client:
                    found = await client.get(
                        f"{self.settings.oidc_issuer.rstrip('/')}/.well-known/openid-configuration"
                    )
                    said = found.raise_for_status().json()
                if said["issuer"] != self.settings.oidc_issuer:
                    raise BadInput(f"the provider says that it is {said['issuer']!r}: see oidc_issuer")
                self._endpoints = {each: str(said[each]) for each in ("authorization_endpoint", "token_endpoint")}
            except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
                raise BadInput(f"the provider {self.settings.oidc_issuer} does not answer: {error!r}") from None
        return self._endpoints[name]


def _token(tokens: dict[str, Any], kind: str, nonce: str) -> str:
    """The token for the cells. An ID token comes from the provider itself, so only its nonce is to be checked."""
    try:
        if "id_token" in tokens:
            claims = jwt.decode(tokens["id_token"], options={"verify_signature": False})
            if not secrets.compare_digest(str(claims.get("nonce")).encode(), nonce.encode()):
                raise BadInput("the provider's answer is not to this sign-in: begin again")
        return str(tokens[kind])
    except (jwt.PyJWTError, KeyError):
        raise BadInput(f"the provider's answer has no {kind}: see oidc_token and oidc_scope") from None


# --- pages ----------------------------------------------------------------------------------------------------------


@get(f"{SIGN_IN}/provider")
async def begin(request: Request) -> Response:
    response = RedirectResponse(await _provider(request).begin(request, _redirect_uri(request)), SEE_OTHER)
    set_cookie(request, response, NEXT_COOKIE, quote(request.query_params.get("next", "/")))
    return response


@get(CALLBACK)
async def callback(request: Request) -> Response:
    token = await _provider(request).finish(request, _redirect_uri(request))
    next_path = unquote(cookie_in(request, NEXT_COOKIE))
    return await signed_in(request, await visitor_of(request, token), next_path)


def _provider(request: Request) -> Provider:
    provider = console_of(request).provider
    if provider is None:
        raise BadInput("this console knows no provider: oidc_issuer is not set")
    return provider


def _redirect_uri(request: Request) -> str:
    base = console_of(request).settings.public_url or str(request.base_url)
    return f"{base.rstrip('/')}{CALLBACK}"
