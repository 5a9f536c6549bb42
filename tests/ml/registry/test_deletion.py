"""Deleting a model, with or without versions."""

from __future__ import annotations

import io
import itertools
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient, FlaskCliRunner
from sqlalchemy.orm import Session

from tests.conftest import app_on
from tests.ml.calls import ML, MODEL, predict, train_constant
from webapp.db.base import Base
from webapp.db.leases import Leases
from webapp.extensions import db
from webapp.ml.registry import service
from webapp.ml.registry.models import Artifact

VERSIONS = f"{MODEL}/versions"
DELETE_DEFAULT = f"{ML}/models/default?versions=all"
TABLES = {
    *("model", "model_tag", "model_version", "version_tag", "version_notes", "activation"),
    *("evaluation", "model_alias", "traffic_share"),
}


def count_rows(session: Session) -> dict[str, int]:
    """Return the number of rows of each table of the registry that is not empty."""
    counts = {}
    for name in sorted(TABLES | {"artifact"}):
        count = sa.select(sa.func.count()).select_from(Base.metadata.tables[name])
        if found := session.scalar(count):
            counts[name] = found
    session.rollback()
    return counts


def test_a_model_with_versions_is_kept_unless_they_are_named(
    client: FlaskClient, session: Session
) -> None:
    for value in (7, 11):
        train_constant(client, value)
    client.post(f"{MODEL}/rollback")
    before = count_rows(session)

    refused = client.delete(MODEL)

    assert refused.status_code == 409
    assert "2 in all" in refused.json["detail"]
    assert "?versions=all" in refused.json["detail"]
    assert count_rows(session) == before
    assert predict(client) == (7, 1)


def test_a_model_without_versions_is_deleted(client: FlaskClient, session: Session) -> None:
    train_constant(client, 7, activate=False)
    client.patch(MODEL, json={"tags": {"a": "b"}})
    client.delete(f"{VERSIONS}/1")

    assert client.delete(MODEL).status_code == 204
    assert client.get(MODEL).status_code == client.delete(MODEL).status_code == 404
    assert count_rows(session) == {}


def test_nothing_remains_of_a_model_but_what_others_use(
    client: FlaskClient, session: Session
) -> None:
    for value in (7, 11, 13):
        train_constant(client, value)
    client.post(f"{MODEL}/rollback")
    client.patch(MODEL, json={"tags": {"a": "b"}})
    client.patch(f"{VERSIONS}/1", json={"notes": "x", "tags": {"a": "b"}})
    client.put(f"{MODEL}/aliases/champion", json={"version": 1})
    client.put(f"{MODEL}/traffic", json={"shares": {"1": 50, "2": 50}, "shadow": 3})
    client.post(f"{VERSIONS}/1/evaluate", json={"X": [[1]], "y": [2]})
    train_constant(client, 11, url=ML)
    kept = client.get(f"{ML}/models/default/versions/1").json

    assert client.delete(f"{MODEL}?versions=all").status_code == 204

    assert client.get(MODEL).status_code == client.get(VERSIONS).status_code == 404
    assert count_rows(session) == {"activation": 1, "artifact": 1, "model": 1, "model_version": 1}
    assert session.scalar(sa.select(Artifact.digest)) == kept["digest"]
    assert client.get(f"{ML}/models/default/versions/1").json == kept
    assert predict(client, ML) == (11, 1)
    entry = client.get("/api/v1/audit").json[0]
    assert (entry["action"], entry["subject"]) == ("model.delete", "model house-prices")
    assert entry["details"] == {"versions": 3}


def test_a_model_trained_again_begins_at_version_1(client: FlaskClient) -> None:
    for value in (7, 11):
        train_constant(client, value)
        assert predict(client)[0] == value
    client.delete(f"{MODEL}?versions=all")

    assert client.post(f"{MODEL}/predict", json={"features": [1]}).status_code == 404
    train_constant(client, 13)

    assert predict(client) == (13, 1)
    assert len(client.get(f"{MODEL}/activations").json) == 1


def test_no_process_serves_a_model_once_its_deletion_is_answered(
    app: Flask, client: FlaskClient, database_url: str
) -> None:
    features = {"features": [0.5]}
    with app_on(database_url, MODEL_LEASE_MS=app.config["MODEL_LEASE_MS"]) as host:
        others = [host.test_client(), app.test_client()]
        for number, constant in enumerate([7, 11] * 3):
            train_constant(client, constant)
            assert [predict(other) for other in others] == [(constant, 1)] * 2, number

            assert client.delete(f"{MODEL}?versions=all").status_code == 204

            for path in ("predict", "versions/1/predict"):
                answers = [other.post(f"{MODEL}/{path}", json=features) for other in others]
                assert [answer.status_code for answer in answers] == [404, 404]


