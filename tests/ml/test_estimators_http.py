"""Every estimator over HTTP, held against scikit-learn called directly on the same split."""

from __future__ import annotations

import numpy as np
import pytest
from flask.testing import FlaskClient
from sklearn import datasets, metrics
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.faults import on_sqlite
from webapp.ml.core.estimators import CATALOGUE, Estimator, load_class

pytestmark = on_sqlite

ML = "/api/v1/ml/models/trial"


def params_for(estimator: str) -> dict[str, int]:
    """Return parameters that keep a fit short."""
    if "forest" in estimator:
        return {"n_estimators": 15}
    return {"max_iter": 15} if "boosting" in estimator else {}


def build(estimator: str, *, scale: bool) -> object:
    """Return scikit-learn's own estimator with the same parameters and seed."""
    row = CATALOGUE[estimator]
    seed = {"random_state": 42} if row.seeded else {}
    built = load_class(row)(**params_for(estimator), **seed)
    return make_pipeline(StandardScaler(), built) if scale else built


def train(client: FlaskClient, **body: object) -> dict:
    response = client.post(f"{ML}/train", json=body)
    assert response.status_code == 201, response.text
    return response.json


IRIS = datasets.load_iris(return_X_y=True)
DIABETES = datasets.load_diabetes(return_X_y=True)


def train_on(client: FlaskClient, rows: tuple[np.ndarray, np.ndarray], **body: object) -> dict:
    return train(client, X=rows[0].tolist(), y=rows[1].tolist(), **body)


CASES = [
    *((row, "diabetes") for row in CATALOGUE.values() if row.task == "regression"),
    *(
        (row, data)
        for row in CATALOGUE.values()
        for data in ("iris", "breast_cancer")
        if row.task == "classification"
    ),
]


@pytest.mark.parametrize(("row", "data"), CASES, ids=lambda value: getattr(value, "name", value))
def test_metrics_equal_those_of_scikit_learn(
    client: FlaskClient, row: Estimator, data: str
) -> None:
    bunch = getattr(datasets, f"load_{data}")()
    X = bunch.data
    y = bunch.target if row.task == "regression" else bunch.target_names[bunch.target]
    fit_X, test_X, fit_y, test_y = train_test_split(X, y, test_size=0.2, random_state=42)
    expected = build(row.name, scale=True).fit(fit_X, fit_y)
    predicted = expected.predict(test_X)

    params = params_for(row.name)
    found = train_on(client, (X, y), estimator=row.name, params=params, scale=True)["metrics"]

    if row.task == "regression":
        assert found == {
            "mse": pytest.approx(metrics.mean_squared_error(test_y, predicted)),
            "rmse": pytest.approx(metrics.root_mean_squared_error(test_y, predicted)),
            "mae": pytest.approx(metrics.mean_absolute_error(test_y, predicted)),
            "r2_score": pytest.approx(metrics.r2_score(test_y, predicted)),
        }
        return
    probabilities = expected.predict_proba(test_X)
    counts = metrics.confusion_matrix(test_y, predicted).tolist()
    area = metrics.roc_auc_score(test_y == expected.classes_[1], probabilities[:, 1])
    assert found == {
        "accuracy": pytest.approx(expected.score(test_X, test_y)),
        "log_loss": pytest.approx(metrics.log_loss(test_y, probabilities)),
        "roc_auc": pytest.approx(area) if data == "breast_cancer" else None,
        "confusion_matrix": {"labels": expected.classes_.tolist(), "counts": counts},
    }


def test_a_linear_model_tells_its_coefficients_in_units_of_the_features(
    client: FlaskClient,
) -> None:
    X = np.random.RandomState(0).randn(50, 2) * [10, 0.1]
    y = 3 * X[:, 0] - 5 * X[:, 1] + 7

    for scale in (False, True):
        trained = train(client, X=X.tolist(), y=y.tolist(), feature_names=["a", "b"], scale=scale)
        found = trained["model"]["coefficients"]
        assert found["intercept"] == pytest.approx(7)
        assert found["coefficients"] == pytest.approx({"a": 3, "b": -5})


def test_a_logistic_model_tells_its_coefficients_by_class(client: FlaskClient) -> None:
    train_on(client, IRIS, estimator="logistic_regression", test_size=0)
    expected = build("logistic_regression", scale=False).fit(*IRIS)

    found = client.get(f"{ML}/versions/1").json["coefficients"]["classes"]

    for index, label in enumerate(["0", "1", "2"]):
        values = list(found[label]["coefficients"].values())
        np.testing.assert_allclose(values, expected.coef_[index], rtol=1e-9)
        assert found[label]["intercept"] == pytest.approx(expected.intercept_[index])


