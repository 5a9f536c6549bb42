"""Tables as people have them, over HTTP and at the command line: each file stands for a kind."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from flask import Flask
from flask.testing import FlaskClient, FlaskCliRunner
from pyarrow import feather

from tests.bad_input.census import ARROW, CSV, PARQUET, WRITERS
from tests.conftest import dispose_app, make_app, migrate
from tests.tables import to_arrow, to_parquet

ML = "/api/v1/ml"
CASES = Path(__file__).parent / "cases"
ARROW_FILE = "application/vnd.apache.arrow.file"
LOGISTIC = "estimator=logistic_regression"
INDEX_LEFT_OUT = "is the index of a pandas data frame; it was left out"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """Return an application; what is read does not depend on the database."""
    url = f"sqlite:///{tmp_path_factory.mktemp('cases')}/cases.db"
    migrate(url)
    app = make_app(url)
    yield app
    dispose_app(app)


def train(
    client: FlaskClient, data: bytes, media_type: str = CSV, options: str = ""
) -> dict[str, Any]:
    """Return the answer to a training that must succeed."""
    url = f"{ML}/train?target=y&test_size=0&{options}"
    answer = client.post(url, data=data, content_type=media_type)
    assert answer.status_code == 201, answer.text
    return answer.json


def refuse(
    client: FlaskClient, data: bytes, media_type: str = CSV, options: str = ""
) -> dict[str, Any]:
    """Return the faults of a training that must be refused."""
    url = f"{ML}/train?target=y&{options}"
    answer = client.post(url, data=data, content_type=media_type)
    assert answer.status_code == 422, answer.text
    return answer.json["errors"]


def by_command(runner: FlaskCliRunner, path: Path, *options: str) -> dict[str, Any]:
    """Return the version that `flask ml train` made."""
    arguments = ["ml", "train", str(path), "--target", "y", "--test-size", "0", "--json", *options]
    result = runner.invoke(args=arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def predict_one(client: FlaskClient, *features: float) -> float:
    return client.post(f"{ML}/predict", json={"features": features}).json["prediction"]


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
    faults = refuse(client, (CASES / name).read_bytes())
    result = runner.invoke(args=["ml", "train", str(CASES / name), "--target", "y"])

    assert complaint in str(faults)
    assert result.exit_code == 1
    assert complaint in result.stderr


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_any_usual_delimiter_separates_columns(client: FlaskClient, delimiter: str) -> None:
    def write(text: str) -> bytes:
        return text.replace(",", delimiter).encode()

    plain = train(client, b"a,b,y\n1,2,8\n2,1,7\n3,5,21\n")["model"]
    options = urlencode({"delimiter": delimiter})

    model = train(client, write("a,b,y\n1,2,8\n2,1,7\n3,5,21\n"), options=options)["model"]
    url = f"{ML}/predict/batch?{options}"
    answer = client.post(url, data=write("a,b\n1,2\n"), content_type=CSV)

    assert model["data_digest"] == plain["data_digest"]
    assert answer.json["predictions"] == pytest.approx([8])


@pytest.mark.parametrize(
    ("data", "options", "complaint"),
    [
        (b"a;y\n1,5;2\n", "delimiter=;",
         "is not a number; for decimal commas, give the option decimal=,"),
        *((b"a,y\n1,2\n", options, "'query': {") for options in (
            "delimiter=x", "delimiter=", "decimal=;", "delimiter=,&decimal=,", "decimal=,")),
        (b"a,y,\n1,2,\n3,4,5\n", "", "column 3 has no name, but a value in row 1"),
        (b"a,,y\n1,,2\n", "", "column 2 has no name"),
        (b'"",a,y\n0,1,2\n', "", "column 1 has no name"),
        (b"a,y\n1,2,\n3,4,\n", "", "has 3 values, expected 2"),
        (b"a,y\n1,\n2,\n,3\n", "", "{'a': {'2': ['is missing or not finite; "),
    ],
)  # fmt: skip
def test_a_csv_table_that_cannot_be_used_is_refused_by_place(
    client: FlaskClient, data: bytes, options: str, complaint: str
) -> None:
    assert complaint in str(refuse(client, data, options=options))


def test_a_dialect_is_refused_beside_another_format(client: FlaskClient) -> None:
    data = (CASES / "pandas-index.parquet").read_bytes()

    faults = refuse(client, data, PARQUET, "delimiter=;")

    assert faults == {"query": {"delimiter": ["is an option of CSV alone"]}}


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


def test_names_in_any_format_lose_the_blanks_around_them(client: FlaskClient) -> None:
    table = pa.table({" a": [1.0, 2.0, 3.0], "y ": [2.0, 4.0, 6.0]})

    for media_type, data in {PARQUET: to_parquet(table), ARROW: to_arrow(table)}.items():
        assert train(client, data, media_type)["model"]["feature_names"] == ["a"]


# --- rows without a target


TARGETS = {
    "numbers": ("linear_regression", [1.5, None, 2.5, 3.0, None, 4.0, 1.0, 2.0]),
    "whole numbers": ("logistic_regression", [0, None, 1, 1, None, 0, 1, 0]),
    "text": ("logistic_regression", ["a", None, "b", "b", None, "a", "b", "a"]),
    "booleans": ("logistic_regression", [True, None, False, False, None, True, False, True]),
}


@pytest.mark.parametrize("kind", TARGETS)
def test_a_target_with_gaps_is_the_same_in_every_format(client: FlaskClient, kind: str) -> None:
    estimator, y = TARGETS[kind]
    body = {"X": [[n] for n in range(8)], "y": y, "feature_names": ["a"], "test_size": 0}
    by_json = client.post(f"{ML}/train", json={**body, "estimator": estimator}).json

    assert by_json["model"]["n_train"] == 6
    for media_type, write in WRITERS.items():
        table = pa.table({"a": np.arange(8.0), "y": y})
        answer = train(client, write(table), media_type, f"estimator={estimator}")
        for key in ("classes", "data_digest", "digest"):
            assert answer["model"][key] == by_json["model"][key], media_type
        assert answer["warnings"] == by_json["warnings"]
        assert len(answer["warnings"]) == 1


# --- pandas' index


def test_the_index_of_a_data_frame_is_no_feature(
    client: FlaskClient, runner: FlaskCliRunner
) -> None:
    path = CASES / "pandas-index.parquet"

    answer = train(client, path.read_bytes(), PARQUET)
    version = by_command(runner, path)

    assert answer["model"]["feature_names"] == version["feature_names"] == ["a", "b"]
    (warning,) = answer["warnings"]
    assert warning == {"column": "__index_level_0__", "message": INDEX_LEFT_OUT}
    assert version["warnings"] == [warning]
    number = version["version"]
    assert client.get(f"{ML}/models/default/versions/{number}").json["warnings"] == [warning]
    assert INDEX_LEFT_OUT in runner.invoke(args=["ml", "show", str(number)]).stdout


INDEXES: dict[str, Any] = {
    "consecutive": None,
    "unnamed": pd.Index([5, 3, 1, 0]),
    "text": pd.Index(list("dcba"), name="key"),
    "two levels": pd.MultiIndex.from_arrays([list("aabb"), [2, 1, 2, 1]], names=["k", None]),
    "dates": pd.date_range("2026-01-01", periods=4, name="day"),
}


def pandas_bytes(frame: pd.DataFrame) -> dict[str, bytes]:
    table = pa.Table.from_pandas(frame)
    file = io.BytesIO()
    feather.write_feather(table, file)
    return {PARQUET: to_parquet(table), ARROW: to_arrow(table), ARROW_FILE: file.getvalue()}


@pytest.mark.parametrize("kind", INDEXES)
def test_any_index_is_left_out_in_training_and_in_prediction(
    client: FlaskClient, kind: str, tmp_path: Path, runner: FlaskCliRunner
) -> None:
    frame = pd.DataFrame({"a": [1.0, 2, 3, 4], "y": [2.0, 4, 6, 8]}, index=INDEXES[kind])
    names = [name or f"__index_level_{i}__" for i, name in enumerate(frame.index.names)]
    if kind == "consecutive":
        names = []  # described in the metadata, and no column
    warnings = [{"column": name, "message": INDEX_LEFT_OUT} for name in names]

    for media_type, data in pandas_bytes(frame).items():
        answer = train(client, data, media_type)
        assert answer["model"]["feature_names"] == ["a"]
        assert answer["warnings"] == warnings
    for media_type, data in pandas_bytes(frame[["a"]]).items():
        url = f"{ML}/predict/batch"
        predicted = client.post(url, data=data, content_type=media_type)
        assert predicted.json["predictions"] == pytest.approx([2, 4, 6, 8])
        assert predicted.json.get("warnings", []) == warnings
        as_csv = client.post(url, data=data, content_type=media_type, headers={"Accept": CSV})
        assert json.loads(as_csv.headers.get("X-Warnings", "[]")) == warnings
    path = tmp_path / "rows.feather"
    path.write_bytes(pandas_bytes(frame[["a"]])[ARROW_FILE])
    result = runner.invoke(args=["ml", "predict", str(path)])
    assert len(result.stdout.splitlines()) == 5
    assert all(name in result.stderr for name in names)


def test_an_index_that_is_asked_for_by_name_is_read(client: FlaskClient) -> None:
    frame = pd.DataFrame({"a": [1.0, 2, 3]}, index=pd.Index([2.0, 4, 6], name="y"))

    answer = train(client, pandas_bytes(frame)[PARQUET], PARQUET)

    assert (answer["model"]["feature_names"], answer["warnings"]) == (["a"], [])
    frame = pd.DataFrame(index=pd.Index([1.0, 2, 3], name="a"))
    data = pandas_bytes(frame)[ARROW]
    answer = client.post(f"{ML}/predict/batch", data=data, content_type=ARROW)
    assert answer.json["predictions"] == pytest.approx([2, 4, 6])
    assert "warnings" not in answer.json


@pytest.mark.parametrize(
    "described",
    [
        b"", b"{", b"null", b"[]", b"1", b'"index_columns"', b"{}", b'{"index_columns": null}',
        b'{"index_columns": 7}', b'{"index_columns": {"a": 1}}', b'{"index_columns": "a"}',
        b'{"index_columns": [1, null, [], {}, {"kind": "range", "start": "x"}, "b"]}',
        b'{"index_columns": [{"name": "a"}]}', b"[" * 100_000, b"\xff\xfe", b'"' * 100_000,
        b'{"index_columns": [' + b'"b",' * 100_000 + b'"b"]}',
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
def test_metadata_that_pandas_did_not_write_name_no_column(
    client: FlaskClient, described: bytes
) -> None:
    table = pa.table({"a": [1.0, 2, 3], "y": [2.0, 4, 6]})
    table = table.replace_schema_metadata({b"pandas": described})

    for media_type in (PARQUET, ARROW):
        answer = train(client, WRITERS[media_type](table), media_type)
        assert (answer["model"]["feature_names"], answer["warnings"]) == (["a"], [])


def test_metadata_that_call_everything_an_index_are_refused(client: FlaskClient) -> None:
    names = [f"x{number}" for number in range(20)]
    table = pa.table({name: [1.0, 2.0] for name in [*names, "y"]})
    everything = json.dumps({"index_columns": [*names, "y"]}).encode()
    table = table.replace_schema_metadata({b"pandas": everything})

    assert "more than 10" in str(refuse(client, to_parquet(table), PARQUET))
