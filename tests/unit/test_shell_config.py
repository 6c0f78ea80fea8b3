"""Settings from flags, environment and file, and the messages for invalid ones."""

import os
from pathlib import Path

import pytest

from server.process.settings import ServerSettings
from server.shell.settings.addresses import Address, parse_address
from server.shell.settings.host import SettingsInvalid, load_settings, load_settings_or_exit


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """The developer's environment has no influence."""
    for name in [name for name in os.environ if name.upper().startswith("CELLBOOK_")]:
        monkeypatch.delenv(name)


def load(*flags: str) -> ServerSettings:
    return load_settings(ServerSettings, flags, program="cell")


def problems(*flags: str) -> list[str]:
    with pytest.raises(SettingsInvalid) as invalid:
        load(*flags)
    return str(invalid.value).splitlines()


ENOUGH = ("--cell", "us-east", "--data", "/data")


def test_defaults() -> None:
    """A name and a data folder are enough."""
    settings = load(*ENOUGH)
    assert (settings.cell, settings.data, settings.dsn) == ("us-east", Path("/data"), "")
    assert (settings.max_offset_ms, settings.settlement_timeout_ms) == (500, 3_600_000)
    assert (settings.bid_valid_ms, settings.fee_bps, settings.reflection) == (10_000, 250, None)
    assert isinstance(settings, ServerSettings)


def test_flags_over_environment_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each layer overrides the one below, setting by setting."""
    file = tmp_path / "cell.toml"
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


def test_peers_as_text_and_as_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same peers by flag, variable and file."""
    expected = {"eu-west": "127.0.0.1:5002", "ap-tokyo": "[::1]:5003"}
    text = "eu-west=127.0.0.1:5002, ap-tokyo=[::1]:5003"
    assert load(*ENOUGH, "--peers", text).peers == expected
    file = tmp_path / "cell.toml"
    file.write_text('[peers]\neu-west = "127.0.0.1:5002"\nap-tokyo = "[::1]:5003"\n')
    assert load(*ENOUGH, "--config", str(file)).peers == expected
    monkeypatch.setenv("CELLBOOK_PEERS", text)
    assert load(*ENOUGH).peers == expected


def test_a_peer_has_an_endpoint_for_each_of_its_processes() -> None:
    """Joined by a plus; each is checked."""
    assert load(*ENOUGH, "--peers", "eu-west=10.0.0.1:5002+[::1]:5003").peers == {"eu-west": "10.0.0.1:5002+[::1]:5003"}
    [line] = problems(*ENOUGH, "--peers", "eu-west=10.0.0.1:5002+elsewhere")
    assert line.startswith("peers.eu-west")
    assert "host:port" in line


def test_flags_for_yes_and_no() -> None:
    """A boolean is a pair of flags; unset stays unset."""
    assert load(*ENOUGH, "--reflection").reflection is True
    assert load(*ENOUGH, "--no-reflection").reflection is False
    assert load(*ENOUGH, "--insecure-listen").insecure_listen is True


def test_a_problem_names_setting_value_origin_and_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line has everything needed to correct it."""
    monkeypatch.setenv("CELLBOOK_FEE_BPS", "lots")
    [line] = problems(*ENOUGH)
    for part in ("fee_bps", "'lots'", "CELLBOOK_FEE_BPS", "integer", "hundredths of a percent"):
        assert part in line


def test_a_batch_holds_one_command_at_least() -> None:
    """Otherwise nothing would ever be written."""
    assert load(*ENOUGH, "--batch-max", "1").batch_max == 1
    [line] = problems(*ENOUGH, "--batch-max", "0")
    assert "batch_max: '0' from --batch-max" in line


def test_every_problem_gets_its_line(tmp_path: Path) -> None:
    """All problems are reported at once."""
    file = tmp_path / "cell.toml"
    file.write_text('max_ofset_ms = 1\nlisten = "nowhere"\n[peers]\neu-west = "x"\n')
    said = problems("--config", str(file), "--data", "/data", "--fee-bps", "20000")
    assert len(said) == 5
    text = "\n".join(said)
    assert "max_ofset_ms: no such setting" in text
    assert "max_offset_ms?" in text
    assert "cell: needed: set CELLBOOK_CELL or --cell" in text
    assert f"listen: 'nowhere' from {file}: expected host:port" in text
    assert "peers.eu-west: 'x'" in text
    assert "fee_bps: '20000' from --fee-bps" in text


def test_a_database_is_needed() -> None:
    """Neither a server nor a folder for one: the line says how to give either."""
    [line] = problems("--cell", "us-east")
    assert "CELLBOOK_DATA" in line
    assert "CELLBOOK_DSN" in line
    assert load("--cell", "us-east", "--dsn", "postgresql://localhost/x").data is None


@pytest.mark.parametrize("setting", ["--dsn", "--migrate-dsn"])
def test_a_password_is_not_shown(setting: str) -> None:
    """Neither in a problem nor in the settings' own text."""
    login = (setting, "postgresql://u:secret@h/d", "--data", "/data")
    assert "secret" not in "\n".join(problems("--cell", "US EAST", *login))
    assert "secret" not in repr(load("--cell", "us", *login))


@pytest.mark.parametrize(("text", "expected"), [(None, "cannot read"), ("cell = ", "is not TOML")])
def test_a_broken_file_is_named(tmp_path: Path, text: str | None, expected: str) -> None:
    """If it is missing or malformed, the line names it."""
    file = tmp_path / "cell.toml"
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
    for name in ServerSettings.model_fields:
        assert f"--{name.replace('_', '-')}" in said


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


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--tls-cert", "a"), "tls_key: needed together with tls_cert"),
        (("--tls-cert", "a", "--tls-key", "b"), "tls_ca: needed together with tls_cert and tls_key"),
        (("--jwt-keys", "k"), "jwt_issuer: needed together with jwt_keys"),
        (
            ("--jwt-keys", "k", "--jwt-issuer", "i", "--jwt-audience", "a"),
            "tls_cert: needed together with jwt_keys: a token in plain text is anybody's",
        ),
        (("--public-listen", "127.0.0.1:1"), "jwt_keys: needed together with public_listen: "),
        (("--user-calls-per-s", "-1"), "user_calls_per_s: '-1' from --user-calls-per-s: "),
        (("--connections-max", "0"), "connections_max: '0' from --connections-max: "),
    ],
)
def test_half_of_what_lets_callers_in_is_none(flags: tuple[str, ...], said: str) -> None:
    """The missing setting is named, and the process does not start with half of the configuration."""
    [problem] = problems(*ENOUGH, *flags)
    assert problem.startswith(said)
