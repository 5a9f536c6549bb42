"""Changes of a model that are killed at any statement: all of it is there, or nothing."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from tests.faults import on_postgresql, scaled
from tests.faults.kill_points import KillPoints
from tests.faults.record import Record
from webapp.extensions import db

pytestmark = pytest.mark.slow

ML = "/api/v1/ml/models"
NEVER = {
    "a version without its artifact": (
        "SELECT v.id FROM model_version v LEFT JOIN artifact a ON a.digest = v.artifact_digest "
        "WHERE a.digest IS NULL"
    ),
    "an artifact without a version": (
        "SELECT a.digest FROM artifact a LEFT JOIN model_version v "
        "ON v.artifact_digest = a.digest WHERE v.id IS NULL"
    ),
    "an activation without its version": (
        "SELECT a.id FROM activation a LEFT JOIN model_version v "
        "ON v.id = a.version_id AND v.model_id = a.model_id AND v.number = a.version_number "
        "WHERE v.id IS NULL AND (a.version_id IS NOT NULL OR a.ended_at IS NULL)"
    ),
    "a model without exactly one active version": (
        "SELECT m.id FROM model m LEFT JOIN activation a "
        "ON a.model_id = m.id AND a.ended_at IS NULL GROUP BY m.id HAVING count(a.id) <> 1"
    ),
    "a model whose counter is not its last version": (
        "SELECT m.id FROM model m LEFT JOIN model_version v ON v.model_id = m.id "
        "GROUP BY m.id, m.last_version HAVING max(v.number) IS NULL "
        "OR max(v.number) <> m.last_version"
    ),
}


class Registry:
    """The models, as a client and as the database itself see them."""

    def __init__(self, app: Flask) -> None:
        self.client: FlaskClient = app.test_client()
        self.app = app

    def train(self, model: str) -> int:
        """Train a model; return the number of the new version."""
        rows = {"X": [[0.0], [1.0], [2.0]], "y": [1.0, 2.0, 4.0 + self.last_version(model)]}
        response = self.client.post(f"{ML}/{model}/train", json=rows)
        assert response.status_code == 201, response.text
        return response.json["model"]["version"]

    def last_version(self, model: str) -> int:
        """Return the highest number given out, 0 where there is no such model."""
        response = self.client.get(f"{ML}/{model}")
        return response.json["last_version"] if response.status_code == 200 else 0

    def active(self, model: str) -> int:
        """Return the number of the version that serves."""
        return self.client.get(f"{ML}/{model}").json["active_version"]

    def numbers(self, model: str) -> set[int]:
        """Return the versions that exist."""
        with self.app.app_context(), db.engine.connect() as connection:
            return set(
                connection.scalars(
                    sa.text(
                        "SELECT v.number FROM model_version v JOIN model m ON m.id = v.model_id "
                        "WHERE m.name = :model"
                    ),
                    {"model": model},
                )
            )

    def predicts(self, model: str) -> bool:
        """Say whether the active version predicts."""
        response = self.client.post(f"{ML}/{model}/predict", json={"features": [1.0]})
        return response.status_code == 200

    def find_broken(self) -> list[str]:
        """Return what should never be, read from the tables themselves."""
        with self.app.app_context(), db.engine.connect() as connection:
            broken = [
                f"{what}: {rows}"
                for what, query in NEVER.items()
                if (rows := connection.execute(sa.text(query)).all())
            ]
            for digest, data in connection.execute(sa.text("SELECT digest, data FROM artifact")):
                if hashlib.sha256(bytes(data)).hexdigest() != digest:
                    broken.append(f"artifact {digest} is not what was stored")
            if connection.dialect.name == "sqlite":
                said = connection.scalars(sa.text("PRAGMA integrity_check")).all()
                said += connection.scalars(sa.text("PRAGMA foreign_key_check")).all()
                broken += [line for line in said if line != "ok"]
        return broken


OPERATIONS = ("train a new model", "train", "activate", "roll back", "delete", "upload")


def plan(operation: str, registry: Registry, attempt: int) -> tuple[str, str, dict[str, Any]]:
    """Return the model that an operation acts on, the task of a child, and its arguments."""
    if operation == "train a new model":
        model = f"new-{attempt}"
    else:
        model = operation.replace(" ", "-")
        while len(registry.numbers(model)) < 3:
            registry.train(model)
    path = f"{ML}/{model}"
    if operation == "upload":
        return model, "upload_copy", {"model": model, "number": registry.active(model)}
    if operation in ("train", "train a new model"):
        body = {"X": [[0.0], [1.0]], "y": [0.0, float(attempt)]}
        request: tuple[str, str, Any] = ("POST", f"{path}/train", body)
    elif operation == "activate":
        number = min(registry.numbers(model) - {registry.active(model)})
        request = ("PUT", f"{path}/active", {"version": number})
    elif operation == "roll back":
        request = ("POST", f"{path}/rollback", None)
    else:
        number = min(registry.numbers(model) - {registry.active(model)})
        request = ("DELETE", f"{path}/versions/{number}", None)
    return model, "send_request", dict(zip(("method", "path", "json"), request, strict=True))


@on_postgresql
def test_a_change_that_is_killed_at_any_statement_is_whole_or_not_there(
    database_url: str,
    app: Flask,
    kill_points: KillPoints,
    record: Record,
) -> None:
    registry = Registry(app)
    step = scaled(5, 1)
    attempts, total = itertools.count(1), 0
    for operation, offset in zip(OPERATIONS, itertools.cycle(range(step)), strict=False):
        kills, broken = 0, []
        for boundary in itertools.count(1 + offset, step):
            model, task, arguments = plan(operation, registry, next(attempts))
            before, there = registry.last_version(model), registry.numbers(model)

            killed = kill_points.run(task, boundary, database_url=database_url, **arguments)

            found = registry.find_broken()
            found += check_numbers(registry, operation, model, before, there)
            if found:
                broken.append(f"boundary {boundary}: {found}")
            if not killed:
                break
            kills += 1
        record(f"killed at a statement: {operation}", kills, kills - len(broken), len(broken))
        assert broken == [], operation
        total += kills
    assert total >= scaled(20, 100)


def check_numbers(
    registry: Registry, operation: str, model: str, before: int, there: set[int]
) -> list[str]:
    """Return what is wrong with the numbers of versions, also with that of one more training."""
    found = []
    now, last = registry.numbers(model), registry.last_version(model)
    new = operation in ("train", "train a new model", "upload")
    if last not in ({before, before + 1} if new else {before}):
        found.append(f"the last version was {before} and is {last}")
    gone = there - now
    if gone and (operation != "delete" or len(gone) > 1):
        found.append(f"versions {gone} are gone")
    if now - there != set(range(before + 1, last + 1)):
        found.append(f"versions {now - there} are new")
    if last and not registry.predicts(model):
        found.append("the active version does not predict")
    number = registry.train(model)
    if number != last + 1:
        found.append(f"the next training is number {number} after {last}")
    return found