def test_a_training_that_ends_during_a_deletion_creates_the_model_anew(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_constant(client, 7)
    deleted, training = threading.Event(), threading.Event()
    record = service.record

    def record_slowly(session: Session, action: str, *arguments: Any) -> None:
        if action == "model.delete":
            deleted.set()
            training.wait(10)
            time.sleep(0.2)  # the training now waits for this transaction
        record(session, action, *arguments)

    monkeypatch.setattr(service, "record", record_slowly)
    with ThreadPoolExecutor(1) as other:
        deletion = other.submit(app.test_client().delete, f"{MODEL}?versions=all")
        assert deleted.wait(10)
        training.set()
        trained = train_constant(client, 11).json["model"]

    assert deletion.result().status_code == 204
    assert trained["version"] == 1
    assert predict(client) == (11, 1)


def test_whatever_runs_at_once_with_deletions_loses_nothing_that_was_acknowledged(
    app: Flask, client: FlaskClient
) -> None:
    def act(index: int) -> tuple[str, int]:
        client, kind = app.test_client(), index % 4
        url = f"{ML}/models/{'ab'[index // 4 % 2]}"
        if kind == 0:
            return "delete", client.delete(f"{url}?versions=all").status_code
        if kind == 1:
            answer = client.post(f"{url}/predict", json={"features": [0.5]})
            return "predict", answer.status_code
        # Both models store the same two artifacts.
        return "train", train_constant(client, index // 8 % 2, url=url).status_code

    with ThreadPoolExecutor(6) as pool:
        answers = Counter(pool.map(act, range(120)))

    assert {status for what, status in answers if what == "predict"} <= {200, 404}
    entries = client.get("/api/v1/audit?page_size=1000").json[::-1]
    actions = Counter(entry["action"] for entry in entries)
    assert actions["version.train"] == answers["train", 201] == 60
    assert actions["model.delete"] == answers["delete", 204]
    for name in "ab":
        numbers: list[int] = []  # of the versions that there are, after each entry
        for entry in entries:
            if entry["subject"] == f"model {name}":
                is_training = entry["action"] == "version.train"
                numbers = [*numbers, len(numbers) + 1] if is_training else []
        url = f"{ML}/models/{name}"
        listed = client.get(f"{url}/versions").json if numbers else []
        assert [version["version"] for version in listed] == numbers[::-1]
        for number in numbers:
            assert client.get(f"{url}/versions/{number}/artifact").status_code == 200
        if numbers:
            assert predict(client, url)[1] == numbers[-1]


READS = ["", "/versions", "/versions/1", "/versions/1/coefficients", "/versions/1/artifact"]


@pytest.mark.parametrize("url", [f"{ML}/model-info", *(f"{ML}/models/default{r}" for r in READS)])
def test_what_is_deleted_while_it_is_read_is_there_or_absent(
    app: Flask, client: FlaskClient, session: Session, url: str
) -> None:
    def delete_after(statement: int, *_: object) -> None:
        if next(count) == statement:
            with ThreadPoolExecutor(1) as other:
                deletion = other.submit(app.test_client().delete, DELETE_DEFAULT)
            assert deletion.result().status_code == 204

    for statement in range(5):
        train_constant(client, 7, url=ML)
        count, listener = itertools.count(), partial(delete_after, statement)
        sa.event.listen(db.engine, "after_cursor_execute", listener)
        answer = client.get(url)
        sa.event.remove(db.engine, "after_cursor_execute", listener)

        assert answer.status_code in (200, 404), (statement, answer.text)
        client.delete(DELETE_DEFAULT)


@pytest.mark.parametrize("path", ["train", "active", "rollback", "versions"])
def test_a_change_is_answered_though_its_model_is_deleted_the_moment_after(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    for value in (7, 11):
        train_constant(client, value, url=ML)
    artifact = client.get(f"{ML}/models/default/versions/1/artifact").data
    upload = {"artifact": (io.BytesIO(artifact), "model.skops"), "activate": "true"}
    wait_out, other = Leases.wait_out, client.application.test_client()

    def wait_in_vain(leases: Leases[Any, Any]) -> None:
        monkeypatch.setattr(Leases, "wait_out", wait_out)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(other.delete, DELETE_DEFAULT).result().status_code == 204

    monkeypatch.setattr(Leases, "wait_out", wait_in_vain)
    url = f"{ML}/models/default"
    answer = {
        "train": partial(client.post, f"{url}/train", json={"X": [[1], [2]], "y": [3, 4]}),
        "active": partial(client.put, f"{url}/active", json={"version": 1}),
        "rollback": partial(client.post, f"{url}/rollback"),
        "versions": partial(client.post, f"{url}/versions", data=upload),
    }[path]()

    assert answer.status_code in (200, 201), answer.text
    assert client.get(url).status_code == 404


def test_the_command_line_deletes_a_model(client: FlaskClient, runner: FlaskCliRunner) -> None:
    train_constant(client, 7)

    refused = runner.invoke(args=["ml", "delete-model", "house-prices"])
    result = runner.invoke(args=["ml", "delete-model", "house-prices", "--versions", "all"])
    again = runner.invoke(args=["ml", "delete-model", "house-prices", "--versions", "all"])

    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert "--versions all" in refused.stderr
    assert (result.exit_code, result.output) == (0, "Model 'house-prices' is deleted.\n")
    assert client.get(MODEL).status_code == 404
    assert (again.exit_code, "no model named" in again.stderr) == (1, True)
