"""Every estimator over HTTP, held against scikit-learn called directly on the same rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from flask.testing import FlaskClient
from pyarrow import csv
from sklearn import datasets
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.faults import on_sqlite
from tests.ml import calls
from tests.ml.calls import ARROW, CSV, JSON, short_params
from tests.ml.expected_metrics import assert_same, expect_classification, expect_regression
from webapp.ml.core.estimators import CATALOGUE, Estimator, load_class

pytestmark = on_sqlite

ML = "/api/v1/ml/models/trial"
SEED = 7


def build(estimator: str, *, scale: bool) -> object:
    """Return scikit-learn's own estimator with the same parameters and seed."""
    row = CATALOGUE[estimator]
    seed = {"random_state": SEED} if row.seeded else {}
    built = load_class(row)(**short_params(estimator), **seed)
    return make_pipeline(StandardScaler(), built) if scale else built


def train(client: FlaskClient, X: Any, y: Any, **options: Any) -> dict:
    return calls.train(client, X, y, url=ML, random_state=SEED, **options).json


DIABETES = datasets.load_diabetes(return_X_y=True)
WINE_X, CODES = datasets.load_wine(return_X_y=True)
WINE = WINE_X[::-1], np.array(["one", "three", "two"])[CODES[::-1]]
DATA_OF = {"regression": ["diabetes"], "classification": ["iris", "breast_cancer"]}
CASES = [(row, data) for row in CATALOGUE.values() for data in DATA_OF[row.task]]


@pytest.mark.parametrize(("row", "data"), CASES, ids=lambda value: getattr(value, "name", value))
def test_metrics_equal_scikit_learns(client: FlaskClient, row: Estimator, data: str) -> None:
    bunch = getattr(datasets, f"load_{data}")()
    X = bunch.data
    y = bunch.target if row.task == "regression" else bunch.target_names[bunch.target]
    classes = None if row.task == "regression" else y
    fit_X, test_X, fit_y, test_y = train_test_split(
        X, y, test_size=0.2, random_state=SEED, stratify=classes
    )
    expected = build(row.name, scale=True).fit(fit_X, fit_y)
    predicted = expected.predict(test_X)

    options = {"estimator": row.name, "params": short_params(row.name), "scale": True}
    found = train(client, X, y, **options)["metrics"]

    if row.task == "regression":
        assert_same(found, expect_regression(test_y, predicted, fit_y))
        return
    probabilities = None
    if hasattr(expected, "predict_proba"):
        probabilities = expected.predict_proba(test_X)
    labels = expected.classes_.tolist()
    assert_same(found, expect_classification(test_y, predicted, probabilities, labels, fit_y))


def read_json(answer: Any) -> dict[str, Any]:
    by_label = answer.json.get("probabilities", {})
    probabilities = {f"probability:{label}": values for label, values in by_label.items()}
    return {"prediction": answer.json["predictions"], **probabilities}


READ = {
    JSON: read_json,
    CSV: lambda answer: csv.read_csv(pa.BufferReader(answer.data)).to_pydict(),
    ARROW: lambda answer: pa.ipc.open_stream(answer.data).read_all().to_pydict(),
}


def assert_equal(columns: dict[str, Any], expected: Any, rows: Any) -> None:
    """Compare the columns of an answer with the estimator's own predictions for the rows."""
    if not hasattr(expected, "classes_"):
        np.testing.assert_allclose(columns["prediction"], expected.predict(rows), rtol=1e-9)
        return
    assert columns["prediction"] == expected.predict(rows).tolist()
    if not hasattr(expected, "predict_proba"):
        assert list(columns) == ["prediction"]
        return
    found = np.stack([columns[f"probability:{label}"] for label in expected.classes_], axis=1)
    np.testing.assert_allclose(found, expected.predict_proba(rows), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [False, True], ids=["as it is", "scaled"])
