"""Tables over HTTP and at the command line: the same rows give the same model in any form."""

from __future__ import annotations

import csv as text
import io
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pytest
from flask import Flask
from flask.testing import FlaskClient, FlaskCliRunner
from pyarrow import feather
from sklearn.datasets import load_diabetes, load_iris
from werkzeug.test import TestResponse

from tests.bad_input.census import ARROW, CSV, PARQUET, WRITERS
from tests.faults import on_sqlite
from webapp.web import jsonio

pytestmark = on_sqlite

ML = "/api/v1/ml"
CASES = Path(__file__).parent / "cases"
JSON = "application/json"
ARROW_FILE = "application/vnd.apache.arrow.file"
LOGISTIC = "estimator=logistic_regression"
INDEX_LEFT_OUT = "is the index of a pandas data frame; it was left out"
SUFFIXES = {CSV: "2024.CSV", PARQUET: "pq", ARROW: "arrows", ARROW_FILE: "feather"}
SUFFIXES["application/x-parquet"] = "parquet"
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
    return client.post(f"{ML}/train", json={**body, "estimator": estimator}).json["model"]


def post(client: FlaskClient, path: str, data: bytes, media_type: str = CSV) -> TestResponse:
    return client.post(f"{ML}/{path}", data=data, content_type=media_type)


def upload(client: FlaskClient, path: str, data: bytes, *file: str, **form: str) -> TestResponse:
    return client.post(f"{ML}/{path}", data={"file": (io.BytesIO(data), *file), **form})


def train(
    client: FlaskClient, data: bytes, media_type: str = CSV, options: str = "", status: int = 201
) -> dict[str, Any]:
    """Return the answer to a training, which must have this status."""
    answer = post(client, f"train?target=y&test_size=0&{options}", data, media_type)
    assert answer.status_code == status, answer.text
    return answer.json


