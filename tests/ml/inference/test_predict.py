"""Predictions over HTTP: rows that fit, rows that do not, and answers within bounds."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from flask import Flask
from flask.testing import FlaskClient
from pyarrow import csv

from tests.faults import on_sqlite
from tests.ml.calls import ARROW, CSV, JSON, ML, train, train_classes
from webapp.ml.core.tables import writing
from webapp.ml.inference.service import MOST_NAMED


def ask(client: FlaskClient, n_rows: int, accept: str = JSON, **options: Any) -> Any:
    body = {"instances": [[0.0]] * n_rows, **options}
    return client.post(f"{ML}/predict/batch", json=body, headers={"Accept": accept})


def test_features_by_name_come_in_any_order(client: FlaskClient) -> None:
    train(client, [[1, 2], [3, 4], [5, 7]], [1, 2, 3], feature_names=["height", "weight"])

    by_order = client.post(f"{ML}/predict", json={"features": [2, 3]}).json
    by_name = client.post(f"{ML}/predict", json={"features": {"weight": 3, "height": 2}}).json
    instances = [{"weight": 3, "height": 2}, {"height": 2, "weight": 3}]
    batch = client.post(f"{ML}/predict/batch", json={"instances": instances}).json

    assert by_name["prediction"] == pytest.approx(by_order["prediction"])
    assert batch["predictions"] == pytest.approx([by_order["prediction"]] * 2)


TOO_SHORT = ["has 2 values, expected 3"]
NOT_A_NUMBER = ["is a string, expected a number"]
NO_FEATURES = ["must be an array of values, or an object by feature name"]
NOT_A_ROW = ["is an object, expected an array of numbers"]


@on_sqlite
@pytest.mark.parametrize(
    ("path", "field", "rows", "faults"),
    [
        ("predict", "features", [1, 2], TOO_SHORT),
        ("predict", "features", ["1", 2, 3], {"0": NOT_A_NUMBER}),
        ("predict", "features", "1,2,3", NO_FEATURES),
        ("predict", "features", {}, {f"x{n}": ["is missing"] for n in (1, 2, 3)}),
        ("predict/batch", "instances", [[1, 2, 3], [1, 2]], {"1": TOO_SHORT}),
        ("predict/batch", "instances", [[1, 2, 3], {"x1": 1}], {"1": NOT_A_ROW}),
    ],
)
def test_rows_that_do_not_fit_the_model_are_refused_by_place(
    client: FlaskClient, path: str, field: str, rows: object, faults: object
) -> None:
    train(client, [[1, 2, 3], [4, 5, 6]], [10, 20])

    response = client.post(f"{ML}/{path}", json={field: rows})

    assert response.status_code == 422
    assert response.json["errors"] == {"json": {field: faults}}


OVERFLOW = ["gives a prediction beyond the range of float64"]
OUT_OF_RANGE = ["has values beyond the range that the estimator takes"]


@pytest.mark.parametrize(
    ("estimator", "fault", "in_batch"),
    [
        ("linear_regression", OVERFLOW, {"1": OVERFLOW}),
        ("random_forest", OUT_OF_RANGE, OUT_OF_RANGE),  # trees compare in float32
    ],
)
def test_a_prediction_beyond_the_range_is_refused_not_answered_as_null(
    client: FlaskClient, estimator: str, fault: object, in_batch: object
) -> None:
    train(client, [[0.0], [1.0]], [0.0, 1e10], estimator=estimator)

    one = client.post(f"{ML}/predict", json={"features": [1e308]})
    batch = client.post(f"{ML}/predict/batch", json={"instances": [[1.0], [1e308]]})

    assert (one.status_code, batch.status_code) == (422, 422)
    assert one.json["errors"] == {"json": {"features": fault}}
    assert batch.json["errors"] == {"json": {"instances": in_batch}}


# Answers within bounds


@pytest.fixture
def small(own_app: Flask) -> FlaskClient:
    """Return a client of a service whose answers have at most 200 values, as JSON 100."""
    own_app.config.update(MAX_CELLS=200, MAX_CONTENT_LENGTH=2000)
    return own_app.test_client()


@on_sqlite
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
    table = small.post(
        f"{ML}/predict/batch",
        data=b"x1\n" + b"0\n" * (n_rows + 1),
        headers={"Content-Type": CSV, "Accept": accept},
    )

    assert [within.status_code, beyond.status_code, table.status_code] == [200, 422, 422]
    assert f"send at most {n_rows} rows" in table.json["detail"]
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


@pytest.mark.parametrize("accept", [CSV, ARROW])
def test_a_long_table_is_streamed_whole(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, accept: str
) -> None:
    monkeypatch.setattr(writing, "WRITTEN_CELLS", 400)
    train_classes(client, ["a", "b", "c"])
    n_rows = writing.WRITTEN_CELLS // 4
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


def test_many_extrapolated_values_are_counted(client: FlaskClient) -> None:
    n_rows, n_features = MOST_NAMED // 10, 10
    train(client, np.arange(2 * n_features).reshape(2, n_features), [1, 2])
    rows = np.full((n_rows + 1, n_features), -1).tolist()

    named = client.post(f"{ML}/predict/batch", json={"instances": rows[1:]}).json
    counted = client.post(f"{ML}/predict/batch", json={"instances": rows}).json

    names = [f"x{number + 1}" for number in range(n_features)]
    assert named["extrapolated"] == {str(row): names for row in range(n_rows)}
    assert "extrapolated_counts" not in named
    assert counted["extrapolated_counts"] == dict.fromkeys(names, n_rows + 1)
    assert "extrapolated" not in counted
