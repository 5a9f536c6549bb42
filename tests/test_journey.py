"""The whole way against real gunicorn workers: sample data, train, predict, restart, predict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests

from tests.faults import on_postgresql
from tests.gunicorn_server import running_gunicorn

ML = "/api/v1/ml"


def predict(url: str) -> requests.Response:
    """Predict over a connection of its own, so that any worker may answer."""
    return requests.post(f"{url}{ML}/predict", json={"features": [1, 2, 3]}, timeout=30)


def train_and_predict(url: str) -> tuple[int, list[dict[str, Any]]]:
    """Train on the sample data; return the version and what workers then answer."""
    sample = requests.get(f"{url}{ML}/sample-data", timeout=30).json()
    rows = {"X": sample["X"], "y": sample["y"]}
    trained = requests.post(f"{url}{ML}/train", json=rows, timeout=30).json()
    return trained["model"]["version"], [predict(url).json() for _ in range(100)]


@on_postgresql
def test_a_model_serves_in_every_worker_and_after_a_restart_with_the_other_kind_of_worker(
    database_url: str, tmp_path: Path
) -> None:
    log = tmp_path / "gunicorn.log"
    settings = {"WEB_CONCURRENCY": "2", "ACCESS_LOG": "false"}
    with running_gunicorn(database_url, log, WORKER_CLASS="epoll", **settings) as server:
        untrained = predict(server.url)
        first, answers = train_and_predict(server.url)

    with running_gunicorn(database_url, log, WORKER_CLASS="gthread", **settings) as server:
        after = predict(server.url).json()
        second, later_answers = train_and_predict(server.url)

    assert untrained.status_code == 409
    assert (first, second) == (1, 2)
    expected = {**after, "prediction": pytest.approx(4.960877268, abs=1e-8)}
    for version, found in ((1, [*answers, after]), (2, later_answers)):
        model = {"name": "default", "version": version}
        assert all(answer == {**expected, "model": model} for answer in found)
    assert "/health/ready" not in log.read_text()  # there is no access log
    assert "Traceback" not in log.read_text()
