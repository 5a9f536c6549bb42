"""Predictions in every format and number of rows are those of scikit-learn's own estimator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from flask import Flask
from pyarrow import csv
from sklearn.datasets import load_diabetes, load_wine
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.ml.calls import ARROW, CSV, JSON, ML, train
from webapp.ml.core.estimators import CATALOGUE, Estimator, load_class

SIZES = (1, 2, 3, 7, 12, 13, 100)
PARAMS = {
    "random_forest": {"n_estimators": 5},
    "random_forest_classifier": {"n_estimators": 5},
    "hist_gradient_boosting": {"max_iter": 5},
    "hist_gradient_boosting_classifier": {"max_iter": 5},
}
Columns = dict[str, Any]
"""Names as in tables, prediction and probability:LABEL, to values."""


def read_json(answer: Any) -> Columns:
    by_label = answer.json.get("probabilities", {})
    probabilities = {f"probability:{label}": values for label, values in by_label.items()}
    return {"prediction": answer.json["predictions"], **probabilities}


READ = {
    JSON: read_json,
    CSV: lambda answer: csv.read_csv(pa.BufferReader(answer.data)).to_pydict(),
    ARROW: lambda answer: pa.ipc.open_stream(answer.data).read_all().to_pydict(),
}


def make_rows(row: Estimator) -> tuple[Any, Any]:
    """Return rows and targets, whose classes are all among the first rows."""
    if row.task == "regression":
        return load_diabetes(return_X_y=True)
    X, codes = load_wine(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(X))
    return X[order], np.array(["one", "three", "two"])[codes][order]


def assert_equal(columns: Columns, expected: Any, rows: Any) -> None:
    """Compare an answer with the estimator's own predictions for the rows."""
    if not hasattr(expected, "classes_"):
        np.testing.assert_allclose(columns["prediction"], expected.predict(rows), rtol=1e-9)
        return
    assert columns["prediction"] == expected.predict(rows).tolist()
    found = np.stack([columns[f"probability:{label}"] for label in expected.classes_], axis=1)
    np.testing.assert_allclose(found, expected.predict_proba(rows), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [False, True], ids=["as it is", "scaled"])
@pytest.mark.parametrize("row", CATALOGUE.values(), ids=CATALOGUE)
def test_every_number_of_rows_in_every_format_equals_scikit_learn(
    shared_app: Flask, row: Estimator, scale: bool
) -> None:
    client = shared_app.test_client()
    X, y = make_rows(row)
    params = PARAMS.get(row.name, {})
    expected = load_class(row)(**params, **({"random_state": 42} if row.seeded else {}))
    expected = make_pipeline(StandardScaler(), expected) if scale else expected
    expected.fit(X, y)
    model = f"{ML}/models/{row.name.replace('_', '-')}-{scale}".lower()
    train(client, X, y, url=model, estimator=row.name, scale=scale, params=params, test_size=0)

    single = client.post(f"{model}/predict", json={"features": X[0].tolist()}).json
    first = {f"probability:{k}": [v] for k, v in single.get("probabilities", {}).items()}
    assert_equal({"prediction": [single["prediction"]], **first}, expected, X[:1])
    for size in SIZES:
        body = {"instances": X[:size].tolist()}
        for form, read in READ.items():
            answer = client.post(f"{model}/predict/batch", json=body, headers={"Accept": form})
            assert answer.status_code == 200, (size, form, answer.text)
            assert_equal(read(answer), expected, X[:size])
