"""Health: alive as long as the process answers, ready only when it can serve."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient

from tests.conftest import dispose_app, make_app


def test_a_service_at_its_newest_revision_is_ready(client: FlaskClient) -> None:
    response = client.get("/health/ready")

    assert response.status_code == 200
    assert response.json["checks"] == {"database": "ok", "schema": "ok", "models": "ok"}


def test_a_service_without_its_schema_is_alive_but_not_ready(empty_database: str) -> None:
    app = make_app(empty_database)
    client = app.test_client()

    live, ready = client.get("/health/live"), client.get("/health/ready")
    items = client.get("/api/v1/items")

    dispose_app(app)
    assert (live.status_code, ready.status_code, items.status_code) == (200, 503, 503)
    assert ready.json["checks"]["database"] == "ok"
    assert "not at" in ready.json["checks"]["schema"]
    assert "flask db upgrade" in items.json["detail"]


@pytest.fixture(params=["absent", "silent"])
def unusable_database(request: pytest.FixtureRequest, absent_database: str) -> Iterator[str]:
    """URL of a database that refuses connections, and of one that accepts them and is silent."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        silent = f"postgresql://nobody@127.0.0.1:{server.getsockname()[1]}/nothing"
        yield absent_database if request.param == "absent" else silent


def test_a_database_that_does_not_answer_is_named_and_hangs_nothing(
    unusable_database: str,
) -> None:
    app = make_app(unusable_database)
    client = app.test_client()

    live, ready = client.get("/health/live"), client.get("/health/ready")
    items = client.post("/api/v1/items", json={"name": "a"})
    predicted = client.post("/api/v1/ml/predict", json={"features": [1]})

    dispose_app(app)
    assert (live.status_code, ready.status_code) == (200, 503)
    assert ready.json["checks"]["database"] == "does not answer"
    for response in (items, predicted):
        assert response.status_code == 503
        assert int(response.headers["Retry-After"]) > 0
        assert "127.0.0.1" not in response.text
