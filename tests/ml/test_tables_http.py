"""Rows in any form over HTTP: the same rows give the same model, whatever they come in."""

from __future__ import annotations

import csv as text
import io
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from flask import Flask
from flask.testing import FlaskClient
from pyarrow import csv, ipc
from sklearn.datasets import load_diabetes, load_iris
from werkzeug.test import TestResponse

from tests.bad_input.census import ARROW, CSV, PARQUET, WRITERS
from tests.faults import on_sqlite
from webapp.web import jsonio

pytestmark = on_sqlite

ML = "/api/v1/ml"
FORMS = {media_type: WRITERS[media_type] for media_type in (CSV, PARQUET, ARROW)}
SUFFIXES = {CSV: "csv", PARQUET: "parquet", ARROW: "arrow"}
DIABETES, IRIS = load_diabetes(), load_iris()
ROWS: dict[str, tuple[Any, list[Any]]] = {
    "linear_regression": (DIABETES, DIABETES.target.tolist()),
    "logistic_regression": (IRIS, IRIS.target_names[IRIS.target].tolist()),
}


def table_of(estimator: str = "linear_regression") -> pa.Table:
    data, y = ROWS[estimator]
    return pa.table({**dict(zip(data.feature_names, data.data.T, strict=True)), "y": y})


def train_by_json(client: FlaskClient, estimator: str = "linear_regression") -> dict[str, Any]:
    data, y = ROWS[estimator]
    body = {"X": data.data.tolist(), "y": y, "feature_names": list(data.feature_names)}
    model: dict[str, Any] = client.post(f"{ML}/train", json={**body, "estimator": estimator}).json[
        "model"
    ]
    return model


def post(client: FlaskClient, path: str, data: bytes, media_type: str = CSV) -> TestResponse:
    return client.post(f"{ML}/{path}", data=data, content_type=media_type)


def upload(client: FlaskClient, path: str, data: bytes, *file: str, **form: str) -> TestResponse:
    return client.post(f"{ML}/{path}", data={"file": (io.BytesIO(data), *file), **form})


@pytest.mark.parametrize("media_type", FORMS)
@pytest.mark.parametrize("estimator", ROWS)
def test_the_same_rows_give_the_same_version_digest_for_digest(
    client: FlaskClient, media_type: str, estimator: str
) -> None:
    by_json = train_by_json(client, estimator)
    data = FORMS[media_type](table_of(estimator))

    alone = post(client, f"train?target=y&estimator={estimator}", data, media_type)
    filename = f"rows.{SUFFIXES[media_type]}"
    as_file = upload(client, "train", data, filename, target="y", estimator=estimator)

    for answer in (alone, as_file):
        assert answer.status_code == 201, answer.text
        model = answer.json["model"]
        for key in ("digest", "data_digest", "classes", "coefficients"):
            assert model[key] == by_json[key]


@pytest.mark.parametrize("media_type", FORMS)
def test_batches_come_in_any_form_with_columns_in_any_order(
    client: FlaskClient, media_type: str
) -> None:
    train_by_json(client)
    rows = table_of().drop_columns("y")
    body = {"instances": DIABETES.data.tolist()}
    expected = client.post(f"{ML}/predict/batch", json=body).json
    shuffled = FORMS[media_type](rows.select(rows.column_names[::-1]))
    other = rows.drop_columns("bmi").append_column("shoe", pa.array([1] * len(rows)))

    answer = post(client, "predict/batch", shuffled, media_type)
    refused = post(client, "predict/batch", FORMS[media_type](other), media_type)

    assert answer.json["predictions"] == pytest.approx(expected["predictions"], rel=1e-9)
    assert answer.json["model"] == expected["model"]
    assert refused.status_code == 422
    assert [set(faults) for faults in refused.json["errors"].values()] == [{"bmi", "shoe"}]