@pytest.mark.parametrize("row", CATALOGUE.values(), ids=CATALOGUE)
def test_every_format_gives_scikit_learns_numbers(
    client: FlaskClient, row: Estimator, scale: bool
) -> None:
    X, y = DIABETES if row.task == "regression" else WINE
    expected = build(row.name, scale=scale).fit(X, y)
    options = {"estimator": row.name, "params": short_params(row.name), "scale": scale}
    train(client, X, y, test_size=0, **options)

    single = client.post(f"{ML}/predict", json={"features": X[0].tolist()}).json
    first = {f"probability:{k}": [v] for k, v in single.get("probabilities", {}).items()}
    assert_equal({"prediction": [single["prediction"]], **first}, expected, X[:1])
    for size in (1, 2, 3, 7, 12, 13, 100):
        body = {"instances": X[:size].tolist()}
        for form, read in READ.items():
            answer = client.post(f"{ML}/predict/batch", json=body, headers={"Accept": form})
            assert answer.status_code == 200, (size, form, answer.text)
            assert_equal(read(answer), expected, X[:size])


def test_linear_coefficients_are_in_units_of_the_features(client: FlaskClient) -> None:
    X = np.random.RandomState(0).randn(50, 2) * [10, 0.1]
    y = 3 * X[:, 0] - 5 * X[:, 1] + 7

    for scale in (False, True):
        trained = train(client, X, y, feature_names=["a", "b"], scale=scale)
        found = trained["model"]["coefficients"]
        assert found["intercept"] == pytest.approx(7)
        assert found["coefficients"] == pytest.approx({"a": 3, "b": -5})


def test_cross_validation_gives_the_scores_of_scikit_learn(client: FlaskClient) -> None:
    expected = cross_val_score(build("linear_regression", scale=False), *DIABETES, cv=5)

    found = train(client, *DIABETES, cv=5)["metrics"]["cross_validation"]

    assert found["scores"] == pytest.approx(expected.tolist())
    assert found["mean"] == pytest.approx(expected.mean())
    assert (found["folds"], found["metric"]) == (5, "r2_score")


def test_a_hold_out_is_stratified_unless_asked_or_impossible(client: FlaskClient) -> None:
    X = [[float(row)] for row in range(20)]
    rare = ["b" if row in (1, 2, 5, 6, 7) else "a" for row in range(20)]  # plain: 3 of 4 held out
    single = ["a"] * 10 + ["b"] + ["a"] * 9
    options = {"estimator": "hist_gradient_boosting_classifier", "params": {"max_iter": 1}}

    stratified = train(client, X, rare, **options)
    plain = train(client, X, rare, **options, stratify=False)
    impossible = client.post(f"{ML}/train", json={"X": X, "y": single, "cv": 2, **options})
    stored = client.get(f"{ML}/versions/3").json

    assert stratified["metrics"]["by_class"]["b"]["support"] == 1
    assert plain["metrics"]["by_class"]["b"]["support"] == 3
    assert stratified["warnings"] == plain["warnings"] == []
    assert impossible.json["warnings"] == stored["warnings"]
    assert [warning["column"] for warning in stored["warnings"]] == ["y", "y"]
    for warning, words in zip(stored["warnings"], ("not stratified", "2 folds"), strict=True):
        assert words in warning["message"]


