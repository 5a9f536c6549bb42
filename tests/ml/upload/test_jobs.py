"""Uploads that nobody waits for, and those whose process dies."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import skops.io
from flask import Flask
from flask.testing import FlaskClient
from sklearn.linear_model import LinearRegression
from werkzeug.test import TestResponse

from tests.faults import on_sqlite
from tests.jobs.test_jobs import LATER, ROWS, submit, wait_for
from tests.jobs.test_processes import die
from webapp.jobs.runner import Runner

pytestmark = pytest.mark.processes

MODEL = skops.io.dumps(LinearRegression().fit(ROWS["X"], ROWS["y"]))
TABLE = b"x1,x2,x3,y\n1,2,3,10\n4,5,6,20\n7,8,10,33\n"


@pytest.fixture
def uploads(app: Flask) -> Iterator[Runner]:
    """Return what works off the queued uploads of the application."""
    found: Runner = app.extensions["uploads"]
    found.start()
    yield found
    found.close()


def send(client: FlaskClient, data: bytes = MODEL, **more: Any) -> TestResponse:
    fields = {"activate": "if_better", "metric": "rmse", "target": "y"}
    files = {"artifact": (io.BytesIO(data), "m.skops"), "table": (io.BytesIO(TABLE), "t.csv")}
    return client.post("/api/v1/ml/models/default/versions", data={**fields, **files}, **more)


def test_an_upload_that_is_not_waited_for_becomes_a_version_and_waits_for_no_training(
    client: FlaskClient, uploads: Runner
) -> None:
    training = submit(client)  # which nobody works off here

    queued = send(client, headers=LATER)

    assert (queued.status_code, queued.json["kind"]) == (202, "upload")
    job = wait_for(client, queued.headers["Location"], "succeeded")
    assert client.get(training).json["status"] == "queued"
    assert (job["options"]["source"], job["options"]["activate"]) == ("m.skops", "if_better")
    waited_for = send(client).json
    version = client.get(job["result"]["url"]).json
    assert version["metrics"]["comparison"]["better"] is True
    assert waited_for["comparison"]["version"] == version["version"] == 1
    assert waited_for["comparison"]["active"] == version["metrics"]["comparison"]["candidate"]


@on_sqlite
def test_a_queued_upload_fails_with_the_reason_that_a_request_gets(
    client: FlaskClient, uploads: Runner
) -> None:
    queued = send(client, b"no model", headers=LATER)

    job = wait_for(client, queued.headers["Location"], "failed")
    refused = send(client, b"no model")
    assert refused.status_code == 422
    assert job["problem"]["errors"] == refused.json["errors"]


@on_sqlite
def test_a_file_whose_process_dies_is_refused_and_tried_again_if_it_was_queued(
    client: FlaskClient, uploads: Runner
) -> None:
    broken = replace(uploads.kinds["upload"], work=die, prepare=lambda *_: ())
    uploads.kinds = {"upload": broken}

    queued = send(client, headers=LATER)

    job = wait_for(client, queued.headers["Location"], "failed")
    refused = send(client)
    assert (job["attempts"], refused.status_code) == (2, 422)
    assert "MAX_UPLOAD_MEMORY" in refused.json["errors"]["form"]["artifact"][0]
    assert job["problem"]["errors"] == refused.json["errors"]
