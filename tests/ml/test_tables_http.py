"""Rows in any form over HTTP: the same rows give the same model, whatever they come in."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pytest
from flask import Flask
from flask.testing import FlaskClient
from pyarrow import csv, ipc
from sklearn.datasets import load_diabetes, load_iris
from werkzeug.test import TestResponse

from tests.bad_input.census import ARROW, CSV, PARQUET, WRITERS
from tests.conftest import dispose_app, make_app
from tests.faults import on_sqlite

pytestmark = on_sqlite

ML = "/api/v1/ml"
FORMS = {media_type: WRITERS[media_type] for media_type in (CSV, PARQUET, ARROW)}
SUFFIXES = {CSV: "csv", PARQUET: "parquet", ARROW: "arrow"}


def diabetes() -> pa.Table:
    data = load_diabetes()
    columns = {name: data.data[:, i] for i, name in enumerate(data.feature_names)}
    return pa.table({**columns, "progression": data.target})


def train_by_json(client: FlaskClient) -> dict:
    data = load_diabetes()
    body = {
        "X": data.data.tolist(),
        "y": data.target.tolist(),
        "feature_names": data.feature_names,
    }
    return client.post(f"{ML}/train", json=body).json["model"]


def post(client: FlaskClient, path: str, data: bytes, media_type: str) -> TestResponse:
    return client.post(f"{ML}/{path}", data=data, content_type=media_type)


def upload(
    client: FlaskClient, path: str, data: bytes, filename: str, **form: str
) -> TestResponse:
    return client.post(f"{ML}/{path}", data={"file": (io.BytesIO(data), filename), **form})


@pytest.mark.parametrize("media_type", FORMS)
def test_the_same_rows_give_the_same_version_digest_for_digest(
    client: FlaskClient, media_type: str
) -> None:
    by_json = train_by_json(client)
    data = FORMS[media_type](diabetes())

    alone = post(client, "train?target=progression", data, media_type)
    filename = f"rows.{SUFFIXES[media_type]}"
    as_file = upload(client, "train", data, filename, target="progression")

    for answer in (alone, as_file):
        assert answer.status_code == 201, answer.text
        model = answer.json["model"]
        assert model["digest"] == by_json["digest"]
        assert model["data_digest"] == by_json["data_digest"]
        assert model["coefficients"] == by_json["coefficients"]


@pytest.mark.parametrize("media_type", FORMS)
def test_batches_come_in_any_form_with_columns_in_any_order(
    client: FlaskClient, media_type: str
) -> None:
    train_by_json(client)
    rows = diabetes().drop_columns("progression")
    expected = client.post(
        f"{ML}/predict/batch", json={"instances": load_diabetes().data.tolist()}
    ).json
    shuffled = rows.select(rows.column_names[::-1])

    answer = post(client, "predict/batch", FORMS[media_type](shuffled), media_type)

    assert answer.status_code == 200, answer.text
    assert answer.json["predictions"] == pytest.approx(expected["predictions"], rel=1e-9)
    assert answer.json["model"] == expected["model"]


@pytest.mark.parametrize("accept", [CSV, ARROW])
def test_batches_are_answered_as_tables_where_the_client_accepts_them(
    client: FlaskClient, accept: str
) -> None:
    train_by_json(client)
    body = {"instances": load_diabetes().data.tolist(), "intervals": True}
    expected = client.post(f"{ML}/predict/batch", json=body).json

    answer = client.post(f"{ML}/predict/batch", json=body, headers={"Accept": accept})

    assert answer.headers["Content-Type"].startswith(accept)
    assert answer.headers["X-Model"] == "default; version=1"
    read = csv.read_csv if accept == CSV else lambda file: ipc.open_stream(file).read_all()
    table = read(io.BytesIO(answer.data))
    assert table["prediction"].to_pylist() == pytest.approx(expected["predictions"], rel=1e-9)
    upper = expected["intervals"]["prediction"]["upper"]
    assert table["prediction:upper"].to_pylist() == pytest.approx(upper, rel=1e-9)


def test_a_form_that_is_not_offered_is_not_acceptable(client: FlaskClient) -> None:
    train_by_json(client)
    body = {"instances": [[0.0] * 10]}

    refused = client.post(f"{ML}/predict/batch", json=body, headers={"Accept": "image/png"})
    anything = client.post(
        f"{ML}/predict/batch", json=body, headers={"Accept": "text/html,*/*;q=0.1"}
    )

    assert refused.status_code == 406
    assert anything.json["predictions"]


@pytest.mark.parametrize("media_type", FORMS)
def test_labels_in_a_table_are_the_labels_of_json(client: FlaskClient, media_type: str) -> None:
    data = load_iris()
    labels = data.target_names[data.target].tolist()
    names = ["a", "b", "c", "d"]
    by_json = client.post(
        f"{ML}/train",
        json={
            "X": data.data.tolist(),
            "y": labels,
            "feature_names": names,
            "estimator": "logistic_regression",
        },
    ).json["model"]
    columns = {name: data.data[:, i] for i, name in enumerate(names)}
    table = pa.table({**columns, "species": labels})
    url = "train?target=species&estimator=logistic_regression"

    answer = post(client, url, FORMS[media_type](table), media_type)

    assert answer.status_code == 201, answer.text
    assert answer.json["model"]["classes"] == ["setosa", "versicolor", "virginica"]
    assert answer.json["model"]["digest"] == by_json["digest"]


def test_options_of_a_table_are_those_of_json(client: FlaskClient) -> None:
    url = 'train?target=progression&estimator=ridge&params={"alpha":0.5}&scale=true&test_size=0.5'

    model = post(client, url, FORMS[CSV](diabetes()), CSV).json["model"]

    assert model["params"]["alpha"] == 0.5
    assert (model["scale"], model["test_size"], model["n_test"]) == (True, 0.5, 221)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("train", {"query": {"target": ["Missing data for required field."]}}),
        ("train?target=y&target=z", {"query": {"target": ["Given more than once."]}}),
        ("train?target=y&colour=red", {"query": {"colour": ["Unknown field."]}}),
        ("train?target=y&refit=perhaps", None),
        ("train?target=y&estimator=oracle", None),
        ("train?target=nobody", None),
    ],
)
def test_options_that_make_no_sense_are_refused(
    client: FlaskClient, url: str, place: dict | None
) -> None:
    refused = post(client, url, b"a,y\n1,2\n3,4\n", CSV)

    assert refused.status_code == 422
    assert place is None or refused.json["errors"] == place


def test_options_of_a_table_are_refused_beside_json(client: FlaskClient) -> None:
    refused = client.post(f"{ML}/train?target=y", json={"X": [[1]], "y": [1]})

    assert refused.status_code == 422
    assert "target" in refused.json["errors"]["query"]


@pytest.mark.parametrize("media_type", FORMS)
def test_missing_extra_and_repeated_names_are_refused_by_name(
    client: FlaskClient, media_type: str
) -> None:
    train_by_json(client)
    rows = (
        diabetes().drop_columns(["progression", "bmi"]).append_column("shoe", pa.array([1] * 442))
    )

    refused = post(client, "predict/batch", FORMS[media_type](rows), media_type)

    assert refused.status_code == 422
    (faults,) = refused.json["errors"].values()
    assert set(faults) == {"bmi", "shoe"}


@pytest.mark.parametrize("parameter", ["charset=latin-1", "header=absent"])
def test_a_table_that_says_it_is_another_than_what_is_read_is_refused(
    client: FlaskClient, parameter: str
) -> None:
    data, media_type = b"a,y\n1,2\n3,4\n", f"text/csv; {parameter}"

    alone = post(client, "train?target=y", data, media_type)
    part = (io.BytesIO(data), "rows.csv", media_type)
    as_file = client.post(f"{ML}/train", data={"file": part, "target": "y"})

    assert (alone.status_code, as_file.status_code) == (415, 415)


def test_rows_of_a_table_that_cannot_be_fitted_are_not_blamed_on_json(client: FlaskClient) -> None:
    url = "train?target=y&estimator=logistic_regression"

    alone = post(client, url, b"a,y\n1,0\n3,0\n", CSV)
    as_file = upload(client, url, b"a,y\n1,0\n3,0\n", "rows.csv")

    assert list(alone.json["errors"]) == ["request"]
    assert list(as_file.json["errors"]) == ["form"]


@pytest.fixture
def small_app(database_url: str) -> Flask:
    """Return an application with low limits."""
    app = make_app(database_url, MAX_ROWS=5, MAX_COLUMNS=3)
    yield app
    dispose_app(app)


def test_more_rows_or_columns_than_allowed_are_refused(small_app: Flask) -> None:
    client = small_app.test_client()
    rows = np.arange(24.0).reshape(6, 4)
    tall = {"X": rows[:, :2].tolist(), "y": [1] * 6}
    wide = {"X": rows[:5].tolist(), "y": [1] * 5}

    assert client.post(f"{ML}/train", json=tall).status_code == 422
    assert client.post(f"{ML}/train", json=wide).status_code == 422
    for media_type, write in FORMS.items():
        for table in (
            pa.table({"a": range(6), "y": range(6)}),
            pa.table({name: range(2) for name in "abcdey"}),
        ):
            refused = post(client, "train?target=y", write(table), media_type)
            assert refused.status_code == 422, (media_type, refused.text)
