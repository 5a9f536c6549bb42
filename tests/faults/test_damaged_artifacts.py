"""Damaged bytes of a version are never served, take no other version with them, and heal."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.conftest import dispose_app, make_app
from tests.faults import FULL, full_only, on_sqlite
from tests.faults.load import ML
from tests.faults.record import Record
from tests.gunicorn_server import running_gunicorn
from webapp.extensions import db
from webapp.ml.registry.models import Artifact

pytestmark = on_sqlite

MODEL = f"{ML}/models/constant"
HEALED_WITHIN = 5.0  # seconds
PATIENCE = 30.0  # seconds after which a test that waits has failed


def flip(place: float) -> Callable[[bytes, bytes], bytes]:
    """Return a damage that flips one bit, at a share of the length."""

    def damage(data: bytes, _other: bytes) -> bytes:
        changed = bytearray(data)
        changed[int(place * (len(data) - 1))] ^= 1
        return bytes(changed)

    return damage


DAMAGES: dict[str, Callable[[bytes, bytes], bytes]] = {
    "a flipped bit": flip(0.5),
    "another valid artifact": lambda _data, other: other,
}
MORE_DAMAGES = {
    "cut short": lambda data, _other: data[:-100],
    "empty": lambda _data, _other: b"",
    **{f"a flipped bit at {share:.0%}": flip(share) for share in (0, 0.1, 0.9, 1)},
    **{f"cut to {kept}": lambda data, _, n=kept: data[:n] for kept in (1, 30, 500)},
    "a byte too many": lambda data, _: data + b"\0",
    "no archive": lambda data, _: bytes(len(data)),
}


@pytest.fixture(autouse=True)
def _shorter_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try a version that could not be loaded again sooner than after the usual two seconds."""
    if not FULL:
        monkeypatch.setattr("webapp.ml.inference.serving.LOAD_PAUSE", 0.2)


each_damage = pytest.mark.parametrize(
    "damage",
    [
        *DAMAGES.values(),
        *(pytest.param(damage, marks=pytest.mark.slow) for damage in MORE_DAMAGES.values()),
    ],
    ids=[*DAMAGES, *MORE_DAMAGES],
)


def train(client: FlaskClient, value: float, *, activate: bool = True) -> str:
    """Train a model that predicts a constant; return the digest of its artifact."""
    rows = {"X": [[0.0], [1.0]], "y": [value, value], "activate": activate}
    response = client.post(f"{MODEL}/train", json=rows)
    assert response.status_code == 201, response.text
    return response.json["model"]["digest"]


def predict(client: FlaskClient, path: str = MODEL) -> TestResponse:
    return client.post(f"{path}/predict", json={"features": [0.5]})


def read(app: Flask, digest: str) -> bytes:
    with app.app_context():
        return db.session.get_one(Artifact, digest).data


def write(app: Flask, digest: str, data: bytes) -> None:
    """Change stored bytes behind the back of the service."""
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(sa.update(Artifact).where(Artifact.digest == digest).values(data=data))


def wait_until_healed(client: FlaskClient, value: float) -> None:
    """Ask until a version predicts again."""
    ends = time.monotonic() + PATIENCE
    while (response := predict(client)).status_code != 200 or "X-Model-Stale" in response.headers:
        assert time.monotonic() < ends, response.text
        time.sleep(0.05)
    assert response.json["prediction"] == pytest.approx(value)


@contextmanager
def fresh_service(database_url: str) -> Iterator[FlaskClient]:
    """Return a client of a service that has nothing loaded."""
    app = make_app(database_url)
    yield app.test_client()
    dispose_app(app)


@each_damage
def test_the_version_before_goes_on_serving_and_says_that_it_is_stale(
    app: Flask, client: FlaskClient, record: Record, damage: Callable[[bytes, bytes], bytes]
) -> None:
    before = train(client, 7)
    assert predict(client).json["prediction"] == pytest.approx(7)
    digest = train(client, 11)  # active, and not loaded by this process yet
    right = read(app, digest)
    write(app, digest, damage(right, read(app, before)))

    damaged, ready = predict(client), client.get("/health/ready")
    write(app, digest, right)
    wait_until_healed(client, 11)
    healed = client.get("/health/ready")

    assert damaged.json["prediction"] == pytest.approx(7)
    assert damaged.json["model"]["version"] == 1
    assert damaged.headers["X-Model-Stale"] == "true"
    assert (ready.status_code, ready.json["status"]) == (200, "degraded")
    assert "constant version 2" in ready.json["checks"]["models"]
    assert healed.json["status"] == "ok"
    record("artifact damaged: version before serves", 1, 1, 0)


