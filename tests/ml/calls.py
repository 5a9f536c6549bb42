"""The calls that tests of machine learning make over HTTP."""

from __future__ import annotations

from typing import Any

import numpy as np
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

ML = "/api/v1/ml"
MODEL = f"{ML}/models/house-prices"
JSON, CSV, ARROW = "application/json", "text/csv", "application/vnd.apache.arrow.stream"


def train(client: FlaskClient, X: Any, y: Any, *, url: str = ML, **options: Any) -> TestResponse:
    """Train a model on rows."""
    body = {"X": np.asarray(X).tolist(), "y": np.asarray(y).tolist(), **options}
    response = client.post(f"{url}/train", json=body)
    assert response.status_code == 201, response.text
    return response


def train_constant(
    client: FlaskClient, value: float, *, url: str = MODEL, **options: Any
) -> TestResponse:
    """Train a model that predicts a constant."""
    return train(client, [[0.0], [1.0]], [value, value], url=url, **options)


def train_classes(client: FlaskClient, labels: list[Any], *, url: str = ML) -> None:
    """Train a classifier of one feature with these labels."""
    train(
        client,
        np.repeat(np.arange(len(labels)), 2)[:, np.newaxis],
        np.repeat(np.array(labels, dtype=object), 2),
        url=url,
        estimator="hist_gradient_boosting_classifier",
        params={"max_iter": 1},
        test_size=0,
    )


def predict(client: FlaskClient, url: str = MODEL) -> tuple[float, int]:
    """Return what a model of one feature predicts, and with which version."""
    response = client.post(f"{url}/predict", json={"features": [0.5]})
    assert response.status_code == 200, response.text
    return round(response.json["prediction"], 9), response.json["model"]["version"]
