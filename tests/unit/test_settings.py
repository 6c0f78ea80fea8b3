"""Settings of cells and routers from flags, environment and file, and the messages for invalid ones."""

import os
from pathlib import Path

import pytest

from router.directory.cells import CellEntry
from router.settings import RouterSettings
from server.process.settings import ServerSettings
from server.shell.settings.addresses import Address, parse_address
from server.shell.settings.host import SettingsInvalid, load_settings, load_settings_or_exit

ENOUGH = ("--cell", "us-east", "--data", "/data")


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """The developer's environment has no influence."""
    for name in [name for name in os.environ if name.upper().startswith("CELLBOOK_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings.toml"


def load(*flags: str) -> ServerSettings:
    return load_settings(ServerSettings, flags, program="cell")


def problems(*flags: str) -> list[str]:
    with pytest.raises(SettingsInvalid) as invalid:
        load(*flags)
    return str(invalid.value).splitlines()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        # A name and a data folder are enough.
        (ENOUGH, {"cell": "us-east", "data": Path("/data"), "dsn": "", "max_offset_ms": 500, "fee_bps": 250}),
        (ENOUGH, {"settlement_timeout_ms": 3_600_000, "bid_valid_ms": 10_000, "reflection": None}),
        # Or a server.
        (("--cell", "us-east", "--dsn", "postgresql://localhost/x"), {"data": None}),
        # A boolean is a pair of flags; unset stays unset.
        ((*ENOUGH, "--reflection"), {"reflection": True}),
        ((*ENOUGH, "--no-reflection"), {"reflection": False}),
        ((*ENOUGH, "--insecure-listen"), {"insecure_listen": True}),
        # Otherwise nothing would ever be written.
        ((*ENOUGH, "--batch-max", "1"), {"batch_max": 1}),
        # A peer has an endpoint for each of its processes, joined by a plus.
        (
            (*ENOUGH, "--peers", "eu-west=10.0.0.1:5002+[::1]:5003"),
            {"peers": {"eu-west": "10.0.0.1:5002+[::1]:5003"}},
        ),
    ],
)
def test_flags_are_read(flags: tuple[str, ...], expected: dict[str, object]) -> None:
    """What no flag says has its default."""
    settings = load(*flags)
    assert {name: getattr(settings, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--batch-max", "0"), ["batch_max: '0' from --batch-max"]),
        (("--peers", "eu-west=10.0.0.1:5002+elsewhere"), ["peers.eu-west", "host:port"]),
        (("--tls-cert", "a"), ["tls_key: needed together with tls_cert"]),
        (("--tls-cert", "a", "--tls-key", "b"), ["tls_ca: needed together with tls_cert and tls_key"]),
        (("--jwt-keys", "k"), ["jwt_issuer: needed together with jwt_keys"]),
        (
            ("--jwt-keys", "k", "--jwt-issuer", "i", "--jwt-audience", "a"),
            ["tls_cert: needed together with jwt_keys: a token in plain text is anybody's"],
        ),
        (("--public-listen", "127.0.0.1:1"), ["jwt_keys: needed together with public_listen: "]),
        (("--user-calls-per-s", "-1"), ["user_calls_per_s: '-1' from --user-calls-per-s: "]),
        (("--connections-max", "0"), ["connections_max: '0' from --connections-max: "]),
    ],
)
def test_a_flag_that_is_wrong_or_needs_another_is_named(flags: tuple[str, ...], said: list[str]) -> None:
    """The line begins with the setting, and the process does not start with half of the configuration."""
    [line] = problems(*ENOUGH, *flags)
    assert line.startswith(said[0])
    assert all(part in line for part in said)


