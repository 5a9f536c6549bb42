"""Predictions in every form and number of rows are those of scikit-learn's own estimator."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from flask import Flask
from sklearn.datasets import load_diabetes, load_wine
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.ml.calls import ARROW, CSV, JSON, ML
from webapp.ml.core.estimators import CATALOGUE, Estimator, load_class

SIZES = (1, 2, 3, 7, 12, 13, 100)
PARAMS = {
    "random_forest": {"n_estimators": 5},
    "random_forest_classifier": {"n_estimators": 5},
    "hist_gradient_boosting": {"max_iter": 5},
    "hist_gradient_boosting_classifier": {"max_iter": 5},
}


@pytest.mark.parametrize("scale", [False, True], ids=["as it is", "scaled"])
@pytest.mark.parametrize("row", CATALOGUE.values(), ids=CATALOGUE)
def test_every_number_of_rows_in_every_form_equals_scikit_learn(
    shared_app: Flask, row: Estimator, scale: bool
) -> None:
    client = shared_app.test_client()
    X, y, labels = make_rows(row)
    expected = load_class(row)(
        **PARAMS.get(row.name, {}), **({"random_state": 42} if row.seeded else {})
    )
    expected = make_pipeline(StandardScaler(), expected) if scale else expected
    expected.fit(X, y)
    model = f"{ML}/models/{row.name.replace('_', '-')}-{scale}".lower()
    body = {"X": X.tolist(), "y": y.tolist(), "estimator": row.name, "scale": scale}
    body |= {"params": PARAMS.get(row.name, {}), "test_size": 0}
    assert client.post(f"{model}/train", json=body).status_code == 201

    single = client.post(f"{model}/predict", json={"features": X[0].tolist()})
    answers = {
        (size, form): client.post(
            f"{model}/predict/batch",
            json={"instances": X[:size].tolist()},
            headers={"Accept": form},
        )
        for size in SIZES
        for form in (JSON, CSV, ARROW)
    }

    assert_equal(read_json(single.json, labels), expected, X[:1])
    for (size, form), answer in answers.items():
        assert answer.status_code == 200, (size, form, answer.text)
        assert_equal(READ[form](answer, labels), expected, X[:size])


def make_rows(row: Estimator) -> tuple[Any, Any, list[str] | None]:
    """Return rows, targets, and the labels where the targets are labels."""
    if row.task == "regression":
        return *load_diabetes(return_X_y=True), None
    X, codes = load_wine(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(X))  # all classes among the first rows
    labels = ["one", "three", "two"]
    return X[order], np.array(labels)[codes][order], labels


def read_json(answer: dict[str, Any], labels: list[str] | None) -> list[Any]:
    """Return the columns of a JSON answer: predictions, then the probabilities by label."""
    columns = [answer["predictions"] if "predictions" in answer else [answer["prediction"]]]
    return columns + [np.atleast_1d(answer["probabilities"][label]) for label in labels or ()]


def read_csv(answer: Any, labels: list[str] | None) -> list[Any]:
    """Return the columns of an answer as CSV."""
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    predictions = [row["prediction"] for row in rows]
    numbers = [[float(row[f"probability:{label}"]) for row in rows] for label in labels or ()]
    return [predictions if labels else [float(value) for value in predictions], *numbers]


def read_arrow(answer: Any, labels: list[str] | None) -> list[Any]:
    """Return the columns of an answer as an Arrow stream."""
    table = pa.ipc.open_stream(answer.data).read_all().to_pydict()
    return [table["prediction"], *(table[f"probability:{label}"] for label in labels or ())]


READ = {JSON: lambda answer, labels: read_json(answer.json, labels), CSV: read_csv}
READ |= {ARROW: read_arrow}


def assert_equal(columns: list[Any], expected: Any, rows: Any) -> None:
    """Hold the columns of an answer against the estimator's own predictions for the rows."""
    predictions, *probabilities = columns
    if not probabilities:
        np.testing.assert_allclose(predictions, expected.predict(rows), rtol=1e-9)
        return
    assert list(predictions) == expected.predict(rows).tolist()
    found = np.stack(probabilities, axis=1)
    np.testing.assert_allclose(found, expected.predict_proba(rows), rtol=1e-9, atol=1e-12)
