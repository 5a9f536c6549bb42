"""Secrets never leave: marks are planted in each, and looked for wherever something comes out.

Through answers that succeed, that refuse and that fail, and while the database is away.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests
import sqlalchemy as sa

from config import load_settings
from tests.access.holders import bearer, make_holder
from tests.conftest import Backend, dispose_app, make_app, migrate
from tests.faults.record import Record
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


@dataclass
class Client:
    """Sends requests, and keeps the answers that refuse or fail."""

    url: str
    key: str
    statuses: set[int] = field(default_factory=set)
    refusals: list[str] = field(default_factory=list)
    everything: list[str] = field(default_factory=list)

    def call(self, method: str, path: str, *, key: str | None = None, **arguments: object) -> None:
        """Send a request under a key."""
        headers = {**bearer(key or self.key), **dict(arguments.pop("headers", {}))}  # type: ignore[call-overload]
        url = f"{self.url}{path}"
        answer = requests.request(method, url, headers=headers, timeout=30, **arguments)  # type: ignore[arg-type]
        text = f"{answer.headers}\n{answer.text}"
        self.statuses.add(answer.status_code)
        self.everything.append(text)
        if answer.status_code >= 400:
            self.refusals.append(text)


def succeed(client: Client) -> None:
    """Send what is answered well."""
    rows = {"X": [[NUMBER + n, n] for n in range(20)], "y": list(range(20))}
    labels = {"y": [LABEL if n % 2 else "other" for n in range(20)]}
    client.call("POST", "/api/v1/ml/train", json=rows)
    classes = {**rows, **labels, "estimator": "logistic_regression"}
    client.call("POST", "/api/v1/ml/models/classes/train", json=classes)
    client.call("POST", "/api/v1/ml/predict", json={"features": [NUMBER, 1]})
    item = {"name": TEXT, "description": TEXT}
    client.call("POST", "/api/v1/items", json=item, headers={"Idempotency-Key": IDEMPOTENCY_KEY})
    client.call("GET", f"/api/v1/items?q={QUERY}")
    client.call("GET", "/health/ready")


def be_refused(client: Client) -> None:
    """Send what is refused, for every reason there is."""
    client.call("GET", "/api/v1/items", key=BAD_KEY)
    client.call("GET", f"/api/v1/items/999999?q={QUERY}")
    client.call("GET", f"/api/v1/items?page=0&q={QUERY}")
    client.call("GET", "/api/v1/items/999999")
    client.call("PUT", "/health/live", data=TEXT)
    client.call("POST", "/api/v1/items", data=f'{{"name": "{TEXT}", "{TEXT}"')
    client.call("POST", "/api/v1/items", json={"name": TEXT, "description": [TEXT]})
    client.call("POST", "/api/v1/ml/predict", json={"features": [NUMBER]})
    client.call("POST", "/api/v1/ml/predict", json={"features": [LABEL, NUMBER]})
    client.call("POST", "/api/v1/ml/train", json={"X": [[NUMBER], [LABEL]], "y": [NUMBER, None]})
    csv = f"a,b\n{NUMBER},{TEXT}\n"
    headers = {"Content-Type": "text/csv"}
    client.call("POST", "/api/v1/ml/train?target=b", data=csv, headers=headers)
    client.call("POST", "/api/v1/items", data=TEXT, headers={"Content-Type": "text/plain"})


def fail(client: Client, database: sa.Engine) -> None:
    """Have a fault of the schema's met, with the client's data on the way."""
    with database.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE item RENAME COLUMN description TO its_description")
    client.call("POST", "/api/v1/items", json={"name": TEXT, "description": TEXT})
    client.call("GET", f"/api/v1/items?q={QUERY}")
    with database.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE item RENAME COLUMN its_description TO description")
        if database.dialect.name == "postgresql":
            check = "ALTER TABLE item ADD CONSTRAINT odd CHECK (name = 'nobody') NOT VALID"
            connection.exec_driver_sql(check)
        else:
            connection.exec_driver_sql(
                "CREATE TRIGGER odd BEFORE INSERT ON item BEGIN SELECT RAISE(ABORT, 'odd'); END"
            )
    client.call("POST", "/api/v1/items", json={"name": TEXT, "description": TEXT})


def test_no_secret_comes_out_anywhere(backend: Backend, tmp_path: Path, record: Record) -> None:
    url = sa.make_url(backend.make_empty())
    if backend.name == "postgresql":
        url = url.set(password=PASSWORD)  # the tests' server lets everybody in
    address = url.render_as_string(hide_password=False)
    migrate(address)
    app = make_app(address, AUTH="on")
    key = make_holder(app, "canary", *Scope)
    dispose_app(app)
    engine = sa.create_engine(load_settings({"DATABASE_URL": address}, {})["DATABASE_URL"])
    log = tmp_path / "gunicorn.log"
    settings = {"AUTH": "on", "LOG_LEVEL": "DEBUG", "ACCESS_LOG": "true", "WEB_CONCURRENCY": "2"}
    with running_gunicorn(address, log, **settings) as server:
        client = Client(server.url, key)
        succeed(client)
        be_refused(client)
        client.call("GET", "/metrics")
        metrics = client.everything[-1]
        fail(client, engine)
        if backend.name == "postgresql":
            backend.drop(address)
        else:
            Path(str(url.database)).unlink()
        client.call("GET", f"/api/v1/items?q={QUERY}")
        client.call("POST", "/api/v1/items", json={"name": TEXT})
        client.call("GET", "/health/ready")
    engine.dispose()

    said = log.read_text()
    secrets = {*SECRETS, key.rpartition("_")[2]}
    found = [f"{s} in the log" for s in secrets | DATA if s in said]
    found += [f"{s} in the metrics" for s in secrets | DATA if s in metrics]
    found += [f"{s} in a refusal" for s in secrets | DATA for text in client.refusals if s in text]
    found += [f"{s} in an answer" for s in secrets for text in client.everything if s in text]
    looked = len(secrets | DATA)
    record("canaries", looked, looked - len({f.partition(" ")[0] for f in found}), len(found))
    assert found == []
    assert {200, 201, 401, 404, 405, 415, 422, 500, 503} <= client.statuses
    assert len(said.splitlines()) > len(client.everything)
