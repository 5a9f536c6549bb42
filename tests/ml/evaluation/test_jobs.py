"""Evaluations at once and as jobs: queued, repeated, too heavy, of versions that are gone."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import lightgbm
import numpy as np
import pytest
import skops.io
import sqlalchemy as sa
import xgboost
from flask.testing import FlaskClient
from sklearn.linear_model import LinearRegression
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from tests.faults import on_sqlite
from tests.jobs.test_jobs import LATER, wait_for
from tests.ml.calls import MODEL, train
from tests.ml.test_boosting import to_onnx
from tests.ml.test_uploads import send
from webapp.jobs.runner import Runner
from webapp.ml.core.artifacts import digest
from webapp.ml.evaluation import service
from webapp.ml.registry.models import Artifact, ModelVersion

VERSION = f"{MODEL}/versions/1"
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(40, 2)).round(3)
Y = (X @ [2, -1] + RANDOM.normal(size=40)).round(3)


@pytest.fixture
def queue(client: FlaskClient) -> Iterator[Runner]:
    """Return what works off the queue, once it has been started; there is a model."""
    train(client, X, Y, url=MODEL)
    found: Runner = client.application.extensions["uploads"]
    yield found
    found.close()


@pytest.fixture
def nothing_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all evaluations be jobs."""
    monkeypatch.setattr(service, "QUICK_BYTES", 0)


def evaluate(client: FlaskClient, *, rows: Any = X[:20], **headers: str) -> TestResponse:
    body = {"X": np.asarray(rows).tolist(), "y": Y[: len(rows)].tolist()}
    return client.post(f"{VERSION}/evaluate", json=body, headers=headers)


def list_evaluations(client: FlaskClient) -> Any:
    return client.get(f"{VERSION}/evaluations").json


