"""What operators are given: compose file, dashboard, systemd's unit, Kubernetes' manifests."""

from __future__ import annotations

import json
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
from flask import Flask
from prometheus_client.parser import text_string_to_metric_families

from config import SETTINGS, load_settings
from tests.conftest import migrate
from tests.faults import on_sqlite
from tests.nginx import render_configuration
from tests.postgres import running_server, server_binaries

ROOT = Path(__file__).parent.parent
COMPOSE = Path(sys.executable).parent / "docker-compose"
DEFAULTS = load_settings(environ={"APP_ENV": "testing"})
PROMETHEUS, GRAFANA = ROOT / "docker" / "prometheus", ROOT / "docker" / "grafana"
PANELS = json.loads((GRAFANA / "dashboards" / "webapp.json").read_text())["panels"]
ALERTS = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]


def compose(**environ: str) -> dict[str, Any]:
    """Return the compose file as Docker Compose reads it."""
    command = [str(COMPOSE), "--env-file", os.devnull, "--profile", "*", "config"]
    environ = {"PATH": os.environ["PATH"], "POSTGRES_PASSWORD": "Zk3vJw8q", **environ}
    return dict(yaml.safe_load(subprocess.check_output(command, cwd=ROOT, env=environ)))


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return dict(compose()["services"])


def manifests(kind: str | None = None) -> list[dict[str, Any]]:
    """Return the documents of all manifests, or those of a kind."""
    paths = sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
    documents = [doc for path in paths for doc in yaml.safe_load_all(path.read_text())]
    return [doc for doc in documents if kind in (None, doc["kind"])]


def test_every_container_is_confined_and_pinned(services: dict[str, Any]) -> None:
    for name, service in services.items():
        limits = service["deploy"]["resources"]["limits"]
        assert service["cap_drop"] == ["ALL"], name
        assert "cap_add" not in service, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert limits["cpus"] > 0, name
        assert int(limits["memory"]) >= 2**28, name
        assert 0 < limits["pids"] <= 512, name
        assert service["logging"]["options"] == {"max-size": "20m", "max-file": "5"}, name
        assert service.get("read_only") or name == "db", name
        assert "healthcheck" in service or name == "migrate", name
        assert re.search(r"^webapp$|:v?\d+\.\d+(\.\d+)?(-[a-z-]+)?$", service["image"]), name


def test_the_database_is_reached_by_the_service_alone(services: dict[str, Any]) -> None:
    networks = compose()["networks"]

    assert networks["back"]["internal"] is True
    assert list(services["db"]["networks"]) == ["back"]
    assert "ports" not in services["db"]
    beside = {name for name, service in services.items() if "back" in service["networks"]}
    assert beside == {"db", "migrate", "web", "redis"}


def test_a_cluster_is_reached_by_the_service_alone(services: dict[str, Any]) -> None:
    assert compose()["networks"]["cluster"]["internal"] is True
    beside = {name for name, service in services.items() if "cluster" in service["networks"]}
    assert beside == {"scheduler", "web", "worker"}
    for name in ("scheduler", "worker"):
        assert list(services[name]["networks"]) == ["cluster"]
        assert "ports" not in services[name]
        assert "DATABASE_URL" not in services[name].get("environment", {})


def test_the_proxy_has_every_variable_of_its_configuration(services: dict[str, Any]) -> None:
    given = services["proxy"]["environment"]

    text = render_configuration(**{k: v for k, v in given.items() if v})

    assert not re.findall(r"\$\{\w+\}", text)
    # It takes as much as the application does.
    assert f"client_max_body_size {DEFAULTS['MAX_CONTENT_LENGTH']};" in text


def test_a_setting_of_the_env_file_reaches_its_container(services: dict[str, Any]) -> None:
    changed = compose(PROXY_HOPS="2", PROXY_TRUSTED="10.0.0.0/8", WEB_REPLICAS="5")["services"]

    assert services["web"]["deploy"]["replicas"] == 2
    assert changed["web"]["deploy"]["replicas"] == 5
    assert changed["web"]["environment"]["PROXY_HOPS"] == "2"
    assert changed["proxy"]["environment"]["PROXY_TRUSTED"] == "10.0.0.0/8"


