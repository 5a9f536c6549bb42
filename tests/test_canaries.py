"""Secrets never leave: marks are planted in each, and looked for wherever something comes out.

Through answers that succeed, that refuse and that fail, and while the database is away.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import pytest
import requests
import sqlalchemy as sa

from config import load_settings
from tests.access.holders import bearer, make_holder
from tests.conftest import Backend, app_on, migrate
from tests.gunicorn_server import running_gunicorn
from webapp.scopes import Scope

pytestmark = pytest.mark.slow

PASSWORD = "canary-pa55word"  # noqa: S105
BAD_KEY = "webapp_0badbadbad00_" + "canaryBADKEY" + "z" * 31
IDEMPOTENCY_KEY = "canary-idempotency-key"
QUERY, TEXT, LABEL, NUMBER = "canary-query", "canary-text", "canary-label", 424242.015625
SECRETS = {PASSWORD, BAD_KEY.rpartition("_")[2], IDEMPOTENCY_KEY}
"""What no answer holds; no log, error or metric may hold the clients' data either."""

DATA = {QUERY, TEXT, LABEL, str(NUMBER)}
ITEM = {"name": TEXT, "description": TEXT}
ROWS = {"X": [[NUMBER + n, n] for n in range(20)], "y": list(range(20))}
CLASSES = {**ROWS, "y": [LABEL, "other"] * 10, "estimator": "logistic_regression"}
KEYED, CSV = {"Idempotency-Key": IDEMPOTENCY_KEY}, {"Content-Type": "text/csv"}
Call: TypeAlias = tuple[str, str, dict[str, Any]]
SUCCEED: list[Call] = [
    ("POST", "/api/v1/ml/train", {"json": ROWS}),
    ("POST", "/api/v1/ml/models/classes/train", {"json": CLASSES}),
    ("POST", "/api/v1/ml/predict", {"json": {"features": [NUMBER, 1]}}),
    ("POST", "/api/v1/items", {"json": ITEM, "headers": KEYED}),
    ("GET", f"/api/v1/items?q={QUERY}", {}),
    ("GET", "/health/ready", {}),
]
BE_REFUSED: list[Call] = [
    ("GET", "/api/v1/items", {"headers": bearer(BAD_KEY)}),
    ("GET", f"/api/v1/items/999999?q={QUERY}", {}),
    ("GET", f"/api/v1/items?page=0&q={QUERY}", {}),
    ("GET", "/api/v1/items/999999", {}),
    ("PUT", "/health/live", {"data": TEXT}),
    ("POST", "/api/v1/items", {"data": f'{{"name": "{TEXT}", "{TEXT}"'}),
    ("POST", "/api/v1/items", {"json": {"name": TEXT, "description": [TEXT]}}),
    ("POST", "/api/v1/items", {"data": TEXT, "headers": {"Content-Type": "text/plain"}}),
    ("POST", "/api/v1/ml/predict", {"json": {"features": [NUMBER]}}),
    ("POST", "/api/v1/ml/predict", {"json": {"features": [LABEL, NUMBER]}}),
    ("POST", "/api/v1/ml/train", {"json": {"X": [[NUMBER], [LABEL]], "y": [NUMBER, None]}}),
    ("POST", "/api/v1/ml/train?target=b", {"data": f"a,b\n{NUMBER},{TEXT}\n", "headers": CSV}),
]
FAIL: list[Call] = [
    ("POST", "/api/v1/items", {"json": ITEM}),
    ("GET", f"/api/v1/items?q={QUERY}", {}),
    ("GET", "/health/ready", {}),
]
RENAME = "ALTER TABLE item RENAME COLUMN {} TO {}"
REFUSE = {
    "postgresql": "ALTER TABLE item ADD CONSTRAINT odd CHECK (name = 'nobody') NOT VALID",
    "sqlite": "CREATE TRIGGER odd BEFORE INSERT ON item BEGIN SELECT RAISE(ABORT, 'odd'); END",
}


def test_no_secret_comes_out_anywhere(backend: Backend, tmp_path: Path) -> None:
    url = sa.make_url(backend.make_empty())
    if backend.name == "postgresql":
        url = url.set(password=PASSWORD)  # the tests' server lets everybody in
    address = url.render_as_string(hide_password=False)
    migrate(address)
    with app_on(address, AUTH="on") as app:
        key = make_holder(app, "canary", *Scope)
    engine = sa.create_engine(load_settings({"DATABASE_URL": address}, {})["DATABASE_URL"])
    log = tmp_path / "gunicorn.log"
    settings = {"AUTH": "on", "LOG_LEVEL": "DEBUG", "ACCESS_LOG": "true", "WEB_CONCURRENCY": "2"}
    statuses: list[int] = []
    texts: list[str] = []

    def alter(*statements: str) -> None:
        with engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    with running_gunicorn(address, log, **settings) as server:

        def send(calls: list[Call]) -> None:
            """Send requests under the key, unless they bring another."""
            for method, path, arguments in calls:
                sent = {**arguments, "headers": bearer(key) | arguments.get("headers", {})}
                answer = requests.request(method, f"{server.url}{path}", timeout=30, **sent)
                statuses.append(answer.status_code)
                texts.append(f"{answer.headers}\n{answer.text}")

        send([*SUCCEED, *BE_REFUSED, ("GET", "/metrics", {})])
        metrics = texts[-1]
        alter(RENAME.format("description", "other"))  # a fault of the schema
        send(FAIL)
        alter(RENAME.format("other", "description"), REFUSE[backend.name])
        send(FAIL)
        backend.drop(address)
        send(FAIL)
    engine.dispose()

    said = log.read_text()
    refusals = [text for status, text in zip(statuses, texts, strict=True) if status >= 400]
    secrets = {*SECRETS, key.split("_", 2)[2]}  # which may have one, too
    places = [
        ("the log", secrets | DATA, [said]),
        ("the metrics", secrets | DATA, [metrics]),
        ("a refusal", secrets | DATA, refusals),
        ("an answer", secrets, texts),
    ]
    found = {
        (mark, where) for where, marks, told in places for mark in marks if mark in "".join(told)
    }
    assert found == set()
    assert {200, 201, 401, 404, 405, 415, 422, 500, 503} <= set(statuses)
    assert len(said.splitlines()) > len(texts)
