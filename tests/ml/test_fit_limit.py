"""A training that needs too much memory or time is refused, or ends, and is told what to do."""

from __future__ import annotations

import re
import threading
import time
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from sklearn.datasets import load_diabetes

from tests.conftest import dispose_app, make_app
from tests.faults import on_sqlite
from webapp.ml.core import artifacts
from webapp.ml.errors import ArtifactUnusable, FitTooLong
from webapp.ml.training.service import fit_time_limit

FOREVER = 60.0  # seconds: what waits so long has failed
TRAIN, INFO = "/api/v1/ml/train", "/api/v1/ml/model-info"


def spin(seconds: float) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        pass


def train_few_rows(client: FlaskClient, **options: Any) -> Any:
    body = {"X": np.eye(10, 1000).tolist(), "y": list(range(10)), "test_size": 0}
    return client.post(TRAIN, json={**body, **options})


def test_a_block_that_takes_too_long_is_interrupted_and_no_other_thread_is() -> None:
    ended: list[str] = []
    interrupted = threading.Event()

    def wait_for_the_other() -> None:
        with fit_time_limit(FOREVER):
            assert interrupted.wait(FOREVER)
        ended.append("in time")

    other = threading.Thread(target=wait_for_the_other)
    other.start()
    with pytest.raises(FitTooLong), fit_time_limit(0.05):
        spin(FOREVER)
    interrupted.set()
    other.join()
    with fit_time_limit(0.1):
        pass
    spin(0.2)  # nothing is raised after a block that has ended in time

    assert ended == ["in time"]


@on_sqlite
def test_a_training_that_takes_too_long_is_refused_and_leaves_nothing(database_url: str) -> None:
    app = make_app(database_url, MAX_FIT_SECONDS=1)
    X, y = load_diabetes(return_X_y=True)
    forest = {"estimator": "random_forest", "params": {"n_estimators": 1000}, "cv": 20}

    refused = app.test_client().post(TRAIN, json={"X": X.tolist(), "y": y.tolist(), **forest})
    info = app.test_client().get(INFO)

    dispose_app(app)
    assert refused.status_code == 422
    assert "MAX_FIT_SECONDS" in refused.json["detail"]
    assert info.json["trained"] is False


def test_a_training_that_needs_too_much_memory_is_refused_with_the_estimate(
    client: FlaskClient,
) -> None:
    newton = {"estimator": "logistic_regression", "params": {"solver": "newton-cholesky"}}

    refused = train_few_rows(client, **newton)
    as_advised = train_few_rows(client, estimator="logistic_regression")

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

    refused = train_few_rows(client, estimator="ridge")

    assert refused.status_code == 422
    assert "is too large: try fewer rows or columns" in refused.json["detail"]
    assert client.get(INFO).json["trained"] is False
