"""A fit that takes too long ends, and the thread that fitted goes on."""

from __future__ import annotations

import threading
import time

import pytest
from flask import Flask
from sklearn.datasets import load_diabetes

from tests.conftest import dispose_app, make_app
from tests.faults import on_sqlite
from webapp.ml.errors import FitTooLong
from webapp.ml.training.fit_limit import fit_time_limit

FOREVER = 60.0  # seconds: what waits so long has failed


def spin(seconds: float) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        pass


def test_a_block_that_takes_too_long_is_interrupted() -> None:
    with pytest.raises(FitTooLong), fit_time_limit(0.05):
        spin(FOREVER)


def test_a_block_that_ends_in_time_is_left_alone() -> None:
    with fit_time_limit(0.5):
        pass

    spin(0.6)  # nothing is raised afterwards


def test_each_thread_has_a_limit_of_its_own() -> None:
    ended: list[str] = []
    interrupted = threading.Event()

    def long_enough() -> None:
        with fit_time_limit(FOREVER):
            assert interrupted.wait(FOREVER)
        ended.append("in time")

    other = threading.Thread(target=long_enough)
    other.start()
    with pytest.raises(FitTooLong), fit_time_limit(0.05):
        spin(FOREVER)
    interrupted.set()
    other.join()

    assert ended == ["in time"]


@on_sqlite
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
