"""Dashboard, alerts and the compose profile that runs them: they name what there is."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from flask import Flask
from prometheus_client.parser import text_string_to_metric_families

from tests.faults import on_sqlite
from tests.gunicorn_server import ROOT

pytestmark = on_sqlite

PROMETHEUS, GRAFANA = ROOT / "docker" / "prometheus", ROOT / "docker" / "grafana"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
PANELS = json.loads((GRAFANA / "dashboards" / "webapp.json").read_text())["panels"]
ALERTS = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
SAMPLE = {"X": [[1, 2, 3], [4, 5, 6]], "y": [10, 20]}


def test_every_metric_that_is_shown_or_alerts_is_in_a_scrape_and_the_other_way_round(
    own_app: Flask,
) -> None:
    client = own_app.test_client()
    client.post("/api/v1/ml/train", json=SAMPLE)
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


def test_the_dashboard_asks_the_data_source_that_is_provisioned() -> None:
    sources = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())
    folder = yaml.safe_load((GRAFANA / "provisioning/dashboards/webapp.yml").read_text())
    mounted = [volume.split(":")[1] for volume in COMPOSE["services"]["grafana"]["volumes"]]

    assert {panel["datasource"]["uid"] for panel in PANELS} == {sources["datasources"][0]["uid"]}
    assert folder["providers"][0]["options"]["path"] in mounted
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_prometheus_finds_every_web_container_and_shows_its_key() -> None:
    scrape = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"][0]
    service = COMPOSE["services"]["prometheus"]
    secret = scrape["authorization"]["credentials_file"].removeprefix("/run/secrets/")

    assert scrape["dns_sd_configs"][0]["names"] == ["web"]
    assert set(service["networks"]) & set(COMPOSE["services"]["web"]["networks"]) == {"front"}
    assert service["secrets"] == [secret]
    assert secret in COMPOSE["secrets"]


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_who_watches_is_optional_and_reached_from_this_host_only(name: str) -> None:
    service = COMPOSE["services"][name]
    sources = {volume.split(":")[0] for volume in service["volumes"]}

    assert service["profiles"] == ["observe"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert all(s in COMPOSE["volumes"] or (ROOT / s).exists() for s in sources)
