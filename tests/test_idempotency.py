"""`Idempotency-Key`: what is sent again creates nothing again, whatever happened before."""

from __future__ import annotations

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from tests.faults import only_postgresql
from webapp.db.base import utc_now
from webapp.extensions import db
from webapp.idempotency import service
from webapp.idempotency.service import (
    Claim,
    IdempotencyKey,
    KeyInFlight,
    StoredAnswer,
    claim_held,
    store_answer,
)

ITEMS = "/api/v1/items"
TRAIN = "/api/v1/ml/train"
ROWS = {"X": [[1, 2], [3, 4]], "y": [5, 6]}
ANSWER = StoredAnswer(201, {"Location": "/there"}, b"{}")


def create_item(client: FlaskClient, key: str, name: str = "a", path: str = ITEMS) -> TestResponse:
    return client.post(path, json={"name": name}, headers={"Idempotency-Key": key})


def assert_same_answer(again: TestResponse, first: TestResponse) -> None:
    assert (again.status_code, again.data) == (first.status_code, first.data) == (201, first.data)
    for name in ("Location", "ETag", "Content-Type"):
        assert again.headers.get(name) == first.headers.get(name)
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"


def test_a_repeat_is_answered_as_the_first_was_and_creates_nothing(client: FlaskClient) -> None:
    first = create_item(client, "k1")
    client.patch(first.headers["Location"], json={"description": "changed since"})

    assert_same_answer(create_item(client, "k1"), first)
    assert_same_answer(create_item(client, "k1", path=f"{ITEMS}/"), first)
    assert create_item(client, "k2").json["id"] != first.json["id"]
    assert len(client.get(ITEMS).json) == 2


def test_a_key_does_not_stand_for_another_request(client: FlaskClient) -> None:
    create_item(client, "k")

    for response in (
        create_item(client, "k", name="b"),
        client.post(TRAIN, json=ROWS, headers={"Idempotency-Key": "k"}),
    ):
        assert response.status_code == 422
        assert "Idempotency-Key" in response.json["errors"]["headers"]
    assert len(client.get(ITEMS).json) == 1
    assert client.get("/api/v1/ml/model-info").json["trained"] is False


@pytest.mark.parametrize("key", ["", "two words", "k" * 256, "caf\xe9", "tab\t"])
def test_a_malformed_key_is_refused(client: FlaskClient, key: str) -> None:
    response = create_item(client, key)

    assert response.status_code == 422
    assert "Idempotency-Key" in response.json["errors"]["headers"]
    assert client.get(ITEMS).json == []


def test_the_same_rows_are_the_same_training_however_they_are_sent(client: FlaskClient) -> None:
    key = {"Idempotency-Key": "k"}
    first = client.post(TRAIN, json={**ROWS, "feature_names": ["a", "b"]}, headers=key)

    again = client.post(
        f"{TRAIN}?target=y", data="a,b,y\n1,2,5\n3,4,6\n", content_type="text/csv", headers=key
    )

    assert_same_answer(again, first)
    assert len(client.get("/api/v1/ml/models/default/versions").json) == 1


def test_an_upload_is_repeated_whatever_its_boundary(client: FlaskClient) -> None:
    client.post(TRAIN, json=ROWS)
    artifact = client.get("/api/v1/ml/models/default/versions/1/artifact").data

    first, again = (
        client.post(
            "/api/v1/ml/models/copy/versions",
            data={"artifact": (io.BytesIO(artifact), "model.skops")},
            content_type=f"multipart/form-data; boundary={boundary}",
            headers={"Idempotency-Key": "k"},
        )
        for boundary in ("one", "another")
    )

    assert_same_answer(again, first)
    assert len(client.get("/api/v1/ml/models/copy/versions").json) == 1


