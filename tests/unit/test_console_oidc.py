"""Signing in by an OpenID provider: a real one over HTTP, which gives a token only for the right code and verifier."""

import base64
import hashlib
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from cellbook.v1 import router_pb2
from lab.member import free_ports
from server.cli.access import Access
from server.cli.client import CallDenied
from server.console.app import build_app
from server.console.console import COOKIE, Ledger, make_client
from server.console.oidc import VALID_S
from server.console.settings import ConsoleSettings
from server.console.visitor import current_visitor
from server.shell.identity.tls import TlsFiles

SECRET = "a secret that is long enough for its algorithm"
# Nobody reads them.
FILES = TlsFiles(Path("a.pem"), Path("a.key"), Path("ca.pem"))


@dataclass
class Provider:
    """Answers the code that `authorize` has given, once, to who knows the verifier."""

    issuer: str
    # code -> the parameters of the request that it is for
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    nonce: str = ""
    said: str = ""

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self.configuration),
                Route("/token", self.token, methods=["POST"]),
            ]
        )

    async def configuration(self, _request: Request) -> Response:
        return JSONResponse(
            {
                "issuer": self.said or self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
            }
        )

    def authorize(self, url: str) -> str:
        """The visitor signs in there; returns the query that the browser brings back."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        assert asked["code_challenge_method"] == "S256"
        code = f"code-{len(self.codes)}"
        self.codes[code] = asked
        return f"code={code}&state={asked['state']}"

    async def token(self, request: Request) -> Response:
        form = await request.form()
        asked = self.codes.pop(str(form["code"]), None)
        digest = hashlib.sha256(str(form["code_verifier"]).encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if asked is None or challenge != asked["code_challenge"] or form["redirect_uri"] != asked["redirect_uri"]:
            return JSONResponse({"error": "invalid_grant"}, 400)
        claims = {"sub": "ann", "role": "auditor", "exp": int(time.time()) + 60}
        id_token = jwt.encode({**claims, "nonce": self.nonce or asked["nonce"]}, SECRET)
        return JSONResponse(
            {"access_token": jwt.encode(claims, SECRET), "id_token": id_token, "token_type": "Bearer", "expires_in": 60}
        )


class Served(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()


@pytest.fixture
def provider() -> Iterator[Provider]:
    (port,) = free_ports(1)
    made = Provider(issuer=f"http://127.0.0.1:{port}")
    server = Served(uvicorn.Config(made.app(), host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    assert server.is_up.wait(10)
    yield made
    server.should_exit = True
    thread.join()


@pytest.fixture
async def console(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TestClient]:
    """A console whose router takes every token of the auditor ann."""

    async def listed(_ledger: Ledger) -> router_pb2.ListCellsResponse:
        ((_, token),) = current_visitor().proof()
        if jwt.decode(token.removeprefix("Bearer "), SECRET, algorithms=["HS256"])["sub"] != "ann":
            raise CallDenied("ListCells: TOKEN_INVALID: no", "TOKEN_INVALID", {})
        return router_pb2.ListCellsResponse()

    monkeypatch.setattr(Ledger, "listed", listed)
    settings = ConsoleSettings(
        router="127.0.0.1:1",
        oidc_issuer=provider.issuer,
        oidc_client_id="console",
        tls_cert=FILES.cert,
        tls_key=FILES.key,
        tls_ca=FILES.ca,
    )
    access = Access(tls=FILES)
    client = make_client(settings, Access())
    with TestClient(build_app(settings, client, access), base_url="http://127.0.0.1", follow_redirects=False) as made:
        yield made


def begun(console: TestClient, path: str = "/") -> str:
    return str(console.get(f"/sign-in/provider?next={path}").headers["location"])


def test_a_visitor_comes_back_with_a_code(console: TestClient, provider: Provider) -> None:
    """The provider's token is the visitor's, and the page that was wanted is opened."""
    back = provider.authorize(begun(console, "/livez"))
    answer = console.get(f"/sign-in/callback?{back}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/livez")
    assert COOKIE in console.cookies
    assert "auditor/ann" in console.get("/").text


def test_a_token_that_is_not_taken_makes_nobody_a_visitor(console: TestClient) -> None:
    """The page that says so does not greet the caller of whom the token claims to be."""
    form_token = re.search('name="form_token" value="([0-9a-f]+)"', console.get("/sign-in").text)
    assert form_token is not None
    forged = jwt.encode({"sub": "eve", "role": "operator", "exp": time.time() + 60}, SECRET)
    answer = console.post("/sign-in/token", data={"form_token": form_token[1], "token": forged})
    assert (answer.status_code, "TOKEN_INVALID" in answer.text) == (400, True)
    assert ("operator/eve" in answer.text, "Sign out" in answer.text) == (False, False)


def test_a_code_counts_once_and_in_the_browser_that_began(console: TestClient, provider: Provider) -> None:
    """Neither a second time, nor in a browser into which a stranger has put it, nor with a state that is not ours."""
    back = provider.authorize(begun(console))
    console.cookies.clear()
    assert console.get(f"/sign-in/callback?{back}").status_code == 400
    back = provider.authorize(begun(console))
    assert console.get(f"/sign-in/callback?{back}").status_code == 303
    assert console.get(f"/sign-in/callback?{back}").status_code == 400
    assert console.get("/sign-in/callback?code=code-0&state=invented").status_code == 400


def test_a_sign_in_waits_however_many_strangers_begin_one(console: TestClient, provider: Provider) -> None:
    """And not for ever."""
    back, cookies = provider.authorize(begun(console, "/livez")), dict(console.cookies)
    console.cookies.clear()
    for _ in range(1_100):
        begun(console)
        console.cookies.clear()
    console.cookies.update(cookies)
    assert console.get(f"/sign-in/callback?{back}").headers["location"] == "/livez"
    back = provider.authorize(begun(console))
    console.app.state.console.provider.wall_s = lambda: time.time() + VALID_S + 1  # type: ignore[attr-defined]
    assert console.get(f"/sign-in/callback?{back}").status_code == 400


@pytest.mark.parametrize("state", ["", ".", "..", "9999999999.x", "9999999999.x.y", "x.y.z", "\u00e9.\u00e9.\u00e9"])
def test_a_state_that_is_not_ours_is_refused(console: TestClient, state: str) -> None:
    assert console.get("/sign-in/callback", params={"state": state, "code": "x"}).status_code == 400


def test_a_token_for_another_sign_in_is_not_taken(console: TestClient, provider: Provider) -> None:
    """Its nonce is of this sign-in."""
    provider.nonce = "of another one"
    answer = console.get(f"/sign-in/callback?{provider.authorize(begun(console))}")
    assert (answer.status_code, COOKIE in console.cookies) == (400, False)


def test_a_provider_that_says_no(console: TestClient, provider: Provider) -> None:
    """Its word is shown as text."""
    state = parse_qs(urlsplit(begun(console)).query)["state"][0]
    answer = console.get(f"/sign-in/callback?state={state}&error=<script>no</script>")
    assert answer.status_code == 400
    assert "&lt;script&gt;no" in answer.text


def test_a_provider_with_another_name_is_not_believed(console: TestClient, provider: Provider) -> None:
    """What it says of itself must be what the setting says."""
    provider.said = "https://strange.example"
    answer = console.get("/sign-in/provider")
    assert (answer.status_code, "oidc_issuer" in answer.text) == (400, True)
