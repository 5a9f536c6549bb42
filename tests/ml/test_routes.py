"""Machine learning over HTTP, as API.md promises it."""

from __future__ import annotations

import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_squared_error, r2_score
from sklearn.model_selection import train_test_split
from werkzeug.test import TestResponse

from tests.conftest import dispose_app, make_app

ML = "/api/v1/ml"


def train(client: FlaskClient, **body: object) -> TestResponse:
    response = client.post(f"{ML}/train", json=body)
    assert response.status_code == 201, response.text
    return response


def train_constant(client: FlaskClient, value: float) -> TestResponse:
    return train(client, X=[[0.0], [1.0]], y=[value, value])


def test_the_reference_numbers_hold(client: FlaskClient) -> None:
    sample = client.get(f"{ML}/sample-data").json

    trained = train(client, X=sample["X"], y=sample["y"])
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


def test_diabetes_gives_the_very_numbers_of_scikit_learn(client: FlaskClient) -> None:
    X, y = load_diabetes(return_X_y=True)
    fit_X, test_X, fit_y, test_y = train_test_split(X, y, test_size=0.2, random_state=42)
    expected = LinearRegression().fit(fit_X, fit_y)

    trained = train(client, X=X.tolist(), y=y.tolist())
    batch = client.post(f"{ML}/predict/batch", json={"instances": X.tolist()})

    metrics = trained.json["metrics"]
    assert metrics["mse"] == pytest.approx(mean_squared_error(test_y, expected.predict(test_X)))
    assert metrics["r2_score"] == pytest.approx(r2_score(test_y, expected.predict(test_X)))
    np.testing.assert_allclose(batch.json["predictions"], expected.predict(X), atol=1e-9, rtol=0)


def test_the_fastapi_projects_two_row_example_trains(client: FlaskClient) -> None:
    trained = train(client, X=[[1, 2, 3], [4, 5, 6]], y=[10, 20])

    predicted = client.post(f"{ML}/predict", json={"features": [1.0, 2.0, 3.0]})

    assert trained.json["model"]["evaluated_on"] == "training"
    assert predicted.json["prediction"] == pytest.approx(10)


def test_a_metric_that_is_undefined_is_null(client: FlaskClient) -> None:
    trained = train(client, X=[[1]], y=[2])

    assert trained.json["metrics"]["r2_score"] is None
    assert b"NaN" not in trained.data


def test_every_training_is_a_version_at_its_location(client: FlaskClient) -> None:
    first = train_constant(client, 7)
    second = train_constant(client, 11)

    assert [first.json["model"]["version"], second.json["model"]["version"]] == [1, 2]
    read = client.get(second.headers["Location"])
    assert read.status_code == 200
    assert read.json == second.json["model"]
    assert client.get(first.headers["Location"]).json["version"] == 1


def test_the_newest_training_serves_as_soon_as_it_is_answered(client: FlaskClient) -> None:
    for number, value in enumerate([7, 11, 7, 11], start=1):
        train_constant(client, value)
        answer = client.post(f"{ML}/predict", json={"features": [0.5]}).json
        assert answer["prediction"] == pytest.approx(value)
        assert answer["model"]["version"] == number


def test_a_version_that_is_not_activated_does_not_serve(client: FlaskClient) -> None:
    train_constant(client, 7)

    train(client, X=[[0.0], [1.0]], y=[11, 11], activate=False)

    answer = client.post(f"{ML}/predict", json={"features": [0.5]}).json
    assert answer["prediction"] == pytest.approx(7)
    assert client.get(f"{ML}/model-info").json["model"]["version"] == 1


def test_another_process_and_a_restarted_one_serve_the_same_model(
    app: Flask, client: FlaskClient, database_url: str
) -> None:
    train_constant(client, 7)
    other = make_app(database_url)

    answer = other.test_client().post(f"{ML}/predict", json={"features": [0.5]}).json

    dispose_app(other)
    assert answer["prediction"] == pytest.approx(7)
    assert answer["model"]["version"] == 1


def test_an_untrained_model_says_so(client: FlaskClient) -> None:
    info = client.get(f"{ML}/model-info")
    predicted = client.post(f"{ML}/predict", json={"features": [1, 2, 3]})
    batch = client.post(f"{ML}/predict/batch", json={"instances": [[1, 2, 3]]})

    assert info.status_code == 200
    assert info.json == {"trained": False, "model_type": None, "metrics": {}}
    assert (predicted.status_code, batch.status_code) == (409, 409)
    assert predicted.content_type == "application/problem+json"


