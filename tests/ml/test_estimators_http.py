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
from webapp.ml.core.estimators import CATALOGUE, load_class

pytestmark = on_sqlite

ML = "/api/v1/ml/models/trial"
REGRESSORS = [row.name for row in CATALOGUE.values() if row.task == "regression"]
CLASSIFIERS = [row.name for row in CATALOGUE.values() if row.task == "classification"]


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


def predict(client: FlaskClient, X: np.ndarray) -> dict:
    response = client.post(f"{ML}/predict/batch", json={"instances": X.tolist()})
    assert response.status_code == 200, response.text
    return response.json


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("estimator", REGRESSORS)
def test_diabetes_equals_scikit_learn(client: FlaskClient, estimator: str, scale: bool) -> None:
    X, y = datasets.load_diabetes(return_X_y=True)
    fit_X, test_X, fit_y, test_y = train_test_split(X, y, test_size=0.2, random_state=42)
    expected = build(estimator, scale=scale).fit(fit_X, fit_y)

    trained = train(
        client,
        X=X.tolist(),
        y=y.tolist(),
        estimator=estimator,
        params=params_for(estimator),
        scale=scale,
    )
    batch = predict(client, X)

    np.testing.assert_allclose(batch["predictions"], expected.predict(X), rtol=1e-9)
    assert trained["metrics"] == {
        "mse": pytest.approx(metrics.mean_squared_error(test_y, expected.predict(test_X))),
        "rmse": pytest.approx(metrics.root_mean_squared_error(test_y, expected.predict(test_X))),
        "mae": pytest.approx(metrics.mean_absolute_error(test_y, expected.predict(test_X))),
        "r2_score": pytest.approx(metrics.r2_score(test_y, expected.predict(test_X))),
    }


@pytest.mark.parametrize("data", ["iris", "wine", "breast_cancer"])
@pytest.mark.parametrize("estimator", CLASSIFIERS)
def test_classifications_equal_scikit_learn(
    client: FlaskClient, estimator: str, data: str
) -> None:
    bunch = getattr(datasets, f"load_{data}")()
    X, labels = bunch.data, bunch.target_names[bunch.target]
    fit_X, test_X, fit_y, test_y = train_test_split(X, labels, test_size=0.2, random_state=42)
    expected = build(estimator, scale=True).fit(fit_X, fit_y)

    trained = train(
        client,
        X=X.tolist(),
        y=labels.tolist(),
        estimator=estimator,
        params=params_for(estimator),
        scale=True,
    )
    batch = predict(client, X)

    assert batch["predictions"] == expected.predict(X).tolist()
    found = np.column_stack([batch["probabilities"][label] for label in expected.classes_])
    np.testing.assert_allclose(found, expected.predict_proba(X), rtol=1e-9, atol=1e-9)
    probabilities = expected.predict_proba(test_X)
    measured = trained["metrics"]
    assert measured["accuracy"] == pytest.approx(expected.score(test_X, test_y))
    assert measured["log_loss"] == pytest.approx(metrics.log_loss(test_y, probabilities))
    assert measured["confusion_matrix"] == {
        "labels": expected.classes_.tolist(),
        "counts": metrics.confusion_matrix(test_y, expected.predict(test_X)).tolist(),
    }
    if data == "breast_cancer":
        area = metrics.roc_auc_score(test_y == expected.classes_[1], probabilities[:, 1])
        assert measured["roc_auc"] == pytest.approx(area)
    else:
        assert measured["roc_auc"] is None


def test_a_single_prediction_tells_the_label_and_the_probability_of_each(
    client: FlaskClient,
) -> None:
    X, y = datasets.load_iris(return_X_y=True)
    train(client, X=X.tolist(), y=y.tolist(), estimator="logistic_regression")

    answer = client.post(f"{ML}/predict", json={"features": X[0].tolist()}).json

    assert answer["prediction"] == 0
    assert list(answer["probabilities"]) == ["0", "1", "2"]
    assert sum(answer["probabilities"].values()) == pytest.approx(1)


