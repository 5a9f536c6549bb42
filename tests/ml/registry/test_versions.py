"""Named models and their versions over HTTP: the whole life of a model."""

from __future__ import annotations

import base64
import hashlib
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import skops.io
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from sklearn.linear_model import LogisticRegression
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from tests.ml.calls import ML, MODEL, predict, train, train_classes, train_constant
from tests.ml.core.test_skops import json_node, set_attribute
from webapp.extensions import db
from webapp.ml.core.metrics import MOST_MATRIX_CLASSES
from webapp.ml.core.training import MOST_COEFFICIENTS
from webapp.ml.registry import service
from webapp.ml.registry.models import Activation, Artifact, ModelVersion

VERSIONS = f"{MODEL}/versions"


def activate(client: FlaskClient, number: object) -> TestResponse:
    return client.put(f"{MODEL}/active", json={"version": number})


def test_a_training_creates_its_model(client: FlaskClient) -> None:
    created = train_constant(client, 7)

    model = client.get(MODEL).json
    assert created.headers["Location"] == f"{VERSIONS}/1"
    assert client.get(f"{VERSIONS}/1").json == created.json["model"]
    found = (model["name"], model["active_version"], model["last_version"])
    assert found == ("house-prices", 1, 1)
    assert client.get(f"{ML}/models").json == [model]


def test_models_do_not_meet(client: FlaskClient) -> None:
    train_constant(client, 7)
    train_constant(client, 11, url=ML)

    assert predict(client) == (7, 1)
    assert predict(client, ML) == predict(client, f"{ML}/models/default") == (11, 1)


def test_a_model_that_does_not_exist_is_not_found(client: FlaskClient) -> None:
    for path in ("", "/versions", "/activations", "/versions/1"):
        assert client.get(f"{MODEL}{path}").status_code == 404
    assert client.post(f"{MODEL}/predict", json={"features": [1]}).status_code == 404


def test_model_info_describes_the_active_version(client: FlaskClient) -> None:
    untrained = client.get(f"{ML}/model-info")
    names = ["height", "weight"]
    trained = train(client, [[1, 2], [3, 4], [5, 7]], [1, 2, 3], feature_names=names)

    info = client.get(f"{ML}/model-info").json

    assert untrained.json == {"trained": False, "model_type": None, "metrics": {}}
    assert (info["trained"], info["model_type"]) == (True, "LinearRegression")
    assert (info["metrics"], info["model"]) == (trained.json["metrics"], trained.json["model"])
    assert info["model"]["feature_names"] == names
    assert info["model"]["params"] == {"fit_intercept": True, "positive": False}
    assert set(info["model"]["libraries"]) >= {"python", "numpy", "scikit-learn"}


def test_a_model_without_an_active_version_is_not_trained(client: FlaskClient) -> None:
    train_constant(client, 7, activate=False)

    for url in (MODEL, ML):  # the default model is there even before its first training
        refused = client.post(f"{url}/predict/batch", json={"instances": [[1]]})
        assert refused.status_code == 409
        assert "has no active version" in refused.json["detail"]
    assert client.get(MODEL).json["active_version"] is None


def test_versions_are_listed_the_newest_first_in_pages(client: FlaskClient) -> None:
    for value in (1, 2, 3):
        train_constant(client, value)

    page = client.get(f"{VERSIONS}?page_size=2")

    assert [version["version"] for version in page.json] == [3, 2]
    assert 'rel="next"' in page.headers["Link"]


def test_an_activation_serves_as_soon_as_it_is_answered(client: FlaskClient) -> None:
    train_constant(client, 7)
    train_constant(client, 11)

    for number, value in [(1, 7), (2, 11), (1, 7)]:
        assert activate(client, number).json["version"] == number
        assert predict(client) == (value, number)
    assert predict(client, f"{VERSIONS}/2") == (11, 2)
    batch = client.post(f"{VERSIONS}/2/predict/batch", json={"instances": [[0.0], [1.0]]})
    assert batch.json["predictions"] == pytest.approx([11, 11])
    assert client.post(f"{VERSIONS}/3/predict", json={"features": [1]}).status_code == 404


