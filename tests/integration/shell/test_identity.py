"""Who calls is proven, by the certificate of the connection or by a token; what a client says of itself is not read."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import grpc
import grpc.aio
import pytest
from prometheus_client import CollectorRegistry

from cellbook.v1 import event_pb2, ledger_pb2
from cellbook.v1.event_pb2_grpc import EventServiceStub, add_EventServiceServicer_to_server
from cellbook.v1.ledger_pb2_grpc import LedgerServiceStub, add_LedgerServiceServicer_to_server
from server.cli.keys.authority import HOSTS, Authority, make_keys, settings_of
from server.process.policies import POLICIES
from server.shell.calls.guard import CallGuard
from server.shell.calls.statuses import refusal_in
from server.shell.channels.client import open_cell_channel
from server.shell.hosting.host import GrpcHost
from server.shell.hosting.security import Security, SecurityInvalid, build_security
from server.shell.identity.principal import Principal, Role, parse_principal
from server.shell.identity.tls import Certificates
from server.shell.observability.metrics import CallMetrics
from tests.integration.services_rig import status_of
from tests.integration.shell.shell_host import (
    LEDGER,
    USER,
    Clock,
    Events,
    Ledger,
    Pairs,
    event_servicer,
    ledger_servicer,
    settings_in,
)

OTHER = "0198c0de-0000-7000-8000-000000000002"
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Everybody's keys. Tests that change them make their own."""
    made = Authority(tmp_path_factory.mktemp("keys"))
    make_keys(made, ["us-east", "eu-west"], HOSTS)
    made.certify("shop", Principal(role=Role.SERVICE, name="shop"))
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """A host that wants proof, with a tiny ledger behind it."""

    authority: Authority
    host: GrpcHost
    ledger: Ledger
    events: Events
    clock: Clock
    security: Security
    registry: CollectorRegistry

    @asynccontextmanager
    async def door(self, name: str = "", *, public: bool = False) -> AsyncIterator[grpc.aio.Channel]:
        """A channel with the certificate `name`, or with none; a connection of its own."""
        address = self.host.public_address if public else self.host.address
        ca = (self.authority.folder / "ca.pem").read_bytes()
        credentials = (
            Certificates(self.authority.tls(name)).channel_credentials() if name else grpc.ssl_channel_credentials(ca)
        )
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        async with grpc.aio.secure_channel(str(address), credentials, options=options) as channel:
            yield channel

    def token(self, principal: str, users: Sequence[str] = ()) -> Pairs:
        made = self.authority.token(parse_principal(principal), valid=HOUR, users=users)
        return (("authorization", f"Bearer {made}"),)

    def denied(self) -> float:
        metrics = (metric for metric in self.registry.collect() if metric.name == "cellbook_denied_calls")
        return sum(sample.value for metric in metrics for sample in metric.samples)


@asynccontextmanager
async def housed(folder: Path, authority: Authority, **values: object) -> AsyncIterator[House]:
    tls = {**settings_of(authority, "us-east"), "public_listen": "127.0.0.1:0"}
    settings = settings_in(folder, **{**tls, **values})
    security, registry, clock = build_security(settings), CollectorRegistry(), Clock()
    calls = CallMetrics(registry)
    guard = CallGuard(
        POLICIES,
        clock=clock,
        identity=security.identity,
        throttle=security.throttle,
        denied=calls.denied,
        observe=calls.observe,
        streams_max=settings.streams_max,
    )
    host = GrpcHost(settings, name="us-east", guard=guard, certificates=security.certificates)
    ledger, events = ledger_servicer(), event_servicer()
    add_LedgerServiceServicer_to_server(ledger, host.server)
    add_EventServiceServicer_to_server(events, host.server)
    await host.start([LEDGER])
    try:
        yield House(
            authority=authority,
            host=host,
            ledger=ledger,
            events=events,
            clock=clock,
            security=security,
            registry=registry,
        )
    finally:
        await host.stop()


@pytest.fixture
async def house(tmp_path: Path, authority: Authority) -> AsyncIterator[House]:
    async with housed(tmp_path, authority) as started:
        yield started


async def balance(channel: grpc.aio.Channel, metadata: Pairs = (), user: str = USER) -> None:
    request = ledger_pb2.GetBalanceRequest(user_id=user)
    await LedgerServiceStub(channel).GetBalance(request, metadata=metadata, timeout=10)


