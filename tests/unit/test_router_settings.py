"""The router's settings: a problem is reported in a line that names the setting."""

from pathlib import Path

import pytest

from router.directory.cells import CellEntry
from router.settings import RouterSettings
from server.shell.settings.host import SettingsInvalid, load_settings

US = CellEntry(name="us-east", region="us", endpoints=("127.0.0.1:7401",))
EU = CellEntry(name="eu-west", region="eu", endpoints=("10.0.0.1:7402", "[::1]:7403"))
US_TEXT, EU_TEXT = "us-east=us=127.0.0.1:7401", "eu-west=eu=10.0.0.1:7402+[::1]:7403"


def load(*argv: str) -> RouterSettings:
    return load_settings(RouterSettings, ["--data", "/nowhere", *argv], program="router")


def test_cells_from_a_flag() -> None:
    """Commas separate cells, plus signs the processes of one."""
    assert load("--cells", f"{US_TEXT},{EU_TEXT}").cells == (US, EU)


def test_cells_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable has the same form as the flag; blanks around an entry are ignored."""
    monkeypatch.setenv("CELLBOOK_CELLS", f" {US_TEXT} , {EU_TEXT} ")
    assert load().cells == (US, EU)


def test_cells_from_a_file(tmp_path: Path) -> None:
    """In TOML it is a list."""
    file = tmp_path / "router.toml"
    file.write_text(f'cells = ["{US_TEXT}", "{EU_TEXT}"]\n')
    assert load("--config", str(file)).cells == (US, EU)


def test_no_cells_is_a_setting_too() -> None:
    """The directory may already have them."""
    assert load().cells == ()


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
def test_what_is_wrong_is_said(text: str, problem: str) -> None:
    """A malformed entry is refused; the line names the setting and the origin of the value."""
    with pytest.raises(SettingsInvalid) as refused:
        load("--cells", text)
    line = str(refused.value)
    assert line.startswith("cells: ")
    assert "--cells" in line
    assert problem in line
    assert len(line.splitlines()) == 1


def test_a_table_is_not_a_list(tmp_path: Path) -> None:
    """A TOML table in its place is refused, not interpreted."""
    file = tmp_path / "router.toml"
    file.write_text('[cells]\nus-east = "127.0.0.1:7401"\n')
    with pytest.raises(SettingsInvalid, match=r"cells: .*expected a list"):
        load("--config", str(file))
