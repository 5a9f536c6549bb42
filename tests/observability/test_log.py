"""The log: a line for each record, that names the request and holds none of its data."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask

from tests.faults import on_sqlite
from tests.gunicorn_server import ROOT, running_gunicorn
from webapp.observability.log import FORMATS, JSONFormatter, TextFormatter, describe_error
from webapp.observability.observer import Observer

CANARY = "canary4711"
SAMPLE = {"X": [[1, 2, 3], [4, 5, 6]], "y": [10, 20]}


def make_record(message: str, *args: object, error: BaseException | None = None) -> Any:
    info = None if error is None else (type(error), error, error.__traceback__)
    return logging.LogRecord("webapp.test", logging.ERROR, "", 0, message, args, info)


def caught(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as raised:
        return raised


def test_warnings_and_errors_of_threads_are_lines_of_the_log_too() -> None:
    code = """
import threading, warnings
from webapp.observability import log
log.configure(level="INFO", form="json")
warnings.warn("that\\nis old", DeprecationWarning)
thread = threading.Thread(target=lambda: 1 / 0, name="busy")
thread.start()
thread.join()
"""
    command = [sys.executable, "-W", "always", "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    warning, error = map(json.loads, ended.stderr.splitlines())

    assert (warning["level"], warning["logger"]) == ("WARNING", "py.warnings")
    assert "is old" in warning["message"]
    assert "busy" in error["message"]
    assert "ZeroDivisionError" in error["exception"]


@on_sqlite
def test_every_line_of_the_log_is_an_object_without_data(
    database_url: str, tmp_path: Path
) -> None:
    log = tmp_path / "gunicorn.log"
    with running_gunicorn(database_url, log, LOG_FORMAT="json", PROXY_HOPS="1") as server:
        api = f"{server.url}/api/v1"
        client = requests.Session()
        client.headers.update({"Authorization": f"Bearer {CANARY}", "Cookie": CANARY})
        client.headers["X-Forwarded-For"] = "203.0.113.7"
        client.post(f"{api}/ml/train", json=SAMPLE)
        body = {"features": [1, 2, 3]}
        client.post(f"{api}/ml/predict", json=body, headers={"X-Request-ID": "mine"})
        client.post(f"{api}/ml/predict", json={"features": [CANARY]})
        client.get(f"{api}/items", params={"q": CANARY, "sort": CANARY})
        client.get(f'{server.url}/{CANARY}%0A{{"level":"ERROR"}}', params={"a": CANARY})
        made = client.get(f"{server.url}/health/live").headers["X-Request-ID"]
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    by_id = {line["request_id"]: line for line in lines if "status" in line}

    assert CANARY not in log.read_text()
    for line in lines:
        assert {"time", "level", "logger", "message", "process"} <= set(line)
        assert datetime.fromisoformat(line["time"]).utcoffset() == timedelta(0)
    assert {"gunicorn.error", "webapp.requests"} <= {line["logger"] for line in lines}
    predicted = by_id["mine"]
    assert predicted["duration_ms"] > 0
    assert predicted["message"] == "POST /api/v1/ml/predict 200"
    names = ("method", "route", "status", "client", "model", "version")
    expected = ["POST", "/api/v1/ml/predict", 200, "203.0.113.7", "default", 1]
    assert [predicted[name] for name in names] == expected
    assert by_id[made]["route"] == "/health/live"
    assert [line["status"] for line in by_id.values() if line["route"] == "unmatched"] == [404]


def test_an_error_within_a_request_names_it_and_its_traceback_is_one_field(
    own_app: Flask, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(number: int) -> str:
        raise RuntimeError("the combination is 12345")

    own_app.add_url_rule("/broken/<int:number>", view_func=fail)
    monkeypatch.setattr(caplog.handler, "formatter", JSONFormatter())
    response = own_app.test_client().get(f"/broken/7?q={CANARY}")
    line = json.loads(caplog.text.splitlines()[0])

    assert response.status_code == 500
    assert line["request_id"] == response.headers["X-Request-ID"]
    assert line["route"] == "/broken/<int:number>"
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert "RuntimeError: the combination is 12345" in line["exception"]
    assert CANARY not in str(line)


def test_a_request_whose_application_raises_is_observed_as_500() -> None:
    seen: list[dict[str, Any]] = []
    observer = Observer(lambda environ, start: 1 / 0, [lambda facts, environ: seen.append(facts)])

    with pytest.raises(ZeroDivisionError):
        observer({"REQUEST_METHOD": "GET"}, lambda *_: None)

    assert [(facts["status"], facts["route"]) for facts in seen] == [(500, "unmatched")]


def test_an_operators_handler_gets_requests(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    form = "%(asctime)s %(name)s %(levelname)s %(process)d %(threadName)s %(message)s"
    app.test_client().get("/health/live")
    (record,) = [record for record in caplog.records if record.name == "webapp.requests"]

    assert logging.Formatter(form).format(record).endswith("GET /health/live 200")
    assert "GET /health/live 200 [request_id=" in TextFormatter().format(record)


@pytest.mark.parametrize(
    "text",
    [
        f"cannot reach postgresql://webapp:{CANARY}@db:5432/webapp",
        f"cannot reach postgresql+psycopg2://webapp:p@{CANARY}@db/webapp at all",
        f"invalid dsn: host=db password={CANARY} user=webapp",
        f"invalid dsn: password = 'two {CANARY}' user=webapp",
        f"Authorization: Bearer {CANARY}",
    ],
)
@pytest.mark.parametrize("form", FORMATS)
def test_passwords_and_tokens_are_hidden_in_messages_and_errors(form: str, text: str) -> None:
    record = make_record("failed: %s", text, error=caught(RuntimeError(text)))

    line = FORMATS[form]().format(record)

    assert line.count("***") == 2
    assert CANARY not in line


@pytest.mark.parametrize("form", FORMATS)
def test_nothing_that_is_logged_can_begin_a_line_of_its_own(form: str) -> None:
    breaks = "\n\r\x0b\x0c\x1c\x85\u2028\u2029\x1b[2J"
    text = f"first{breaks}2026-01-01T00:00:00.000Z ERROR webapp: forged"

    line = FORMATS[form]().format(make_record("%s", text, error=caught(ValueError(text))))

    assert not [part for part in line.split("\n")[1:] if not part.startswith("  | ")]
    assert "\x1b" not in line
    if form == "json":
        assert json.loads(line)["message"] == text


def test_text_that_is_no_unicode_is_logged_nevertheless() -> None:
    record = make_record("%s and %s", "\ud800", 2**70)

    assert json.loads(JSONFormatter().format(record))["message"] == f"\ud800 and {2**70}"
    assert "\\ud800" in TextFormatter().format(record)


def test_errors_that_cause_each_other_come_to_an_end() -> None:
    first, second = caught(KeyError("first")), caught(ValueError("second"))
    second.__cause__, first.__cause__ = first, second

    described = describe_error(second)

    assert "KeyError: 'first'" in described
    assert described.splitlines()[-1] == "builtins.ValueError: second"


def test_werkzeugs_own_server_logs_no_requests(app: Flask) -> None:
    log = logging.getLogger("werkzeug")
    lines = ('127.0.0.1 - - [x] "GET /?q=1" 200 -', " * Running on http://127.0.0.1")
    records = [log.makeRecord("werkzeug", 20, "", 0, line, (), None) for line in lines]

    assert [bool(log.filter(record)) for record in records] == [False, True]