async def reason(channel: grpc.aio.Channel, metadata: Pairs = (), user: str = USER) -> str:
    """Why the call is denied."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await balance(channel, metadata, user)
    refused = refusal_in(failed.value)
    assert refused is not None, failed.value
    return refused.reason


async def test_a_certificate_says_who_calls(house: House) -> None:
    """By its URI, and whatever the client says of itself."""
    async with house.door("shop") as channel:
        await balance(channel)
        await balance(channel, (("cellbook-principal", "peer/eu-west"),))
    async with house.door("operator") as channel:
        await balance(channel, (("cellbook-principal", f"user/{USER}"), ("cellbook-principal", "treasury/x")))
    assert house.ledger.principals == ["service/shop", "service/shop", "operator/cellbook"]


async def test_a_cell_that_is_cut_off_is_denied_everything(tmp_path: Path, authority: Authority) -> None:
    """Its certificate opens nothing any more, not even what is anybody's to ask; all others are served."""
    async with housed(tmp_path, authority, refused_peers="eu-west,ap-tokyo") as house:
        async with house.door("eu-west") as channel:
            assert await reason(channel) == "PEER_REFUSED"
        async with house.door("shop") as channel:
            await balance(channel)
        assert house.denied() == 1


async def test_a_token_says_who_calls(house: House) -> None:
    """With a certificate beside it, which then says nothing, and at the public door without one."""
    async with house.door("eu-west") as inside, house.door(public=True) as public:
        for channel in (inside, public):
            await balance(channel, house.token(f"user/{USER}"))
            await balance(channel, (("authorization", house.token("auditor/anna")[0][1].replace("Bearer", "bearer")),))
    assert house.ledger.principals == [f"user/{USER}", "auditor/anna"] * 2


async def test_a_user_is_who_the_token_says(house: House) -> None:
    """For its own account alone; a delegate for those that its token lists, and for nobody else."""
    async with house.door(public=True) as channel:
        assert await reason(channel, house.token(f"user/{OTHER}")) == "NOT_YOUR_ACCOUNT"
        assert await reason(channel, (*house.token(f"user/{OTHER}"), ("cellbook-principal", f"user/{USER}"))) == (
            "NOT_YOUR_ACCOUNT"
        )
        delegate = house.token("delegate/helpdesk", [USER])
        await balance(channel, delegate)
        assert await reason(channel, delegate, OTHER) == "NOT_YOUR_ACCOUNT"
    assert house.ledger.principals == ["delegate/helpdesk"]
    assert house.denied() == 3


async def test_who_proves_nothing_gets_nothing(house: House) -> None:
    """No token, a broken one or two of them, whatever is said besides; each is counted, and no handler is reached."""
    said = (("cellbook-principal", "service/shop"),)
    good = house.token("service/shop")
    cases: list[tuple[Pairs, str]] = [
        ((), "IDENTITY_MISSING"),
        (said, "IDENTITY_MISSING"),
        ((("authorization", "service/shop"),), "TOKEN_INVALID"),
        ((("authorization", "Basic c2hvcDpzaG9w"),), "TOKEN_INVALID"),
        ((("authorization", "Bearer "),), "TOKEN_INVALID"),
        ((("authorization", f"{good[0][1]}x"),), "TOKEN_INVALID"),
        (good + good, "TOKEN_INVALID"),
    ]
    async with house.door(public=True) as channel:
        for metadata, why in cases:
            assert await reason(channel, metadata) == why, metadata
        events = EventServiceStub(channel).Subscribe(event_pb2.SubscribeRequest(), metadata=said, timeout=10)
        assert await status_of(events.read()) is grpc.StatusCode.UNAUTHENTICATED
    assert house.ledger.principals == []
    assert house.denied() == len(cases) + 1


async def test_nobody_gets_in_without_a_certificate_but_at_the_public_door(house: House, tmp_path: Path) -> None:
    """Not without one, not with one of another authority, not in plain text."""
    stranger = Authority(tmp_path / "stranger")
    stranger.found()
    stranger.certify("eu-west", Principal(role=Role.PEER, name="eu-west"))
    theirs = grpc.ssl_channel_credentials(
        (house.authority.folder / "ca.pem").read_bytes(), *(stranger.tls("eu-west")[at].read_bytes() for at in (1, 0))
    )
    async with (
        house.door() as nothing,
        grpc.aio.secure_channel(str(house.host.address), theirs) as strange,
        grpc.aio.insecure_channel(str(house.host.address)) as plain,
    ):
        for channel in (nothing, strange, plain):
            assert await status_of(balance(channel, house.token("service/shop"))) is grpc.StatusCode.UNAVAILABLE
    assert house.ledger.principals == []