def test_flags_over_environment_over_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each layer overrides the one below, setting by setting."""
    file.write_text('cell = "from-file"\nfee_bps = 1\nbid_valid_ms = 111\nregion = "eu"\ndata = "/data"\n')
    monkeypatch.setenv("CELLBOOK_CONFIG", str(file))
    monkeypatch.setenv("CELLBOOK_FEE_BPS", "2")
    monkeypatch.setenv("CELLBOOK_BID_VALID_MS", "222")
    settings = load("--bid-valid-ms", "333")
    assert (settings.cell, settings.region) == ("from-file", "eu")
    assert (settings.fee_bps, settings.bid_valid_ms) == (2, 333)


def test_a_flag_names_the_file_over_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--config wins over CELLBOOK_CONFIG."""
    for name in ("one", "two"):
        (tmp_path / name).write_text(f'cell = "{name}"\ndata = "/data"\n')
    monkeypatch.setenv("CELLBOOK_CONFIG", str(tmp_path / "one"))
    assert load("--config", str(tmp_path / "two")).cell == "two"


def test_an_empty_variable_is_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files pass unset variables as empty ones."""
    monkeypatch.setenv("CELLBOOK_FEE_BPS", "")
    assert load(*ENOUGH).fee_bps == 250


def test_peers_as_text_and_as_a_table(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same peers by flag, variable and file."""
    expected = {"eu-west": "127.0.0.1:5002", "ap-tokyo": "[::1]:5003"}
    text = "eu-west=127.0.0.1:5002, ap-tokyo=[::1]:5003"
    assert load(*ENOUGH, "--peers", text).peers == expected
    file.write_text('[peers]\neu-west = "127.0.0.1:5002"\nap-tokyo = "[::1]:5003"\n')
    assert load(*ENOUGH, "--config", str(file)).peers == expected
    monkeypatch.setenv("CELLBOOK_PEERS", text)
    assert load(*ENOUGH).peers == expected


def test_a_problem_names_setting_value_origin_and_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line has everything needed to correct it."""
    monkeypatch.setenv("CELLBOOK_FEE_BPS", "lots")
    [line] = problems(*ENOUGH)
    for part in ("fee_bps", "'lots'", "CELLBOOK_FEE_BPS", "integer", "hundredths of a percent"):
        assert part in line


def test_every_problem_gets_its_line(file: Path) -> None:
    """All problems are reported at once."""
    file.write_text('max_ofset_ms = 1\nlisten = "nowhere"\n[peers]\neu-west = "x"\n')
    said = problems("--config", str(file), "--data", "/data", "--fee-bps", "20000")
    assert len(said) == 5
    for part in (
        "max_ofset_ms: no such setting",
        "max_offset_ms?",
        "cell: needed: set CELLBOOK_CELL or --cell",
        f"listen: 'nowhere' from {file}: expected host:port",
        "peers.eu-west: 'x'",
        "fee_bps: '20000' from --fee-bps",
    ):
        assert part in "\n".join(said)


def test_a_database_is_needed() -> None:
    """Neither a server nor a folder for one: the line says how to give either."""
    [line] = problems("--cell", "us-east")
    assert "CELLBOOK_DATA" in line
    assert "CELLBOOK_DSN" in line


@pytest.mark.parametrize("setting", ["--dsn", "--migrate-dsn"])
def test_a_password_is_not_shown(setting: str) -> None:
    """Neither in a problem nor in the settings' own text."""
    login = (setting, "postgresql://u:secret@h/d", "--data", "/data")
    assert "secret" not in "\n".join(problems("--cell", "US EAST", *login))
    assert "secret" not in repr(load("--cell", "us", *login))


@pytest.mark.parametrize(("text", "expected"), [(None, "cannot read"), ("cell = ", "is not TOML")])
def test_a_broken_file_is_named(file: Path, text: str | None, expected: str) -> None:
    """If it is missing or malformed, the line names it."""
    if text is not None:
        file.write_text(text)
    [line] = problems("--config", str(file))
    assert line.startswith("config: ")
    assert expected in line
    assert str(file) in line


def test_the_process_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    """Problems go to stderr, one line each, without a traceback."""
    with pytest.raises(SystemExit) as ended:
        load_settings_or_exit(ServerSettings, ["--cell", "us-east"], program="cell")
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("cell: data: needed")
    assert "Traceback" not in said


def test_help_tells_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    """--help lists flags with their meaning."""
    with pytest.raises(SystemExit):
        load("--help")
    said = capsys.readouterr().out
    assert all(f"--{name.replace('_', '-')}" in said for name in ServerSettings.model_fields)


