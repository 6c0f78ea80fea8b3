"""Tokens: the principals they name, and that only trusted signatures are believed."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from structlog.testing import capture_logs

from server.shell.identity.denials import TokenInvalid
from server.shell.identity.keyset import KEY_SET_BYTES_MAX, KeySetInvalid, parse_keys
from server.shell.identity.principal import Principal, Role
from server.shell.identity.tokens import KNOWN_MAX, LEEWAY_S, TokenVerifier

ME = "0198c0de-0000-7000-8000-00000000000a"
OTHER = "0198c0de-0000-7000-8000-00000000000b"
ED, EC, RSA = (
    ed25519.Ed25519PrivateKey.generate(),
    ec.generate_private_key(ec.SECP256R1()),
    rsa.generate_private_key(public_exponent=65537, key_size=2048),
)
STRANGER = ed25519.Ed25519PrivateKey.generate()
PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def jwk(key: PrivateKey, kid: str, algorithm: str) -> dict[str, Any]:
    made: dict[str, Any] = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return {**made, "kid": kid, "use": "sig"}


JWKS = {"keys": [jwk(ED, "ed", "EdDSA"), jwk(EC, "ec", "ES256"), jwk(RSA, "rsa", "RS256")]}


def claims(**changes: object) -> dict[str, Any]:
    """Valid claims with changes; None removes a claim."""
    whole = {
        "iss": "https://login.example.org",
        "aud": "cellbook",
        "sub": ME,
        "exp": datetime.now(UTC) + timedelta(hours=1),
        **changes,
    }
    return {name: value for name, value in whole.items() if value is not None}


def token(key: PrivateKey = ED, algorithm: str = "EdDSA", kid: str = "ed", **changes: object) -> str:
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers={"kid": kid})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "jwks.json").write_text(json.dumps(JWKS))
    return tmp_path / "jwks.json"


def verifier_of(source: object, **how: Any) -> TokenVerifier:  # noqa: ANN401 - as the verifier takes them
    verifier = TokenVerifier(
        issuer="https://login.example.org", audiences=("cellbook",), source=str(source), refresh_s=60, **how
    )
    verifier.keys.load()
    return verifier


@pytest.fixture
def verifier(source: Path) -> TokenVerifier:
    return verifier_of(source)


@pytest.mark.parametrize(("key", "algorithm", "kid"), [(ED, "EdDSA", "ed"), (EC, "ES256", "ec"), (RSA, "RS256", "rsa")])
async def test_each_algorithm_is_taken(verifier: TokenVerifier, key: PrivateKey, algorithm: str, kid: str) -> None:
    """With the key that it names, a user's token names the user, in the one spelling of its id."""
    principal = await verifier.principal(token(key, algorithm, kid, sub=ME.upper()))
    assert principal == Principal(role=Role.USER, name=ME)


