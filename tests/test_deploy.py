"""What operators are given: the compose file, the image, systemd's unit, Kubernetes' manifests."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import sqlalchemy as sa
import yaml

from config import SETTINGS
from tests.conftest import migrate
from tests.nginx import render_configuration
from tests.postgres import running_server, server_binaries

ROOT = Path(__file__).parent.parent
COMPOSE = Path(sys.executable).parent / "docker-compose"
MANIFESTS = sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
KUBERNETES = kubernetes_validate.latest_version()
SERVICES = ["db", "migrate", "web", "proxy", "redis", "prometheus", "grafana"]


def compose(**environ: str) -> dict[str, Any]:
    """Return the compose file as Docker Compose reads it."""
    command = [str(COMPOSE), "--env-file", os.devnull, "--profile", "*", "config"]
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "POSTGRES_PASSWORD": "Zk3vJw8q", **environ},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = yaml.safe_load(ended.stdout)
    return found


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return dict(compose()["services"])


def manifests(kind: str | None = None) -> list[dict[str, Any]]:
    """Return the documents of all manifests, or those of a kind."""
    documents = [doc for path in MANIFESTS for doc in yaml.safe_load_all(path.read_text())]
    return [doc for doc in documents if kind in (None, doc["kind"])]


def default(name: str) -> str:
    """Return the default of a setting."""
    (setting,) = (setting for setting in SETTINGS if setting.name == name)
    return str(setting.default)


# Docker Compose


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_contained_and_of_one_version(
    services: dict[str, Any], name: str
) -> None:
    service = services[name]
    limits = service["deploy"]["resources"]["limits"]

    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert limits["cpus"] > 0
    assert int(limits["memory"]) >= 2**28
    assert 0 < limits["pids"] <= 512
    assert service["logging"]["options"] == {"max-size": "20m", "max-file": "5"}
    assert service.get("read_only") or name == "db"
    assert "healthcheck" in service or name == "migrate"
    assert re.search(r"^webapp$|:v?\d+\.\d+(\.\d+)?(-[a-z-]+)?$", service["image"])
    assert sorted(services) == sorted(SERVICES)


def test_the_database_is_reached_by_the_service_alone(services: dict[str, Any]) -> None:
    networks = compose()["networks"]

    assert networks["back"]["internal"] is True
    assert list(services["db"]["networks"]) == ["back"]
    assert "ports" not in services["db"]
    beside = {name for name in SERVICES if "back" in services[name]["networks"]}
    assert beside == {"db", "migrate", "web", "redis"}


def test_the_proxy_has_every_variable_of_its_configuration(services: dict[str, Any]) -> None:
    given = services["proxy"]["environment"]

    text = render_configuration(**{k: v for k, v in given.items() if v})

    assert not re.findall(r"\$\{\w+\}", text)
    # It takes as much as the application does.
    assert f"client_max_body_size {default('MAX_CONTENT_LENGTH')};" in text


def test_a_setting_of_the_env_file_reaches_the_service_or_is_given_by_the_compose_file(
    services: dict[str, Any],
) -> None:
    changed = compose(PROXY_HOPS="2", PROXY_TRUSTED="10.0.0.0/8", WEB_REPLICAS="5")["services"]

    assert services["web"]["deploy"]["replicas"] == 2
    assert changed["web"]["deploy"]["replicas"] == 5
    assert changed["web"]["environment"]["PROXY_HOPS"] == "2"
    assert changed["proxy"]["environment"]["PROXY_TRUSTED"] == "10.0.0.0/8"


def test_what_the_example_of_an_env_file_names_is_read_by_something() -> None:
    example, text = (ROOT / ".env.example").read_text(), (ROOT / "docker-compose.yml").read_text()
    known = {setting.name for setting in SETTINGS} | set(re.findall(r"\$\{([A-Z_]+)", text))

    named = set(re.findall(r"^(?:# )?([A-Z_]+)=", example, re.M))

    assert named - known == {"COMPOSE_PROFILES"}


# The image


def test_a_change_of_the_code_leaves_the_layer_of_the_packages_as_it_is() -> None:
    stages = (ROOT / "Dockerfile").read_text().split("\nFROM ")[1:]

    for stage in stages:
        steps = re.findall(r"^(?:COPY|RUN)(?:.*\\\n)*.*$", stage, re.M)
        of_packages = [number for number, step in enumerate(steps) if "/opt/venv" in step]
        of_code = [
            number
            for number, step in enumerate(steps)
            if re.match(r"COPY (?!requirements|--from=builder /opt/venv)", step)
        ]
        assert of_packages
        assert max(of_packages) < min(of_code)


# PostgreSQL


@pytest.mark.slow
def test_the_script_makes_an_owner_who_is_no_superuser_and_can_migrate(tmp_path: Path) -> None:
    password = 'it\'s "a" $secret'  # noqa: S105 (of a server that ends with the test)
    with running_server() as server:
        url = sa.make_url(server.url)
        environ = {
            "PATH": f"{server_binaries()}:{os.environ['PATH']}",
            "PGHOST": str(url.host),
            "PGPORT": str(url.port),
            "POSTGRES_USER": str(url.username),
            "POSTGRES_PASSWORD": password,
        }
        script = ROOT / "docker" / "postgres" / "owner.sh"
        subprocess.run([script], env=environ, check=True, capture_output=True)
        owner = url.set(username="webapp", password=password, database="webapp")

        migrate(owner.render_as_string(hide_password=False))

        engine = sa.create_engine(owner.set(drivername="postgresql+psycopg2"))
        with engine.connect() as connection:
            role = connection.exec_driver_sql(
                "SELECT rolsuper, rolcreaterole, rolcreatedb FROM pg_roles "
                "WHERE rolname = current_user"
            )
            assert tuple(role.one()) == (False, False, False)
            extensions = connection.exec_driver_sql("SELECT extname FROM pg_extension")
            assert "pg_trgm" in set(extensions.scalars())
        engine.dispose()


# systemd


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "webapp@.service").read_text()
    unit = tmp_path / "webapp@.service"
    unit.write_text(text.replace("/opt/webapp/.venv/bin", str(Path(sys.executable).parent)))

    command = ["systemd-analyze", "verify", "--man=no", str(unit.with_name("webapp@8001.service"))]
    ended = subprocess.run(command, capture_output=True, text=True)

    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_unit_waits_longer_than_the_service_needs_to_stop() -> None:
    text = (ROOT / "deploy" / "webapp@.service").read_text()
    (seconds,) = re.findall(r"TimeoutStopSec=(\d+)", text)

    assert int(seconds) > int(default("WEB_GRACEFUL_TIMEOUT")) + 5


@pytest.mark.slow
def test_gunicorn_says_when_it_is_ready_whatever_the_folder_it_is_started_in(
    tmp_path: Path,
) -> None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(tmp_path / "notify"))
    sock.settimeout(60)
    with sock:
        environ = {
            "PATH": os.environ["PATH"],
            "APP_ENV": "testing",
            "DATABASE_URL": f"sqlite:///{tmp_path / 'webapp.db'}",
            "BIND": f"unix:{tmp_path / 'gunicorn.sock'}",
            "WEB_CONCURRENCY": "1",
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
        }
        command = [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "gunicorn.conf.py")]
        process = subprocess.Popen(command, cwd=tmp_path, env=environ, stderr=subprocess.DEVNULL)
        try:
            told = sock.recv(4096)
        finally:
            process.terminate()
            code = process.wait(timeout=60)

    assert b"READY=1" in told
    assert code == 0


# Kubernetes


@pytest.mark.parametrize("document", manifests(), ids=lambda document: document["kind"])
def test_kubernetes_would_accept_every_manifest(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize(
    "document", manifests("Deployment") + manifests("Job"), ids=lambda d: d["kind"]
)
def test_pods_run_without_root_and_without_writing(document: dict[str, Any]) -> None:
    pod = document["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    (database,) = (e["value"] for e in container["env"] if e["name"] == "DATABASE_URL_FILE")

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["limits"]["memory"]
    assert mounted["tmp"] == "/tmp"  # noqa: S108 (in the container)
    assert database.startswith(mounted["secrets"])
    assert {volume["name"] for volume in pod["volumes"]} == set(mounted)


def test_a_pod_is_probed_where_the_service_answers_and_has_time_to_stop() -> None:
    (deployment,) = manifests("Deployment")
    (service,) = manifests("Service")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    probes = [
        container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")
    ]
    sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]

    assert {(probe["path"], probe["port"]) for probe in probes} == {("/health/live", "http")}
    assert pod["terminationGracePeriodSeconds"] >= sleep + int(default("WEB_GRACEFUL_TIMEOUT")) + 5
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


# What is said of it


def test_every_file_and_setting_that_the_operators_guide_names_is_there() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    compose_file = (ROOT / "docker-compose.yml").read_text()
    known = {setting.name for setting in SETTINGS} | set(re.findall(r"\$\{(\w+)", compose_file))

    for path in re.findall(r"\b(?:deploy|docker)/[\w/.@-]*\w", text):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"^(?:\$ echo '?)?([A-Z_]{4,})=", text, re.M):
        assert name in known | {"COMPOSE_PROFILES"}, name
    assert "docs/operations.md" in (ROOT / "README.md").read_text()