def test_cross_validation_gives_the_scores_of_scikit_learn(client: FlaskClient) -> None:
    expected = cross_val_score(build("linear_regression", scale=False), *DIABETES, cv=5)

    found = train_on(client, DIABETES, cv=5)["metrics"]["cross_validation"]

    assert found["scores"] == pytest.approx(expected.tolist())
    assert found["mean"] == pytest.approx(expected.mean())
    assert (found["folds"], found["metric"]) == (5, "r2_score")


def test_intervals_come_with_predictions_or_are_refused(client: FlaskClient) -> None:
    train_on(client, DIABETES)
    rows, asked = DIABETES[0][:3].tolist(), {"intervals": True, "level": 0.9}

    one = client.post(f"{ML}/predict", json={"features": rows[0], **asked}).json
    batch = client.post(f"{ML}/predict/batch", json={"instances": rows, **asked}).json
    beyond = {"instances": [rows[0], [-1e200] * 10], **asked}
    train_on(client, DIABETES, estimator="ridge")
    refused = [
        client.post(f"{ML}/versions/1/predict/batch", json=beyond),
        client.post(f"{ML}/predict", json={"features": rows[0], **asked}),
        client.post(f"{ML}/predict/batch", json={"instances": rows, **asked}),
    ]

    confidence, prediction = one["intervals"]["confidence"], one["intervals"]["prediction"]
    assert one["intervals"]["level"] == 0.9
    assert prediction["lower"] < confidence["lower"] < one["prediction"]
    assert one["prediction"] < confidence["upper"] < prediction["upper"]
    assert batch["intervals"]["prediction"]["upper"][0] == pytest.approx(prediction["upper"])
    assert [answer.status_code for answer in refused] == [422] * 3
    assert list(refused[0].json["errors"]["json"]["instances"]) == ["1"]
    for answer in refused[1:]:
        assert "needs a linear regression" in answer.json["errors"]["json"]["intervals"][0]


def test_a_row_outside_the_range_of_training_is_answered_and_flagged(client: FlaskClient) -> None:
    rows = {"X": [[0, 5], [1, 6], [2, 10]], "y": [1, 2, 3], "feature_names": ["age", "bmi"]}
    profile = train(client, **rows)["model"]["profile"]

    within = client.post(f"{ML}/predict", json={"features": [1, 7]}).json
    beyond = client.post(f"{ML}/predict", json={"features": [1, 40]}).json
    batch = client.post(
        f"{ML}/predict/batch", json={"instances": [[1, 7], [-1, 40], [2, 4.9]]}
    ).json

    assert (profile["mean"], profile["min"], profile["max"]) == ([1, 7], [0, 5], [2, 10])
    assert "extrapolated" not in within
    assert beyond["extrapolated"] == ["bmi"]
    assert batch["extrapolated"] == {"1": ["age", "bmi"], "2": ["bmi"]}


LINE = {"X": [[float(i)] for i in range(30)], "y": [i - 1.5 for i in range(30)]}
CLASSES = {"X": LINE["X"], "estimator": "logistic_regression"}
MANY = {"X": [[i] for i in range(1001)], "y": list(range(1001))}


@pytest.mark.parametrize(
    ("body", "place", "words"),
    [
        ({"estimator": "ridge", "params": {"alpha": -1}}, "params", "from 0"),
        ({"estimator": "random_forest", "params": {"n_jobs": 2}}, "params", "is no parameter"),
        ({"estimator": "logistic_regression"}, "y", "expected a string or a whole number"),
        ({**CLASSES, **MANY}, "y", "has 1001 classes, at most 1000 are allowed"),
        ({**CLASSES, "y": ["a"] * 30}, "y", "one class only"),
        ({"cv": 1}, "cv", ""),
        ({"cv": 21}, "cv", ""),
        ({"cv": 16}, "cv", "makes folds too small of 30 rows"),
        (
            {**CLASSES, "y": ["a", "b"] * 15, "cv": 16},
            "cv",
            "makes folds that cannot be fitted: n_splits=16",
        ),
        ({"scale": 1}, "scale", "boolean"),
        (
            {"estimator": "hist_gradient_boosting", "params": {"loss": "poisson"}},
            *("X", "cannot be fitted"),
        ),
    ],
)
def test_a_training_that_cannot_be_done_is_refused_in_words(
    client: FlaskClient, body: dict, place: str, words: str
) -> None:
    refused = client.post(f"{ML}/train", json={**LINE, **body})

    assert refused.status_code == 422
    assert words in str(refused.json["errors"]["json"][place])


def test_a_row_beyond_the_range_of_a_forest_is_refused(client: FlaskClient) -> None:
    train(client, X=[[0], [1]], y=[1, 2], estimator="random_forest", params={"n_estimators": 2})

    one = client.post(f"{ML}/predict", json={"features": [1e300]})
    batch = client.post(f"{ML}/predict/batch", json={"instances": [[0], [1e300]]})

    assert (one.status_code, batch.status_code) == (422, 422)
    assert list(one.json["errors"]["json"]) == ["features"]
    assert list(batch.json["errors"]["json"]) == ["instances"]