def test_work_that_fails_releases_its_key(client: FlaskClient) -> None:
    key = {"Idempotency-Key": "k"}
    one_class = {**ROWS, "estimator": "logistic_regression", "y": ["a", "a"]}
    failed = client.post(TRAIN, json=one_class, headers=key)

    repaired = client.post(TRAIN, json=ROWS, headers=key)

    assert failed.status_code == 422, failed.text
    assert repaired.status_code == 201


def test_of_many_that_come_at_once_one_creates(app: Flask) -> None:
    barrier = threading.Barrier(20)

    def create(_: int) -> TestResponse:
        client = app.test_client()
        barrier.wait()
        return create_item(client, "k")

    with ThreadPoolExecutor(20) as pool:
        responses = list(pool.map(create, range(20)))

    created = [response for response in responses if response.status_code == 201]
    in_flight = [response for response in responses if response.status_code == 409]
    assert len(created) + len(in_flight) == 20
    assert len({response.data for response in created}) == 1
    assert all(int(response.headers["Retry-After"]) > 0 for response in in_flight)
    assert len(app.test_client().get(ITEMS).json) == 1


# The rest speaks of claims as such: what HTTP cannot show, or only after hours.


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return the service's clock, whose ``now`` may be put forward."""
    clock = SimpleNamespace(now=utc_now())
    monkeypatch.setattr(service, "utc_now", lambda: clock.now)
    return clock


def claim_key(session: Session, **changes: str) -> Claim | StoredAnswer:
    return service.claim_key(session, **{"caller": "", "key": "k", "fingerprint": "f", **changes})


def claim(session: Session, **changes: str) -> Claim:
    found = claim_key(session, **changes)
    assert isinstance(found, Claim)
    return found


def store(session: Session, claim: Claim) -> None:
    store_answer(session, claim, ANSWER)
    session.commit()


@only_postgresql  # where a writer does not keep all others out
def test_of_two_claims_at_the_same_moment_one_is_refused(session: Session) -> None:
    def claim_first(*_: object) -> None:
        with Session(db.engine) as another:
            claim(another)

    sa.event.listen(session, "before_flush", claim_first, once=True)

    with pytest.raises(KeyInFlight):
        claim(session)


def test_a_process_that_died_frees_its_key(session: Session, clock: SimpleNamespace) -> None:
    dead = claim(session)

    clock.now += service.CLAIM
    heir = claim(session)
    with pytest.raises(KeyInFlight):
        store(session, dead)
    store(session, heir)

    assert claim_key(session) == ANSWER


def test_an_answer_is_stored_with_the_work_or_not_at_all(session: Session) -> None:
    store_answer(session, claim(session), ANSWER)
    session.rollback()

    with pytest.raises(KeyInFlight):
        claim_key(session)


def test_an_answer_is_kept_for_a_day(session: Session, clock: SimpleNamespace) -> None:
    for number in range(service.MOST_DELETED + 10):
        store(session, claim(session, key=f"{number}"))
        clock.now += timedelta(seconds=1)
    newest = f"{service.MOST_DELETED + 9}"

    clock.now += service.KEPT - timedelta(seconds=60)
    assert claim_key(session, key=newest) == ANSWER
    session.rollback()  # as a view does when it ends: what it deleted is there again

    clock.now += timedelta(seconds=120)
    assert isinstance(claim_key(session, key=newest, fingerprint="new"), Claim)
    assert session.scalar(sa.select(sa.func.count(IdempotencyKey.id))) == 10


def test_a_claim_lasts_as_long_as_the_work(
    app: Flask, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def claimed_until() -> datetime:
        with Session(db.engine) as another:
            return another.scalars(sa.select(IdempotencyKey.claimed_until)).one()

    monkeypatch.setattr(service, "CLAIM", timedelta(seconds=0.3))
    held = claim(session)
    first = claimed_until()

    with claim_held(session, db.engine, held):
        while claimed_until() == first:
            time.sleep(0.02)
        monkeypatch.setattr(service, "utc_now", lambda: first)
        with Session(db.engine) as another, pytest.raises(KeyInFlight):
            claim(another)
        store(session, held)

    assert claim_key(session) == ANSWER
