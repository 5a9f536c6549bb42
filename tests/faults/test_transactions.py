"""Changes of a model that are killed at any statement: all of it is there, or nothing."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from tests.faults import on_postgresql, scaled
from tests.faults.kill_points import run_and_kill, send_request, upload_copy
from tests.faults.losses import find_broken
from tests.faults.record import Record
from webapp.extensions import db

pytestmark = pytest.mark.slow

OPERATIONS = ("train a new model", "train", "activate", "roll back", "delete", "upload")
CREATIONS = ("train a new model", "train", "upload")
NUMBERS = sa.text(
    "SELECT v.number FROM model_version v JOIN model m ON m.id = v.model_id WHERE m.name = :model"
)


class Model:
    """A model, as a client and as the database itself see it."""

    def __init__(self, app: Flask, name: str) -> None:
        self.client: FlaskClient = app.test_client()
        self.app = app
        self.path = f"/api/v1/ml/models/{name}"
        self.name = name

    def train(self) -> int:
        """Train; return the number of the new version."""
        rows = {"X": [[0.0], [1.0], [2.0]], "y": [1.0, 2.0, 4.0 + self.last_version()]}
        response = self.client.post(f"{self.path}/train", json=rows)
        assert response.status_code == 201, response.text
        return response.json["model"]["version"]

    def last_version(self) -> int:
        """Return the highest number given out, 0 where there is no such model."""
        response = self.client.get(self.path)
        return response.json["last_version"] if response.status_code == 200 else 0

    def numbers(self) -> set[int]:
        """Return the versions that exist."""
        with self.app.app_context(), db.engine.connect() as connection:
            return set(connection.scalars(NUMBERS, {"model": self.name}))

    def predicts(self) -> bool:
        """Say whether the active version predicts."""
        row = {"features": [1.0]}
        return self.client.post(f"{self.path}/predict", json=row).status_code == 200


def plan(operation: str, model: Model, attempt: int) -> tuple[Any, ...]:
    """Return what a process is to do for an operation: a task, and its arguments."""
    while operation != "train a new model" and len(model.numbers()) < 3:
        model.train()
    if operation in ("train", "train a new model"):
        body = {"X": [[0.0], [1.0]], "y": [0.0, float(attempt)]}
        return send_request, "POST", f"{model.path}/train", body
    active = model.client.get(model.path).json["active_version"]
    if operation == "upload":
        return upload_copy, model.name, active
    other = min(model.numbers() - {active})
    if operation == "activate":
        return send_request, "PUT", f"{model.path}/active", {"version": other}
    if operation == "roll back":
        return send_request, "POST", f"{model.path}/rollback", None
    return send_request, "DELETE", f"{model.path}/versions/{other}", None


@on_postgresql
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_change_that_is_killed_at_any_statement_is_whole_or_not_there(
    database_url: str, app: Flask, record: Record, operation: str
) -> None:
    step = scaled(5, 1)
    kills, broken = 0, []
    for boundary in itertools.count(1 + OPERATIONS.index(operation) % step, step):
        new = operation == "train a new model"
        model = Model(app, f"new-{boundary}" if new else "changed")
        task, *arguments = plan(operation, model, boundary)
        before, there = model.last_version(), model.numbers()

        killed = run_and_kill(task, boundary, database_url, *arguments)

        with app.app_context():
            found = find_broken(db.engine)
        found += check_numbers(model, operation, before, there)
        if found:
            broken.append(f"boundary {boundary}: {found}")
        if not killed:
            break
        kills += 1
    record(f"killed at a statement: {operation}", kills, kills - len(broken), len(broken))
    assert broken == []
    assert kills >= scaled(2, 10)


def check_numbers(model: Model, operation: str, before: int, there: set[int]) -> list[str]:
    """Return what is wrong with the numbers of versions, also with that of one more training."""
    now, last = model.numbers(), model.last_version()
    found = []
    if last not in {before, before + (operation in CREATIONS)}:
        found.append(f"the last version was {before} and is {last}")
    if len(there - now) > (operation == "delete"):
        found.append(f"versions {there - now} are gone")
    if now - there != set(range(before + 1, last + 1)):
        found.append(f"versions {now - there} are new")
    if last and not model.predicts():
        found.append("the active version does not predict")
    if (number := model.train()) != last + 1:
        found.append(f"the next training is number {number} after {last}")
    return found
