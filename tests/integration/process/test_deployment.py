"""What is deployed: settings that load, networks that part regions, processes that may do no more than they must."""

import asyncio
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from prometheus_client import CollectorRegistry

from router.settings import RouterSettings
from server.cli.doctor.database import examine
from server.cli.doctor.findings import State
from server.console.settings import ConsoleSettings
from server.process.cell import open_store
from server.process.settings import ServerSettings
from server.shell.observability.metrics import MetricsEndpoint
from server.shell.postgres.embedded import PORT, EmbeddedPostgres
from server.shell.postgres.host import _installed_programs
from server.shell.settings.addresses import parse_address
from server.shell.settings.host import HostSettings, load_settings

ROOT = Path(__file__).parents[3]
DOCKER = ROOT / "docker"
CELLS = sorted(folder.name for folder in (DOCKER / "cells").iterdir())
CONSOLE = "console"
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
    """The cells and the router, and not the console, which has no database, no keys of its own and no metrics."""
    return {name: service for name, service, _ in services() if service["image"] == OURS and name != CONSOLE}


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


def test_the_console_has_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """They load as compose and Kubernetes give them; visitors need a token, and only this machine reaches the port."""
    service = loaded(DOCKER / "compose.yaml")["services"][CONSOLE]
    assert service["ports"] == ["127.0.0.1:7405:7405"]
    for name, value in service["environment"].items():
        monkeypatch.setenv(name, value)
    assert not load_settings(ConsoleSettings, [], program=CONSOLE).is_for_development
    for name in service["environment"]:
        monkeypatch.delenv(name)
    mapped, *_ = yaml.safe_load_all((DOCKER / "kubernetes" / "console.yaml").read_text())
    settings = ConsoleSettings(**tomllib.loads(mapped["data"]["settings.toml"]))
    assert (settings.is_for_development, settings.public_url[:6]) == (False, "https:")


def key_files(settings: HostSettings) -> list[Path]:
    """Those that a deployment has to bring. A cell without the vault's key keeps no contacts."""
    tls = [settings.tls_cert, settings.tls_key, settings.tls_ca, Path(settings.jwt_keys)]
    own = [settings.checkpoint_key_file, settings.vault_key_file] if isinstance(settings, ServerSettings) else []
    assert None not in (*tls, *own)
    return [path for path in (*tls, *own) if path is not None]


def written(settings: HostSettings) -> list[Path]:
    """The folders that the process writes to."""
    if isinstance(settings, ServerSettings):
        assert settings.state_dir is not None
        return [settings.state_dir]
    assert isinstance(settings, RouterSettings)
    assert settings.snapshot is not None
    return [settings.snapshot.parent]


def test_each_process_has_its_keys_and_a_place_to_write() -> None:
    """Keys are mounted read-only, one by one; what must outlive a restored database is a volume."""
    for name, service in ours().items():
        folder = DOCKER / ("router" if name == "router" else f"cells/{name.removesuffix('-standby')}")
        kind: type[HostSettings] = RouterSettings if name == "router" else ServerSettings
        settings = load_settings(kind, ["--config", str(folder / "settings.toml")], program=name)
        mounts = {target: mode for _, target, mode in (f"{each}:rw".split(":")[:3] for each in service["volumes"])}
        assert {mounts.get(str(path)) for path in key_files(settings)} == {"ro"}, name
        assert {mounts.get(str(path)) for path in written(settings)} == {"rw"}, name


def test_no_process_of_ours_is_a_superuser_of_its_database() -> None:
    """It has a login of its own and one that migrates, both of which docker/postgres/logins.sh makes."""
    for name, service in ours().items():
        given = service["environment"]
        database = services_by_name()[f"{name.removesuffix('-standby')}-db"]
        made = database["environment"]
        assert "/docker-entrypoint-initdb.d/logins.sh" in str(database["volumes"])
        for setting, login, password in (
            ("CELLBOOK_DSN", made["CELLBOOK_LOGIN"], made["CELLBOOK_PASSWORD"]),
            ("CELLBOOK_MIGRATE_DSN", "migrating", made["CELLBOOK_MIGRATE_PASSWORD"]),
        ):
            assert given[setting].startswith(f"postgresql://{login}:{password}@"), (name, setting)
        assert made["POSTGRES_PASSWORD"] not in str(given)
        assert made["POSTGRES_USER"] not in (made["CELLBOOK_LOGIN"], "migrating")