async def test_a_client_knows_its_server(house: House, tmp_path: Path) -> None:
    """A server of another authority is not talked to, and a client's certificate makes no server."""
    stranger = Authority(tmp_path / "stranger")
    make_keys(stranger, ["us-east"], HOSTS)
    async with housed(tmp_path, stranger) as other:
        ca = (house.authority.folder / "ca.pem").read_bytes()
        credentials = grpc.ssl_channel_credentials(ca)
        async with grpc.aio.secure_channel(str(other.host.public_address), credentials) as channel:
            assert await status_of(balance(channel, house.token("service/shop"))) is grpc.StatusCode.UNAVAILABLE
    tls = house.authority.tls("shop")._asdict()
    values = {f"tls_{name}": str(path) for name, path in tls.items()}
    async with housed(tmp_path, house.authority, **values) as impostor, impostor.door(public=True) as channel:
        assert await status_of(balance(channel, house.token("service/shop"))) is grpc.StatusCode.UNAVAILABLE


async def test_only_peers_move_the_clock(house: House) -> None:
    """By certificate: a token, or a call that was passed on, leaves it alone."""
    told = (("cellbook-hlc", "7"),)
    request = ledger_pb2.GetCommandRequest()
    async with house.door("eu-west") as peer, house.door("router") as router, house.door("shop") as shop:
        for channel in (router, shop):
            await LedgerServiceStub(channel).GetCommand(request, metadata=told, timeout=10)
        await LedgerServiceStub(peer).GetCommand(request, metadata=told + house.token("operator/x"), timeout=10)
        assert house.clock.heard == []
        await LedgerServiceStub(peer).GetCommand(request, metadata=told, timeout=10)
    assert house.clock.heard == [("peer/eu-west", "7")]


@pytest.mark.parametrize("name", ["router", "eu-west", "operator"])
async def test_a_call_that_is_passed_on_is_not_the_one_who_passes_it_on(house: House, name: str) -> None:
    """The mark alone takes the certificate's power; only the caller's own token gives any."""
    marked = (("cellbook-forwarded", "1"),)
    async with house.door(name) as channel:
        assert await reason(channel, marked) == "IDENTITY_MISSING"
        await balance(channel, marked + house.token(f"user/{USER}"))
    assert house.ledger.principals == [f"user/{USER}"]


@pytest.mark.parametrize("uris", [[], ["https://x/y"], ["cellbook://king/george"], ["cellbook://user/" + USER],
    ["cellbook://peer/a", "cellbook://peer/b"], ["cellbook://peer/"], ["cellbook://peer/eu-west/x"],
    ["cellbook://delegate/x"], ["cellbook://peer/eu-west?x"], ["cellbook://peer/eu-\twest"], ["cellbook://pe\ner/eu-west"],
    ["\tcellbook://peer/eu-west"], ["cell\tbook://peer/eu-west"], ["cellbook://peer/eu-west\r\n"], ["CELLBOOK://peer/eu-west"],
    ["cellbook:peer/eu-west"], ["cellbook:///peer/eu-west"], ["cellbook://x@peer/eu-west"], ["cellbook://peer:1/eu-west"],
    ["cellbook://peer/eu-west#"], ["cellbook://peer/%65u-west"], ["cellbook://PEER/eu-west"],
    ["cellbook://peer/eu-west", "cell\tbook://operator/x"]])  # fmt: skip
