"""The whole way against real gunicorn workers: sample data, train, predict, restart, predict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import requests
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import train_test_split

from tests.gunicorn_server import running_gunicorn

ML = "/api/v1/ml"


def predict(url: str, features: list[float]) -> dict[str, object]:
    """Predict over a connection of its own, so that any worker may answer."""
    response = requests.post(f"{url}{ML}/predict", json={"features": features}, timeout=30)
    assert response.status_code == 200, response.text
    return response.json()


def test_what_was_trained_serves_in_every_worker_and_after_a_restart(
    database_url: str, tmp_path: Path
) -> None:
    log = tmp_path / "gunicorn.log"
    with running_gunicorn(database_url, log, WEB_CONCURRENCY="4") as server:
        untrained = requests.post(
            f"{server.url}{ML}/predict", json={"features": [1, 2, 3]}, timeout=30
        )
        sample = requests.get(f"{server.url}{ML}/sample-data", timeout=30).json()
        rows = {"X": sample["X"], "y": sample["y"]}
        trained = requests.post(f"{server.url}{ML}/train", json=rows, timeout=30).json()
        answers = [predict(server.url, [1, 2, 3]) for _ in range(200)]

    with running_gunicorn(database_url, log, WEB_CONCURRENCY="2") as server:
        after = predict(server.url, [1, 2, 3])

    assert untrained.status_code == 409
    assert trained["model"]["version"] == 1
    assert answers == [answers[0]] * 200
    assert answers[0]["prediction"] == pytest.approx(4.960877268071006, abs=1e-9)
    assert after == answers[0]
    assert "Traceback" not in log.read_text()


def test_diabetes_over_http_equals_scikit_learn(database_url: str, tmp_path: Path) -> None:
    X, y = load_diabetes(return_X_y=True)
    fit_X, _, fit_y, _ = train_test_split(X, y, test_size=0.2, random_state=42)
    expected = LinearRegression().fit(fit_X, fit_y).predict(X)

    with running_gunicorn(database_url, tmp_path / "gunicorn.log") as server:
        rows = {"X": X.tolist(), "y": y.tolist()}
        requests.post(f"{server.url}{ML}/train", json=rows, timeout=30).raise_for_status()
        answer = requests.post(
            f"{server.url}{ML}/predict/batch", json={"instances": X.tolist()}, timeout=30
        ).json()

    np.testing.assert_allclose(answer["predictions"], expected, atol=1e-9, rtol=0)
