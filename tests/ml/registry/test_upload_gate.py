"""`activate=if_better` of an upload: it and the active version, judged on the rows it brings."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import skops.io
from flask.testing import FlaskClient, FlaskCliRunner
from sklearn.cluster import KMeans
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from werkzeug.test import TestResponse

from tests.faults import on_sqlite
from tests.ml.calls import MODEL
from tests.tables import to_csv, to_parquet

pytestmark = on_sqlite
RANDOM = np.random.default_rng(1)
TABLE = pa.table({"a": RANDOM.normal(size=40).round(3), "b": RANDOM.normal(size=40).round(3)})
FRAME = TABLE.to_pandas()
PRICE = 3 * FRAME.a - FRAME.b
LEVEL = np.where(PRICE > 0, "high", "low")
ROWS = {
    "regression": TABLE.append_column("y", pa.array(PRICE.round(1))),
    "classification": TABLE.append_column("y", pa.array(LEVEL)),
}
GOOD = {
    "regression": LinearRegression().fit(FRAME, PRICE),
    "classification": LogisticRegression().fit(FRAME, LEVEL),
}
BAD = {
    "regression": Ridge(1e6).fit(FRAME, PRICE),
    "classification": LogisticRegression().fit(FRAME, LEVEL[::-1]),
}
COMPARED = {"activate": "if_better", "metric": "rmse", "target": "y"}


def upload(
    client: FlaskClient, model: Any, rows: bytes = b"", name: str = "rows.csv", **fields: str
) -> TestResponse:
    headers = {"Idempotency-Key": fields.pop("key")} if "key" in fields else {}
    form: dict[str, Any] = {field: [value] for field, value in fields.items()}
    artifact = model if isinstance(model, bytes) else skops.io.dumps(model)
    form.setdefault("artifact", []).append((io.BytesIO(artifact), "a.skops"))
    if rows:
        form["table"] = [(io.BytesIO(rows), name)]
    return client.post(f"{MODEL}/versions", data=form, headers=headers)


def active(client: FlaskClient) -> int:
    return int(client.get(MODEL).json["active_version"])


@pytest.mark.parametrize(("task", "metric"), [("regression", "rmse"), ("classification", "f1")])
def test_the_better_of_two_is_active(client: FlaskClient, task: str, metric: str) -> None:
    rows = to_parquet(ROWS[task])
    compared = {**COMPARED, "metric": metric}

    first = upload(client, BAD[task], rows, "rows.parquet", **compared)
    up = upload(client, GOOD[task], rows, "rows.parquet", **compared)
    down = upload(client, BAD[task], rows, "rows.parquet", **compared)

    assert [each.status_code for each in (first, up, down)] == [201, 201, 201], up.text
    assert first.json["comparison"]["version"] is None
    assert [each.json["comparison"]["better"] for each in (first, up, down)] == [True, True, False]
    assert active(client) == 2
    body = {"data": ROWS[task].to_pylist(), "target": "y"}
    evaluated = [
        client.post(f"{MODEL}/versions/{number}/evaluate", json=body).json["metrics"][metric]
        for number in (2, 1)
    ]
    found = up.json["comparison"]
    np.testing.assert_allclose([found["candidate"], found["active"]], evaluated, rtol=1e-9)
    assert client.get(f"{MODEL}/versions/2").json["metrics"]["comparison"] == found


def test_the_rows_may_be_a_packed_csv_of_any_dialect(client: FlaskClient) -> None:
    upload(client, BAD["regression"], activate="true")
    further = ROWS["regression"].append_column("id", pa.array(range(40)))
    text = to_csv(further).replace(b",", b";").replace(b".", b",")

    answer = upload(
        client,
        GOOD["regression"],
        gzip.compress(text),
        "rows.csv.gz",
        **{**COMPARED, "delimiter": ";", "decimal": ",", "extra": "ignore"},
    )

    assert answer.status_code == 201, answer.text
    assert (answer.json["comparison"]["better"], active(client)) == (True, 2)
    assert [warning["column"] for warning in answer.json["warnings"]] == ["id"]


def test_another_signature_is_never_better(client: FlaskClient) -> None:
    upload(client, BAD["regression"], activate="true")
    reordered = LinearRegression().fit(FRAME[["b", "a"]], PRICE)
    classifier = GOOD["classification"]

    columns = upload(client, reordered, to_csv(ROWS["regression"]), **COMPARED)
    rows = to_csv(ROWS["classification"])
    task = upload(client, classifier, rows, **{**COMPARED, "metric": "accuracy"})
    forced = upload(client, classifier, activate="true")

    for answer, why in ((columns, "the columns in another order"), (task, "for classification")):
        differs, stays = (warning["message"] for warning in answer.json["warnings"])
        assert differs.startswith("differs from the active version 1: it ")
        assert stays.startswith("was not compared with the active version 1, which stays: it ")
        assert why in differs
        assert why in stays
        found = answer.json["comparison"]
        assert (found["version"], found["active"], found["better"]) == (1, None, False)
    assert "for classification" in forced.json["warnings"][0]["message"]
    assert active(client) == 4


def test_a_repeat_with_an_idempotency_key_gets_the_comparison_again(client: FlaskClient) -> None:
    rows, others = to_csv(ROWS["regression"]), to_csv(ROWS["regression"].slice(1))
    artifact = skops.io.dumps(GOOD["regression"])

    first, again = (upload(client, artifact, rows, key="once", **COMPARED) for _ in range(2))
    other = upload(client, artifact, others, key="once", **COMPARED)

    assert first.json["comparison"]["better"] is True
    assert again.json == first.json
    assert other.status_code == 422


def test_the_command_line_takes_it_too(
    client: FlaskClient, runner: FlaskCliRunner, tmp_path: Path
) -> None:
    upload(client, BAD["regression"], activate="true")
    model, table = tmp_path / "a.skops", tmp_path / "rows.csv"
    skops.io.dump(GOOD["regression"], model)
    table.write_bytes(to_csv(ROWS["regression"]))
    command = ["ml", "import", str(model), "--model", "house-prices", "--metric", "rmse"]

    alone = runner.invoke(args=command)
    compared = runner.invoke(args=[*command, "--table", str(table), "--target", "y"])

    assert "--metric, --table and --target go together" in alone.output
    assert (compared.exit_code, active(client)) == (0, 2), compared.output
    assert '"better": true' in compared.output


CSV_ROWS = to_csv(ROWS["regression"])
TWO = LinearRegression().fit(FRAME, np.stack([PRICE, PRICE], axis=1))
REFUSED: dict[str, tuple[Any, bytes, dict[str, str], str]] = {
    "no metric": (None, CSV_ROWS, {"metric": "null"}, "form.metric: Is what if_better needs."),
    "no table": (None, b"", {}, "form.table: Is what if_better needs."),
    "no gate": (None, CSV_ROWS, {"activate": "true"}, "Is for activate=if_better alone."),
    "text": (None, b"", {"table": "a,b,y"}, "form.table: Must be sent as a file."),
    "artifact": (None, CSV_ROWS, {"artifact": "x"}, "form.artifact: Must be sent as a file."),
    "metric": (None, CSV_ROWS, {"metric": "f1"}, "form.metric: is none of a regression, which"),
    "target": (None, CSV_ROWS, {"target": "a"}, "form.target: is 'a', a feature of the model"),
    "no target": (None, CSV_ROWS, {"target": "z"}, "csv: has no column 'z'"),
    "no rows": (None, CSV_ROWS.replace(b"a", b"c", 1), {}, "csv.a: "),
    "outputs": (TWO, CSV_ROWS, {}, "form.table: cannot be compared: the version predicts several"),
    "clusters": (KMeans(2).fit(FRAME), CSV_ROWS, {}, "is none of a clustering, which has none"),
    "its words": (None, CSV_ROWS, {"metrics": '{"comparison": 1}'}, "form.metrics: Has a compar"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_what_if_better_needs(client: FlaskClient, case: Any) -> None:
    model, rows, fields, fault = case

    refused = upload(client, model or GOOD["regression"], rows, **{**COMPARED, **fields})

    assert refused.status_code == 422, refused.text
    assert fault in refused.json["detail"]
    assert client.get(MODEL).status_code == 404