def test_intervals_come_with_predictions_or_are_refused(client: FlaskClient) -> None:
    X, y = DIABETES
    asked = {"intervals": True, "level": 0.9}
    row, rows = {"features": X[0].tolist(), **asked}, {"instances": X[:3].tolist(), **asked}
    beyond = {"instances": [[0] * 10, [-1e200] * 10], **asked}
    train(client, X, y)

    one = client.post(f"{ML}/predict", json=row).json
    batch = client.post(f"{ML}/predict/batch", json=rows).json
    as_table = client.post(f"{ML}/predict/batch", json=rows, headers={"Accept": ARROW})
    train(client, X, y, estimator="ridge")
    refused = [
        client.post(f"{ML}/versions/1/predict/batch", json=beyond),
        client.post(f"{ML}/predict", json=row),
        client.post(f"{ML}/predict/batch", json=rows),
    ]

    confidence, prediction = one["intervals"]["confidence"], one["intervals"]["prediction"]
    assert one["intervals"]["level"] == 0.9
    assert prediction["lower"] < confidence["lower"] < one["prediction"]
    assert one["prediction"] < confidence["upper"] < prediction["upper"]
    assert batch["intervals"]["prediction"]["upper"][0] == pytest.approx(prediction["upper"])
    table = pa.ipc.open_stream(as_table.data).read_all()
    assert table["prediction:upper"][0].as_py() == pytest.approx(prediction["upper"])
    assert as_table.headers["X-Model"] == "trial; version=1"
    assert [answer.status_code for answer in refused] == [422] * 3
    assert list(refused[0].json["errors"]["json"]["instances"]) == ["1"]
    for answer in refused[1:]:
        assert "needs a linear regression" in answer.json["errors"]["json"]["intervals"][0]


def test_a_row_outside_the_range_of_training_is_answered_and_flagged(client: FlaskClient) -> None:
    rows = [[0, 5], [1, 6], [2, 10]]
    profile = train(client, rows, [1, 2, 3], feature_names=["age", "bmi"])["model"]["profile"]

    within = client.post(f"{ML}/predict", json={"features": [1, 7]}).json
    beyond = client.post(f"{ML}/predict", json={"features": [1, 40]}).json
    instances = [[1, 7], [-1, 40], [2, 4.9]]
    batch = client.post(f"{ML}/predict/batch", json={"instances": instances}).json

    assert (profile["mean"], profile["min"], profile["max"]) == ([1, 7], [0, 5], [2, 10])
    assert profile["std"] == pytest.approx(np.std(rows, axis=0, ddof=1).tolist())
    assert "extrapolated" not in within
    assert beyond["extrapolated"] == ["bmi"]
    assert batch["extrapolated"] == {"1": ["age", "bmi"], "2": ["bmi"]}


LINE = {"X": [[float(i)] for i in range(30)], "y": [i - 1.5 for i in range(30)]}
CLASSES = {"X": LINE["X"], "estimator": "logistic_regression"}
BOOSTING = "hist_gradient_boosting"
MANY = {"X": [[i] for i in range(1001)], "y": list(range(1001))}


@pytest.mark.parametrize(
    ("body", "place", "words"),
    [
        ({"estimator": "ridge", "params": {"alpha": -1}}, "params", "from 0"),
        ({"estimator": "logistic_regression"}, "y", "expected a string or a whole number"),
        ({**CLASSES, **MANY}, "y", "has 1001 classes, at most 1000 are allowed"),
        ({**CLASSES, "y": ["a"] * 30}, "y", "one class only"),
        ({"cv": 16}, "cv", "makes folds too small of 30 rows"),
        ({**CLASSES, "y": ["a", "b"] * 15, "cv": 16}, "cv", "folds that cannot be fitted"),
        ({"estimator": BOOSTING, "params": {"loss": "poisson"}}, "X", "cannot be fitted"),
        ({"estimator": "poisson"}, "X", "cannot be fitted"),
        ({"estimator": "k_neighbors", "params": {"n_neighbors": 25}}, "X", "cannot be fitted"),
        ({"estimator": "mlp", "params": {"hidden_layer_sizes": 9}}, "params", "a list of 1 to 5"),
    ],
)
def test_a_training_that_cannot_be_done_is_refused_in_words(
    client: FlaskClient, body: dict, place: str, words: str
) -> None:
    refused = client.post(f"{ML}/train", json={**LINE, **body})

    assert refused.status_code == 422
    assert words in str(refused.json["errors"]["json"][place])
