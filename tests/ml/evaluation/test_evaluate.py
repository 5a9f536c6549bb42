"""Versions judged on rows that are posted, in any form."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import skops.io
from flask.testing import FlaskClient, FlaskCliRunner
from sklearn.cluster import KMeans
from sklearn.ensemble import IsolationForest, RandomForestRegressor
from sklearn.neighbors import KNeighborsClassifier
from werkzeug.test import TestResponse

from tests.faults import on_sqlite
from tests.ml.calls import ARROW, CSV, MODEL, train_constant
from tests.ml.expected_metrics import assert_same, expect_classification, expect_regression
from tests.ml.test_uploads import send
from tests.tables import WRITERS
from webapp.ml.core import evaluation
from webapp.ml.core.datasets import Dataset
from webapp.ml.core.metrics import PROBABILITY_METRICS
from webapp.ml.core.scoring import Scores

VERSION = f"{MODEL}/versions/1"
TYPES = {"csv": CSV, "parquet": "application/vnd.apache.parquet", "arrow": ARROW}
FORMS = ["rows", "records", *TYPES, "form"]


def make_table(kind: str, *, seed: int = 1) -> pa.Table:
    """Return 60 rows whose target `y` is of a kind."""
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(2, 60)).round(3)
    place = random.permuted(np.arange(60) % 3)
    y: Any = (2 * a - b + random.normal(size=60)).round(3)
    if kind in ("text", "codes"):
        y = np.array(["low", "mid", "top"] if kind == "text" else [10, 20, 30])[place]
    elif kind == "truth":
        y = place > 0
    columns: dict[str, Any] = {"a": a, "b": b}
    if kind in ("text", "truth"):  # a table with kinds
        columns["colour"] = pa.array(np.array(["red", "blue", None])[random.permuted(place)])
    return pa.table({**columns, "y": y})


def post_table(
    client: FlaskClient, url: str, table: pa.Table, form: str, **options: Any
) -> TestResponse:
    """Send a table in a form, with its options, and return the answer."""
    if form == "rows":
        X = list(zip(*(column.to_pylist() for column in table.drop_columns("y")), strict=True))
        return client.post(url, json={"X": X, "y": table["y"].to_pylist(), **options})
    if form == "records":
        return client.post(url, json={"data": table.to_pylist(), **options})
    if form == "form":
        file = (io.BytesIO(WRITERS["csv"](table)), "rows.csv")
        return client.post(url, data={"file": file, **options})
    data = WRITERS[form](table)
    return client.post(url, data=data, content_type=TYPES[form], query_string=options)


def train(client: FlaskClient, table: pa.Table, **options: Any) -> dict[str, Any]:
    answer = post_table(client, f"{MODEL}/train", table, "parquet", target="y", **options)
    assert answer.status_code == 201, answer.text
    return dict(answer.json["model"])


def evaluate(
    client: FlaskClient, table: pa.Table, form: str = "parquet", **options: Any
) -> dict[str, Any]:
    answer = post_table(client, f"{VERSION}/evaluate", table, form, **options)
    assert answer.status_code == 200, answer.text
    return dict(answer.json)


def expect(client: FlaskClient, table: pa.Table) -> dict[str, Any]:
    """Return scikit-learn's own metrics of the predictions that version 1 makes for a table."""
    rows = table.drop_columns("y").to_pylist()
    answer = client.post(f"{VERSION}/predict/batch", json={"instances": rows}).json
    y, predicted = np.asarray(table["y"]), np.array(answer["predictions"])
    if "probabilities" not in answer:
        return expect_regression(y, predicted, y)
    y = y.astype(int) if y.dtype == bool else y
    probabilities = np.array(list(answer["probabilities"].values())).T
    return expect_classification(y, predicted, probabilities, np.unique(y).tolist(), y)


@on_sqlite
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["numbers", "codes", "text", "truth"])
def test_metrics_are_scikit_learns_whatever_form_the_rows_come_in(
    client: FlaskClient, kind: str, form: str
) -> None:
    options = {"estimator": "logistic_regression"} if kind == "codes" else {}
    trained = train(client, make_table(kind), **options)
    train_constant(client, 7)  # which is active, and not asked
    table = make_table(kind, seed=2)

    answer = evaluate(client, table, form)
    on_training = evaluate(client, make_table(kind), form)

    assert_same(answer["metrics"], expect(client, table))
    assert (answer["n_rows"], answer["warnings"]) == (60, [])
    assert on_training["data_digest"] == trained["data_digest"] != answer["data_digest"]


