"""Predictions that say what each feature added, over HTTP."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from tests.faults import on_sqlite
from tests.ml.calls import ARROW, CSV, ML, train
from webapp.extensions import db
from webapp.ml.registry.models import ModelVersion

X = np.random.RandomState(0).randn(40, 2).round(2)
NAMES = ["rooms", "size"]
LABELS = np.array(["cheap", "dear", "fair"])[np.digitize(X @ [1, 2], [-1, 1])]
TABLE = "".join(f"{x:.1f},{'ab'[n % 2]},{3 * x + n % 2:.1f}\n" for n, x in enumerate(X[:, 0]))


def ask(client: FlaskClient, rows: Any, **options: Any) -> Any:
    """Return the answer for one row, or for a list of them, which must be alike."""
    body = {"instances": rows, "explain": True, **options}
    batch = client.post(f"{ML}/predict/batch", json=body)
    assert batch.status_code == 200, batch.text
    one = client.post(f"{ML}/predict", json={"features": rows[0], "explain": True, **options})
    assert one.status_code == 200, one.text
    return one.json, batch.json


@on_sqlite
def test_a_regression_says_what_each_feature_added(client: FlaskClient) -> None:
    y = X @ [1.0, 2.0]
    train(client, X, y, feature_names=NAMES, test_size=0)

    one, batch = ask(client, X.tolist())

    added = (X - X.mean(axis=0)) * [1.0, 2.0]
    found = one["explanation"]
    assert (found["of"], found["against"]) == ("prediction", "training mean")
    assert found["base"] == pytest.approx(y.mean())
    assert found["contributions"] == pytest.approx(dict(zip(NAMES, added[0], strict=True)))
    assert found["sum"] == pytest.approx(one["prediction"], rel=1e-9)
    found = batch["explanations"]
    assert (found["of"], found["against"]) == ("prediction", "training mean")
    assert found["features"] == NAMES
    assert found["base"] == pytest.approx(y.mean())
    assert np.allclose(found["contributions"], added)


def test_a_classification_says_what_each_feature_added_to_each_class(client: FlaskClient) -> None:
    train(client, X, LABELS, estimator="decision_tree_classifier", feature_names=NAMES)

    one, batch = ask(client, X.tolist())

    assert one["explanation"]["of"] == batch["explanations"]["of"] == "probability"
    assert one["explanation"]["sum"] == pytest.approx(one["probabilities"])
    for label, probabilities in batch["probabilities"].items():
        added = np.array(batch["explanations"]["contributions"][label])
        of_first = one["explanation"]["contributions"][label]
        assert np.allclose(batch["explanations"]["base"][label] + added.sum(1), probabilities)
        assert of_first == pytest.approx(dict(zip(NAMES, added[0], strict=True)))


def test_of_two_classes_log_odds_are_those_of_the_second(client: FlaskClient) -> None:
    train(client, X, LABELS == "dear", estimator="logistic_regression")

    one, batch = ask(client, X.tolist())

    assert one["explanation"]["of"] == "log_odds"
    (label,) = one["explanation"]["sum"]
    odds = np.exp(one["explanation"]["sum"][label])
    assert odds / (1 + odds) == pytest.approx(one["probabilities"][label], rel=1e-9)
    assert list(batch["explanations"]["contributions"]) == [label]


def test_a_table_with_kinds_is_explained_against_its_means_in_training(app: Flask) -> None:
    client = app.test_client()
    query = {"target": "price", "estimator": "ridge", "test_size": 0}
    rows = [{"size": 1.5, "kind": "a"}, {"size": None, "kind": "c"}]
    answer = client.post(
        f"{ML}/train",
        data=f"size,kind,price\n,a,2.0\n{TABLE}",
        content_type=CSV,
        query_string=query,
    )
    assert answer.status_code == 201, answer.text

    one, batch = ask(client, rows)
    with app.app_context():  # of a version of an older release, means are not known
        db.session.execute(sa.update(ModelVersion).values(mean_contributions=None))
        db.session.commit()
        app.extensions["model_server"].cache._loaded.clear()
    older, _ = ask(client, rows)

    assert one["explanation"]["against"] == "training mean"
    assert one["explanation"]["sum"] == pytest.approx(one["prediction"], rel=1e-9)
    assert batch["explanations"]["features"] == ["size", "kind"]
    sums = batch["explanations"]["base"] + np.sum(batch["explanations"]["contributions"], axis=1)
    assert np.allclose(sums, batch["predictions"], rtol=1e-9)
    assert older["explanation"]["against"] == "zero"
    assert older["explanation"]["sum"] == pytest.approx(one["prediction"], rel=1e-9)


@pytest.mark.parametrize("accept", [CSV, ARROW])
def test_tables_as_answers_have_no_explanations(client: FlaskClient, accept: str) -> None:
    train(client, X, X[:, 0])
    options = {"data": "x1,x2\n1,2\n", "content_type": CSV, "query_string": "explain=true"}

    in_json = client.post(f"{ML}/predict/batch", **options)
    refused = client.post(f"{ML}/predict/batch", **options, headers={"Accept": accept})

    assert np.shape(in_json.json["explanations"]["contributions"]) == (1, 2)
    assert refused.status_code == 422
    assert "JSON only" in str(refused.json["errors"])


def test_a_model_that_cannot_be_explained_says_which_can(client: FlaskClient) -> None:
    train(client, X, X[:, 0], estimator="k_neighbors")

    answers = [
        client.post(f"{ML}/predict", json={"features": [1, 2], "explain": True}),
        client.post(f"{ML}/predict/batch", json={"instances": [[1, 2]], "explain": True}),
    ]

    for answer in answers:
        assert answer.status_code == 422
        (message,) = answer.json["errors"]["json"]["explain"]
        assert "decision trees" in message


def test_contributions_count_among_the_values_of_an_answer(own_app: Flask) -> None:
    own_app.config.update(MAX_CELLS=200, MAX_CONTENT_LENGTH=2000)  # 100 values in JSON
    client = own_app.test_client()
    train(client, X[:9], X[:9, 0], feature_names=NAMES)

    def predict(n_rows: int) -> Any:
        body = {"instances": [[0.0, 0.0]] * n_rows, "explain": True}
        return client.post(f"{ML}/predict/batch", json=body)

    assert predict(33).status_code == 200
    assert predict(34).status_code == 422
    own_app.config.update(MAX_CELLS=2)
    one = client.post(f"{ML}/predict", json={"features": [0.0, 0.0], "explain": True})
    assert one.status_code == 422
