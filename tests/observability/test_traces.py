"""Traces: spans reach a collector from every worker, and nothing is imported where it is off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.echo_server import running_echo_server
from tests.faults import on_sqlite
from tests.gunicorn_server import ROOT, running_gunicorn

CANARY = "canary4711"
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SAMPLE = {"X": [[1, 2, 3], [4, 5, 6]], "y": [10, 20]}


def read_spans(exports: list[bytes]) -> list[tuple[str, Any]]:
    """Return all spans of some exports, each with the name of its service."""
    return [
        (describe(resource.resource.attributes)["service.name"], span)
        for export in exports
        for resource in ExportTraceServiceRequest.FromString(export).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def describe(attributes: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in attributes}


@on_sqlite
def test_spans_of_workers_reach_the_collector(database_url: str, tmp_path: Path) -> None:
    log = tmp_path / "gunicorn.log"
    with running_echo_server() as (collector, exports):
        settings = {"OTEL": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": collector}
        with running_gunicorn(database_url, log, **settings) as server:
            session = requests.Session()
            session.headers["traceparent"] = f"00-{TRACE}-{PARENT}-01"
            session.headers["Authorization"] = f"Bearer {CANARY}"
            session.post(f"{server.url}/api/v1/ml/train", json=SAMPLE)
            session.post(f"{server.url}/api/v1/ml/predict", json={"features": [1, 2, 3]})
            session.post(f"{server.url}/api/v1/items", json={"name": CANARY})
            session.get(f"{server.url}/api/v1/items", params={"q": CANARY})
    # A worker that ends sends what it still has.
    spans = read_spans(exports)
    found = [(service, span) for service, span in spans if span.trace_id.hex() == TRACE]
    by_name = {span.name: span for _, span in found}

    assert {service for service, _ in found} == {"webapp"}
    predicted = by_name["POST /api/v1/ml/predict"]
    assert predicted.parent_span_id.hex() == PARENT
    said = describe(predicted.attributes)
    assert said["http.response.status_code"] == 200
    assert (said["webapp.model"], said["webapp.version"]) == ("default", 1)
    trained = by_name["POST /api/v1/ml/train"]
    statements = [span for _, span in found if span.parent_span_id == trained.span_id]
    assert {"INSERT", "SELECT"} <= {span.name for span in statements}
    assert all("db.query.text" in describe(span.attributes) for span in statements)
    assert CANARY not in str(spans)
    assert TRACE in log.read_text()


def run_python(code: str, tmp_path: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": os.environ["PATH"], "APP_ENV": "testing", **settings}
    environ["DATABASE_URL"] = f"sqlite:///{tmp_path}/a.db"
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)


def test_nothing_of_opentelemetry_is_imported_where_it_is_off(tmp_path: Path) -> None:
    code = "import sys, wsgi; print([m for m in sys.modules if 'opentelemetry' in m])"

    assert run_python(code, tmp_path).stdout == "[]\n"
    assert "opentelemetry.sdk" in run_python(code, tmp_path, OTEL="true").stdout


def test_without_its_packages_the_setting_is_refused_by_name(tmp_path: Path) -> None:
    code = "import sys; sys.modules['opentelemetry'] = None; import wsgi"

    ended = run_python(code, tmp_path, OTEL="true")

    assert ended.stderr.splitlines() == [
        "Configuration error: OTEL needs the packages of requirements/traces.txt"
    ]
