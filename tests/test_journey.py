"""The whole way against real gunicorn workers: sample data, train, predict, restart, predict."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests

from tests.faults import on_postgresql
from tests.gunicorn_server import both_workers, running_gunicorn

ML = "/api/v1/ml"


def predict(url: str) -> requests.Response:
    """Predict over a connection of its own, so that any worker may answer."""
    return requests.post(f"{url}{ML}/predict", json={"features": [1, 2, 3]}, timeout=30)


@both_workers
@on_postgresql
def test_a_model_serves_in_every_worker_and_after_a_restart(
    database_url: str, tmp_path: Path, worker_class: str
) -> None:
    log = tmp_path / "gunicorn.log"
    settings = {"WEB_CONCURRENCY": "2", "ACCESS_LOG": "false", "WORKER_CLASS": worker_class}
    with running_gunicorn(database_url, log, **settings) as server:
        untrained = predict(server.url)
        sample = requests.get(f"{server.url}{ML}/sample-data", timeout=30).json()
        rows = {"X": sample["X"], "y": sample["y"]}
        trained = requests.post(f"{server.url}{ML}/train", json=rows, timeout=30).json()
        answers = [predict(server.url).json() for _ in range(100)]

    with running_gunicorn(database_url, log, **settings) as server:
        after = predict(server.url).json()

    assert untrained.status_code == 409
    assert trained["model"]["version"] == 1
    expected = {**answers[0], "prediction": pytest.approx(4.960877268, abs=1e-8)}
    assert all(answer == expected for answer in [*answers, after])
    assert "/health/ready" not in log.read_text()  # there is no access log
    assert "Traceback" not in log.read_text()