def by_command(runner: FlaskCliRunner, path: Path, *options: str) -> dict[str, Any]:
    """Return the version that `flask ml train` made."""
    arguments = ["ml", "train", str(path), "--target", "y", "--test-size", "0", "--json", *options]
    result = runner.invoke(args=arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("media_type", WRITERS)
@pytest.mark.parametrize("estimator", ROWS)
def test_the_same_rows_give_the_same_version_digest_for_digest(
    client: FlaskClient, media_type: str, estimator: str
) -> None:
    by_json = train_by_json(client, estimator)
    data = WRITERS[media_type](table_of(estimator))

    alone = post(client, f"train?target=y&estimator={estimator}", data, media_type)
    filename = f"rows.{SUFFIXES[media_type]}"
    as_file = upload(client, "train", data, filename, target="y", estimator=estimator)

    for answer in (alone, as_file):
        assert answer.status_code == 201, answer.text
        model = answer.json["model"]
        for key in ("digest", "data_digest", "classes", "coefficients"):
            assert model[key] == by_json[key]


@pytest.mark.parametrize(("accept", "status"), [("image/png", 406), ("text/html,*/*;q=0.1", 200)])
def test_another_format_is_not_acceptable(client: FlaskClient, accept: str, status: int) -> None:
    train_by_json(client)
    body = {"instances": [[0.0] * 10]}

    answer = client.post(f"{ML}/predict/batch", json=body, headers={"Accept": accept})

    assert answer.status_code == status


def test_options_of_a_table_are_those_of_json(client: FlaskClient) -> None:
    url = 'train?target=y&estimator=ridge&params={"alpha":0.5}&scale=true&test_size=0.5'

    model = post(client, url, WRITERS[CSV](table_of())).json["model"]

    assert model["params"]["alpha"] == 0.5
    assert (model["scale"], model["test_size"], model["n_test"]) == (True, 0.5, 221)


def test_options_of_a_form_that_are_null_or_empty_are_not_given(client: FlaskClient) -> None:
    data = WRITERS[CSV](table_of())
    empty = {"estimator": "null", "task": "null", "scale": "null", "params": "{}", "exclude": ""}

    alone = upload(client, "train", data, "rows.csv", target="y")
    beside = upload(client, "train", data, "rows.csv", target="y", **empty)

    assert (alone.status_code, beside.status_code) == (201, 201), beside.text
    assert beside.json["model"]["digest"] == alone.json["model"]["digest"]


@pytest.mark.parametrize(
    ("query", "media_type", "faults"),
    [
        ("", CSV, {"target": ["Missing data for required field."]}),
        ("target=y&target=z", CSV, {"target": ["Given more than once."]}),
        ("target=y&colour=red", CSV, {"colour": ["Unknown field."]}),
        ("target=y", JSON, {"target": ["belongs into the JSON body"]}),
        ("target=y&delimiter=;", PARQUET, {"delimiter": ["is an option of CSV alone"]}),
    ],
)
def test_options_that_make_no_sense_are_refused(
    client: FlaskClient, query: str, media_type: str, faults: dict[str, Any]
) -> None:
    body = b'{"X": [[1]], "y": [1]}' if media_type == JSON else WRITERS[media_type](table_of())

    refused = post(client, f"train?{query}", body, media_type)

    assert refused.status_code == 422
    assert refused.json["errors"] == {"query": faults}


def test_rows_of_a_table_that_cannot_be_fitted_are_not_blamed_on_json(client: FlaskClient) -> None:
    url = "train?target=y&estimator=logistic_regression"

    alone = post(client, url, b"a,y\n1,0\n3,0\n")
    as_file = upload(client, url, b"a,y\n1,0\n3,0\n", "rows.csv")

    assert list(alone.json["errors"]) == ["request"]
    assert list(as_file.json["errors"]) == ["form"]


# --- how people write tables ----------------------------------------------------------------

SAME_ROWS = {
    "plain.csv": {},
    "bom.csv": {},
    "trailing-comma.csv": {},
    "blanks-in-header.csv": {},
    "semicolon-comma.csv": {"delimiter": ";", "decimal": ","},
}


@pytest.mark.parametrize("name", SAME_ROWS)
def test_the_same_rows_are_the_same_data_however_csv_writes_them(
    client: FlaskClient, runner: FlaskCliRunner, name: str
) -> None:
    rows = [[1, 2], [2, 1], [3, 5], [4, 4], [5, 0], [0, 3]]
    y = [8, 7, 21, 20, 10, 9]
    body = {"X": rows * 2, "y": y * 2, "feature_names": ["a", "b"], "test_size": 0}
    by_json = client.post(f"{ML}/train", json=body).json["model"]
    data, dialect = (CASES / name).read_bytes(), SAME_ROWS[name]

    alone = train(client, data, options=urlencode(dialect))["model"]
    part = {"file": (io.BytesIO(data), name), "target": "y", "test_size": "0", **dialect}
    as_file = client.post(f"{ML}/train", data=part).json["model"]
    options = [f"--{name}={value}" for name, value in dialect.items()]
    at_command_line = by_command(runner, CASES / name, *options)

    for model in (alone, as_file, at_command_line):
        assert model["feature_names"] == ["a", "b"]
        assert model["data_digest"] == alone["data_digest"]
        assert model["coefficients"]["coefficients"] == pytest.approx({"a": 2, "b": 3})
    n_rows = len(data.strip().splitlines()) - 1
    if n_rows == len(body["y"]):
        assert alone["data_digest"] == by_json["data_digest"]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("semicolon-comma.csv", "if ';' separates its columns, give the options delimiter"),
        ("row-names.csv", "column 1 has no name; write the table without row names"),
        ("row-names-short-header.csv", "a first column of row names must have a name"),
        ("utf-16.csv", "is UTF-16, or not text; save the table as UTF-8"),
        ("windows-1252.csv", "perhaps Windows-1252; save the table as UTF-8"),
    ],
)
def test_a_table_that_is_written_in_another_way_is_refused_with_what_to_do(
    client: FlaskClient, runner: FlaskCliRunner, name: str, complaint: str
) -> None:
    faults = train(client, (CASES / name).read_bytes(), status=422)["errors"]
    result = runner.invoke(args=["ml", "train", str(CASES / name), "--target", "y"])

    assert complaint in str(faults)
    assert result.exit_code == 1
    assert complaint in result.stderr


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_any_usual_delimiter_separates_columns(
    client: FlaskClient, runner: FlaskCliRunner, tmp_path: Path, delimiter: str
) -> None:
    rows = "a,b,y\n1,2,8\n2,1,7\n3,5,21\n".replace(",", delimiter)
    options, path = urlencode({"delimiter": delimiter}), tmp_path / "rows.csv"
    path.write_text(f"b{delimiter}a\n2{delimiter}1\n")

    model = train(client, rows.encode(), options=options)["model"]
    answer = post(client, f"predict/batch?{options}", path.read_bytes())
    printed = runner.invoke(args=["ml", "predict", str(path), "--delimiter", delimiter]).stdout

    assert model["feature_names"] == ["a", "b"]
    assert [float(printed.splitlines()[1])] == pytest.approx(answer.json["predictions"])
    assert answer.json["predictions"] == pytest.approx([8])