@pytest.mark.parametrize(
    ("changes", "principal"),
    [
        ({"role": "service", "sub": "shop"}, Principal(role=Role.SERVICE, name="shop")),
        ({"role": "treasury", "sub": "bank"}, Principal(role=Role.TREASURY, name="bank")),
        ({"role": "auditor", "sub": "kpmg-0a7"}, Principal(role=Role.AUDITOR, name="kpmg-0a7")),
        ({"role": "operator", "sub": "olga"}, Principal(role=Role.OPERATOR, name="olga")),
        ({"role": "support", "sub": "sue"}, Principal(role=Role.SUPPORT, name="sue")),
        ({"role": "user", "aud": ["other", "cellbook"]}, Principal(role=Role.USER, name=ME)),
        (
            {"role": "delegate", "sub": "helpdesk", "users": [ME, OTHER.upper()]},
            Principal(role=Role.DELEGATE, name="helpdesk", may_act_for=frozenset({ME, OTHER})),
        ),
    ],
)
async def test_roles_are_read(verifier: TokenVerifier, changes: dict[str, Any], principal: Principal) -> None:
    """The issuer sets the role, and lists a delegate's users one by one."""
    assert await verifier.principal(token(**changes)) == principal
    assert (await verifier.principal(token(**changes))).may_act_for == principal.may_act_for


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"exp": datetime.now(UTC) - timedelta(days=1)}, "expired"),
        ({"nbf": datetime.now(UTC) + timedelta(days=1)}, "not yet valid"),
        ({"exp": None}, "claim exp is missing"),
        ({"iss": None}, "claim iss is missing"),
        ({"aud": None}, "claim aud is missing"),
        ({"sub": None}, "claim sub is missing"),
        ({"iss": "https://evil.example.org"}, "jwt_issuer"),
        ({"aud": "another"}, "jwt_audience"),
        ({"aud": []}, "aud"),
        ({"role": "peer", "sub": "eu-west"}, "role must be one of"),
        ({"role": "router", "sub": "router"}, "role must be one of"),
        ({"role": "king"}, "role must be one of"),
        ({"role": ["operator"]}, "wrong type"),
        ({"sub": "me"}, "sub is its UUID"),
        ({"sub": 5}, "."),
        ({"role": "service", "sub": "a b"}, "sub is opaque"),
        ({"role": "service", "sub": "x/../y"}, "sub is opaque"),
        ({"role": "delegate", "sub": "ann@example.org", "users": [ME]}, "sub is opaque"),
        ({"role": "delegate", "sub": "helpdesk"}, "in users"),
        ({"role": "delegate", "sub": "helpdesk", "users": []}, "in users"),
        ({"role": "delegate", "sub": "helpdesk", "users": "all"}, "in users"),
        ({"role": "delegate", "sub": "helpdesk", "users": ["*"]}, "."),
        ({"role": "delegate", "sub": "helpdesk", "users": [ME] * 101}, "in users"),
        ({"exp": "soon"}, "."),
        ({"exp": 1e400}, "."),
    ],
)
async def test_a_bad_token_is_refused(verifier: TokenVerifier, changes: dict[str, Any], problem: str) -> None:
    """The refusal names the problem, and no other error is raised."""
    with pytest.raises(TokenInvalid, match=problem):
        await verifier.principal(token(**changes))


@pytest.mark.parametrize(
    ("aud", "ours", "passed"),
    [
        ("cellbook", True, True),
        ("cellbook/eu-west", True, True),
        (["elsewhere", "cellbook/eu-west"], True, True),
        ("cellbook/us-east", False, True),
        (["cellbook/us-east", "cellbook/ap-tokyo"], False, True),
        ("elsewhere/eu-west", False, False),
        ("cellbookx/eu-west", False, False),
        ([5, None], False, False),
    ],
)
async def test_a_token_for_one_cell_is_good_in_no_other(source: Path, aud: object, ours: bool, passed: bool) -> None:  # noqa: FBT001 - parameters
    """Tokens for a lower audience may be passed on, and grant nothing here; also once they are cached."""
    verifier = verifier_of(source)
    verifier.audiences = ("cellbook", "cellbook/eu-west")
    made = token(aud=aud)
    for _ in range(2):
        for good, passed_on in ((passed, True), (ours, False)):
            if good:
                assert (await verifier.principal(made, passed_on=passed_on)).name == ME
            else:
                with pytest.raises(TokenInvalid, match="jwt_audience"):
                    await verifier.principal(made, passed_on=passed_on)


def forged() -> Iterator[tuple[str, str]]:
    public = ED.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    good = token()
    header, payload, signature = good.split(".")
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none","kid":"ed"}').rstrip(b"=").decode()
    yield "signed by a stranger", token(STRANGER)
    yield "unsigned", f"{unsigned}.{payload}."
    yield "with the signature of another", f"{header}.{token(sub=OTHER).split('.')[1]}.{signature}"
    yield "without its signature", f"{header}.{payload}."
    # Algorithm confusion: the public key, which everybody has, is used as a shared secret.
    yield "by a shared secret", jwt.encode(claims(), public, algorithm="HS256", headers={"kid": "ed"})
    yield "by another algorithm than its key's", token(RSA, "RS256", "ed")
    yield "of an algorithm not taken", token(RSA, "RS512", "rsa")
    yield "of no key", token(kid="nobody")
    yield "without a key's name", jwt.encode(claims(), ED, algorithm="EdDSA")
    yield "nonsense", "nonsense"
    yield "empty", ""
    yield "three dots", "a.b.c"
    yield "too long", good + "A" * 10_000
    yield "not ASCII", "é" * 100
    yield "no JSON", f"{base64.urlsafe_b64encode(b'[1]').rstrip(b'=').decode()}.{payload}.{signature}"


