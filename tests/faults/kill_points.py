"""Processes that kill themselves at a chosen statement boundary."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

from flask import Flask
from flask_migrate import upgrade
from sqlalchemy import event

from tests.conftest import dispose_app, make_app
from webapp.extensions import db

# Forked from a process that keeps no connection and no thread, but has these imported already.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [__name__, "skops.io", "sklearn.linear_model", "sklearn.model_selection"]
)


def run_and_kill(task: Callable[..., None], kill_at: int, url: str, *arguments: Any) -> bool:
    """Do a task in a process of its own; say whether it was killed before it was done.

    Boundaries are the moments before and after each statement, and before and after each commit,
    counted from 1.
    """
    process = CONTEXT.Process(target=_do, args=(task, kill_at, url, *arguments))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def _do(task: Callable[..., None], kill_at: int, url: str, *arguments: Any) -> None:
    app = make_app(url)
    passed = 0

    def pass_boundary(*_: object) -> None:
        nonlocal passed
        passed += 1
        if passed == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def arm() -> None:
        commit = db.engine.dialect.do_commit

        def commit_between_boundaries(connection: Any) -> None:
            pass_boundary()
            commit(connection)
            pass_boundary()

        db.engine.dialect.do_commit = commit_between_boundaries
        event.listen(db.engine, "before_cursor_execute", pass_boundary)
        event.listen(db.engine, "after_cursor_execute", pass_boundary)

    with app.app_context():
        task(app, arm, *arguments)
    dispose_app(app)


def send_request(app: Flask, arm: Callable[[], None], method: str, path: str, body: Any) -> None:
    """Send one request to the application."""
    arm()
    response = app.test_client().open(path, method=method, json=body)
    assert response.status_code < 300, response.text


def upload_copy(app: Flask, arm: Callable[[], None], model: str, number: int) -> None:
    """Upload what was downloaded of a version as the model's next one, and activate it."""
    client = app.test_client()
    versions = f"/api/v1/ml/models/{model}/versions"
    artifact = client.get(f"{versions}/{number}/artifact").data
    arm()
    form = {"artifact": (io.BytesIO(artifact), "model.skops"), "activate": "true"}
    response = client.post(versions, data=form)
    assert response.status_code == 201, response.text


def upgrade_schema(app: Flask, arm: Callable[[], None]) -> None:
    """Bring the schema to its newest revision."""
    arm()
    upgrade()