@pytest.mark.parametrize(
    ("text", "address", "loopback"),
    [
        ("127.0.0.1:50051", Address("127.0.0.1", 50051), True),
        ("127.1.2.3:0", Address("127.1.2.3", 0), True),
        ("localhost:1", Address("localhost", 1), True),
        ("[::1]:1", Address("::1", 1), True),
        ("10.0.0.1:1", Address("10.0.0.1", 1), False),
        ("[::]:1", Address("::", 1), False),
        ("cell-1.example.org:443", Address("cell-1.example.org", 443), False),
        ("localhost.example.org:1", Address("localhost.example.org", 1), False),
    ],
)
def test_addresses(text: str, address: Address, loopback: bool) -> None:  # noqa: FBT001 - a parameter
    """Host and port come back as written; only addresses that other machines cannot reach are loopback."""
    assert parse_address(text) == address
    assert str(address) == text
    assert address.is_loopback is loopback


@pytest.mark.parametrize("text", ["", "x", ":1", "h:", "h:65536", "h:1:2", "::1:5", "h:-1", "h: 1", "u@h:1", "h/x:1"])
def test_what_is_no_address(text: str) -> None:
    """The message shows a valid address."""
    with pytest.raises(ValueError, match="host:port"):
        parse_address(text)


# --- the router's cells -----------------------------------------------------------------------------------------------

US = CellEntry(name="us-east", region="us", endpoints=("127.0.0.1:7401",))
EU = CellEntry(name="eu-west", region="eu", endpoints=("10.0.0.1:7402", "[::1]:7403"))
US_TEXT, EU_TEXT = "us-east=us=127.0.0.1:7401", "eu-west=eu=10.0.0.1:7402+[::1]:7403"


def router(*argv: str) -> RouterSettings:
    return load_settings(RouterSettings, ["--data", "/nowhere", *argv], program="router")


def test_cells_of_a_router(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commas separate cells, plus signs the processes of one; in TOML it is a list. None is a setting, too."""
    assert router().cells == ()
    assert router("--cells", f"{US_TEXT},{EU_TEXT}").cells == (US, EU)
    file.write_text(f'cells = ["{US_TEXT}", "{EU_TEXT}"]\n')
    assert router("--config", str(file)).cells == (US, EU)
    # Blanks around an entry are ignored.
    monkeypatch.setenv("CELLBOOK_CELLS", f" {US_TEXT} , {EU_TEXT} ")
    assert router().cells == (US, EU)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("us-east", "'us-east' is not name=region=host:port"),
        ("us-east=127.0.0.1:7401", "is not name=region=host:port"),
        ("us-east==127.0.0.1:7401", "is not name=region=host:port"),
        ("US=us=127.0.0.1:7401", "is not name=region=host:port"),
        (f"{'x' * 33}=us=127.0.0.1:7401", "is not name=region=host:port"),
        ("us-east=us=", "is not name=region=host:port"),
        ("us-east=us=127.0.0.1", "expected host:port"),
        ("us-east=us=127.0.0.1:70000", "expected host:port"),
        ("us-east=us=127.0.0.1:7401+", "expected host:port"),
        (f"{US_TEXT},us-east=eu=127.0.0.1:9", "cell us-east is named twice"),
        (f"{US_TEXT},eu-west=eu=127.0.0.1:7401", "endpoint 127.0.0.1:7401 is named twice"),
    ],
)
def test_cells_that_are_malformed_are_refused(text: str, problem: str) -> None:
    """The line names the setting and the origin of the value."""
    with pytest.raises(SettingsInvalid) as refused:
        router("--cells", text)
    [line] = str(refused.value).splitlines()
    assert line.startswith("cells: ")
    assert "--cells" in line
    assert problem in line


def test_a_table_is_not_a_list(file: Path) -> None:
    """A TOML table in its place is refused, not interpreted."""
    file.write_text('[cells]\nus-east = "127.0.0.1:7401"\n')
    with pytest.raises(SettingsInvalid, match=r"cells: .*expected a list"):
        router("--config", str(file))
