"""Training over HTTP, as API.md promises it."""

from __future__ import annotations

import numpy as np
import pytest
from flask.testing import FlaskClient
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression

from tests.ml.calls import ML, predict, train, train_constant


def test_the_reference_numbers_hold(client: FlaskClient) -> None:
    sample = client.get(f"{ML}/sample-data").json

    trained = train(client, sample["X"], sample["y"])
    predicted = client.post(f"{ML}/predict", json={"features": [1, 2, 3]})

    assert trained.json["message"] == "Model trained successfully"
    assert trained.json["metrics"]["mse"] == pytest.approx(0.00484193490254153, abs=1e-9)
    assert trained.json["metrics"]["r2_score"] == pytest.approx(0.9996142354857778, abs=1e-9)
    assert predicted.json["prediction"] == pytest.approx(4.960877268071006, abs=1e-9)
    assert predicted.json["model"] == {"name": "default", "version": 1}


def test_sample_data_are_the_draws_of_the_frozen_generator(client: FlaskClient) -> None:
    random = np.random.RandomState(7)
    X = random.randn(5, 3)
    noise = random.randn(5) * 0.5

    sample = client.get(f"{ML}/sample-data?n_samples=5&noise=0.5&seed=7").json

    assert sample["X"] == X.tolist()
    assert sample["y"] == pytest.approx(2 * X[:, 0] + 3 * X[:, 1] - X[:, 2] + noise)
    assert sample["description"] == "y = 2*x1 + 3*x2 - x3 + noise"


def test_refit_serves_a_model_of_all_rows(client: FlaskClient) -> None:
    X, y = load_diabetes(return_X_y=True)

    trained = train(client, X, y, refit=True).json
    predicted = client.post(f"{ML}/predict", json={"features": X[0].tolist()}).json

    assert trained["model"]["evaluated_on"] == "hold-out"
    expected = LinearRegression().fit(X, y).predict(X[:1])[0]
    assert predicted["prediction"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("X", "y", "r2_score"), [([[1, 2, 3], [4, 5, 6]], [10, 20], 1), ([[1]], [2], None)]
)
def test_a_few_rows_train_and_a_metric_that_is_undefined_for_them_is_null(
    client: FlaskClient, X: list[list[int]], y: list[int], r2_score: float | None
) -> None:
    trained = train(client, X, y)
    predicted = client.post(f"{ML}/predict", json={"features": X[0]})

    assert trained.json["model"]["evaluated_on"] == "training"
    assert trained.json["metrics"]["r2_score"] == r2_score
    assert predicted.json["prediction"] == pytest.approx(y[0])


def test_the_newest_training_serves_as_soon_as_it_is_answered(client: FlaskClient) -> None:
    for number, value in enumerate([7, 11, 7, 11], start=1):
        assert train_constant(client, value).json["model"]["version"] == number
        assert predict(client) == (value, number)

    train_constant(client, 13, activate=False)
    assert predict(client) == (11, 4)


@pytest.mark.parametrize(
    ("body", "faults"),
    [
        ({"X": [[1]]}, {"y": ["Missing data for required field."]}),
        ({"X": [[1, 2], [3]], "y": [1, 2]}, {"X": {"1": ["has 1 values, expected 2"]}}),
        ({"X": [[1]], "y": ["a"]}, {"y": {"0": ["is a string, expected a number"]}}),
        ({"X": [[1], [2]], "y": [1]}, {"y": ["has 1 values for 2 rows of X"]}),
        ({"X": [[1]], "y": [1], "colour": "red"}, {"colour": ["Unknown field."]}),
    ],
)
def test_a_training_that_makes_no_sense_is_refused_by_place(
    client: FlaskClient, body: dict[str, object], faults: dict[str, object]
) -> None:
    response = client.post(f"{ML}/train", json=body)

    assert response.status_code == 422
    assert response.json["errors"] == {"json": faults}
    assert client.get(f"{ML}/model-info").json["trained"] is False


def test_the_catalogue_lists_every_estimator_with_its_parameters(client: FlaskClient) -> None:
    catalogue = {row["name"]: row for row in client.get(f"{ML}/estimators").json}

    assert list(catalogue) == [
        *("linear_regression", "ridge", "lasso", "elastic_net", "random_forest"),
        *("hist_gradient_boosting", "logistic_regression", "random_forest_classifier"),
        "hist_gradient_boosting_classifier",
    ]
    alpha = catalogue["ridge"]["parameters"]["alpha"]
    assert (alpha["type"], alpha["default"], alpha["minimum"]) == ("number", 1.0, 0)
    assert catalogue["logistic_regression"]["task"] == "classification"
