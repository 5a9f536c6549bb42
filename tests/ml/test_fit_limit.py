"""A fit that takes too long ends, and the thread that fitted goes on."""

from __future__ import annotations

import re
import threading
import time
from typing import Any

import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient
from sklearn.datasets import load_diabetes

from tests.conftest import dispose_app, make_app
from webapp.errors import ArtifactUnusable, FitTooLong
from webapp.ml.core import artifacts
from webapp.ml.fit_limit import fit_time_limit


def spin(seconds: float) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        pass


def test_a_block_that_takes_too_long_is_interrupted() -> None:
    started = time.monotonic()

    with pytest.raises(FitTooLong), fit_time_limit(0.05):
        spin(10)

    assert time.monotonic() - started < 5


def test_a_block_that_ends_in_time_is_left_alone() -> None:
    with fit_time_limit(0.05):
        spin(0.01)

    spin(0.1)  # nothing is raised afterwards


def test_each_thread_has_a_limit_of_its_own() -> None:
    ended: list[str] = []

    def long_enough() -> None:
        with fit_time_limit(30):
            spin(0.3)
        ended.append("in time")

    other = threading.Thread(target=long_enough)
    other.start()
    with pytest.raises(FitTooLong), fit_time_limit(0.05):
        spin(10)
    other.join()

    assert ended == ["in time"]


def test_a_training_that_takes_too_long_is_refused_and_leaves_nothing(database_url: str) -> None:
    app: Flask = make_app(database_url, MAX_FIT_SECONDS=1)
    client = app.test_client()
    X, y = load_diabetes(return_X_y=True)
    body = {
        "X": X.tolist(),
        "y": y.tolist(),
        "estimator": "random_forest",
        "params": {"n_estimators": 1000},
        "cv": 20,
    }

    refused = client.post("/api/v1/ml/train", json=body)
    info = client.get("/api/v1/ml/model-info")

    dispose_app(app)
    assert refused.status_code == 422
    assert "MAX_FIT_SECONDS" in refused.json["detail"]
    assert info.json["trained"] is False


NEWTON = {"estimator": "logistic_regression", "params": {"solver": "newton-cholesky"}}


def train_few_rows(client: FlaskClient, **options: Any) -> Any:
    X = np.eye(10, 1000).tolist()
    return client.post("/api/v1/ml/train", json={"X": X, "y": list(range(10)), **options})


def test_a_training_that_needs_too_much_memory_is_refused_with_the_estimate(
    client: FlaskClient,
) -> None:
    refused = train_few_rows(client, **NEWTON, test_size=0)
    as_advised = train_few_rows(client, estimator="logistic_regression", test_size=0)

    assert refused.status_code == 422
    (message,) = refused.json["errors"]["json"]["estimator"]
    assert re.fullmatch(
        r"needs about 2\d\d\d MB of memory, MAX_FIT_MEMORY allows 2048: try fewer rows or "
        r'columns, or the solver "lbfgs", or a smaller max_iter',
        message,
    )
    assert as_advised.status_code == 201


@pytest.mark.parametrize("error", [MemoryError(), ArtifactUnusable("it takes too many bytes")])
def test_a_model_too_large_for_the_machine_or_to_be_stored_is_no_fault_of_the_service(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(_estimator: Any) -> bytes:
        raise error

    monkeypatch.setattr(artifacts, "dumps", fail)

    refused = train_few_rows(client, estimator="ridge", test_size=0)

    assert refused.status_code == 422
    assert "is too large: try fewer rows or columns" in refused.json["detail"]
    assert client.get("/api/v1/ml/model-info").json["trained"] is False