async def test_a_certificate_that_names_nobody_is_nobodys(
    house: House, uris: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opens the connection, and no more."""
    from cryptography import x509  # noqa: PLC0415

    def names(values: list[x509.GeneralName]) -> x509.SubjectAlternativeName:
        return x509.SubjectAlternativeName([*map(x509.UniformResourceIdentifier, uris), x509.DNSName("x.example")])

    made = x509.SubjectAlternativeName
    builder = x509.CertificateBuilder.add_extension

    def add(self: x509.CertificateBuilder, extension: x509.ExtensionType, critical: bool) -> x509.CertificateBuilder:  # noqa: FBT001
        return builder(self, names([]) if isinstance(extension, made) else extension, critical)

    with monkeypatch.context() as patched:
        patched.setattr(x509.CertificateBuilder, "add_extension", add)
        house.authority.certify("nobody", Principal(role=Role.PEER, name="eu-west"))
    async with house.door("nobody") as channel:
        assert await reason(channel) == "CERTIFICATE_UNKNOWN"
        await balance(channel, house.token("service/shop"))


async def test_a_new_certificate_is_shown_without_a_restart(tmp_path: Path) -> None:
    """The server's by the next handshake; connections that stand go on; a broken file changes nothing."""
    authority = Authority(tmp_path / "keys")
    make_keys(authority, ["us-east"], HOSTS)
    async with housed(tmp_path, authority) as house, house.door("operator") as standing:
        await balance(standing)
        before = await shown(house)
        certificates = house.security.certificates
        assert certificates is not None
        authority.tls("us-east").cert.write_text("broken")
        certificates._looked_s = float("-inf")
        assert certificates.renewed() == 0
        assert await shown(house) == before
        authority.certify("us-east", Principal(role=Role.PEER, name="us-east"), hosts=HOSTS)
        async with asyncio.timeout(10):
            while await shown(house) == before:  # noqa: ASYNC110 - files tell nobody
                await asyncio.sleep(0.05)
        await balance(standing)
        async with house.door("operator") as fresh:
            await balance(fresh)


async def shown(house: House) -> bytes:
    """The certificate that a new connection is shown."""
    import ssl  # noqa: PLC0415

    assert house.host.public_address is not None
    address = house.host.public_address
    pem = await asyncio.to_thread(ssl.get_server_certificate, (address.host, address.port))
    return pem.encode()


async def test_our_channels_take_a_new_certificate(tmp_path: Path) -> None:
    """What is kept open is opened anew once the files have changed, and only then."""
    authority, now_s = Authority(tmp_path / "keys"), [0.0]
    make_keys(authority, ["us-east", "eu-west"], HOSTS)
    certificates = Certificates(authority.tls("eu-west"), monotonic_s=lambda: now_s[0])
    assert certificates.renewed() == 0
    authority.certify("eu-west", Principal(role=Role.PEER, name="eu-west"), hosts=HOSTS)
    assert certificates.renewed() == 0
    now_s[0] += 2
    assert certificates.renewed() == 1
    now_s[0] += 2
    assert certificates.renewed() == 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tls_cert": "/nowhere"}, "tls_cert: cannot read /nowhere"),
        ({"tls_key": "KEYS/operator.key"}, "tls_key: .*operator.key is not the key of the certificate in"),
        ({"tls_ca": "KEYS/jwks.json"}, "tls_ca: .*holds no certificate"),
        ({"tls_key": "KEYS/ca.pem"}, "tls_key: .*holds no private key"),
        ({"jwt_keys": "KEYS/ca.pem"}, "jwt_keys: .*is no JWKS"),
    ],
)
def test_files_that_cannot_be_used_are_named(
    tmp_path: Path, authority: Authority, change: dict[str, str], named: str
) -> None:
    """By the setting, the file, and why."""
    values = {name: path.replace("KEYS", str(authority.folder)) for name, path in change.items()}
    settings = settings_in(tmp_path, **{**settings_of(authority, "us-east"), **values})
    with pytest.raises(SecurityInvalid, match=named):
        build_security(settings)


async def test_one_channel_reaches_both_processes_of_a_cell(tmp_path: Path, authority: Authority) -> None:
    """Both show a certificate for the host of the first: gRPC, which knows one name a channel, is told that one."""
    credentials = Certificates(authority.tls("shop")).channel_credentials()
    async with housed(tmp_path, authority) as one, housed(tmp_path, authority) as two:
        endpoints = [f"localhost:{host.address.port}" for host in (one.host, two.host) if host.address is not None]
        async with open_cell_channel(endpoints, credentials=credentials) as channel:
            async with asyncio.timeout(20):
                while not (one.ledger.principals and two.ledger.principals):
                    await balance(channel)
        assert set(one.ledger.principals) == set(two.ledger.principals) == {"service/shop"}
