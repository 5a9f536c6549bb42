"""Training over HTTP, as API.md promises it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression

from tests.faults import on_sqlite
from tests.ml.calls import ML, predict, train, train_constant
from tests.ml.expected_metrics import assert_same
from webapp.errors import InvalidInput
from webapp.ml.core.estimators import ESTIMATORS
from webapp.ml.core.formats import skops
from webapp.ml.core.progress import tell_nobody
from webapp.ml.core.sample_data import make_sample_data
from webapp.ml.core.training import TrainingSpec
from webapp.ml.errors import ArtifactUnusable
from webapp.ml.training.service import order_training
from webapp.ml.training.work import fit


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


@pytest.mark.parametrize("scale", [False, True])
def test_refit_serves_a_model_of_all_rows(client: FlaskClient, scale: bool) -> None:
    X, y = load_diabetes(return_X_y=True)
    expected = LinearRegression().fit(X, y).predict(X[:1])[0]

    held_out = train(client, X, y).json
    refitted = train(client, X, y, refit=True, scale=scale).json
    predicted = client.post(f"{ML}/predict", json={"features": X[0].tolist()}).json

    assert refitted["model"]["evaluated_on"] == "hold-out"
    assert_same(refitted["metrics"], held_out["metrics"])
    assert predicted["prediction"] == pytest.approx(expected, abs=1e-9)


def test_the_newest_training_serves_as_soon_as_it_is_answered(client: FlaskClient) -> None:
    for number, value in enumerate([7, 11, 7, 11], start=1):
        assert train_constant(client, value).json["model"]["version"] == number
        assert predict(client) == (value, number)

    train_constant(client, 13, activate=False)
    assert predict(client) == (11, 4)


UNFIT_NAMES = {
    ("a",): "has 1 names for 2 features",
    ("a", "a"): "repeats a",
    ("a", "b\n"): "must be 1 to 255 printable characters: 'b\\n'",
}


@pytest.mark.parametrize(
    ("body", "faults"),
    [
        ({"X": [[1]]}, {"y": ["Missing data for required field."]}),
        ({"X": [[1, 2], [3]], "y": [1, 2]}, {"X": {"1": ["has 1 values, expected 2"]}}),
        (
            {"X": [[1]], "y": ["a"], "estimator": "ridge"},
            {"y": {"0": ["is a string, expected a number"]}},
        ),
        (
            {"X": [[1]], "y": [1], "estimator": "ridge", "task": "classification"},
            {"task": ["Is classification, but ridge is for regression."]},
        ),
        ({"data": [{"a": 1}]}, {"target": ["Missing data for required field."]}),
        (
            {"data": [{"a": 1}], "target": "b"},
            {"target": ["has no column 'b'; its columns are a"]},
        ),
        (
            {"data": [{"a": 1}], "target": "a", "X": [[1]]},
            {"data": ["Must not be given beside X and y."]},
        ),
        ({"X": [[1], [2]], "y": [1]}, {"y": ["has 1 values for 2 rows of X"]}),
        ({"X": [[1]], "y": [1], "colour": "red"}, {"colour": ["Unknown field."]}),
        *(
            ({"X": [[1, 2]], "y": [1], "feature_names": names}, {"feature_names": [message]})
            for names, message in UNFIT_NAMES.items()
        ),
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

    assert list(catalogue) == list(ESTIMATORS)
    alpha = catalogue["ridge"]["parameters"]["alpha"]
    assert (alpha["type"], alpha["default"], alpha["minimum"]) == ("number", 1.0, 0)
    assert catalogue["logistic_regression"]["task"] == "classification"


# A training that needs too much memory or time


def train_few_rows(client: FlaskClient, **options: Any) -> Any:
    body = {"X": np.eye(10, 1000).tolist(), "y": list(range(10)), "test_size": 0}
    return client.post(f"{ML}/train", json={**body, **options})


@on_sqlite
@pytest.mark.processes
def test_a_training_that_takes_too_long_is_refused_and_leaves_nothing(own_app: Flask) -> None:
    own_app.config["MAX_FIT_SECONDS"] = 1
    client = own_app.test_client()
    X, y = load_diabetes(return_X_y=True)
    forest = {"estimator": "random_forest", "params": {"n_estimators": 1000}, "cv": 20}

    refused = client.post(f"{ML}/train", json={"X": X.tolist(), "y": y.tolist(), **forest})

    assert refused.status_code == 422
    assert "MAX_FIT_SECONDS" in refused.json["detail"]
    assert client.get(f"{ML}/model-info").json["trained"] is False


def test_a_model_too_large_to_be_stored_is_no_fault_of_the_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_estimator: Any) -> bytes:
        raise ArtifactUnusable("it takes too many bytes")

    monkeypatch.setattr(skops, "dumps", fail)
    order = order_training(
        name="default", dataset=make_sample_data(), spec=TrainingSpec(estimator="ridge")
    )

    with pytest.raises(InvalidInput, match="is too large: try fewer rows or columns"):
        fit(tell_nobody, order.payload, None, 600)


@on_sqlite
@pytest.mark.processes
def test_a_training_that_needs_too_much_memory_is_refused(own_app: Flask) -> None:
    own_app.config["MAX_FIT_MEMORY"] = 200
    client = own_app.test_client()
    newton = {"estimator": "logistic_regression", "params": {"solver": "newton-cholesky"}}

    refused = train_few_rows(client, **newton)
    as_advised = train_few_rows(client, estimator="logistic_regression")

    assert refused.status_code == 422
    (message,) = refused.json["errors"]["json"]["estimator"]
    assert message == (
        "needs more memory than the 200 MB that MAX_FIT_MEMORY allows: try fewer rows or columns, "
        'or the solver "lbfgs", or a smaller max_iter'
    )
    assert as_advised.status_code == 201