def test_each_rollback_goes_further_back_to_what_is_there(client: FlaskClient) -> None:
    def roll_back() -> int:
        answer = client.post(f"{MODEL}/rollback")
        if answer.status_code != 200:
            return answer.status_code
        assert predict(client) == (answer.json["version"], answer.json["version"])
        return answer.json["version"]

    for value in range(1, 6):
        train_constant(client, value)
    client.delete(f"{VERSIONS}/4")

    assert [roll_back(), roll_back()] == [3, 2]
    train_constant(client, 6)
    assert [roll_back(), roll_back(), roll_back()] == [2, 1, 409]


def test_the_history_says_what_was_active_when(client: FlaskClient) -> None:
    train_constant(client, 7)
    train_constant(client, 11)
    activate(client, 1)
    client.post(f"{MODEL}/rollback")

    history = client.get(f"{MODEL}/activations").json

    assert [(a["version"], a["previous_version"], a["reason"]) for a in history] == [
        (2, 1, "rollback"),
        (1, 2, "activate"),
        (2, 1, "train"),
        (1, None, "train"),
    ]
    assert [a["ended_at"] is None for a in history] == [True, False, False, False]
    assert history[1]["ended_at"] == history[0]["activated_at"]


def test_the_number_of_a_deleted_version_is_not_reused(
    client: FlaskClient, session: Session
) -> None:
    train_constant(client, 7)
    train_constant(client, 11)
    predict(client, f"{VERSIONS}/1")

    deleted = [client.delete(f"{VERSIONS}/{number}").status_code for number in (1, 2)]

    assert deleted == [204, 409]  # version 2 is active
    assert client.get(f"{VERSIONS}/1").status_code == 404
    gone = client.post(f"{VERSIONS}/1/predict", json={"features": [1]})
    assert gone.status_code == 404
    assert activate(client, 1).status_code == 404
    assert session.scalar(sa.select(sa.func.count()).select_from(Artifact)) == 1
    assert train_constant(client, 13).json["model"]["version"] == 3
    assert [a["version"] for a in client.get(f"{MODEL}/activations").json] == [3, 2, 1]


def test_a_new_version_is_not_taken_for_the_one_that_was_deleted_before(
    client: FlaskClient,
) -> None:
    train_constant(client, 7)
    for number, value in ((2, 11), (3, 13)):
        train_constant(client, value, activate=False)
        assert predict(client, f"{VERSIONS}/{number}") == (value, number)
        client.delete(f"{VERSIONS}/{number}")


def test_a_version_that_cannot_load_is_not_activated(
    client: FlaskClient, session: Session
) -> None:
    train_constant(client, 7)
    train_constant(client, 11)
    data = set_attribute("linear_regression", "_sklearn_version", json_node("0.9"))
    session.add(Artifact(digest=hashlib.sha256(data).hexdigest(), data=data))
    session.flush()
    version = session.scalars(sa.select(ModelVersion).where(ModelVersion.number == 1)).one()
    version.artifact_digest = hashlib.sha256(data).hexdigest()
    session.commit()

    for refused in (activate(client, 1), client.post(f"{MODEL}/rollback")):
        assert refused.status_code == 409
        assert "scikit-learn 0." in refused.json["detail"]
        assert predict(client) == (11, 2)


def test_concurrent_trainings_and_activations_leave_numbers_and_history_without_gaps(
    app: Flask, client: FlaskClient, session: Session
) -> None:
    for value in (1, 2, 3):
        train_constant(client, value)

    def change(index: int) -> int:
        if index % 2:
            return train_constant(app.test_client(), index).json["model"]["version"]
        assert activate(app.test_client(), 1 + index % 3).status_code == 200
        return 0

    with ThreadPoolExecutor(6) as pool:
        numbers = sorted(pool.map(change, range(60)))

    assert numbers == [0] * 30 + list(range(4, 34))
    history = session.scalars(sa.select(Activation).order_by(Activation.id)).all()
    assert [a.ended_at is None for a in history] == [False] * (len(history) - 1) + [True]
    for before, after in itertools.pairwise(history):
        assert after.previous_number == before.version_number
        assert after.predecessor_id == before.id
        assert before.ended_at == after.activated_at
    assert predict(client)[1] == history[-1].version_number