def test_model_info_describes_what_serves(client: FlaskClient) -> None:
    trained = train(
        client,
        X=[[1, 2], [3, 4], [5, 7]],
        y=[1, 2, 3],
        feature_names=["height", "weight"],
        params={"fit_intercept": False},
    )

    info = client.get(f"{ML}/model-info").json

    assert info["trained"] is True
    assert info["model_type"] == "LinearRegression"
    assert info["metrics"] == trained.json["metrics"]
    assert info["model"]["feature_names"] == ["height", "weight"]
    assert info["model"]["params"] == {"fit_intercept": False, "positive": False}
    assert set(info["model"]["libraries"]) >= {"python", "numpy", "scikit-learn"}


def test_features_by_name_come_in_any_order(client: FlaskClient) -> None:
    train(client, X=[[1, 2], [3, 4], [5, 7]], y=[1, 2, 3], feature_names=["height", "weight"])

    by_order = client.post(f"{ML}/predict", json={"features": [2, 3]}).json
    by_name = client.post(f"{ML}/predict", json={"features": {"weight": 3, "height": 2}}).json
    batch = client.post(
        f"{ML}/predict/batch",
        json={"instances": [{"weight": 3, "height": 2}, {"height": 2, "weight": 3}]},
    ).json

    assert by_name["prediction"] == pytest.approx(by_order["prediction"])
    assert batch["predictions"] == pytest.approx([by_order["prediction"]] * 2)


def test_refit_serves_a_model_of_all_rows(client: FlaskClient) -> None:
    X, y = load_diabetes(return_X_y=True)

    trained = train(client, X=X.tolist(), y=y.tolist(), refit=True)
    predicted = client.post(f"{ML}/predict", json={"features": X[0].tolist()}).json

    assert trained.json["model"]["evaluated_on"] == "hold-out"
    expected = LinearRegression().fit(X, y).predict(X[:1])[0]
    assert predicted["prediction"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("body", "faults"),
    [
        ({"y": [1]}, {"X": ["Missing data for required field."]}),
        ({"X": [[1]]}, {"y": ["Missing data for required field."]}),
        ({"X": [], "y": []}, {"X": ["must be an array of at least one row"]}),
        ({"X": [[]], "y": [1]}, {"X": {"0": ["has no values"]}}),
        ({"X": [[1, 2], [3]], "y": [1, 2]}, {"X": {"1": ["has 1 values, expected 2"]}}),
        (
            {"X": [[1], 2], "y": [1, 2]},
            {"X": {"1": ["is a number, expected an array of numbers"]}},
        ),
        ({"X": "rows", "y": [1]}, {"X": ["must be an array of at least one row"]}),
        ({"X": [[1, "2"]], "y": [1]}, {"X": {"0": {"1": ["is a string, expected a number"]}}}),
        ({"X": [["1_0"]], "y": [1]}, {"X": {"0": {"0": ["is a string, expected a number"]}}}),
        ({"X": [[True]], "y": [1]}, {"X": {"0": {"0": ["is a boolean, expected a number"]}}}),
        ({"X": [[None]], "y": [1]}, {"X": {"0": {"0": ["is null, expected a number"]}}}),
        ({"X": [[1]], "y": ["a"]}, {"y": {"0": ["is a string, expected a number"]}}),
        ({"X": [[1], [2]], "y": [1]}, {"y": ["has 1 values for 2 rows of X"]}),
        ({"X": [[1]], "y": [1], "test_size": 1}, {"test_size": None}),
        ({"X": [[1]], "y": [1], "test_size": "0.2"}, {"test_size": None}),
        ({"X": [[1]], "y": [1], "random_state": -1}, {"random_state": None}),
        ({"X": [[1]], "y": [1], "random_state": 1.5}, {"random_state": None}),
        ({"X": [[1]], "y": [1], "refit": "yes"}, {"refit": None}),
        ({"X": [[1]], "y": [1], "estimator": "oracle"}, {"estimator": None}),
        ({"X": [[1]], "y": [1], "params": {"alpha": 1}}, {"params": None}),
        ({"X": [[1]], "y": [1], "params": {"positive": 1}}, {"params": None}),
        ({"X": [[1]], "y": [1], "feature_names": ["a", "b"]}, {"feature_names": None}),
        ({"X": [[1, 2]], "y": [1], "feature_names": ["a", "a"]}, {"feature_names": None}),
        ({"X": [[1]], "y": [1], "colour": "red"}, {"colour": ["Unknown field."]}),
    ],
)
def test_a_training_that_makes_no_sense_is_refused_by_place(
    client: FlaskClient, body: dict[str, object], faults: dict[str, object]
) -> None:
    response = client.post(f"{ML}/train", json=body)

    assert response.status_code == 422
    for field, fault in faults.items():
        assert field in response.json["errors"]["json"]
        if fault is not None:
            assert response.json["errors"]["json"][field] == fault
    assert client.get(f"{ML}/model-info").json["trained"] is False


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "-" + "9" * 5000])
def test_a_number_that_is_none_is_refused_by_place(client: FlaskClient, number: str) -> None:
    train(client, X=[[1, 2], [3, 4]], y=[1, 2])

    trained = client.post(
        f"{ML}/train",
        data=f'{{"X": [[1, 2], [3, {number}]], "y": [1, 2]}}',
        content_type="application/json",
    )
    predicted = client.post(
        f"{ML}/predict", data=f'{{"features": [{number}, 1]}}', content_type="application/json"
    )

    assert (trained.status_code, predicted.status_code) == (422, 422)
    assert trained.json["errors"] == {"json": {"X": {"1": {"1": ["is not a finite number"]}}}}
    assert predicted.json["errors"] == {"json": {"features": {"0": ["is not a finite number"]}}}