@on_sqlite
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["numbers", "text"])
def test_rows_without_a_target_are_left_out(client: FlaskClient, kind: str, form: str) -> None:
    train(client, make_table(kind))
    table = make_table(kind, seed=2)
    kept = evaluate(client, table.slice(2))
    gaps = pa.array([None, None, *table["y"].to_pylist()[2:]], table["y"].type)
    place = table.column_names.index("y")
    spoilt = pa.array([None, *table["a"].to_pylist()[1:]])  # of a row that is left out

    answer = evaluate(client, table.set_column(place, "y", gaps).set_column(0, "a", spoilt), form)

    assert answer["metrics"] == kept["metrics"]
    assert answer["data_digest"] == kept["data_digest"]
    (warning,) = answer["warnings"]
    assert warning["message"] == "has no value in 2 of 60 rows, which were left out"


@on_sqlite
@pytest.mark.parametrize("form", FORMS)
def test_labels_that_the_version_does_not_know_count_as_wrong(
    client: FlaskClient, form: str
) -> None:
    train(client, make_table("text"))
    table = make_table("text", seed=2)
    known = evaluate(client, table)["metrics"]
    right = known["accuracy"] * 60
    new = table.slice(0, 1).set_column(3, "y", pa.array(["new"]))

    answer = evaluate(client, pa.concat_tables([table, new]), form)

    found = answer["metrics"]
    assert found["accuracy"] == pytest.approx(right / 61)
    assert found["by_class"]["new"] == {"precision": 0, "recall": 0, "f1": 0, "support": 1}
    assert {name: found[name] for name in PROBABILITY_METRICS} == dict.fromkeys(
        PROBABILITY_METRICS
    )
    (warning,) = answer["warnings"]
    assert "'new'" in warning["message"]
    assert "1 of 61 rows count as wrong" in warning["message"]


@on_sqlite
def test_text_that_looks_like_numbers_is_text_where_the_version_knows_text(
    client: FlaskClient,
) -> None:
    X = [[0.0], [1.0], [2.0]] * 4
    client.post(f"{MODEL}/train", json={"X": X, "y": ["1", "2", "x"] * 4})

    found = client.post(f"{VERSION}/evaluate", data=b"x1,y\n0,1\n1,2\n", content_type=CSV)

    assert found.json["metrics"]["accuracy"] == 1
    assert found.json["warnings"] == []


@on_sqlite
@pytest.mark.parametrize(("kind", "other"), [("text", "codes"), ("codes", "text")])
@pytest.mark.parametrize("form", ["rows", "csv", "arrow"])
def test_labels_of_another_kind_are_refused(
    client: FlaskClient, kind: str, other: str, form: str
) -> None:
    train(client, make_table(kind), estimator="logistic_regression")
    labels = make_table(other)["y"]
    table = make_table(kind).set_column(make_table(kind).num_columns - 1, "y", labels)

    refused = post_table(client, f"{VERSION}/evaluate", table, form)

    if (kind, form) == ("text", "csv"):  # there, 10 is text
        assert refused.json["metrics"]["accuracy"] == 0
    else:
        assert refused.status_code == 422
        assert "but the labels of the model are" in refused.json["detail"]


@on_sqlite
@pytest.mark.parametrize("form", ["records", "csv", "parquet"])
def test_further_columns_are_refused_by_name_or_ignored(client: FlaskClient, form: str) -> None:
    train(client, make_table("text"))
    table = make_table("text", seed=2)
    more = table.append_column("id", pa.array([f"no {n}" for n in range(60)]))

    refused = post_table(client, f"{VERSION}/evaluate", more, form)
    answer = evaluate(client, more, form, extra="ignore")

    assert refused.status_code == 422
    assert "id: is not a feature of the model" in refused.json["detail"]
    assert answer["data_digest"] == evaluate(client, table)["data_digest"]
    message = "is not a feature of the model; it was left out"
    assert answer["warnings"] == [{"column": "id", "message": message}]


@on_sqlite
def test_values_that_training_did_not_have_are_counted(client: FlaskClient) -> None:
    train(client, make_table("text"))
    table = make_table("text", seed=2)
    colours = pa.array(["green", *table["colour"].to_pylist()[1:]])

    (warning,) = evaluate(client, table.set_column(2, "colour", colours))["warnings"]

    message = "has a value not seen in training in 1 of 60 rows"
    assert warning == {"column": "colour", "message": message}