@pytest.mark.parametrize("accept", [CSV, ARROW])
def test_batches_are_answered_as_tables_where_the_client_accepts_them(
    client: FlaskClient, accept: str
) -> None:
    train_by_json(client)
    body = {"instances": DIABETES.data.tolist(), "intervals": True}
    expected = client.post(f"{ML}/predict/batch", json=body).json

    answer = client.post(f"{ML}/predict/batch", json=body, headers={"Accept": accept})

    assert answer.headers["Content-Type"].startswith(accept)
    assert answer.headers["X-Model"] == "default; version=1"
    read = csv.read_csv if accept == CSV else lambda file: ipc.open_stream(file).read_all()
    table = read(io.BytesIO(answer.data))
    assert table["prediction"].to_pylist() == pytest.approx(expected["predictions"], rel=1e-9)
    upper = expected["intervals"]["prediction"]["upper"]
    assert table["prediction:upper"].to_pylist() == pytest.approx(upper, rel=1e-9)


@pytest.mark.parametrize(("accept", "status"), [("image/png", 406), ("text/html,*/*;q=0.1", 200)])
def test_a_form_that_is_not_offered_is_not_acceptable(
    client: FlaskClient, accept: str, status: int
) -> None:
    train_by_json(client)
    body = {"instances": [[0.0] * 10]}

    answer = client.post(f"{ML}/predict/batch", json=body, headers={"Accept": accept})

    assert answer.status_code == status


def test_options_of_a_table_are_those_of_json(client: FlaskClient) -> None:
    url = 'train?target=y&estimator=ridge&params={"alpha":0.5}&scale=true&test_size=0.5'

    model = post(client, url, FORMS[CSV](table_of())).json["model"]

    assert model["params"]["alpha"] == 0.5
    assert (model["scale"], model["test_size"], model["n_test"]) == (True, 0.5, 221)


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("", {"query": {"target": ["Missing data for required field."]}}),
        ("target=y&target=z", {"query": {"target": ["Given more than once."]}}),
        ("target=y&colour=red", {"query": {"colour": ["Unknown field."]}}),
        ("target=y&refit=perhaps", None),
        ("target=y&estimator=oracle", None),
        ("target=nobody", None),
    ],
)
def test_options_that_make_no_sense_are_refused(
    client: FlaskClient, query: str, place: dict[str, Any] | None
) -> None:
    refused = post(client, f"train?{query}", b"a,y\n1,2\n3,4\n")

    assert refused.status_code == 422
    assert place is None or refused.json["errors"] == place


def test_options_of_a_table_are_refused_beside_json(client: FlaskClient) -> None:
    refused = client.post(f"{ML}/train?target=y", json={"X": [[1]], "y": [1]})

    assert refused.status_code == 422
    assert "target" in refused.json["errors"]["query"]


@pytest.mark.parametrize("parameter", ["charset=latin-1", "header=absent"])
def test_a_table_that_says_it_is_another_than_what_is_read_is_refused(
    client: FlaskClient, parameter: str
) -> None:
    data, media_type = b"a,y\n1,2\n3,4\n", f"text/csv; {parameter}"

    alone = post(client, "train?target=y", data, media_type)
    as_file = upload(client, "train", data, "rows.csv", media_type, target="y")

    assert (alone.status_code, as_file.status_code) == (415, 415)


def test_rows_of_a_table_that_cannot_be_fitted_are_not_blamed_on_json(client: FlaskClient) -> None:
    url = "train?target=y&estimator=logistic_regression"

    alone = post(client, url, b"a,y\n1,0\n3,0\n")
    as_file = upload(client, url, b"a,y\n1,0\n3,0\n", "rows.csv")

    assert list(alone.json["errors"]) == ["request"]
    assert list(as_file.json["errors"]) == ["form"]


# --- limits ---------------------------------------------------------------------------------


@pytest.fixture
def small(own_app: Flask) -> FlaskClient:
    """Return a client of an application that takes few values."""
    own_app.config.update(MAX_ROWS=50, MAX_COLUMNS=10, MAX_CELLS=100)
    return own_app.test_client()


