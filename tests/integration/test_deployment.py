"""What is deployed: settings that load, networks that part regions, processes that may do no more than they must."""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from router.settings import RouterSettings
from server.settings import ServerSettings
from server.shell.config import load_settings

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
CELLS = sorted(folder.name for folder in (DOCKER / "cells").iterdir())
VARIABLE = re.compile(r"\$\{(\w+)")
OURS = "${CELLBOOK_IMAGE:-cellbook}"


def loaded(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


def services() -> Iterator[tuple[str, dict[str, Any], Path]]:
    """All of the compose file, those of the cells as their own files have them; with the folder that paths go from."""
    for name, service in loaded(DOCKER / "compose.yaml")["services"].items():
        if "extends" in service:
            path = DOCKER / service["extends"]["file"]
            yield name, loaded(path)["services"][service["extends"]["service"]], path.parent
        else:
            yield name, service, DOCKER


def ours() -> dict[str, dict[str, Any]]:
    return {name: service for name, service, _ in services() if service["image"] == OURS}


@pytest.fixture(autouse=True)
def _dsn(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the compose file gives it."""
    monkeypatch.setenv("CELLBOOK_DSN", "postgresql://cellbook:secret@us-east-db/cellbook")


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_is_one_folder_of_settings(cell: str) -> None:
    """Named as the cell; it loads, listens for others in no plain text, and drains within what it is given."""
    folder = DOCKER / "cells" / cell
    settings = load_settings(ServerSettings, ["--config", str(folder / "settings.toml")], program="server")
    assert settings.cell == cell
    assert settings.tls_cert is not None
    for name, service in loaded(folder / "compose.yaml")["services"].items():
        if service["image"] == OURS:
            assert int(service["stop_grace_period"].rstrip("s")) * 1_000 > settings.drain_grace_ms + 5_000, name


def test_the_router_knows_every_process_of_every_cell() -> None:
    """And none that is not there."""
    path = DOCKER / "router" / "settings.toml"
    settings = load_settings(RouterSettings, ["--config", str(path)], program="router")
    endpoints = {endpoint for cell in settings.cells for endpoint in cell.endpoints}
    assert endpoints == {f"{name}:7400" for name in ours() if name != "router"}
    assert sorted(cell.name for cell in settings.cells) == CELLS
    assert settings.tls_cert is not None
    regions = {cell.name: cell.region for cell in settings.cells}
    for cell in CELLS:
        said = tomllib.loads((DOCKER / "cells" / cell / "settings.toml").read_text())
        assert said["region"] == regions[cell]


def test_prometheus_asks_every_process() -> None:
    """And says of each whose it is."""
    jobs = loaded(DOCKER / "prometheus" / "prometheus.yml")["scrape_configs"]
    asked = {
        target: group.get("labels", {})
        for job in jobs
        for group in job["static_configs"]
        for target in group["targets"]
    }
    assert set(asked) == {f"{name}:9400" for name in ours()}
    assert {labels["cell"] for target, labels in asked.items() if labels} == set(CELLS)
    assert all(target.startswith(labels.get("cell", "router")) for target, labels in asked.items())


def test_two_regions_share_one_link_and_nothing_else() -> None:
    """To cut it is to cut all that is between them."""
    networks = {name: set(service["networks"]) for name, service, _ in services()}
    for one, other in combinations(CELLS, 2):
        shared = networks[one] & networks[other]
        assert len(shared) == 1, (one, other)
        assert not any(shared & networks[f"{cell}-db"] for cell in CELLS)
    assert networks["us-east-standby"] == networks["us-east"]


def test_our_processes_may_do_no_more_than_they_must() -> None:
    """No root, nothing to write but where they must, no capability, none to be gained."""
    for name, service in ours().items():
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "user" not in service, name
    text = (DOCKER / "Dockerfile").read_text()
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert text.count("FROM ") == 2


def test_what_is_mounted_is_there() -> None:
    """But for the keys, which docker/keys.sh makes, and volumes."""
    for name, service, folder in services():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith(".") and "/keys/" not in source:
                assert (folder / source).exists(), (name, source)


def test_networks_and_volumes_are_declared() -> None:
    """In the file of the whole, and in that of each cell for itself."""
    for path in (DOCKER / "compose.yaml", *(DOCKER / "cells" / cell / "compose.yaml" for cell in CELLS)):
        file = loaded(path)
        whole = path.parent == DOCKER
        parts = [service for _, service, _ in services()] if whole else file["services"].values()
        named = {volume.split(":")[0] for part in parts for volume in part.get("volumes", ())}
        assert {name for name in named if "/" not in name} == set(file["volumes"]), path
        assert {network for part in parts for network in part["networks"]} == set(file["networks"]), path


def test_every_password_is_asked_for() -> None:
    """What the files want is in the example, and nothing else is."""
    texts = [path.read_text() for path in DOCKER.rglob("compose.yaml")]
    wanted = {name for text in texts for name in VARIABLE.findall(text) if not name.endswith("_IMAGE")}
    given = set(re.findall(r"^(\w+)=", (DOCKER / ".env.example").read_text(), re.MULTILINE))
    assert given == wanted | {"COMPOSE_PROJECT_NAME"}


def manifests() -> dict[str, dict[str, Any]]:
    return {each["kind"]: each for each in yaml.safe_load_all((DOCKER / "kubernetes" / "cell.yaml").read_text())}


def test_the_manifests_settings_load(tmp_path: Path) -> None:
    """As the cell will read them, and it drains within the grace of its pod."""
    file = tmp_path / "settings.toml"
    file.write_text(manifests()["ConfigMap"]["data"]["settings.toml"])
    settings = load_settings(ServerSettings, ["--config", str(file)], program="server")
    pod = manifests()["StatefulSet"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] * 1_000 > settings.drain_grace_ms + 5_000
    [container] = pod["containers"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    for path in (settings.tls_cert, settings.tls_key, settings.tls_ca, Path(settings.jwt_keys)):
        assert path is not None
        assert str(path.parent) in mounts
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_the_manifests_speak_of_the_same_pods() -> None:
    """Service, budget and set select what the template labels; one of two may be taken away at a time."""
    found = manifests()
    spec = found["StatefulSet"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"] == labels == found["Service"]["spec"]["selector"]
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert found["PodDisruptionBudget"]["spec"]["minAvailable"] == spec["replicas"] - 1
    assert spec["serviceName"] == found["Service"]["metadata"]["name"]


def test_the_manifests_hold_against_their_schema() -> None:
    """Strictly: a field that Kubernetes does not know would be ignored there."""
    validate = ROOT / "build" / "kubernetes" / "bin" / "kubernetes-validate"
    if not validate.exists():
        pytest.skip("kubernetes-validate is not there: `make tools` fetches it")
    command = [str(validate), "--strict", *map(str, (DOCKER / "kubernetes").glob("*.yaml"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
