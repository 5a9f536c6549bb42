"""Versions of a model beside each other."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask.testing import FlaskClient, FlaskCliRunner
from werkzeug.test import TestResponse

from tests.faults import on_sqlite
from tests.ml.calls import MODEL, train, train_constant

ROWS = [[float(n), float(n * n % 7)] for n in range(20)]
Y = [float(3 * n % 11) for n in range(20)]


def compare(client: FlaskClient, versions: str) -> TestResponse:
    return client.get(f"{MODEL}/compare", query_string={"versions": versions})


def train_ridge(client: FlaskClient, alpha: float, **options: Any) -> dict[str, Any]:
    options = {"estimator": "ridge", "params": {"alpha": alpha}, **options}
    return dict(train(client, ROWS, Y, url=MODEL, **options).json["model"])


def test_what_is_the_same_and_what_differs_of_two_fits(client: FlaskClient) -> None:
    fits = [train_ridge(client, 1), train_ridge(client, 100)]
    client.patch(f"{MODEL}/versions/2", json={"tags": {"stage": "try"}, "notes": "b"})

    answer = compare(client, "2,1").json

    assert (answer["name"], answer["versions"]) == ("house-prices", [2, 1])
    differs, same = answer["differs"], answer["same"]
    assert differs["params.alpha"] == [100, 1]
    r2_scores = [fit["metrics"]["r2_score"] for fit in fits]
    assert differs["metrics.r2_score"] == r2_scores[::-1]
    assert (differs["tags.stage"], differs["notes"]) == (["try", None], ["b", ""])
    assert same["data_digest"] == fits[0]["data_digest"]
    assert (same["estimator"], same["signature.x1.kind"]) == ("ridge", "number")
    assert {"params.fit_intercept", "n_train", "libraries.numpy", "task"} <= same.keys()
    assert not same.keys() & differs.keys()


def test_columns_are_compared_by_name(client: FlaskClient) -> None:
    train_ridge(client, 1, feature_names=["a", "b"])
    train_ridge(client, 1, feature_names=["a", "c"], columns={"c": "category"})
    train_ridge(client, 1, feature_names=["b", "a"])

    answer = compare(client, "1,2,3").json

    assert answer["differs"]["signature.b.kind"] == ["number", None, "number"]
    assert answer["differs"]["signature.c.kind"] == [None, "category", None]
    assert answer["same"]["signature.a.kind"] == "number"
    assert answer["differs"]["feature_names"] == [["a", "b"], ["a", "c"], ["b", "a"]]


def test_a_parameter_that_only_one_estimator_has_differs(client: FlaskClient) -> None:
    train_constant(client, 7)
    train(client, ROWS, Y, url=MODEL, estimator="decision_tree")

    differs = compare(client, "1,2").json["differs"]

    assert differs["params.max_depth"] == [None, None]
    assert differs["params.positive"] == [False, None]


@on_sqlite
@pytest.mark.parametrize(("versions", "status"), [("1,9", 404), ("1,1", 422), ("1", 422)])
def test_two_versions_that_exist_are_needed(
    client: FlaskClient, versions: str, status: int
) -> None:
    assert compare(client, "1,2").status_code == 404
    train_constant(client, 7)

    assert compare(client, versions).status_code == status


@on_sqlite
def test_the_command_line_shows_a_table_of_what_differs(
    client: FlaskClient, runner: FlaskCliRunner
) -> None:
    for alpha in (1, 100):
        train_ridge(client, alpha)
    command = ["ml", "compare", "1", "2", "--model", "house-prices"]

    shown = runner.invoke(args=command).output.splitlines()
    as_json = json.loads(runner.invoke(args=[*command, "--json"]).output)
    refused = runner.invoke(args=command[:3])

    assert as_json == compare(client, "1,2").json
    assert shown[0].split() == ["1", "2"]
    assert ["params.alpha", "1.0", "100.0"] in [line.split() for line in shown]
    assert shown[-1] == f"{len(as_json['same'])} others are the same"
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