def test_a_single_prediction_of_a_label_that_is_a_string_is_that_string(
    client: FlaskClient,
) -> None:
    train(client, X=[[0], [1]] * 3, y=["no", "yes"] * 3, estimator="logistic_regression")

    answer = client.post(f"{ML}/predict", json={"features": [1]})

    assert answer.status_code == 200
    assert answer.json["prediction"] == "yes"


def test_an_interval_beyond_float64_is_refused_not_answered_as_null(client: FlaskClient) -> None:
    train(client, X=[[0], [1], [2], [4]], y=[0, 1, 2, 3])

    one = client.post(f"{ML}/predict", json={"features": [1e200], "intervals": True})
    body = {"instances": [[1], [-1e200]], "intervals": True}
    batch = client.post(f"{ML}/predict/batch", json=body)

    assert one.status_code == batch.status_code == 422
    assert "features" in one.json["errors"]["json"]
    assert list(batch.json["errors"]["json"]["instances"]) == ["1"]


def test_more_classes_than_can_be_told_apart_are_refused(client: FlaskClient) -> None:
    body = {"X": [[i] for i in range(1001)], "y": list(range(1001))}

    refused = client.post(f"{ML}/train", json={**body, "estimator": "logistic_regression"})

    assert refused.json["errors"] == {
        "json": {"y": ["has 1001 classes, at most 1000 are allowed"]}
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
    X, y = datasets.load_iris(return_X_y=True)
    train(client, X=X.tolist(), y=y.tolist(), estimator="logistic_regression", test_size=0)
    expected = build("logistic_regression", scale=False).fit(X, y)

    found = client.get(f"{ML}/versions/1").json["coefficients"]["classes"]

    for index, label in enumerate(["0", "1", "2"]):
        values = list(found[label]["coefficients"].values())
        np.testing.assert_allclose(values, expected.coef_[index], rtol=1e-9)
        assert found[label]["intercept"] == pytest.approx(expected.intercept_[index])


def test_cross_validation_gives_the_scores_of_scikit_learn(client: FlaskClient) -> None:
    X, y = datasets.load_diabetes(return_X_y=True)

    trained = train(client, X=X.tolist(), y=y.tolist(), cv=5)

    found = trained["metrics"]["cross_validation"]
    expected = cross_val_score(build("linear_regression", scale=False), X, y, cv=5)
    assert found["scores"] == pytest.approx(expected.tolist())
    assert found["mean"] == pytest.approx(expected.mean())
    assert (found["folds"], found["metric"]) == (5, "r2_score")


def test_intervals_come_with_predictions_where_they_are_asked_for(client: FlaskClient) -> None:
    X, y = datasets.load_diabetes(return_X_y=True)
    train(client, X=X.tolist(), y=y.tolist())

    one = client.post(
        f"{ML}/predict", json={"features": X[0].tolist(), "intervals": True, "level": 0.9}
    ).json
    batch = client.post(
        f"{ML}/predict/batch",
        json={"instances": X[:3].tolist(), "intervals": True, "level": 0.9},
    ).json

    found = one["intervals"]
    assert found["level"] == 0.9
    confidence, prediction = found["confidence"], found["prediction"]
    assert prediction["lower"] < confidence["lower"] < one["prediction"]
    assert one["prediction"] < confidence["upper"] < prediction["upper"]
    assert batch["intervals"]["prediction"]["upper"][0] == pytest.approx(prediction["upper"])


def test_intervals_of_a_model_that_has_none_are_refused(client: FlaskClient) -> None:
    X, y = datasets.load_diabetes(return_X_y=True)
    train(client, X=X.tolist(), y=y.tolist(), estimator="ridge")

    refused = client.post(f"{ML}/predict", json={"features": X[0].tolist(), "intervals": True})

    assert refused.status_code == 422
    assert "intervals" in refused.json["errors"]["json"]
    body = {"instances": X[:2].tolist(), "intervals": True}
    batch = client.post(f"{ML}/predict/batch", json=body)
    assert batch.json["errors"] == refused.json["errors"]


def test_a_row_outside_the_range_of_training_is_answered_and_flagged(client: FlaskClient) -> None:
    train(client, X=[[0, 5], [1, 6], [2, 9]], y=[1, 2, 3], feature_names=["age", "bmi"])

    within = client.post(f"{ML}/predict", json={"features": [1, 7]}).json
    beyond = client.post(f"{ML}/predict", json={"features": [1, 40]}).json
    batch = client.post(
        f"{ML}/predict/batch", json={"instances": [[1, 7], [-1, 40], [2, 4.9]]}
    ).json

    assert "extrapolated" not in within
    assert beyond["extrapolated"] == ["bmi"]
    assert batch["extrapolated"] == {"1": ["age", "bmi"], "2": ["bmi"]}


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"estimator": "ridge", "params": {"alpha": -1}}, "params"),
        ({"estimator": "ridge", "params": {"alpha": "1"}}, "params"),
        ({"estimator": "random_forest", "params": {"n_estimators": 10**6}}, "params"),
        ({"estimator": "random_forest", "params": {"n_jobs": 2}}, "params"),
        ({"estimator": "logistic_regression"}, "y"),
        ({"cv": 1}, "cv"),
        ({"cv": 21}, "cv"),
        ({"cv": 7}, "cv"),
        ({"scale": 1}, "scale"),
    ],
)
def test_a_training_beyond_the_limits_is_refused_before_fitting(
    client: FlaskClient, body: dict, place: str
) -> None:
    X, y = [[float(i)] for i in range(12)], [i + 0.5 for i in range(12)]

    refused = client.post(f"{ML}/train", json={"X": X, "y": y, **body})

    assert refused.status_code == 422
    assert place in refused.json["errors"]["json"]