@pytest.mark.parametrize(
    ("n_rows", "n_columns", "complaint"),
    [
        (25, 3, None),
        (51, 1, "has more than 50 rows"),
        (2, 11, "has 11 columns"),
        (26, 3, "has 26 rows of 4 values, more than 100 values in all"),
    ],
)
def test_rows_to_train_on_are_held_to_the_limits_in_every_form(
    small: FlaskClient, n_rows: int, n_columns: int, complaint: str | None
) -> None:
    X = np.arange(float(n_rows * n_columns)).reshape(n_rows, n_columns)
    columns = {f"x{number}": column for number, column in enumerate(X.T)}
    table = pa.table({**columns, "y": np.arange(n_rows)})
    answers = [post(small, "train?target=y", write(table), kind) for kind, write in FORMS.items()]
    answers.append(small.post(f"{ML}/train", json={"X": X.tolist(), "y": list(range(n_rows))}))

    for answer in answers:
        assert answer.status_code == (422 if complaint else 201), answer.text
        assert complaint is None or complaint in answer.text


def test_json_rows_to_predict_for_are_held_to_the_limits(small: FlaskClient) -> None:
    small.post(f"{ML}/train", json={"X": [[1, 2, 3]] * 25, "y": [1] * 25})

    for row in ([1, 2, 3], {"x1": 1, "x2": 2, "x3": 3}):
        refused = small.post(f"{ML}/predict/batch", json={"instances": [row] * 34})
        assert refused.status_code == 422
        assert "has 34 rows of 3 values, more than 100 values" in refused.text


@pytest.mark.parametrize(
    "body",
    [
        b'{"X": [' + b"[]," * 5000 + b"[]]}",
        b'{"instances": [' + b"1," * 5000 + b"1]}",
        b'{"instances": [' + b"{}," * 5000 + b"{}]}",
        b'{"instances": ' + (b"[" * 100 + b"]" * 100 + b",") * 50,
    ],
    ids=lambda body: body[:24].decode(),
)
@pytest.mark.parametrize("path", ["train", "predict/batch"])
def test_json_of_more_values_than_allowed_is_not_decoded(
    small: FlaskClient, path: str, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonio, "loads", lambda _: pytest.fail("it was decoded"))

    refused = post(small, path, body, "application/json")

    assert refused.status_code == 422
    assert orjson.loads(refused.data)["errors"] == {"json": ["holds more than 100 values"]}


def test_commas_within_labels_are_no_values(small: FlaskClient) -> None:
    y = ["a" + "," * 200, "b" + "," * 200] * 10
    body = {"X": [[n, 1] for n in range(20)], "y": y, "estimator": "logistic_regression"}

    assert small.post(f"{ML}/train", json=body).status_code == 201


# --- answers in CSV that people open in a spreadsheet ---------------------------------------

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "=cmd|'/c calc'!A1"]
HARMLESS = ["plain", "'quoted", "1=1", "a,b"]


@pytest.mark.parametrize("accept", ["text/csv", "application/json"])
def test_labels_that_a_spreadsheet_would_run_are_quoted_in_csv_where_asked_for(
    client: FlaskClient, accept: str
) -> None:
    labels = [*FORMULAS, *HARMLESS]
    rows = (np.eye(len(labels)) * 100).tolist()
    training = {"X": rows, "y": labels, "estimator": "logistic_regression"}
    assert client.post(f"{ML}/train", json=training).status_code == 201

    def predict(**options: bool) -> list[str]:
        body = {"instances": rows, **options}
        answer = client.post(f"{ML}/predict/batch", json=body, headers={"Accept": accept})
        if accept == "application/json":
            return list(answer.json["predictions"])
        return [row[0] for row in text.reader(io.StringIO(answer.text))][1:]

    quoted = [*(f"'{label}" for label in FORMULAS), *HARMLESS]
    assert predict() == labels
    assert predict(for_spreadsheet=True) == (quoted if accept == "text/csv" else labels)


def test_numbers_are_written_as_they_are(client: FlaskClient) -> None:
    client.post(f"{ML}/train", json={"X": [[1], [2], [3]], "y": [-1, -2, -3]})

    url = f"{ML}/predict/batch?for_spreadsheet=true"
    answer = client.post(url, data="x1\n1\n", content_type=CSV, headers={"Accept": CSV})

    assert float(answer.text.splitlines()[1]) == pytest.approx(-1)
