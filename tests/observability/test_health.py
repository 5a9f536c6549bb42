"""Health: alive as long as the process answers, ready only when it can serve."""

from __future__ import annotations

import pytest

from tests.conftest import app_on
from tests.ports import hold_port, port_of


def test_a_service_without_its_schema_is_alive_but_not_ready(empty_database: str) -> None:
    with app_on(empty_database) as app:
        client = app.test_client()
        live, ready = client.get("/health/live"), client.get("/health/ready")
        items = client.get("/api/v1/items")

    assert (live.status_code, ready.status_code, items.status_code) == (200, 503, 503)
    assert ready.json["checks"]["database"] == "ok"
    assert "not at" in ready.json["checks"]["schema"]
    assert "flask db upgrade" in items.json["detail"]


@pytest.mark.parametrize("listens", [True, False])  # and is silent, or refuses connections
def test_a_database_that_does_not_answer_hangs_nothing(listens: bool) -> None:
    with hold_port() as held:
        if listens:
            held.listen()
        with app_on(f"postgresql://nobody@127.0.0.1:{port_of(held)}/nothing") as app:
            client = app.test_client()
            live, ready = client.get("/health/live"), client.get("/health/ready")
            items = client.post("/api/v1/items", json={"name": "a"})
            predicted = client.post("/api/v1/ml/predict", json={"features": [1]})

    assert (live.status_code, ready.status_code) == (200, 503)
    assert ready.json["checks"]["database"] == "does not answer"
    for response in (items, predicted):
        assert response.status_code == 503
        assert int(response.headers["Retry-After"]) > 0
        assert "127.0.0.1" not in response.text
