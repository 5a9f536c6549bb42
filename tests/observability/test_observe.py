"""Dashboard, alerts and the compose profile that shows them: they speak of what there is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from flask import Flask
from prometheus_client.parser import text_string_to_metric_families

from tests.faults import on_sqlite

pytestmark = on_sqlite

ROOT = Path(__file__).parent.parent.parent
PROMETHEUS = ROOT / "docker" / "prometheus"
GRAFANA = ROOT / "docker" / "grafana"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SAMPLE = {"X": [[1, 2, 3], [4, 5, 6]], "y": [10, 20]}


def load_dashboard() -> Any:
    return json.loads((GRAFANA / "dashboards" / "webapp.json").read_text())


def expressions() -> Iterator[str]:
    """Yield every expression of the dashboard and of the alerts."""
    for panel in load_dashboard()["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])


def test_every_metric_that_is_shown_or_alerts_is_in_a_scrape_and_the_other_way_round(
    own_app: Flask,
) -> None:
    client = own_app.test_client()
    client.post("/api/v1/ml/train", json=SAMPLE)
    client.post("/api/v1/ml/predict", json={"features": [1, 2, 3]})
    families = list(text_string_to_metric_families(client.get("/metrics").text))
    told = {sample.name for family in families for sample in family.samples}
    labels = {name for family in families for s in family.samples for name in s.labels}

    text = "\n".join(expressions())
    spoken_of = set(re.findall(r"webapp_\w+", text))
    by = {name for names in re.findall(r"by \(([^)]*)\)", text) for name in names.split(", ")}

    assert spoken_of <= told
    assert by <= labels
    derived = {family.name for family in families if family.type == "histogram"}
    plain = {name for name in told if not name.startswith(tuple(derived))}
    assert plain <= spoken_of
    assert {f"{name}_bucket" for name in derived} <= spoken_of


def test_the_dashboard_asks_the_data_source_that_is_provisioned() -> None:
    sources = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())
    folder = yaml.safe_load((GRAFANA / "provisioning/dashboards/webapp.yml").read_text())
    panels = load_dashboard()["panels"]
    mounted = [volume.split(":")[1] for volume in COMPOSE["services"]["grafana"]["volumes"]]

    assert {panel["datasource"]["uid"] for panel in panels} == {sources["datasources"][0]["uid"]}
    assert folder["providers"][0]["options"]["path"] in mounted
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["title"] for panel in panels)


def test_prometheus_finds_every_web_container_and_shows_its_key() -> None:
    scrape = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"][0]
    service = COMPOSE["services"]["prometheus"]

    assert scrape["dns_sd_configs"][0]["names"] == ["web"]
    assert set(service["networks"]) & set(COMPOSE["services"]["web"]["networks"]) == {"front"}
    secret = scrape["authorization"]["credentials_file"].removeprefix("/run/secrets/")
    assert service["secrets"] == [secret]
    assert secret in COMPOSE["secrets"]


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_who_watches_is_optional_hardened_pinned_and_reached_from_this_host_only(
    name: str,
) -> None:
    service = COMPOSE["services"][name]

    assert service["profiles"] == ["observe"]
    assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+", service["image"])
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "back" not in service["networks"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    for volume in service["volumes"]:
        source = volume.split(":")[0]
        assert source in COMPOSE["volumes"] or (ROOT / source).exists()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing_wrong() -> None:
    for what, file in (("config", "prometheus.yml"), ("rules", "alerts.yml")):
        command = ["promtool", "check", what, "--lint=all"]
        if what == "config":
            command = ["promtool", "check", "config", "--syntax-only"]
        subprocess.run([*command, str(PROMETHEUS / file)], check=True, capture_output=True)