def test_an_evaluation_is_the_same_at_once_and_as_a_job_whether_waited_for_or_not(
    client: FlaskClient, queue: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = evaluate(client).json
    assert len(client.get("/api/v1/ml/jobs").json) == 1  # the training
    queue.start()
    submitted = evaluate(client, **LATER)
    job = wait_for(client, submitted.headers["Location"], "succeeded")
    monkeypatch.setattr(service, "QUICK_BYTES", 0)
    waited = evaluate(client).json

    assert submitted.headers["Preference-Applied"] == "respond-async"
    assert (job["kind"], job["options"]) == ("evaluate", {"version": 1, "rows": 20})
    assert job["result"]["version"] == 1
    assert client.get(job["result"]["url"]).json["version"] == 1
    assert job["result"]["metrics"]["rmse"] == waited["metrics"]["rmse"]
    last, queued, first = list_evaluations(client)
    assert (last, first) == (waited, at_once)
    for other in (queued, first):
        assert {**other, "created_at": last["created_at"]} == last
    by_request = client.get("/api/v1/ml/jobs").json[0]
    assert {by_request[name] for name in ("kind", "status")} == {"evaluate", "succeeded"}


@on_sqlite
@pytest.mark.parametrize(("headers", "status", "kept"), [({}, 200, 1), (LATER, 202, 0)])
def test_a_repeat_with_a_key_judges_nothing_and_gets_the_first_answer(
    client: FlaskClient, queue: Runner, headers: dict[str, str], status: int, kept: int
) -> None:
    headers = {**headers, "Idempotency-Key": "june"}
    first, again = (evaluate(client, **headers) for _ in range(2))
    rows = {"X": X.tolist(), "y": Y.tolist()}
    other = client.post(f"{VERSION}/evaluate", json=rows, headers=headers)

    assert (
        (again.status_code, again.json) == (first.status_code, first.json) == (status, again.json)
    )
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers.get("Location") == first.headers.get("Location")
    assert other.status_code == 422
    assert len(list_evaluations(client)) == kept
    assert len(client.get("/api/v1/ml/jobs").json) == 2 - kept  # the training, and what waits


@on_sqlite
@pytest.mark.parametrize("is_made_anew", [False, True])
def test_rows_are_not_judged_by_another_version_than_they_were_read_for(
    client: FlaskClient, queue: Runner, is_made_anew: bool
) -> None:
    url = evaluate(client, **LATER).headers["Location"]
    assert client.delete(f"{MODEL}?versions=all").status_code == 204
    if is_made_anew:
        train(client, X[:, ::-1], Y, url=MODEL)

    queue.start()

    assert wait_for(client, url, "failed")["problem"]["status"] == 404
    if is_made_anew:
        assert list_evaluations(client) == []


@on_sqlite
@pytest.mark.parametrize("data", [b"damaged", b"no model"])
def test_a_version_that_cannot_be_loaded_is_not_judged(
    client: FlaskClient,
    queue: Runner,
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
    data: bytes,
) -> None:
    if data == b"damaged":
        session.execute(sa.update(Artifact).values(data=data))
    else:  # its digest is right
        session.add(Artifact(digest=digest(data), data=data))
        session.flush()
        session.execute(sa.update(ModelVersion).values(artifact_digest=digest(data)))
    session.commit()

    at_once = evaluate(client)
    monkeypatch.setattr(service, "QUICK_BYTES", 0)
    refused = evaluate(client)

    assert refused.status_code == at_once.status_code == 503
    assert refused.json["detail"] == at_once.json["detail"]
    assert refused.json["detail"].count("cannot be loaded") == 1
    assert list_evaluations(client) == []


@on_sqlite
def test_rows_beyond_the_model_are_refused_alike_at_once_and_as_a_job(
    client: FlaskClient, queue: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.tile([1.7e308, -1.7e308], (20, 1))
    at_once = evaluate(client, rows=rows)
    monkeypatch.setattr(service, "QUICK_BYTES", 0)
    refused = evaluate(client, rows=rows)

    assert refused.status_code == at_once.status_code == 422
    assert refused.json["errors"] == at_once.json["errors"]


@on_sqlite
@pytest.mark.usefixtures("nothing_is_quick")
def test_a_client_that_hangs_up_cancels_its_evaluation(client: FlaskClient, queue: Runner) -> None:
    ended = threading.Event()
    work = partial(_wait_for, ended)
    queue.kinds = {"evaluate": replace(queue.kinds["evaluate"], work=work)}
    ours, theirs = socket.socketpair()
    theirs.close()

    with ours:
        rows = {"X": X.tolist(), "y": Y.tolist()}
        left = {"gunicorn.socket": ours}
        client.post(f"{VERSION}/evaluate", json=rows, environ_overrides=left)
    ended.set()

    job = client.get("/api/v1/ml/jobs").json[0]
    assert (job["kind"], job["status"]) == ("evaluate", "cancelled")
    assert list_evaluations(client) == []


def _wait_for(ended: threading.Event, *_: Any) -> dict[str, Any]:
    assert ended.wait(30)
    return {}


@on_sqlite
@pytest.mark.usefixtures("nothing_is_quick")
def test_an_evaluation_that_takes_too_much_memory_is_refused_with_what_it_may_take(
    client: FlaskClient, queue: Runner
) -> None:
    def take_memory(*_: Any) -> Any:
        raise MemoryError

    queue.kinds = {"evaluate": replace(queue.kinds["evaluate"], work=take_memory)}

    refused = evaluate(client)

    assert refused.status_code == 422
    assert "cannot be judged within 2048 MB and 600 seconds" in refused.json["detail"]


MODELS = {
    "skops": lambda: skops.io.dumps(LinearRegression().fit(X, Y)),
    "xgboost": lambda: bytes(
        xgboost.XGBRegressor(n_estimators=5).fit(X, Y).get_booster().save_raw("json")
    ),
    "lightgbm": lambda: (
        lightgbm.LGBMRegressor(n_estimators=5, min_child_samples=2, verbose=-1)
        .fit(X, Y)
        .booster_.model_to_string()
        .encode()
    ),
    "onnx": lambda: to_onnx(LinearRegression().fit(X, Y), X),
}


@on_sqlite
@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.usefixtures("nothing_is_quick")
@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_any_format_is_judged_in_a_process_of_its_own(
    client: FlaskClient, name: str
) -> None:
    assert send(client, MODEL, MODELS[name](), activate="true").status_code == 201

    found = evaluate(client)

    predicted = client.post(f"{MODEL}/predict/batch", json={"instances": X[:20].tolist()})
    rmse = np.sqrt(np.mean((Y[:20] - predicted.json["predictions"]) ** 2))
    assert found.status_code == 200, found.text
    np.testing.assert_allclose(found.json["metrics"]["rmse"], rmse, rtol=1e-9)
