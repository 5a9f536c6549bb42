"""`activate=if_better`: a new version and the active one, judged on the same rows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient, FlaskCliRunner
from sklearn.model_selection import train_test_split
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from tests.faults import on_sqlite
from tests.ml.calls import CSV, MODEL
from tests.tables import to_csv
from webapp.ml.core.metrics import METRICS, SMALLER_IS_BETTER
from webapp.ml.registry.models import Artifact
from webapp.ml.training import service

ROWS = 60
GOOD = {
    "regression": {"estimator": "ridge", "params": {"alpha": 0.001}},
    "classification": {"estimator": "logistic_regression"},
}
BAD = {
    "regression": {"estimator": "ridge", "params": {"alpha": 1e6}},
    "classification": {"estimator": "logistic_regression", "params": {"C": 1e-9}},
}
KNOWN_METRICS = [(task, metric) for task, names in METRICS.items() for metric in names]


def make_table(task: str = "regression", *, colours: str = "", seed: int = 1) -> pa.Table:
    """Return rows whose target follows from a and b, and from the first letter of a colour."""
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(2, ROWS)).round(3)
    columns: dict[str, Any] = {"a": a, "b": b}
    y: Any = 3 * a - b + random.normal(scale=0.3, size=ROWS)
    if colours:
        chosen = random.choice(colours.split(), ROWS)
        columns["colour"] = chosen
        y = y + np.array([ord(text[0]) - ord("a") for text in chosen])
    y = np.where(y > np.median(y), "high", "low") if task == "classification" else y.round(3)
    return pa.table({**columns, "y": y})


def post(client: FlaskClient, table: pa.Table, **options: Any) -> TestResponse:
    body = {"data": table.to_pylist(), "target": "y", **options}
    return client.post(f"{MODEL}/train", json=body)


def train(
    client: FlaskClient, table: pa.Table, metric: str = "", **options: Any
) -> dict[str, Any]:
    """Train, to be activated only if it is better where there is a metric."""
    if metric:
        options |= {"activate": "if_better", "metric": metric}
    answer = post(client, table, **options)
    assert answer.status_code == 201, answer.text
    return dict(answer.json)


def active(client: FlaskClient) -> int:
    return int(client.get(MODEL).json["active_version"])


def judge(client: FlaskClient, number: int, table: pa.Table, metric: str) -> float:
    """Return a metric of a version on the rows that a training on the table holds out."""
    y = table["y"].to_pylist()
    labels = y if isinstance(y[0], str) else None
    held_out = train_test_split(np.arange(ROWS), test_size=0.2, random_state=42, stratify=labels)[
        1
    ]
    rows = table.take(held_out).to_pylist()
    answer = client.post(f"{MODEL}/versions/{number}/evaluate", json={"data": rows})
    assert answer.status_code == 200, answer.text
    return float(answer.json["metrics"][metric])


@on_sqlite
@pytest.mark.parametrize(("task", "metric"), KNOWN_METRICS)
def test_the_better_of_two_is_active(client: FlaskClient, task: str, metric: str) -> None:
    table = make_table(task)
    # Both classifiers rank the rows alike, whatever C, where they have learnt the same labels.
    reverse = table.set_column(2, "y", pa.array(table["y"].to_pylist()[::-1]))
    train(client, reverse if task == "classification" else table, **BAD[task])

    up = train(client, table, metric, **GOOD[task])
    active_then = active(client)
    down = train(client, table, metric, **BAD[task])
    equal = train(client, table, metric, **GOOD[task])

    assert (up["comparison"]["version"], up["comparison"]["better"], active_then) == (1, True, 2)
    assert (up["comparison"]["active"] > up["comparison"]["candidate"]) is (
        metric in SMALLER_IS_BETTER
    )
    for answer, better in ((up, True), (equal, False)):
        found = answer["comparison"]
        assert found["better"] is better
        assert found["candidate"] == answer["metrics"][metric]
        expected = judge(client, found["version"], table, metric)
        np.testing.assert_allclose(found["active"], expected, rtol=1e-9)
    assert equal["comparison"]["candidate"] == equal["comparison"]["active"]
    assert down["comparison"]["better"] is False
    assert active(client) == 2


def test_a_first_version_has_none_to_be_better_than(client: FlaskClient) -> None:
    answer = train(client, make_table(), "r2_score")

    found = answer["comparison"]
    assert (found["active"], found["version"], found["better"]) == (None, None, True)
    assert answer["model"]["metrics"]["comparison"] == found
    assert active(client) == 1
    plain = train(client, make_table())
    assert "comparison" not in {**plain, **plain["metrics"]}


@on_sqlite
@pytest.mark.parametrize("task", METRICS)
def test_each_is_given_the_rows_as_it_encodes_them(client: FlaskClient, task: str) -> None:
    metric = METRICS[task][0]
    train(client, make_table(task, colours="blue red violet", seed=2))
    table = make_table(task, colours="amber blue red")  # violet has gone, amber comes first

    found = train(client, table, metric)["comparison"]

    np.testing.assert_allclose(found["active"], judge(client, 1, table, metric), rtol=1e-9)


def dates(*, times: bool) -> pa.Table:
    days = [f"2026-01-{1 + n % 28:02}" + ("T10:30" if times else "") for n in range(ROWS)]
    return make_table().set_column(1, "b", pa.array(days))


def labelled(values: list[Any]) -> pa.Table:
    return make_table().set_column(2, "y", pa.array((values * ROWS)[:ROWS]))


PLAIN = make_table()
GAPS = PLAIN.set_column(0, "a", pa.array([None, 1.0] * (ROWS // 2)))
CODES = make_table().set_column(1, "b", pa.array([1.0, 2.0, 3.0] * (ROWS // 3)))
WORDS = make_table().set_column(1, "b", pa.array(["x", "y", "z"] * (ROWS // 3)))
CATEGORY = {"columns": {"b": "category"}}
UNLIKE = {
    "columns": (PLAIN, {}, make_table(colours="red blue"), {}, "it also has colour"),
    "kinds": (PLAIN, {}, WORDS, {}, "it has b as category, and not as number"),
    "task": (PLAIN, {}, labelled(["u", "v"]), {}, "it is for classification"),
    "parts of dates": (dates(times=False), {}, dates(times=True), {}, "other parts of the dates"),
    "categories": (CODES, CATEGORY, WORDS, CATEGORY, "categories of b are of another type"),
    "labels": (
        *(labelled([0, 1]), {"task": "classification"}, labelled(["u", "v"]), {}),
        "its labels are of another type",
    ),
    "missing values": (PLAIN, {}, GAPS, {}, "values are missing"),
}


@on_sqlite
@pytest.mark.parametrize("case", UNLIKE.values(), ids=UNLIKE)
def test_what_cannot_be_compared_is_never_activated(client: FlaskClient, case: Any) -> None:
    first, first_options, second, options, why = case
    train(client, first, **first_options)
    is_classes = pa.types.is_string(second["y"].type)
    metric = "accuracy" if is_classes else "rmse"

    answer = train(client, second, metric, **options)

    found = answer["comparison"]
    assert (found["version"], found["active"], found["better"]) == (1, None, False)
    assert found["candidate"] == answer["metrics"][metric]
    message = answer["warnings"][-1]["message"]
    assert message.startswith("was not compared with the active version 1, which stays: ")
    assert why in message
    assert active(client) == 1
    assert train(client, second, **options)["model"]["version"] == active(client) == 3


@on_sqlite
def test_an_undefined_metric_decides_nothing(client: FlaskClient) -> None:
    table = labelled(["u", "v"])
    for _ in range(2):  # linear_svm_classifier has no probabilities
        answer = train(client, table, "roc_auc", estimator="linear_svm_classifier")

    assert "roc_auc is undefined" in answer["warnings"][-1]["message"]
    assert (answer["comparison"]["better"], active(client)) == (False, 1)


def test_an_active_version_that_cannot_be_loaded_stays(
    client: FlaskClient, session: Session
) -> None:
    train(client, make_table(), **BAD["regression"])
    session.execute(sa.update(Artifact).values(data=b"nothing"))
    session.commit()

    answer = train(client, make_table(), "mse")

    assert "it cannot be loaded" in answer["warnings"][-1]["message"]
    assert (answer["comparison"]["better"], active(client)) == (False, 1)


def test_a_version_that_became_active_meanwhile_stays(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        train(client, make_table(), **BAD["regression"])
    store, other = service.store_version, client.application.test_client()

    def store_late(*arguments: Any, **storing: Any) -> Any:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(other.put, f"{MODEL}/active", json={"version": 1}).result()
        return store(*arguments, **storing)

    monkeypatch.setattr(service, "store_version", store_late)
    answer = train(client, make_table(), "mse", **GOOD["regression"])

    assert (answer["comparison"]["version"], answer["comparison"]["better"]) == (2, True)
    assert "another version has become active meanwhile" in answer["warnings"][-1]["message"]
    assert active(client) == 1


@on_sqlite
@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"activate": "if_better"}, "json.metric: Is what if_better needs."),
        ({"metric": "rmse"}, "json.metric: Is for activate=if_better alone."),
        ({"activate": "if_better", "metric": "accuracy"}, "metric: is none of a regression"),
        ({"activate": "if_better", "metric": "rmse", "test_size": 0}, "needs rows to judge on"),
        ({"activate": "better", "metric": "rmse"}, "json.activate: Not a valid boolean."),
    ],
)
def test_what_if_better_needs(client: FlaskClient, options: Any, fault: str) -> None:
    refused = post(client, make_table(), **options)

    assert refused.status_code == 422
    assert fault in refused.json["detail"]
    assert client.get(MODEL).status_code == 404


@on_sqlite
def test_a_table_and_the_command_line_take_it_too(
    client: FlaskClient, runner: FlaskCliRunner, tmp_path: Path
) -> None:
    train(client, make_table(), **BAD["regression"])
    path = tmp_path / "rows.csv"
    path.write_bytes(to_csv(make_table()))
    query = {"target": "y", "activate": "if_better", "metric": "rmse", "estimator": "ridge"}

    by_table = client.post(
        f"{MODEL}/train", data=path.read_bytes(), content_type=CSV, query_string=query
    )
    command = ["ml", "train", str(path), "--model", "house-prices", "--target", "y"]
    by_command = runner.invoke(args=[*command, "--metric", "rmse", "--estimator", "ridge"])

    assert by_table.json["comparison"]["better"] is True
    assert (by_command.exit_code, active(client)) == (0, 2)
    assert '"better": false' in by_command.output


@on_sqlite
def test_a_repeat_with_an_idempotency_key_gets_the_comparison_again(client: FlaskClient) -> None:
    train(client, make_table(), **BAD["regression"])
    body = {"data": make_table().to_pylist(), "target": "y"}
    body |= {"activate": "if_better", "metric": "rmse"}
    headers = {"Idempotency-Key": "once"}

    first = client.post(f"{MODEL}/train", json=body, headers=headers)
    again = client.post(f"{MODEL}/train", json=body, headers=headers)
    other = client.post(f"{MODEL}/train", json={**body, "metric": "mae"}, headers=headers)

    assert first.json["comparison"]["better"] is True
    assert again.json == first.json
    assert other.status_code == 422