def services_by_name() -> dict[str, dict[str, Any]]:
    return {name: service for name, service, _ in services()}


async def test_the_logins_are_enough_and_no_more(tmp_path: Path) -> None:
    """The script of the database's container, run at a database: the cell starts, and the doctor has nothing to say."""
    postgres = EmbeddedPostgres(tmp_path / "database")
    await postgres.start()
    try:
        [socket_dir] = parse_qs(urlsplit(postgres.dsn("postgres")).query)["host"]
        script = await asyncio.create_subprocess_exec(
            DOCKER / "postgres" / "logins.sh",
            env={
                "PATH": f"{_installed_programs()}:/usr/bin:/bin",
                "PGHOST": socket_dir,
                "PGPORT": str(PORT),
                "POSTGRES_USER": "postgres",
                "CELLBOOK_LOGIN": "us_east",
                "CELLBOOK_PASSWORD": "a",
                "CELLBOOK_MIGRATE_PASSWORD": "b",
            },
        )
        assert await script.wait() == 0
        dsn = postgres.dsn("cellbook", user="us_east")
        store = await open_store("us-east", dsn, migrate_dsn=postgres.dsn("cellbook", user="migrating"))
        await store.close()
        found = {each.check: each.state for each in await examine(dsn, where="database", cell="us-east")}
        assert (found["role"], found["append-only"], found["cell"]) == (State.OK,) * 3
    finally:
        await postgres.stop("immediate")


@pytest.mark.parametrize(("problem", "code"), [("", 0), ("it is starting", 1)])
async def test_the_image_is_probed_by_a_few_lines(problem: str, code: int) -> None:
    """Which run without the site's packages: a probe every few seconds must cost nothing."""
    text = (DOCKER / "Dockerfile").read_text()
    [command] = re.findall(r"HEALTHCHECK .*?CMD (\[.*?\])", text, re.DOTALL)
    assert json.loads(command) == ["python3", "-I", "-S", "/opt/cellbook/probe.py"]
    assert "COPY docker/probe.py /opt/cellbook/probe.py" in text
    assert "!docker/probe.py" in (ROOT / ".dockerignore").read_text().split()
    assert not [name for name, service in ours().items() if "healthcheck" in service]
    endpoint = MetricsEndpoint("127.0.0.1:0", CollectorRegistry(), insecure_listen=False, unready=lambda: problem)
    endpoint.start()
    try:
        assert endpoint.address is not None
        probe = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", DOCKER / "probe.py", str(endpoint.address.port)),
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await probe.communicate()
        assert (probe.returncode, said.decode().strip()) == (code, problem)
    finally:
        await endpoint.stop()


