"""A training that needs too much is the client's to change, and is told how."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from webapp.ml.core import artifacts
from webapp.ml.errors import ArtifactUnusable

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
