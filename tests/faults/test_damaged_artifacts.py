"""Damaged bytes of a version are never served, take no other version with them, and heal."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.conftest import dispose_app, make_app
from tests.faults import on_sqlite
from tests.faults.load import ML
from tests.ml.calls import train_constant
from webapp.extensions import db
from webapp.ml.registry.models import Artifact

pytestmark = on_sqlite

MODEL = f"{ML}/models/constant"
STALE = "X-Model-Stale"
PATIENCE = 30.0  # seconds after which a test that waits has failed


@pytest.fixture(autouse=True)
def _shorter_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try a version that could not be loaded again sooner than after the usual two seconds."""
    monkeypatch.setattr("webapp.ml.inference.serving.LOAD_PAUSE", 0.2)


def train(client: FlaskClient, value: float, **options: bool) -> str:
    """Train a model that predicts a constant; return the digest of its artifact."""
    return str(train_constant(client, value, url=MODEL, **options).json["model"]["digest"])


def predict(client: FlaskClient, path: str = MODEL) -> TestResponse:
    return client.post(f"{path}/predict", json={"features": [0.5]})


def write(app: Flask, digest: str, data: bytes) -> None:
    """Change stored bytes behind the back of the service."""
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(sa.update(Artifact).where(Artifact.digest == digest).values(data=data))


def damage_second(
    app: Flask, client: FlaskClient, damage: str = "a flipped bit"
) -> tuple[str, bytes]:
    """Train versions that predict 7 and 11, load the first one, and damage the second one.

    Return the digest and the right bytes of the second.
    """
    first = train(client, 7)
    assert predict(client).json["prediction"] == pytest.approx(7)
    second = train(client, 11)
    with app.app_context():
        right, other = (db.session.get_one(Artifact, key).data for key in (second, first))
    flipped = right[:100] + bytes([right[100] ^ 1]) + right[101:]
    write(app, second, flipped if damage == "a flipped bit" else other)
    return second, right


def wait_until_healed(client: FlaskClient, *paths: str) -> None:
    """Ask until the second version predicts again, at each path."""
    ends = time.monotonic() + PATIENCE
    for path in paths:
        while (found := predict(client, path)).status_code != 200 or STALE in found.headers:
            assert time.monotonic() < ends, found.text
            time.sleep(0.05)
        assert found.json["prediction"] == pytest.approx(11)
    assert client.get("/health/ready").json["status"] == "ok"


@pytest.fixture
def fresh(app: Flask, database_url: str) -> Iterator[FlaskClient]:
    """Return a client of another service on the same database, which has nothing loaded."""
    fresh_app = make_app(database_url)
    yield fresh_app.test_client()
    dispose_app(fresh_app)


def assert_degraded(client: FlaskClient) -> None:
    ready = client.get("/health/ready")
    assert (ready.status_code, ready.json["status"]) == (200, "degraded")
    assert "constant version 2" in ready.json["checks"]["models"]


@pytest.mark.parametrize("damage", ["a flipped bit", "another valid artifact"])
def test_the_version_before_serves_as_stale_until_the_bytes_are_right_again(
    app: Flask, client: FlaskClient, damage: str
) -> None:
    digest, right = damage_second(app, client, damage)

    stale = predict(client)
    assert_degraded(client)
    write(app, digest, right)
    wait_until_healed(client, MODEL)

    assert stale.json["prediction"] == pytest.approx(7)
    assert stale.json["model"]["version"] == 1
    assert stale.headers[STALE] == "true"


def test_training_the_same_again_puts_the_right_bytes_back(
    app: Flask, client: FlaskClient
) -> None:
    digest, _ = damage_second(app, client)

    again = train(client, 11)  # of the same digest: versions share their bytes

    assert again == digest
    assert predict(client).json["model"]["version"] == 3
    wait_until_healed(client, MODEL, f"{MODEL}/versions/2")


def test_damaged_bytes_are_not_loaded_activated_or_handed_out(
    app: Flask, client: FlaskClient, fresh: FlaskClient
) -> None:
    digest, right = damage_second(app, client)
    version = f"{MODEL}/versions/2"

    refused = {
        503: [predict(fresh), predict(fresh, version), fresh.get(f"{version}/artifact")],
        409: [fresh.put(f"{MODEL}/active", json={"version": 2})],
    }
    assert_degraded(fresh)
    other_version, info = predict(fresh, f"{MODEL}/versions/1"), fresh.get(version)
    exported = app.test_cli_runner().invoke(args=["ml", "export", "2", "-", "--model", "constant"])
    write(app, digest, right)
    wait_until_healed(fresh, MODEL, version)
    healed = fresh.get(f"{version}/artifact")

    for status, answers in refused.items():
        for answer in answers:
            assert answer.status_code == status
            assert "recorded digest" in answer.json["detail"]
            assert "ETag" not in answer.headers
    assert int(refused[503][0].headers["Retry-After"]) > 0
    assert other_version.json["prediction"] == pytest.approx(7)
    assert info.status_code == 200
    assert (exported.exit_code, exported.stdout) == (1, "")
    assert hashlib.sha256(healed.data).hexdigest() == digest


def test_a_damaged_version_that_is_deleted_degrades_nothing_any_more(
    app: Flask, client: FlaskClient
) -> None:
    train(client, 7)
    write(app, train(client, 11, activate=False), b"")
    assert predict(client, f"{MODEL}/versions/2").status_code == 503
    degraded = client.get("/health/ready").json

    deleted = client.delete(f"{MODEL}/versions/2")
    gone = predict(client, f"{MODEL}/versions/2")

    assert degraded["status"] == "degraded"
    assert (deleted.status_code, gone.status_code) == (204, 404)
    assert client.get("/health/ready").json["status"] == "ok"