@pytest.mark.parametrize("made", [made for _, made in forged()], ids=[how for how, _ in forged()])
async def test_a_forged_token_is_refused(verifier: TokenVerifier, made: str) -> None:
    """However it was made, and nothing of it is cached."""
    with pytest.raises(TokenInvalid):
        await verifier.principal(made)
    assert not verifier._known


async def test_a_token_is_checked_once_and_ends_in_time(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second check needs no cryptography; an expired token is not accepted from the cache either."""
    now_s = [datetime.now(UTC).timestamp()]
    verifier = verifier_of(source, wall_s=lambda: now_s[0])
    made, checked = token(), []
    decode = jwt.decode

    def counted(*args: Any, **how: Any) -> Any:  # noqa: ANN401 - as it is
        checked.append(args)
        return decode(*args, **how)

    monkeypatch.setattr(jwt, "decode", counted)
    for _ in range(3):
        await verifier.principal(made)
    assert len(checked) == 1
    now_s[0] += 3_600 + LEEWAY_S
    await verifier.principal(made)
    # Checked again, and the library's clock says that there is time left.
    assert len(checked) == 2


async def test_what_is_remembered_is_bounded(verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least recently used token is dropped, and checked again when it comes."""
    monkeypatch.setattr("server.shell.identity.tokens.KNOWN_MAX", 2)
    first, second, third = (token(jti=str(number)) for number in range(3))
    for each in (first, second, first, third):
        await verifier.principal(each)
    assert set(verifier._known) == {first, third}
    assert KNOWN_MAX > 1_000


async def test_keys_rotate_without_a_restart(source: Path, verifier: TokenVerifier) -> None:
    """A token with a new key is accepted at once; one with a removed key is not, even if it was cached."""
    old = token()
    await verifier.principal(old)
    source.write_text(json.dumps({"keys": [jwk(EC, "new", "ES256")]}))
    assert (await verifier.principal(token(EC, "ES256", "new"))).name == ME
    with pytest.raises(TokenInvalid):
        await verifier.principal(old)


async def test_unknown_keys_do_not_make_us_look_all_the_time(
    source: Path, verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many tokens name unknown keys, the key set is reloaded only now and then."""
    reads = []

    def counted(source: str) -> str:
        reads.append(source)
        return json.dumps(JWKS)

    monkeypatch.setattr("server.shell.identity.keyset._read_from", counted)
    strange = [token(STRANGER, kid=f"nobody{number}") for number in range(50)]
    answers = await asyncio.gather(*map(verifier.principal, strange), return_exceptions=True)
    answers += [(await asyncio.gather(verifier.principal(each), return_exceptions=True))[0] for each in strange]
    assert all(isinstance(answer, TokenInvalid) for answer in answers)
    assert len(reads) == 1


async def test_a_slow_key_set_keeps_nobody_for_long(verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token with an unknown key does not keep a call open for as long as the source takes."""
    monkeypatch.setattr("server.shell.identity.keyset.UNKNOWN_KEY_WAIT_S", 0.01)
    waited = Event()

    def slow(_: str) -> str:
        waited.wait(10)
        return json.dumps(JWKS)

    monkeypatch.setattr("server.shell.identity.keyset._read_from", slow)
    with pytest.raises(TokenInvalid):
        await verifier.principal(token(STRANGER, kid="nobody"))
    looking = verifier.keys._looking
    assert looking is not None
    assert not looking.done()
    assert (await verifier.principal(token())).name == ME
    waited.set()
    await looking


async def test_keys_that_cannot_be_read_leave_those_before(source: Path, verifier: TokenVerifier) -> None:
    """A file that is broken or missing for a while rejects nobody."""
    for broken in ("", "{}", '{"keys": []}', "x" * KEY_SET_BYTES_MAX):
        source.write_text(broken)
        await verifier.keys._look()
        assert (await verifier.principal(token())).name == ME
    source.unlink()
    await verifier.keys._look()
    assert (await verifier.principal(token())).name == ME


def test_keys_that_must_not_sign_are_left_out() -> None:
    """Shared secrets, weak keys, keys for encryption and of other kinds; if none is left, the set is refused."""
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - that is the point
    bad = [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "shared", "alg": "HS256"},
        jwk(weak, "weak", "RS256"),
        {**jwk(RSA, "enc", "RS256"), "use": "enc"},
        {**jwk(RSA, "pss", "RS256"), "alg": "PS256"},
        {**jwk(ED, "", "EdDSA"), "kid": None},
        {"kty": "EC", "crv": "P-256", "x": "!", "y": "!", "kid": "broken"},
        "nonsense",
    ]
    assert set(parse_keys(json.dumps({"keys": [*bad, *JWKS["keys"]]}), "here")) == {"ed", "ec", "rsa"}
    with pytest.raises(KeySetInvalid, match="no key that can be used"):
        parse_keys(json.dumps({"keys": bad}), "here")


@asynccontextmanager
async def served(redirect_to: str = "") -> AsyncIterator[str]:
    """The URL of the key set in plain text, or of a redirect."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302 if redirect_to else 200)
            if redirect_to:
                self.send_header("Location", redirect_to)
            self.end_headers()
            self.wfile.write(json.dumps(JWKS).encode())

        def log_message(self, *_: object) -> None:
            """Logs nothing to the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/jwks.json"
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()


async def test_keys_come_from_a_url() -> None:
    """At the first token, if not before; if the source does not answer, the token is refused, not the process."""
    async with served() as url:
        assert (await verifier_of(url).principal(token())).name == ME
    with pytest.raises(TokenInvalid):
        await verifier_of(url).principal(token())


async def test_keys_are_not_fetched_by_a_redirect_to_plain_text() -> None:
    """Any attacker could answer there; the earlier keys stay, and the log names the target."""
    async with served() as keys, served(redirect_to=keys) as url:
        with capture_logs() as logged, pytest.raises(TokenInvalid):
            await verifier_of(url).principal(token())
    assert [entry["problem"] for entry in logged if "by https:// only" in entry["problem"]]


@pytest.mark.parametrize("source", ["http://login.example.org/jwks", "ftp://x/y", "file:///etc/passwd", "/nowhere"])
def test_keys_come_from_nowhere_else(source: str) -> None:
    """In plain text anybody could send them; the setting is named."""
    with pytest.raises(KeySetInvalid, match="jwt_keys"):
        verifier_of(source)


async def test_the_set_is_read_again_and_again(source: Path) -> None:
    """Even if no token names a new key: a removed key is gone within the interval."""
    verifier = TokenVerifier(
        issuer="https://login.example.org", audiences=("cellbook",), source=str(source), refresh_s=0.01
    )
    verifier.keys.load()
    verifier.keys.background.start()
    source.write_text(json.dumps({"keys": [jwk(EC, "ec", "ES256")]}))
    async with asyncio.timeout(10):
        while "ed" in verifier.keys.keys:  # noqa: ASYNC110 - the file is read in a thread
            await asyncio.sleep(0.01)
    await verifier.keys.background.stop()
    with pytest.raises(TokenInvalid):
        await verifier.principal(token())


@pytest.mark.parametrize("jti", ["7f3c-01", None, "anna@example.org", "x" * 65])
async def test_a_token_is_named_by_what_its_issuer_has_signed(verifier: TokenVerifier, jti: object) -> None:
    """By its opaque id, or else by a hash; with the key that signed it."""
    made = token(jti=jti)
    signed = sha256(made.rpartition(".")[0].encode()).hexdigest()
    named = {"jti": jti} if jti == "7f3c-01" else {"sha256": signed}
    principal = await verifier.principal(made)
    proof = {"by": "token", "issuer": "https://login.example.org", "kid": "ed", **named}
    assert json.loads(principal.authority) == proof
    # Made once.
    assert (await verifier.principal(made)).authority is principal.authority