@pytest.mark.parametrize(
    ("features", "faults"),
    [
        ([1, 2], ["has 2 values, expected 3"]),
        ([1, 2, 3, 4], ["has 4 values, expected 3"]),
        ([], ["must be an array of at least one number"]),
        ([1, "2", 3], {"1": ["is a string, expected a number"]}),
        ([1, [2], 3], {"1": ["is an array, expected a number"]}),
        ("1,2,3", ["must be an array of numbers, or an object by feature name"]),
        (None, ["Field may not be null."]),
        ({"x1": 1, "x2": 2}, {"x3": ["is missing"]}),
        ({"x1": 1, "x2": 2, "x3": 3, "x4": 4}, {"x4": ["is not a feature of the model"]}),
        ({"x1": 1, "x2": 2, "x3": "3"}, {"x3": ["is a string, expected a number"]}),
        ({}, {"x1": ["is missing"], "x2": ["is missing"], "x3": ["is missing"]}),
    ],
)
def test_a_row_that_does_not_fit_the_model_is_refused_by_place(
    client: FlaskClient, features: object, faults: object
) -> None:
    train(client, X=[[1, 2, 3], [4, 5, 6]], y=[10, 20])

    response = client.post(f"{ML}/predict", json={"features": features})

    assert response.status_code == 422
    assert response.json["errors"] == {"json": {"features": faults}}


@pytest.mark.parametrize(
    ("instances", "faults"),
    [
        ([], ["must be an array of at least one row"]),
        ([[1, 2, 3], [1, 2]], {"1": ["has 2 values, expected 3"]}),
        ([[1, 2]], {"0": ["has 2 values, expected 3"]}),
        ([[1, 2, 3], {"x1": 1}], {"1": ["is an object, expected an array of numbers"]}),
        ([{"x1": 1, "x2": 2, "x3": 3}, {"x1": 1, "x2": 2}], {"1": {"x3": ["is missing"]}}),
        ([[1, 2, None]], {"0": {"2": ["is null, expected a number"]}}),
    ],
)
def test_rows_that_do_not_fit_the_model_are_refused_by_place(
    client: FlaskClient, instances: object, faults: object
) -> None:
    train(client, X=[[1, 2, 3], [4, 5, 6]], y=[10, 20])

    response = client.post(f"{ML}/predict/batch", json={"instances": instances})

    assert response.status_code == 422
    assert response.json["errors"] == {"json": {"instances": faults}}


def test_a_prediction_beyond_float64_is_refused_not_answered_as_null(client: FlaskClient) -> None:
    train(client, X=[[0.0], [1.0]], y=[0.0, 1e10])

    one = client.post(f"{ML}/predict", json={"features": [1e308]})
    batch = client.post(f"{ML}/predict/batch", json={"instances": [[1.0], [1e308]]})

    assert (one.status_code, batch.status_code) == (422, 422)
    message = "gives a prediction beyond the range of float64"
    assert one.json["errors"] == {"json": {"features": [message]}}
    assert batch.json["errors"] == {"json": {"instances": {"1": [message]}}}


@pytest.mark.parametrize("path", ["/nobody/versions/1", "/default/versions/2", "/%00/versions/1"])
def test_a_version_that_does_not_exist_is_not_found(client: FlaskClient, path: str) -> None:
    train_constant(client, 7)

    assert client.get(f"{ML}/models{path}").status_code == 404