@pytest.mark.parametrize(
    ("data", "options", "complaint"),
    [
        (b"a;y\n1,5;2\n", "delimiter=;",
         "is not a number; for decimal commas, give the option decimal=,"),
        *((b"a,y\n1,2\n", options, "'query': {") for options in (
            "delimiter=x", "delimiter=", "decimal=;", "delimiter=,&decimal=,", "decimal=,")),
        (b"a,y\n1,2,\n3,4,\n", "", "has 3 values, expected 2"),
    ],
)  # fmt: skip
def test_a_bad_csv_table_is_refused_by_place(
    client: FlaskClient, data: bytes, options: str, complaint: str
) -> None:
    assert complaint in str(train(client, data, options=options, status=422)["errors"])


def test_columns_left_out_for_want_of_a_name_are_told(client: FlaskClient) -> None:
    answer = train(client, b"a,y,,\n1,2,,\n3,4,,\n")

    message = "columns from 3 on have no name and no values; they were left out"
    assert answer["warnings"] == [{"column": "", "message": message}]
    assert answer["model"]["warnings"] == answer["warnings"]
    assert answer["model"]["feature_names"] == ["a"]


@pytest.mark.parametrize("space", ["\u00a0", "\u3000", "\u2009"])
def test_names_and_labels_may_hold_any_space_of_unicode(client: FlaskClient, space: str) -> None:
    text = f"unit{space}price,y\n" + f"1,a{space}b\n2,c\n" * 6

    model = train(client, text.encode(), options=LOGISTIC)["model"]

    assert model["feature_names"] == [f"unit{space}price"]
    assert model["classes"] == [f"a{space}b", "c"]


# --- rows without a target


TARGETS = {
    "numbers": ("linear_regression", [1.5, None, 2.5, 3.0, None, 4.0, 1.0, 2.0]),
    "whole numbers": ("logistic_regression", [0, None, 1, 1, None, 0, 1, 0]),
    "text": ("logistic_regression", ["a", None, "b", "b", None, "a", "b", "a"]),
    "booleans": ("logistic_regression", [True, None, False, False, None, True, False, True]),
}
TARGETS["encoded text"] = TARGETS["text"]


@pytest.mark.parametrize("kind", TARGETS)
def test_a_target_with_gaps_is_the_same_in_every_format(client: FlaskClient, kind: str) -> None:
    estimator, y = TARGETS[kind]
    body = {"X": [[n] for n in range(8)], "y": y, "feature_names": ["a"], "test_size": 0}
    by_json = client.post(f"{ML}/train", json={**body, "estimator": estimator}).json

    assert by_json["model"]["n_train"] == 6
    column = pa.array(y).dictionary_encode() if kind == "encoded text" else pa.array(y)
    a = [None if y[n] is None else float(n) for n in range(8)]
    for media_type, write in WRITERS.items():
        table = pa.table({"a": a, "y": column})
        answer = train(client, write(table), media_type, f"estimator={estimator}")
        for key in ("classes", "data_digest", "digest"):
            assert answer["model"][key] == by_json["model"][key], media_type
        message = "has no value in 2 of 8 rows, which were left out"
        assert answer["warnings"] == by_json["warnings"] == [{"column": "y", "message": message}]


# --- pandas' index