@on_sqlite
def test_every_metric_of_a_scrape_is_shown_and_the_other_way_round(own_app: Flask) -> None:
    client = own_app.test_client()
    for _ in range(2):
        client.post("/api/v1/ml/train", json={"X": [[1, 2, 3], [4, 5, 6]], "y": [10, 20]})
    shared = {"shares": {"2": 100}, "shadow": 1}
    client.put("/api/v1/ml/models/default/traffic", json=shared)
    client.post("/api/v1/ml/predict", json={"features": [1, 2, 3]})
    families = list(text_string_to_metric_families(client.get("/metrics").text))
    exported = {sample.name for family in families for sample in family.samples}
    labels = {name for family in families for s in family.samples for name in s.labels}

    expressions = [target["expr"] for panel in PANELS for target in panel["targets"]]
    expressions += [rule["expr"] for group in ALERTS for rule in group["rules"]]
    text = "\n".join(expressions)
    used = set(re.findall(r"webapp_\w+", text))
    by = {name for names in re.findall(r"by \(([^)]*)\)", text) for name in names.split(", ")}

    assert used <= exported
    assert by <= labels
    histograms = {family.name for family in families if family.type == "histogram"}
    assert {name for name in exported if not name.startswith(tuple(histograms))} <= used
    assert {f"{name}_bucket" for name in histograms} <= used


def test_the_dashboard_asks_the_data_source_that_is_provisioned(services: dict[str, Any]) -> None:
    sources = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())
    folder = yaml.safe_load((GRAFANA / "provisioning/dashboards/webapp.yml").read_text())
    mounted = [volume["target"] for volume in services["grafana"]["volumes"]]

    assert {panel["datasource"]["uid"] for panel in PANELS} == {sources["datasources"][0]["uid"]}
    assert folder["providers"][0]["options"]["path"] in mounted


def test_prometheus_finds_every_web_container_and_shows_its_key(services: dict[str, Any]) -> None:
    scrape = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"][0]
    (secret,) = services["prometheus"]["secrets"]

    assert scrape["dns_sd_configs"][0]["names"] == ["web"]
    assert "front" in services["prometheus"]["networks"]
    assert scrape["authorization"]["credentials_file"] == f"/run/secrets/{secret['source']}"


def test_who_watches_is_optional_and_reached_from_this_host_only(services: dict[str, Any]) -> None:
    for service in (services["prometheus"], services["grafana"]):
        assert service["profiles"] == ["observe"]
        assert {port["host_ip"] for port in service["ports"]} == {"127.0.0.1"}


@pytest.mark.slow
def test_the_script_makes_an_owner_who_is_no_superuser_and_can_migrate() -> None:
    password = 'it\'s "a" $secret'  # noqa: S105 (of a server that ends with the test)
    with running_server() as server:
        url = sa.make_url(server.url)
        environ = {"PATH": f"{server_binaries()}:{os.environ['PATH']}"}
        environ |= {"PGHOST": str(url.host), "PGPORT": str(url.port)}
        environ |= {"POSTGRES_USER": str(url.username), "POSTGRES_PASSWORD": password}
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

    assert int(seconds) > DEFAULTS["WEB_GRACEFUL_TIMEOUT"] + 5


@pytest.mark.slow
def test_gunicorn_says_when_it_is_ready_in_any_folder(tmp_path: Path) -> None:
    environ = {
        "PATH": os.environ["PATH"],
        "APP_ENV": "testing",
        "DATABASE_URL": f"sqlite:///{tmp_path / 'webapp.db'}",
        "BIND": f"unix:{tmp_path / 'gunicorn.sock'}",
        "WEB_CONCURRENCY": "1",
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
    }
    command = [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "gunicorn.conf.py")]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(environ["NOTIFY_SOCKET"])
        notified.settimeout(60)
        with subprocess.Popen(command, cwd=tmp_path, env=environ) as process:
            try:
                assert b"READY=1" in notified.recv(4096)
            finally:
                process.terminate()

    assert process.returncode == 0


def test_kubernetes_would_accept_every_manifest() -> None:
    for document in manifests():
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


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
    sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]

    for name in ("startup", "liveness", "readiness"):
        probe = container[f"{name}Probe"]["httpGet"]
        assert (probe["path"], probe["port"]) == ("/health/live", "http")
    assert pod["terminationGracePeriodSeconds"] >= sleep + DEFAULTS["WEB_GRACEFUL_TIMEOUT"] + 5
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_every_file_and_setting_that_operators_are_told_of_is_there() -> None:
    example, guide = (ROOT / ".env.example").read_text(), (ROOT / "docs/operations.md").read_text()
    known = {setting.name for setting in SETTINGS} | {"COMPOSE_PROFILES"}
    known |= set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))

    assert set(re.findall(r"^(?:# )?([A-Z_]+)=", example, re.M)) <= known
    assert set(re.findall(r"^(?:\$ echo '?)?([A-Z_]{4,})=", guide, re.M)) <= known
    for path in re.findall(r"\b(?:deploy|docker)/[\w/.@-]*\w", guide):
        assert (ROOT / path).exists(), path
