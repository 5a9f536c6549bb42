"""Answers stay within bounds: of batches, and of versions with many features or classes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from pyarrow import csv
from sklearn.linear_model import LogisticRegression

from tests.conftest import dispose_app, make_app
from webapp.extensions import db
from webapp.ml.core import tables
from webapp.ml.core.metrics import MOST_MATRIX_CLASSES
from webapp.ml.core.training import MOST_COEFFICIENTS
from webapp.ml.inference.service import MOST_EXTRAPOLATED

ML = "/api/v1/ml"
VERSIONS = f"{ML}/models/default/versions"
CSV, ARROW, JSON = "text/csv", "application/vnd.apache.arrow.stream", "application/json"


def train(client: FlaskClient, X: Any, y: Any, **options: Any) -> dict[str, Any]:
    body = {"X": np.asarray(X).tolist(), "y": np.asarray(y).tolist(), **options}
    answer = client.post(f"{ML}/train", json=body)
    assert answer.status_code == 201, answer.json
    return answer.json


def train_classes(client: FlaskClient, labels: list[Any]) -> None:
    """Train a classifier of one feature with these labels."""
    values = np.repeat(np.arange(len(labels)), 2)[:, np.newaxis]
    train(
        client,
        values,
        np.repeat(np.array(labels, dtype=object), 2),
        estimator="hist_gradient_boosting_classifier",
        params={"max_iter": 1},
        test_size=0,
    )


def ask(client: FlaskClient, n_rows: int, accept: str = JSON, **options: Any) -> Any:
    body = {"instances": [[0.0]] * n_rows, **options}
    return client.post(f"{ML}/predict/batch", json=body, headers={"Accept": accept})


# Batches


@pytest.fixture
def small(database_url: str) -> Iterator[FlaskClient]:
    """Return a client of a service whose answers have at most 200 values, as JSON 100."""
    app: Flask = make_app(database_url, MAX_CELLS=200, MAX_CONTENT_LENGTH=2000)
    yield app.test_client()
    dispose_app(app)


@pytest.mark.parametrize(
    ("labels", "by_row"),
    [(["a", "b"], 3), (["a", "b", "c"], 4), (["a" * 39, "b"], 4), (["ä" * 20, "b"], 5)],
)
@pytest.mark.parametrize(("accept", "most"), [(JSON, 100), (CSV, 200), (ARROW, 200)])
def test_an_answer_has_no_more_values_than_are_allowed(
    small: FlaskClient, accept: str, most: int, labels: list[str], by_row: int
) -> None:
    train_classes(small, labels)
    n_rows = most // by_row

    within = ask(small, n_rows, accept)
    beyond = ask(small, n_rows + 1, accept)

    assert within.status_code == 200
    assert beyond.status_code == 422
    (message,) = beyond.json["errors"]["json"]["instances"]
    assert message == (
        f"would be answered by {(n_rows + 1) * by_row} values, {by_row} for each of {n_rows + 1} "
        f"rows; at most {most} are allowed: send at most {n_rows} rows a request"
    )


def test_intervals_count_among_the_values_of_an_answer(small: FlaskClient) -> None:
    train(small, [[0], [1], [2], [3]], [0, 1, 2.5, 3])

    assert ask(small, 100).status_code == 200
    assert ask(small, 20, intervals=True).status_code == 200
    assert ask(small, 21, intervals=True).status_code == 422


def test_too_many_rows_of_a_table_are_refused_too(small: FlaskClient) -> None:
    train_classes(small, ["a", "b"])

    refused = small.post(
        f"{ML}/predict/batch", data=b"x1\n" + b"0\n" * 34, headers={"Content-Type": CSV}
    )

    assert refused.status_code == 422
    assert "send at most 33 rows" in refused.json["detail"]


@pytest.mark.parametrize("accept", [CSV, ARROW])
def test_a_long_table_is_sent_piece_by_piece_and_whole(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, accept: str
) -> None:
    monkeypatch.setattr(tables, "WRITTEN_CELLS", 400)
    train_classes(client, ["a", "b", "c"])
    n_rows = tables.WRITTEN_CELLS // 4
    expected = ask(client, 1).json

    short = ask(client, n_rows, accept)
    long = ask(client, n_rows + 1, accept)

    assert [short.status_code, long.status_code] == [200, 200]
    assert short.headers["Content-Length"] == str(len(short.data))
    assert "Content-Length" not in long.headers
    read = csv.read_csv if accept == CSV else lambda file: pa.ipc.open_stream(file).read_all()
    table = read(io.BytesIO(long.data))
    assert table.num_rows == n_rows + 1
    assert table["prediction"].unique().to_pylist() == expected["predictions"]
    for label in "abc":
        by_class = table[f"probability:{label}"].to_pylist()
        assert by_class == pytest.approx(expected["probabilities"][label] * (n_rows + 1))


@pytest.mark.parametrize(("n_rows", "n_features"), [(MOST_EXTRAPOLATED, 1), (10, 100)])
def test_many_extrapolated_values_are_counted_by_feature(
    client: FlaskClient, n_rows: int, n_features: int
) -> None:
    train(client, np.arange(2 * n_features).reshape(2, n_features), [1, 2])
    rows = np.full((n_rows, n_features), -1).tolist()

    def predict(instances: list[list[int]]) -> Any:
        return client.post(f"{ML}/predict/batch", json={"instances": instances}).json

    named = predict(rows)
    counted = predict([*rows, [-1, *[2 * n_features] * (n_features - 1)]])

    names = [f"x{number + 1}" for number in range(n_features)]
    assert named["extrapolated"] == {str(row): names for row in range(n_rows)}
    assert "extrapolated_counts" not in named
    assert counted["extrapolated_counts"] == dict.fromkeys(names, n_rows + 1)
    assert "extrapolated" not in counted


def test_a_single_row_names_each_feature_that_is_extrapolated(client: FlaskClient) -> None:
    n_features = MOST_EXTRAPOLATED
    train(client, np.zeros((2, n_features)), [1, 2])

    answer = client.post(f"{ML}/predict", json={"features": [1] * n_features})

    assert len(answer.json["extrapolated"]) == n_features


# Versions


def statements(app: Flask) -> list[str]:
    """Return the list that the SQL of the application goes into from now on."""
    seen: list[str] = []
    with app.app_context():
        sa.event.listen(
            db.engine, "before_cursor_execute", lambda *arguments: seen.append(arguments[2])
        )
    return seen


def test_a_listing_of_versions_neither_loads_nor_says_what_grows_with_features(
    own_app: Flask,
) -> None:
    client = own_app.test_client()
    n_features = 1000
    names = [f"{'a long name' * 20} {number}" for number in range(n_features)]
    train(client, np.eye(2, n_features), [1, 2], feature_names=names)
    seen = statements(own_app)

    listed = client.get(VERSIONS)

    assert len(listed.data) < 2000
    assert listed.json[0]["metrics"]["r2_score"] == pytest.approx(1)
    assert listed.json[0]["digest"] == client.get(f"{VERSIONS}/1").json["digest"]
    (listing,) = (sql for sql in seen if "FROM model_version" in sql and "ORDER BY" in sql)
    for column in ("feature_names", "classes", "coefficients", "profile", "interval_basis"):
        assert column not in listing


def test_a_listing_of_versions_says_of_the_metrics_those_that_are_single(
    client: FlaskClient,
) -> None:
    train_classes(client, ["a", "b"])

    (listed,) = client.get(VERSIONS).json

    shown = client.get(f"{VERSIONS}/1").json
    assert shown["metrics"]["confusion_matrix"]["labels"] == ["a", "b"]
    assert shown["metrics"].items() >= listed["metrics"].items()
    assert set(listed["metrics"]) == set(shown["metrics"]) - {"confusion_matrix"}


def test_a_version_shows_so_many_coefficients_and_a_call_of_its_own_shows_more(
    client: FlaskClient,
) -> None:
    for n_features in (MOST_COEFFICIENTS, MOST_COEFFICIENTS + 1):
        client.application.config["MAX_COLUMNS"] = MOST_COEFFICIENTS + 1
        rows = np.random.RandomState(0).randn(3, n_features)
        train(client, rows, rows[:, 0], test_size=0)

    few, many = (client.get(f"{VERSIONS}/{n}").json["coefficients"] for n in (1, 2))
    all_of_few, all_of_many = (client.get(f"{VERSIONS}/{n}/coefficients").json for n in (1, 2))

    assert many is None
    assert all_of_few == {
        "feature_names": list(few["coefficients"]),
        "classes": None,
        "intercepts": [few["intercept"]],
        "coefficients": [list(few["coefficients"].values())],
    }
    assert len(all_of_many["coefficients"][0]) == MOST_COEFFICIENTS + 1


@pytest.mark.parametrize("labels", [["a", "b"], ["a", "b", "c"]])
def test_the_coefficients_of_a_classification_stand_in_a_row_for_each_class(
    client: FlaskClient, labels: list[str]
) -> None:
    rng = np.random.RandomState(0)
    X, y = rng.randn(60, 4), np.array(labels * 60)[:60]
    train(client, X, y, estimator="logistic_regression", test_size=0)
    expected = LogisticRegression().fit(X, y)

    found = client.get(f"{VERSIONS}/1/coefficients").json

    assert found["classes"] == (["b"] if len(labels) == 2 else labels)
    np.testing.assert_allclose(found["coefficients"], expected.coef_, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["intercepts"], expected.intercept_, rtol=1e-4, atol=1e-6)


def test_a_model_without_coefficients_has_none_to_read(client: FlaskClient) -> None:
    train_classes(client, ["a", "b"])

    refused = client.get(f"{VERSIONS}/1/coefficients")

    assert refused.status_code == 404
    assert "HistGradientBoostingClassifier" in refused.json["detail"]
    assert client.get(f"{VERSIONS}/2/coefficients").status_code == 404


@pytest.mark.parametrize("more", [0, 1])
def test_the_confusion_matrix_of_many_classes_is_left_out(client: FlaskClient, more: int) -> None:
    train_classes(client, list(range(MOST_MATRIX_CLASSES + more)))

    matrix = client.get(f"{VERSIONS}/1").json["metrics"]["confusion_matrix"]

    assert (matrix is None) == bool(more)