def test_an_artifact_is_downloaded_as_it_is_stored(client: FlaskClient) -> None:
    digest = train_constant(client, 7).json["model"]["digest"]

    artifact = client.get(f"{VERSIONS}/1/artifact")

    assert artifact.headers["ETag"] == f'"{digest}"'
    sha = base64.b64encode(hashlib.sha256(artifact.data).digest()).decode()
    assert artifact.headers["Digest"] == f"sha-256={sha}"
    assert artifact.headers["Content-Type"] == "application/octet-stream"
    assert skops.io.loads(artifact.data).predict([[0.5]]) == pytest.approx([7])


# What a version says of itself


def test_a_listing_neither_loads_nor_shows_what_grows_with_features(own_app: Flask) -> None:
    client = own_app.test_client()
    names = [f"{'a long name' * 20} {number}" for number in range(1000)]
    train(client, np.eye(2, len(names)), [1, 2], url=MODEL, feature_names=names)
    statements: list[str] = []
    with own_app.app_context():
        sa.event.listen(
            db.engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2])
        )

    listed = client.get(VERSIONS)

    assert len(listed.data) < 2000
    assert listed.json[0]["digest"] == client.get(f"{VERSIONS}/1").json["digest"]
    (listing,) = (sql for sql in statements if "FROM model_version" in sql and "ORDER BY" in sql)
    for column in (
        *("feature_names", "classes", "coefficients", "importances", "profile"),
        *("interval_basis", "mean_contributions"),
    ):
        assert column not in listing


def test_a_listing_shows_only_metrics_that_are_one_number(client: FlaskClient) -> None:
    train_classes(client, ["a", "b"], url=MODEL)

    (listed,) = client.get(VERSIONS).json

    shown = client.get(f"{VERSIONS}/1").json
    assert shown["metrics"]["confusion_matrix"]["labels"] == ["a", "b"]
    assert shown["metrics"].items() >= listed["metrics"].items()
    more = {"confusion_matrix", "by_class", "baseline"}
    assert set(listed["metrics"]) == set(shown["metrics"]) - more


def test_the_confusion_matrix_of_many_classes_is_left_out(client: FlaskClient) -> None:
    for n_classes in (MOST_MATRIX_CLASSES, MOST_MATRIX_CLASSES + 1):
        train_classes(client, list(range(n_classes)), url=MODEL)

    at_most, more = (client.get(f"{VERSIONS}/{n}").json["metrics"] for n in (1, 2))

    assert at_most["confusion_matrix"] is not None
    assert more["confusion_matrix"] is None


def test_a_call_of_its_own_shows_any_number_of_coefficients(client: FlaskClient) -> None:
    for n_features in (MOST_COEFFICIENTS, MOST_COEFFICIENTS + 1):
        client.application.config["MAX_COLUMNS"] = MOST_COEFFICIENTS + 1
        rows = np.random.RandomState(0).randn(3, n_features)
        train(client, rows, rows[:, 0], url=MODEL, test_size=0)

    few, many = (client.get(f"{VERSIONS}/{n}").json["coefficients"] for n in (1, 2))
    all_of_few, all_of_many = (client.get(f"{VERSIONS}/{n}/coefficients").json for n in (1, 2))

    assert many is None
    assert all_of_few == {
        "feature_names": list(few["coefficients"]),
        "classes": None,
        "intercepts": [few["intercept"]],
        "coefficients": [list(few["coefficients"].values())],
    }
    assert len(all_of_many["coefficients"][0]) == MOST_COEFFICIENTS + 1


@pytest.mark.parametrize("labels", [["a", "b"], ["a", "b", "c"]])
def test_a_classifier_has_coefficients_for_each_class(
    client: FlaskClient, labels: list[str]
) -> None:
    X, y = np.random.RandomState(0).randn(60, 4), np.array(labels * 60)[:60]
    train(client, X, y, url=MODEL, estimator="logistic_regression", test_size=0)
    expected = LogisticRegression().fit(X, y)

    found = client.get(f"{VERSIONS}/1/coefficients").json
    shown = client.get(f"{VERSIONS}/1").json["coefficients"]["classes"]

    assert found["classes"] == (["b"] if len(labels) == 2 else labels)
    assert [list(shown[label]["coefficients"].values()) for label in found["classes"]] == (
        found["coefficients"]
    )
    np.testing.assert_allclose(found["coefficients"], expected.coef_, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["intercepts"], expected.intercept_, rtol=1e-4, atol=1e-6)


