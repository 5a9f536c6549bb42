"""A change of a model or of the schema that is killed at a statement is whole, or not there.

Boundaries are the moments before each statement and before each commit, counted from 1.
"""

from __future__ import annotations

import io
import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_migrate import upgrade
from sqlalchemy import event
from sqlalchemy.orm import Session

from tests.conftest import Backend, Inline, app_on, table_names
from tests.faults import on_postgresql, scaled
from tests.faults.load import ML, InProcess, predict, train_constant
from tests.faults.losses import find_broken
from tests.faults.record import Record
from webapp.db.base import Base, utc_now
from webapp.extensions import db
from webapp.jobs.models import Job
from webapp.jobs.processes import Call, Task
from webapp.jobs.service import count_jobs

pytestmark = pytest.mark.slow

# Forked from a process that keeps no connection and no thread, but has these imported already.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [__name__, "skops.io", "sklearn.linear_model", "sklearn.model_selection"]
)


def run_and_kill(task: Callable[..., None], kill_at: int, url: str, *arguments: Any) -> bool:
    """Do a task in a process of its own; say whether it was killed before it was done."""
    process = CONTEXT.Process(target=_do, args=(task, kill_at, url, *arguments))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


class SameThread(Inline):
    """Does work in the thread that submits it: the statements come in the same order each time."""

    def submit_late(self, begin: Callable[[], Call]) -> Task:
        """Return the work as a future that has ended."""
        task = Task()
        self._see_to(task, begin)
        return task


def _do(task: Callable[..., None], kill_at: int, url: str, *arguments: Any) -> None:
    passed = 0

    def pass_boundary(*_: object) -> None:
        nonlocal passed
        passed += 1
        if passed == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    with app_on(url) as app, app.app_context():
        app.extensions["jobs"].executor = app.extensions["uploads"].executor = SameThread()
        event.listen(db.engine, "before_cursor_execute", pass_boundary)
        event.listen(db.engine, "commit", pass_boundary)
        task(app, *arguments)


def send_request(app: Flask, method: str, path: str, options: dict[str, Any]) -> None:
    response = app.test_client().open(path, method=method, **options)
    assert response.status_code < 300, response.text


def upgrade_schema(_app: Flask) -> None:
    upgrade()


CREATIONS = ("train a new model", "train", "upload")
OPERATIONS = (*CREATIONS, "activate", "roll back", "delete")


def list_versions(client: InProcess, path: str) -> tuple[set[int], int]:
    """Return the versions that a model has, and the highest number that it has given out."""
    model = client.call("GET", path)
    if model.status == 404:
        return set(), 0
    listed = client.call("GET", f"{path}/versions?page_size=1000").body
    return {version["version"] for version in listed}, model.body["last_version"]


def plan(operation: str, app: Flask, path: str, attempt: int) -> tuple[str, str, dict[str, Any]]:
    """Return the request of an operation: its method, path and options."""
    if operation in ("train", "train a new model"):
        rows = {"X": [[0.0], [1.0]], "y": [0.0, float(attempt)]}
        return "POST", f"{path}/train", {"json": rows}
    if operation == "roll back":
        return "POST", f"{path}/rollback", {}
    client = app.test_client()
    active = client.get(path).json["active_version"]
    if operation == "upload":
        artifact = client.get(f"{path}/versions/{active}/artifact").data
        form = {"artifact": (io.BytesIO(artifact), "model.skops"), "activate": "true"}
        return "POST", f"{path}/versions", {"data": form}
    other = min(list_versions(InProcess(app), path)[0] - {active})
    if operation == "activate":
        return "PUT", f"{path}/active", {"json": {"version": other}}
    return "DELETE", f"{path}/versions/{other}", {}


@on_postgresql
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_change_that_is_killed_at_any_statement_is_whole_or_not_there(
    database_url: str, app: Flask, record: Record, operation: str
) -> None:
    step, client = scaled(3, 1), InProcess(app)
    kills, broken = 0, []
    for boundary in itertools.count(1 + OPERATIONS.index(operation) % step, step):
        name = f"new-{boundary}" if operation == "train a new model" else "changed"
        path = f"{ML}/models/{name}"
        while name == "changed" and len(list_versions(client, path)[0]) < 3:
            train_constant(client, name, float(list_versions(client, path)[1]))
        before = list_versions(client, path)

        request = plan(operation, app, path, boundary)
        killed = run_and_kill(send_request, boundary, database_url, *request)

        with app.app_context():
            found = find_broken(db.engine)
        found += check_versions(client, name, operation, before)
        if found:
            broken.append(f"boundary {boundary}: {found}")
        if not killed:
            break
        kills += 1
    record(f"killed at a statement: {operation}", kills, kills - len(broken), len(broken))
    assert broken == []
    assert kills >= scaled(2, 6)


