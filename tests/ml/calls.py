"""The calls that tests of machine learning make over HTTP."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from webapp.ml.core.estimators import CATALOGUE

ML = "/api/v1/ml"
MODEL = f"{ML}/models/house-prices"
JSON, CSV, ARROW = "application/json", "text/csv", "application/vnd.apache.arrow.stream"
NOTES = {
    "extrapolated": "has a value outside the range of training",
    "missing": "has no value",
    "unseen": "has a value not seen in training",
}


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


def notes_of(answer: dict[str, Any], names: list[str]) -> list[dict[str, str]]:
    """Return what a JSON answer says of values as the warnings of a table put it."""
    counts: Counter[tuple[str, str]] = Counter()
    for note in NOTES:
        for noted in answer.get(note, {}).values():
            counts.update((name, note) for name in noted)
        for name, count in answer.get(f"{note}_counts", {}).items():
            counts[name, note] += count
    n_rows = len(answer["predictions"])
    return [
        {"column": name, "message": f"{text} in {counts[name, note]} of {n_rows} rows"}
        for name in names
        for note, text in NOTES.items()
        if counts[name, note]
    ]


def short_params(estimator: str) -> dict[str, int]:
    """Return parameters that keep a fit short."""
    names = {parameter.name for parameter in CATALOGUE[estimator].parameters}
    if "n_estimators" in names:
        return {"n_estimators": 15}
    return {"max_iter": 15} if "boosting" in estimator or "mlp" in estimator else {}