def test_the_image_has_every_package_that_is_installed() -> None:
    """The `cellbook` command imports all of them at its start."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {each.rstrip("*") for each in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    given = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")}
    # The stubs lie below protos.
    assert packages - {"cellbook"} | {"protos"} <= given


def test_metrics_are_where_the_probe_asks() -> None:
    """In every settings file that is shipped."""
    files = [DOCKER / "router" / "settings.toml", *(DOCKER / "cells" / cell / "settings.toml" for cell in CELLS)]
    assert {tomllib.loads(file.read_text())["metrics"] for file in files} == {"0.0.0.0:9400"}
    assert "else 9400" in (DOCKER / "probe.py").read_text()


def test_passwords_are_chosen_each_for_itself(tmp_path: Path) -> None:
    """Once: what is there stays."""
    for name in (".env.example", "passwords.sh"):
        shutil.copy(DOCKER / name, tmp_path)
    texts = []
    for _ in range(2):
        subprocess.run([tmp_path / "passwords.sh"], check=True, timeout=60)
        texts.append((tmp_path / ".env").read_text())
    assert texts[0] == texts[1]
    chosen = dict(line.split("=") for line in texts[0].splitlines())
    assert all(chosen.values())
    assert len({*chosen.values()}) == len(chosen)
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600


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


def manifests(name: str) -> dict[str, dict[str, Any]]:
    return {each["kind"]: each for each in yaml.safe_load_all((DOCKER / "kubernetes" / f"{name}.yaml").read_text())}


MANIFESTS = pytest.mark.parametrize(("name", "kind"), [("cell", ServerSettings), ("router", RouterSettings)])


@MANIFESTS
def test_the_manifests_settings_load(tmp_path: Path, name: str, kind: type[HostSettings]) -> None:
    """As the process will read them, and it drains within the grace of its pod."""
    file = tmp_path / "settings.toml"
    file.write_text(manifests(name)["ConfigMap"]["data"]["settings.toml"])
    settings = load_settings(kind, ["--config", str(file)], program=name)
    pod = manifests(name)["StatefulSet"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] * 1_000 > settings.drain_grace_ms + 5_000
    [container] = pod["containers"]
    assert container["command"][-1] == kind.__module__.split(".")[0]
    read_only = {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
    for path in key_files(settings):
        assert read_only[str(path.parent)]
    for path in written(settings):
        assert not read_only[str(path)]
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    claimed = {claim["metadata"]["name"] for claim in manifests(name)["StatefulSet"]["spec"]["volumeClaimTemplates"]}
    assert set(mounted) == claimed | {each["name"] for each in pod["volumes"]}
    assert {mounted[each] for each in claimed} == {str(path) for path in written(settings)}


@MANIFESTS
def test_the_manifests_speak_of_the_same_pods(name: str, kind: type[HostSettings]) -> None:
    """Service, budget and set select what the template labels; one of two may be taken away at a time."""
    found = manifests(name)
    spec = found["StatefulSet"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"] == labels == found["Service"]["spec"]["selector"]
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert found["PodDisruptionBudget"]["spec"]["minAvailable"] == spec["replicas"] - 1
    assert spec["serviceName"] == found["Service"]["metadata"]["name"]


@MANIFESTS
def test_the_manifests_probe_over_http(name: str, kind: type[HostSettings]) -> None:
    """At the port of the metrics; what cannot serve is taken out, and only what hangs is restarted."""
    [container] = manifests(name)["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    asked = {probe: container[f"{probe}Probe"]["httpGet"] for probe in ("startup", "readiness", "liveness")}
    assert {probe: get["path"] for probe, get in asked.items()} == {
        "startup": "/livez", "readiness": "/readyz", "liveness": "/livez",
    }  # fmt: skip
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    text = tomllib.loads(manifests(name)["ConfigMap"]["data"]["settings.toml"])
    assert {ports[get["port"]] for get in asked.values()} == {parse_address(text["metrics"]).port}
    assert set(text) <= set(kind.model_fields)


@MANIFESTS
def test_the_manifests_log_in_with_no_more_than_they_need(name: str, kind: type[HostSettings]) -> None:
    """By two logins of one secret; what seals names and addresses is there."""
    [container] = manifests(name)["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    given = {each["name"]: each["valueFrom"]["secretKeyRef"]["key"] for each in container["env"] if "valueFrom" in each}
    assert given == {"CELLBOOK_DSN": "dsn", "CELLBOOK_MIGRATE_DSN": "migrate-dsn"}


def test_the_router_of_the_manifests_knows_the_cell_of_the_manifests() -> None:
    """By a name for each of its processes."""
    settings = tomllib.loads(manifests("router")["ConfigMap"]["data"]["settings.toml"])
    cell = manifests("cell")["StatefulSet"]
    name, service = cell["metadata"]["name"], cell["spec"]["serviceName"]
    processes = "+".join(f"{name}-{number}.{service}:7400" for number in range(cell["spec"]["replicas"]))
    region = tomllib.loads(manifests("cell")["ConfigMap"]["data"]["settings.toml"])["region"]
    assert settings["cells"] == [f"{name}={region}={processes}"]


def test_the_manifests_hold_against_their_schema() -> None:
    """Strictly: a field that Kubernetes does not know would be ignored there."""
    validate = ROOT / "build" / "kubernetes" / "bin" / "kubernetes-validate"
    if not validate.exists():
        pytest.skip("kubernetes-validate is not there: `make tools` fetches it")
    command = [str(validate), "--strict", *map(str, (DOCKER / "kubernetes").glob("*.yaml"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
