"""`Idempotency-Key`: what is sent again creates nothing again, whatever happened before."""

from __future__ import annotations

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from webapp.db.base import utc_now
from webapp.extensions import db
from webapp.idempotency import service
from webapp.idempotency.errors import KeyInFlight, KeyReused
from webapp.idempotency.models import IdempotencyKey
from webapp.idempotency.service import Claim, KeptAnswer, claim_held, claim_key, keep_answer

ITEMS = "/api/v1/items"
TRAIN = "/api/v1/ml/train"
ROWS = {"X": [[1, 2], [3, 4]], "y": [5, 6]}
ANSWER = KeptAnswer(201, {"Location": "/there"}, b"{}")
KEY = {"caller": "", "key": "k", "fingerprint": "f"}


def create_item(client: FlaskClient, key: str, name: str = "a") -> TestResponse:
    return client.post(ITEMS, json={"name": name}, headers={"Idempotency-Key": key})


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
def test_a_key_that_is_none_is_refused(client: FlaskClient, key: str) -> None:
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


def test_work_that_fails_gives_its_key_back(client: FlaskClient) -> None:
    key = {"Idempotency-Key": "k"}
    classifier = {**ROWS, "estimator": "logistic_regression", "y": ["a", "a"]}
    failed = client.post(TRAIN, json=classifier, headers=key)

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


def claim(session: Session, **changes: object) -> Claim:
    found = claim_key(session, **{**KEY, **changes})
    assert isinstance(found, Claim)
    return found


def test_a_key_is_taken_while_its_work_is_under_way(session: Session) -> None:
    claim(session)

    with pytest.raises(KeyInFlight):
        claim(session)
    with pytest.raises(KeyReused):
        claim(session, fingerprint="another")
    assert claim(session, caller="somebody else")


def test_who_died_at_work_does_not_keep_the_key_and_comes_too_late(session: Session) -> None:
    dead = claim(session)

    heir = claim(session, now=utc_now() + service.CLAIM)
    with pytest.raises(KeyInFlight):
        keep_answer(session, dead, ANSWER)
    keep_answer(session, heir, ANSWER)
    session.commit()

    assert claim_key(session, **KEY) == ANSWER


def test_an_answer_is_there_with_the_work_or_not_at_all(session: Session) -> None:
    held = claim(session)

    keep_answer(session, held, ANSWER)
    session.rollback()

    with pytest.raises(KeyInFlight):
        claim_key(session, **KEY)


def test_an_answer_is_forgotten_after_a_day(session: Session) -> None:
    keep_answer(session, claim(session), ANSWER)
    session.commit()
    almost, after = (utc_now() + service.KEPT + timedelta(seconds=s) for s in (-60, 60))

    assert claim_key(session, **KEY, now=almost) == ANSWER
    session.rollback()
    assert isinstance(claim_key(session, **{**KEY, "fingerprint": "new"}, now=after), Claim)


def test_an_answer_is_forgotten_after_a_day_where_many_are_older(session: Session) -> None:
    now = utc_now()
    for number in range(service.FORGOTTEN_AT_ONCE + 10):
        old = claim(session, key=f"old {number}", now=now - timedelta(hours=30))
        keep_answer(session, old, ANSWER)
        session.commit()
    # As if nobody had removed any yet.
    session.execute(sa.update(IdempotencyKey).values(claimed_until=now - timedelta(hours=1)))
    session.commit()
    newest = f"old {service.FORGOTTEN_AT_ONCE + 9}"

    assert isinstance(claim(session, key=newest, now=now), Claim)


def test_a_trailing_slash_makes_no_other_request(client: FlaskClient) -> None:
    first, again = (
        client.post(path, json={"name": "a"}, headers={"Idempotency-Key": "k"})
        for path in (ITEMS, f"{ITEMS}/")
    )

    assert_same_answer(again, first)


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
        with Session(db.engine) as another, pytest.raises(KeyInFlight):
            claim(another, now=first)
        keep_answer(session, held, ANSWER)
        session.commit()

    assert claim_key(session, **KEY) == ANSWER
