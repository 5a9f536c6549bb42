"""What `POST /ml/inspect` and `flask ml inspect` say of tables that people have."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from flask.testing import FlaskClient, FlaskCliRunner
from pyarrow import csv, ipc, parquet

DATA = Path(__file__).resolve().parents[1] / "data"
INSPECT = "/api/v1/ml/inspect"
KINDS = {
    "penguins": "category category number number number number category number",
    "titanic": "id category category number category",
    "tips": "number number number category category category category number",
    "auto": "number number number number number number number number number category",
    "seattle": "datetime number number number number category",
}
MISSING = {"penguins": [0, 0, 2, 2, 2, 2, 11, 0], "titanic": [0, 0, 0, 263, 0]}


def read_typed(path: Path) -> pa.Table:
    return csv.read_csv(path, convert_options=csv.ConvertOptions(strings_can_be_null=True))


def write_parquet(path: Path) -> bytes:
    parquet.write_table(read_typed(path), file := io.BytesIO())
    return file.getvalue()


def write_arrow(path: Path) -> bytes:
    table = read_typed(path)
    with ipc.new_stream(file := io.BytesIO(), table.schema) as writer:
        writer.write_table(table)
    return file.getvalue()


FORMATS: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    "csv": ("text/csv", Path.read_bytes),
    "parquet": ("application/vnd.apache.parquet", write_parquet),
    "arrow": ("application/vnd.apache.arrow.stream", write_arrow),
}


def inspect_csv(client: FlaskClient, text: str, query: str = "") -> dict[str, Any]:
    answer = client.post(f"{INSPECT}?{query}", data=text, content_type="text/csv")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json
    return found


def kinds_of(found: dict[str, Any]) -> list[str]:
    return [column["kind"] or "id" for column in found["columns"]]


def warnings_of(found: dict[str, Any]) -> dict[str, str]:
    return {warning["column"]: warning["message"] for warning in found["warnings"]}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", KINDS)
def test_a_table_that_people_have_is_seen_alike_in_every_format(
    client: FlaskClient, name: str, form: str
) -> None:
    path = DATA / f"{name}.csv"
    content_type, read = FORMATS[form]
    frame = pd.read_csv(path)

    found = client.post(INSPECT, data=read(path), content_type=content_type).json

    assert found["n_rows"] == len(frame)
    assert [column["name"] for column in found["columns"]] == list(frame.columns)
    assert kinds_of(found) == KINDS[name].split()
    for column in found["columns"]:
        values = frame[column["name"]]
        assert column["missing"] == values.isna().sum()
        assert column["distinct"] == values.nunique()
        assert len(column["examples"]) == 3 or column["distinct"] < 3
        if column["kind"] == "number":
            assert (column["minimum"], column["maximum"]) == (values.min(), values.max())
    if name in MISSING:
        assert [column["missing"] for column in found["columns"]] == MISSING[name]


def test_the_same_records_in_json_are_seen_as_in_csv(client: FlaskClient) -> None:
    frame = pd.read_csv(DATA / "penguins.csv")
    records = json.loads(frame.to_json(orient="records"))

    found = client.post(INSPECT, json={"data": records, "target": "species"}).json

    assert found == inspect_csv(client, (DATA / "penguins.csv").read_text(), "target=species")
    assert found["task"] == "classification"


def test_the_command_shows_what_the_service_answers(
    runner: FlaskCliRunner, client: FlaskClient
) -> None:
    path = DATA / "titanic.csv"
    arguments = ["ml", "inspect", str(path), "--target", "survived"]

    shown = runner.invoke(args=arguments)
    as_json = runner.invoke(args=[*arguments, "--json"])

    assert json.loads(as_json.stdout) == inspect_csv(client, path.read_text(), "target=survived")
    assert shown.stdout.startswith("titanic.csv: 1309 rows, a classification\n")
    assert "another value in nearly every row" in shown.stdout


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ("1,2.5,,1e3,-4,NA", "number"),
        ("true,False,,TRUE", "boolean"),
        ("2026-01-31,2026-02-01,", "datetime"),
        ("2026-01-31T10:00:00,2026-02-01 11:30:00", "datetime"),
        ("2026-01-31T10:00:00Z,2026-02-01T11:30:00+01:00", "datetime"),
        ("2026/01/31,2026/02/28", "datetime"),
        ("red,blue, red ,", "category"),
        ("1,2,three", "category"),
        ("2026-01-31,soon", "category"),
        (",,NA", "id"),
        (
            "The room was clean and the staff were friendly,"
            "Too loud at night and far away from the station,"
            "We will certainly come back here next summer",
            "text",
        ),
    ],
)
def test_a_column_of_csv_has_the_kind_of_its_values(
    client: FlaskClient, values: str, kind: str
) -> None:
    rows = "".join(f"0,{value}\n" for value in values.split(","))

    assert kinds_of(inspect_csv(client, f"i,c\n{rows}"))[1] == kind


def test_dates_are_shown_in_iso_8601_whatever_they_came_in(client: FlaskClient) -> None:
    days = pa.table({"day": pa.array([date(2026, 1, 31), date(2025, 2, 28)])})
    parquet.write_table(days, body := io.BytesIO())
    typed = client.post(INSPECT, data=body.getvalue(), content_type=FORMATS["parquet"][0]).json

    for found in (typed, inspect_csv(client, "day\n2026/01/31\n2025/02/28\n")):
        assert found["columns"][0]["examples"] == ["2026-01-31", "2025-02-28"]
        assert found["columns"][0]["minimum"] == "2025-02-28"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2026-01-31T10:30:00", "2026-01-31T10:30:00"),
        ("2026-01-31 10:30:00.250", "2026-01-31T10:30:00.250000"),
        ("2026-01-31T00:00:00Z", "2026-01-31T00:00:00Z"),
        ("2026-01-31T01:00:00+01:00", "2026-01-31T00:00:00Z"),
    ],
)
def test_times_are_shown_with_their_zone(client: FlaskClient, text: str, shown: str) -> None:
    (column,) = inspect_csv(client, f"at\n{text}\n")["columns"]

    assert column["examples"] == [shown]
    assert column["maximum"] == shown


def test_what_looks_wrong_is_said_by_column(client: FlaskClient) -> None:
    rows = [f"{n},same,user-{n},,{n % 3}" for n in range(100, 150)]

    found = inspect_csv(client, "\n".join(["n,constant,id,empty,y", *rows]), "target=y")

    assert warnings_of(found) == {
        "n": "numbers the rows: exclude it unless their order matters",
        "constant": "has the same value in every row",
        "id": "has another value in nearly every row, as names and ids have",
        "empty": "has no values",
        "y": "has few whole numbers, which may be the codes of classes: task=classification takes "
        "them so",
    }
    assert found["task"] == "regression"


def test_a_header_with_another_delimiter_is_refused_with_the_option_to_give(
    client: FlaskClient,
) -> None:
    text = "a;b\n1,5;2\n"

    refused = client.post(INSPECT, data=text, content_type="text/csv")

    assert refused.status_code == 422
    assert "if ';' separates its columns, give the options delimiter" in refused.text
    assert kinds_of(inspect_csv(client, text, "delimiter=;&decimal=,")) == ["number", "number"]


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ({"data": []}, {"data": ["must be an array of at least one object"]}),
        ({"data": [{"a": 1}, 2]}, "must be an object: values by the name of their column"),
        ({"data": [{}]}, "has no values"),
        ({"data": [{"a": 1}, {"a": "x"}]}, "is text, but the values before are a number"),
        ({"data": [{"a": [1]}]}, "must be a number, text, a boolean or null"),
        ({"data": [{"a": 1}], "target": "b"}, "has no column 'b'; its columns are a"),
    ],
)
def test_records_that_are_no_table_are_refused_by_place(
    client: FlaskClient, body: dict[str, Any], fault: Any
) -> None:
    answer = client.post(INSPECT, json=body)

    assert answer.status_code == 422
    assert (fault if isinstance(fault, str) else json.dumps(fault)) in json.dumps(answer.json)


TYPED: list[tuple[pa.DataType, list[Any], str]] = [
    (pa.int8(), [1, None, -1], "number"),
    (pa.uint64(), [2**63 + 1, None, 0], "number"),
    (pa.float16(), [1.5, None, float("nan")], "number"),
    (pa.float64(), [float("inf"), None, 1.0], "number"),
    (pa.decimal128(5, 2), [Decimal("1.25"), None, Decimal("2")], "number"),
    (pa.bool_(), [True, None, False], "boolean"),
    (pa.date32(), [date(2026, 1, 31), None, date(1, 1, 1)], "datetime"),
    (pa.timestamp("ns", "Europe/Zurich"), [datetime(2026, 1, 31, tzinfo=UTC), None], "datetime"),
    (pa.timestamp("ns", "Mars/Olympus"), [1, None, 2**63 - 1], "datetime"),
    (pa.timestamp("s"), [-(2**62), None, 2**62], "datetime"),
    (pa.date32(), [-(2**31), None, 2**31 - 1], "datetime"),
    (pa.large_string(), ["a", None, ""], "category"),
    (pa.string_view(), ["a", None, "b"], "category"),
    (pa.dictionary(pa.int8(), pa.string()), ["a", None, "a"], "category"),
    (pa.dictionary(pa.int8(), pa.int64()), [1, None, 2], "category"),
    (pa.string(), ["1", "2", None], "category"),
    (pa.null(), [None, None], "id"),
    (pa.time64("us"), [time(12), None], "id"),
    (pa.duration("s"), [timedelta(1), None], "id"),
    (pa.binary(), [b"a", None], "id"),
    (pa.list_(pa.int64()), [[1], None], "id"),
    (pa.struct([("a", pa.int64())]), [{"a": 1}, None], "id"),
]


@pytest.mark.parametrize(("kind", "values", "expected"), TYPED, ids=[str(t[0]) for t in TYPED])
def test_every_type_of_arrow_has_a_kind_or_a_warning(
    client: FlaskClient, kind: pa.DataType, values: list[Any], expected: str
) -> None:
    table = pa.table({"i": range(len(values)), "c": pa.array(values, kind)})
    with ipc.new_stream(body := io.BytesIO(), table.schema) as writer:
        writer.write_table(table)

    answer = client.post(INSPECT, data=body.getvalue(), content_type=FORMATS["arrow"][0])

    assert answer.status_code == 200, answer.text
    column = answer.json["columns"][1]
    assert (column["kind"] or "id") == expected
    assert column["missing"] >= values.count(None)
    assert (column["kind"] is None) == ("c" in warnings_of(answer.json))