def check_versions(
    client: InProcess, name: str, operation: str, before: tuple[set[int], int]
) -> list[str]:
    """Return what is wrong with a model's versions, also with that of one more training."""
    path = f"{ML}/models/{name}"
    (there, last_before), (now, last) = before, list_versions(client, path)
    is_whole = (now, last) == before
    if operation in CREATIONS:
        is_whole |= (now, last) == (there | {last_before + 1}, last_before + 1)
    if operation == "delete":
        is_whole |= now < there and (len(now), last) == (len(there) - 1, last_before)
    found = [] if is_whole else [f"the versions {before} have become {(now, last)}"]
    if last and predict(client, path).status != 200:
        found.append("the active version does not predict")
    if (number := train_constant(client, name, float(last)).body["model"]["version"]) != last + 1:
        found.append(f"the next training is number {number} after {last}")
    return found


def work_off(app: Flask) -> None:
    """Do the jobs of the queue until all have ended."""
    # Its statements do not count.
    engine = sa.create_engine(db.engine.url, poolclass=sa.NullPool)
    app.extensions["jobs"].start()
    with Session(engine) as session:
        while sum(count_jobs(session)[:2]):
            session.rollback()
            time.sleep(0.01)


def let_claims_expire(app: Flask) -> None:
    with app.app_context():
        past = utc_now() - timedelta(seconds=1)
        held = sa.update(Job).where(Job.claimed_until.is_not(None))
        db.session.execute(held.values(claimed_until=past))
        db.session.commit()


@on_postgresql
def test_a_job_whose_owner_is_killed_at_any_statement_becomes_one_version(
    database_url: str, app: Flask, record: Record
) -> None:
    kills, wanted, boundary, client = 0, scaled(10, 100), 1, InProcess(app)
    broken: list[str] = []
    rows = {"X": [[0.0], [1.0]], "y": [0.0, 1.0]}
    path, later = f"{ML}/models/queued", {"Prefer": "respond-async"}
    while kills < wanted:
        submitted = app.test_client().post(f"{path}/train", json=rows, headers=later)
        assert submitted.status_code == 202

        killed = run_and_kill(work_off, boundary, database_url)
        if killed:
            let_claims_expire(app)
            assert not run_and_kill(work_off, 0, database_url)

        job = client.call("GET", submitted.headers["Location"]).body
        with app.app_context():
            found = find_broken(db.engine)
        versions, last = list_versions(client, path)
        if job["status"] != "succeeded" or job["result"]["version"] != last:
            found.append(f"the job is {job}, and the last version {last}")
        if len(versions) != job["id"]:  # one of each job
            found.append(f"{job['id']} jobs have made {len(versions)} versions")
        if found:
            broken.append(f"boundary {boundary}: {found}")
        kills, boundary = kills + killed, boundary + scaled(3, 1) if killed else 1
    record("owner of a job killed at a statement", kills, kills - len(broken), len(broken))
    assert broken == []


def test_a_killed_migrator_leaves_neither_a_lock_nor_half_a_schema(
    backend: Backend, record: Record
) -> None:
    # SQLite changes a table by making it anew: it passes four times as many boundaries.
    step = scaled(17, 2) if backend.name == "postgresql" else scaled(65, 8)
    kills, broken = 0, []
    for boundary in itertools.count(3, step):
        url = backend.make_empty()
        killed = run_and_kill(upgrade_schema, boundary, url)
        with app_on(url) as app, app.app_context():
            left = set(sa.inspect(db.engine).get_table_names())
            whole = not left or table_names() == set(Base.metadata.tables)
            upgrade()
            whole = whole and table_names() == set(Base.metadata.tables)
        backend.drop(url)
        if not whole:
            broken.append(f"boundary {boundary} left {left}")
        if not killed:
            break
        kills += 1
    record("migrator killed at a statement", kills, kills - len(broken), len(broken))
    assert broken == []
    assert kills >= scaled(3, 20)