def test_the_index_of_a_data_frame_is_left_out_and_named(
    client: FlaskClient, runner: FlaskCliRunner, tmp_path: Path
) -> None:
    path, rows = CASES / "pandas-index.parquet", tmp_path / "rows.feather"
    frame = pd.DataFrame({"a": [1.0, 2], "b": [1.0, 1]}, index=[5, 3])
    feather.write_feather(pa.Table.from_pandas(frame), rows)

    answer = train(client, path.read_bytes(), PARQUET)
    version = by_command(runner, path)
    in_json = post(client, "predict/batch", rows.read_bytes(), ARROW_FILE)
    options: Any = {"content_type": ARROW_FILE, "headers": {"Accept": CSV}}
    in_csv = client.post(f"{ML}/predict/batch", data=rows.read_bytes(), **options)
    by_file = runner.invoke(args=["ml", "predict", str(rows)])

    (warning,) = answer["warnings"]
    assert warning == {"column": "__index_level_0__", "message": INDEX_LEFT_OUT}
    assert answer["model"]["feature_names"] == version["feature_names"] == ["a", "b"]
    number = version["version"]
    stored = client.get(f"{ML}/models/default/versions/{number}").json["warnings"]
    assert version["warnings"] == stored == in_json.json["warnings"] == [warning]
    assert json.loads(in_csv.headers["X-Warnings"]) == [warning]
    assert INDEX_LEFT_OUT in runner.invoke(args=["ml", "show", str(number)]).stdout
    assert f"__index_level_0__: {INDEX_LEFT_OUT}" in by_file.stderr


# --- limits ---------------------------------------------------------------------------------


@pytest.fixture
def small(own_app: Flask) -> FlaskClient:
    """Return a client of an application that takes few values."""
    own_app.config.update(MAX_ROWS=50, MAX_COLUMNS=10, MAX_CELLS=100)
    return own_app.test_client()


@pytest.mark.parametrize(
    ("n_rows", "n_columns", "complaint"),
    [
        (25, 3, ""),
        (51, 1, "has more than 50 rows"),
        (2, 11, "has 11 columns"),
        (26, 3, "has 26 rows of 4 values, more than 100 values in all"),
    ],
)
def test_rows_to_train_on_are_held_to_the_limits_in_every_form(
    small: FlaskClient, n_rows: int, n_columns: int, complaint: str
) -> None:
    X, y = np.arange(float(n_rows * n_columns)).reshape(n_rows, n_columns), range(n_rows)
    table = pa.table({**{f"x{number}": column for number, column in enumerate(X.T)}, "y": y})
    answers = [
        post(small, "train?target=y", write(table), kind) for kind, write in WRITERS.items()
    ]
    answers.append(small.post(f"{ML}/train", json={"X": X.tolist(), "y": list(y)}))

    for answer in answers:
        assert answer.status_code == (422 if complaint else 201), answer.text
        assert complaint in answer.text


def test_rows_to_predict_for_are_held_to_the_limits_in_every_form(small: FlaskClient) -> None:
    small.post(f"{ML}/train", json={"X": [[1, 2, 3]] * 25, "y": [1] * 25})
    table = pa.table({f"x{number}": range(34) for number in (1, 2, 3)})
    answers = [post(small, "predict/batch", write(table), kind) for kind, write in WRITERS.items()]
    for row in ([1, 2, 3], {"x1": 1, "x2": 2, "x3": 3}):
        answers.append(small.post(f"{ML}/predict/batch", json={"instances": [row] * 34}))

    for refused in answers:
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


def test_formulas_are_quoted_in_csv_where_asked_for(client: FlaskClient) -> None:
    labels = [*FORMULAS, *HARMLESS]
    rows = (np.eye(len(labels)) * 100).tolist()
    training = {"X": rows, "y": labels, "estimator": "logistic_regression"}
    assert client.post(f"{ML}/train", json=training).status_code == 201

    def predict(accept: str, **options: bool) -> TestResponse:
        body = {"instances": rows, **options}
        return client.post(f"{ML}/predict/batch", json=body, headers={"Accept": accept})

    def read(answer: TestResponse) -> list[str]:
        return [row[0] for row in text.reader(io.StringIO(answer.text))][1:]

    assert predict(JSON, for_spreadsheet=True).json["predictions"] == labels
    assert read(predict(CSV)) == labels
    quoted = [*(f"'{label}" for label in FORMULAS), *HARMLESS]
    assert read(predict(CSV, for_spreadsheet=True)) == quoted
    client.post(f"{ML}/train", json={"X": [[1]] * 9, "y": [-1] * 9, "test_size": 0})
    rows = [[1]]
    assert read(predict(CSV, for_spreadsheet=True)) == ["-1.0"]