@on_sqlite
def test_the_target_may_have_another_name_and_must_be_known(client: FlaskClient) -> None:
    train(client, make_table("numbers"))
    table = make_table("numbers", seed=2)
    renamed = table.rename_columns(["a", "b", "price"])
    artifact = client.get(f"{VERSION}/artifact").data
    upload = {"artifact": (io.BytesIO(artifact), "a.skops"), "feature_names": '["a", "b"]'}
    client.post(f"{MODEL}/versions", data=upload)

    for form in ("csv", "records"):
        found = evaluate(client, renamed, form, target="price")
        assert found["data_digest"] == evaluate(client, table)["data_digest"]
        for options, fault in (
            ({}, "has no column 'y'"),
            ({"target": "nobody"}, "has no column 'nobody'"),
            ({"target": "a"}, "target: is 'a', a feature of the model"),
        ):
            refused = post_table(client, f"{VERSION}/evaluate", renamed, form, **options)
            assert (refused.status_code, fault in refused.json["detail"]) == (422, True), form
        unknown = post_table(client, f"{MODEL}/versions/2/evaluate", renamed, form)
        assert "target: is needed" in unknown.json["detail"]
        url = f"{MODEL}/versions/2/evaluate"
        assert post_table(client, url, renamed, form, target="price").status_code == 200


def test_evaluations_are_kept_with_who_and_when_as_long_as_their_version(
    client: FlaskClient,
) -> None:
    train(client, make_table("numbers"))
    train_constant(client, 7)
    made = [evaluate(client, make_table("numbers", seed=seed)) for seed in (2, 3, 4)]

    listed = client.get(f"{VERSION}/evaluations?page_size=2")

    assert listed.json == made[:0:-1]
    assert client.get(f"{VERSION}/evaluations?page_size=2&page=2").json == made[:1]
    assert json.loads(listed.headers["X-Pagination"])["total"] == 3
    assert client.get(f"{MODEL}/versions/2/evaluations").json == []
    entry = client.get("/api/v1/audit").json[0]
    assert (entry["action"], entry["details"]) == ("version.evaluate", {"version": 1})
    assert client.delete(VERSION).status_code == 204
    assert client.get(f"{VERSION}/evaluations").status_code == 404
    refused = post_table(client, f"{VERSION}/evaluate", make_table("numbers"), "csv")
    assert refused.status_code == 404


def test_the_command_line_evaluates_as_the_service_does(
    client: FlaskClient, runner: FlaskCliRunner, tmp_path: Path
) -> None:
    train(client, make_table("text"))
    path = tmp_path / "may.csv"
    path.write_bytes(WRITERS["csv"](make_table("text", seed=2)))
    command = ["ml", "evaluate", str(path), "--model", "house-prices"]

    shown = runner.invoke(args=[*command, "--version", "1", "--as", "ann"])
    as_json = runner.invoke(args=[*command, "--json"])
    refused = runner.invoke(args=[*command, "--target", "nobody"])

    (by_json, by_ann) = client.get(f"{VERSION}/evaluations").json
    assert json.loads(as_json.output) == {"version": 1, **by_json}
    assert by_ann["created_by"] == "cli:ann"
    assert by_json["metrics"] == evaluate(client, make_table("text", seed=2))["metrics"]
    accuracy = next(line for line in shown.output.splitlines() if line.startswith("accuracy"))
    assert float(accuracy.split()[1]) == by_json["metrics"]["accuracy"]
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert "may.csv: has no column 'nobody'" in refused.stderr


X = np.random.default_rng(0).normal(size=(60, 2))
PAIRS = np.stack([X[:, 0] > 0, X[:, 1] > 0], axis=1).astype(int)


@on_sqlite
@pytest.mark.parametrize("form", ["rows", "records", "csv"])
@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (KMeans(2, random_state=0).fit(X), "a version for clustering has no target"),
        (IsolationForest(n_estimators=5).fit(X), "a version for outliers has no target"),
        (RandomForestRegressor(5).fit(X, X), "the version predicts several values for a row"),
        (KNeighborsClassifier().fit(X, PAIRS), "the version predicts several values for a row"),
    ],
)
def test_what_has_no_single_target_is_not_judged(
    client: FlaskClient, model: Any, reason: str, form: str
) -> None:
    assert send(client, MODEL, skops.io.dumps(model)).status_code == 201
    table = pa.table({"x1": X[:, 0], "x2": X[:, 1], "y": PAIRS[:, 0]})

    target = {} if form == "rows" else {"target": "y"}
    refused = post_table(client, f"{VERSION}/evaluate", table, form, **target)

    assert refused.status_code == 422
    assert reason in refused.json["detail"]
    listed = client.get(f"{MODEL}/versions?estimator={type(model).__name__}").json
    assert [version["version"] for version in listed] == [1]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 2, 0]])
def test_the_order_of_classes_does_not_matter(order: list[int]) -> None:
    labels = np.array(["a", "b", "c"], dtype=object)
    y = labels[np.arange(60) % 3]
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), 60)
    predicted = labels[probabilities.argmax(axis=1)]
    rows = Dataset(np.zeros((60, 1)), y, ("x1",))

    found = evaluation.evaluate(
        lambda _: Scores(predicted, probabilities[:, order], are_labels=True),
        labels[order].tolist(),
        rows,
    )

    expected = expect_classification(y, predicted, probabilities, labels.tolist(), y)
    assert_same(found, expected)