@each_damage
def test_a_service_with_nothing_loaded_says_so_and_heals(
    app: Flask,
    client: FlaskClient,
    database_url: str,
    record: Record,
    damage: Callable[[bytes, bytes], bytes],
) -> None:
    other, digest = train(client, 11), train(client, 7)
    right = read(app, digest)
    write(app, digest, damage(right, read(app, other)))

    with fresh_service(database_url) as fresh:
        refused = predict(fresh)
        ready = fresh.get("/health/ready")
        info = fresh.get(f"{MODEL}/versions/2")
        other_version = predict(fresh, f"{MODEL}/versions/1")
        write(app, digest, right)
        wait_until_healed(fresh, 7)
        healed = fresh.get("/health/ready")

    assert refused.status_code == 503
    assert "recorded digest" in refused.json["detail"]
    assert int(refused.headers["Retry-After"]) > 0
    assert (ready.status_code, ready.json["status"]) == (200, "degraded")
    assert "constant version 2" in ready.json["checks"]["models"]
    assert (info.status_code, other_version.status_code) == (200, 200)
    assert other_version.json["prediction"] == pytest.approx(11)
    assert healed.json["status"] == "ok"
    record("artifact damaged: nothing loaded", 1, 1, 0)


@each_damage
def test_a_damaged_version_cannot_be_activated(
    app: Flask, client: FlaskClient, record: Record, damage: Callable[[bytes, bytes], bytes]
) -> None:
    before, digest = train(client, 7), train(client, 11, activate=False)
    write(app, digest, damage(read(app, digest), read(app, before)))

    refused = client.put(f"{MODEL}/active", json={"version": 2})
    serving = predict(client)

    assert refused.status_code == 409
    assert "recorded digest" in refused.json["detail"]
    assert serving.json["prediction"] == pytest.approx(7)
    assert "X-Model-Stale" not in serving.headers
    assert client.get(MODEL).json["active_version"] == 1
    record("artifact damaged: activation", 1, 1, 0)


@each_damage
def test_damaged_bytes_are_not_handed_out(
    app: Flask, client: FlaskClient, record: Record, damage: Callable[[bytes, bytes], bytes]
) -> None:
    other, digest = train(client, 7), train(client, 11)
    right = read(app, digest)
    write(app, digest, damage(right, read(app, other)))

    refused = client.get(f"{MODEL}/versions/2/artifact")
    exported = app.test_cli_runner().invoke(args=["ml", "export", "2", "-", "--model", "constant"])
    write(app, digest, right)
    healed = client.get(f"{MODEL}/versions/2/artifact")

    assert refused.status_code == 503
    assert "recorded digest" in refused.json["detail"]
    assert "ETag" not in refused.headers
    assert exported.exit_code == 1
    assert exported.stdout == ""
    assert hashlib.sha256(healed.data).hexdigest() == digest
    record("artifact damaged: download", 1, 1, 0)


@each_damage
def test_training_the_same_again_puts_the_right_bytes_back(
    app: Flask, client: FlaskClient, record: Record, damage: Callable[[bytes, bytes], bytes]
) -> None:
    other, digest = train(client, 11), train(client, 7)
    write(app, digest, damage(read(app, digest), read(app, other)))

    again = train(client, 7)  # of the same digest: versions share their bytes
    serving = predict(client)

    assert again == digest
    assert serving.json["model"]["version"] == 3
    assert "X-Model-Stale" not in serving.headers
    assert predict(client, f"{MODEL}/versions/2").json["prediction"] == pytest.approx(7)
    record("artifact damaged: trained again", 1, 1, 0)


def test_a_damaged_version_that_is_deleted_degrades_nothing_any_more(
    app: Flask, client: FlaskClient, record: Record
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
    record("artifact damaged: deleted", 1, 1, 0)


@pytest.mark.slow
@full_only
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_every_worker_refuses_and_heals(
    app: Flask,
    client: FlaskClient,
    database_url: str,
    tmp_path: Path,
    record: Record,
    damage: Callable[[bytes, bytes], bytes],
) -> None:
    other, digest = train(client, 11), train(client, 7)
    right = read(app, digest)
    write(app, digest, damage(right, read(app, other)))

    with running_gunicorn(database_url, tmp_path / "log", WEB_CONCURRENCY="2") as server:

        def ask() -> requests.Response:
            rows = {"features": [0.5]}
            return requests.post(f"{server.url}{MODEL}/predict", json=rows, timeout=30)

        refused = [ask().status_code for _ in range(20)]
        write(app, digest, right)
        time.sleep(HEALED_WITHIN)
        healed = [ask() for _ in range(20)]

    assert refused == [503] * 20
    assert [answer.json()["prediction"] for answer in healed] == pytest.approx([7] * 20)
    record("artifact damaged: every worker", 40, 40, 0)