def test_one_class_cannot_be_learnt(client: FlaskClient) -> None:
    body = {"X": [[1], [2]], "y": ["a", "a"], "estimator": "logistic_regression"}

    refused = client.post(f"{ML}/train", json=body)

    assert refused.status_code == 422
    assert "one class" in refused.json["detail"]


def test_the_same_data_and_seed_give_the_same_digests(client: FlaskClient) -> None:
    X, y = datasets.load_diabetes(return_X_y=True)
    body = {"X": X.tolist(), "y": y.tolist(), "estimator": "random_forest"}
    body["params"] = {"n_estimators": 5}

    first, second = (train(client, **body)["model"] for _ in range(2))

    assert first["digest"] == second["digest"]
    assert first["data_digest"] == second["data_digest"]


def test_a_version_describes_the_rows_that_it_learnt_from(client: FlaskClient) -> None:
    X = [[1.0, 10.0], [2.0, 30.0], [3.0, 20.0]]

    model = train(client, X=X, y=[1, 2, 3])["model"]

    assert model["profile"] == {
        "mean": [2.0, 20.0],
        "std": [1.0, 10.0],
        "min": [1.0, 10.0],
        "max": [3.0, 30.0],
    }
    assert model["data_digest"]
    assert model["converged"] is None


def test_a_row_beyond_the_range_of_a_forest_is_refused(client: FlaskClient) -> None:
    train(client, X=[[0], [1]], y=[1, 2], estimator="random_forest", params={"n_estimators": 2})

    one = client.post(f"{ML}/predict", json={"features": [1e300]})
    batch = client.post(f"{ML}/predict/batch", json={"instances": [[0], [1e300]]})

    assert (one.status_code, batch.status_code) == (422, 422)
    assert list(one.json["errors"]["json"]) == ["features"]
    assert list(batch.json["errors"]["json"]) == ["instances"]


def test_rows_that_do_not_suit_the_parameters_are_refused_with_the_reason(
    client: FlaskClient,
) -> None:
    body = {
        "X": [[float(i)] for i in range(30)],
        "y": [-1.0] * 30,
        "estimator": "hist_gradient_boosting",
        "params": {"loss": "poisson"},
    }

    refused = client.post(f"{ML}/train", json=body)

    assert refused.status_code == 422
    assert "cannot be fitted" in refused.json["detail"]