def test_a_model_without_coefficients_has_none_to_read(client: FlaskClient) -> None:
    train_classes(client, ["a", "b"], url=MODEL)

    refused = client.get(f"{VERSIONS}/1/coefficients")

    assert refused.status_code == 404
    assert "HistGradientBoostingClassifier" in refused.json["detail"]
    assert client.get(f"{VERSIONS}/2/coefficients").status_code == 404


# Beside other writers

Action = Callable[[FlaskClient], TestResponse]
DuringLoad = Callable[[Action], list[str]]


@pytest.fixture
def during_load(app: Flask, monkeypatch: pytest.MonkeyPatch) -> DuringLoad:
    """Return a function that lets another client act while the first artifact is loaded.

    It returns the list that the digests of artifacts go into as they are loaded.
    """

    def arrange(act: Action) -> list[str]:
        loaded: list[str] = []
        read = service.read_artifact

        def read_slowly(session: Session, digest: str) -> bytes:
            loaded.append(digest)
            if len(loaded) == 1:
                with ThreadPoolExecutor(1) as other:
                    answer = other.submit(act, app.test_client()).result()
                assert answer.status_code < 300, answer.text
            return read(session, digest)

        monkeypatch.setattr(service, "read_artifact", read_slowly)
        return loaded

    return arrange


def activate_first(client: FlaskClient) -> TestResponse:
    return activate(client, 1)


def roll_back(client: FlaskClient) -> TestResponse:
    return client.post(f"{MODEL}/rollback")


def create_item(client: FlaskClient) -> TestResponse:
    return client.post("/api/v1/items", json={"name": "meanwhile", "description": ""})


def delete_first(client: FlaskClient) -> TestResponse:
    return client.delete(f"{VERSIONS}/1")


@pytest.mark.parametrize("action", [activate_first, roll_back])
def test_others_write_while_a_version_is_loaded_to_be_activated(
    client: FlaskClient, during_load: DuringLoad, action: Action
) -> None:
    first, _ = train_constant(client, 7), train_constant(client, 11)
    loaded = during_load(create_item)

    assert action(client).status_code == 200
    assert loaded == [first.json["model"]["digest"]]
    assert predict(client) == (7, 1)


@pytest.mark.parametrize(("action", "status"), [(activate_first, 404), (roll_back, 409)])
def test_a_version_deleted_while_it_is_loaded_is_not_activated(
    client: FlaskClient, during_load: DuringLoad, action: Action, status: int
) -> None:
    for value in (7, 11):
        train_constant(client, value)
    during_load(delete_first)

    assert action(client).status_code == status
    assert predict(client) == (11, 2)


def test_a_rollback_returns_to_what_was_active_before_it_got_the_lock(
    client: FlaskClient, during_load: DuringLoad
) -> None:
    trained = [train_constant(client, value) for value in (7, 11, 13)]
    # While version 2 is loaded, another writer rolls back to it: the way back is to version 1.
    loaded = during_load(roll_back)

    assert roll_back(client).json["version"] == 1
    assert trained[2].json["model"]["digest"] not in loaded


def test_an_artifact_about_to_be_shared_is_not_deleted(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_constant(client, 7, activate=False)
    stored, deleting = threading.Event(), threading.Event()
    record = service.record

    def record_slowly(session: Session, action: str, *arguments: Any) -> None:
        if action == "version.train":
            stored.set()
            deleting.wait(10)
            time.sleep(0.1)  # the deletion is now waiting for this transaction
        record(session, action, *arguments)

    monkeypatch.setattr(service, "record", record_slowly)
    with ThreadPoolExecutor(1) as other:
        training = other.submit(train_constant, app.test_client(), 7, url=ML)
        assert stored.wait(10)
        deleting.set()
        assert delete_first(client).status_code == 204

    assert training.result().json["model"]["version"] == 1
    assert client.get(f"{ML}/models/default/versions/1/artifact").status_code == 200
