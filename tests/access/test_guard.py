"""Every route with every kind of key: who gets in, and how the others are told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.exc import OperationalError
from werkzeug.routing import Rule
from werkzeug.test import EnvironBuilder

from tests.access.holders import bearer, make_holder
from tests.conftest import dispose_app, make_app
from tests.faults.record import Record
from webapp import create_app
from webapp.access import guard
from webapp.access.keys import make_key
from webapp.access.service import (
    create_key,
    list_recent_keys,
    note_uses,
    revoke_keys,
    rotate_key,
)
from webapp.db.base import utc_now
from webapp.extensions import db
from webapp.scopes import Scope
from webapp.web.api import Blueprint

NO_KEYS = {
    "no key": {},
    "an empty header": {"Authorization": ""},
    "another scheme": {"Authorization": "Basic YW5uOmFubg=="},
    "no token": {"Authorization": "Bearer"},
    "a bad key": bearer("webapp_0123456789ab_" + "A" * 43),
    "no shape": bearer("ann"),
    "not even ASCII": {"Authorization": "Bearer ключ".encode().decode("latin-1")},
}
PAGES = {"/", "/docs", "/docs/<path:name>", "/openapi.json", "/static/<path:filename>"}
HEALTH = {"/health/live", "/health/ready"}


def calls_of(app: Flask) -> Iterator[tuple[Rule, str, str]]:
    """Return every route with each of its methods, and a path that it matches."""
    values = {"name": "default", "number": 1, "item_id": 1, "filename": "x.css"}
    adapter = app.url_map.bind("localhost")
    for rule in app.url_map.iter_rules():
        arguments = {name: values[name] for name in rule.arguments - set(rule.defaults or ())}
        path = adapter.build(rule.endpoint, {**(rule.defaults or {}), **arguments})
        for method in sorted(rule.methods or ()):
            yield rule, method, path


def test_every_route_with_every_kind_of_key(guarded: Flask, record: Record) -> None:
    client, table = guarded.test_client(), guard.classify_routes(guarded)
    expired = make_holder(guarded, "expired", *Scope, expires_in=timedelta(0))
    revoked = make_holder(guarded, "revoked", *Scope)
    with guarded.app_context():
        revoke_keys(db.session(), "revoked")
    refused = {**NO_KEYS, "expired": bearer(expired), "revoked": bearer(revoked)}
    holders = {s: bearer(make_holder(guarded, s.replace(":", "-"), s)) for s in Scope}
    tried, wrong = 0, []

    def check(method: str, path: str, headers: Mapping[str, str], expected: set[int]) -> None:
        nonlocal tried
        tried += 1
        answer = client.open(path, method=method, headers=headers)
        refusal = answer.status_code if answer.status_code in (401, 403) else 200
        challenge = answer.headers.get("WWW-Authenticate", "")
        if refusal not in expected or challenge.startswith("Bearer ") == (refusal == 200):
            wrong.append(f"{method} {path} {dict(headers)}: {answer.status_code} {challenge}")

    for rule, method, path in calls_of(guarded):
        asked = table[rule.endpoint, method]
        for headers in refused.values():
            check(method, path, headers, {401} if asked else {200})
        for scope, headers in holders.items():
            check(method, path, headers, {200} if not asked or scope in asked else {403})

    record("routes x keys", tried, tried - len(wrong), len(wrong))
    assert not wrong
    assert tried > 500


def test_no_large_body_is_taken_of_whom_the_guard_refuses(guarded: Flask) -> None:
    table = guard.classify_routes(guarded)
    holders = {s: bearer(make_holder(guarded, s.replace(":", "-"), s)) for s in Scope}

    def takes(method: str, path: str, headers: Mapping[str, str]) -> bool:
        environ = EnvironBuilder(path, method=method, headers=dict(headers)).get_environ()
        del environ["wsgi.input"]  # it has not come
        return bool(guarded.takes_body(environ))  # type: ignore[attr-defined]

    for rule, method, path in calls_of(guarded):
        asked = table[rule.endpoint, method]
        for headers in NO_KEYS.values():
            assert takes(method, path, headers) is not bool(asked)
        for scope, headers in holders.items():
            assert takes(method, path, headers) is (not asked or scope in asked)
    assert not takes("POST", "/nothing", {})
    assert not takes("PUT", "/api/v1/ml/models/default/train", holders[Scope.ML_TRAIN])


def test_a_large_body_is_taken_by_the_name_that_a_proxy_was_asked_for(database_url: str) -> None:
    app = make_app(database_url, PROXY_HOPS="1", TRUSTED_HOSTS="ml.example.com")
    headers = {"Host": "10.0.0.7:8000", "X-Forwarded-Host": "ml.example.com"}

    def takes(headers: Mapping[str, str]) -> bool:
        environ = EnvironBuilder("/api/v1/ml/train", method="POST", headers=headers).get_environ()
        return bool(app.takes_body(environ))  # type: ignore[attr-defined]

    assert takes(headers)
    assert not takes({"Host": "10.0.0.7:8000"})
    dispose_app(app)


def test_only_pages_and_health_are_open_to_all(guarded: Flask) -> None:
    table = guard.classify_routes(guarded)

    open_to_all = {
        rule.rule
        for rule, method, _ in calls_of(guarded)
        if method != "OPTIONS" and not table[rule.endpoint, method]
    }
    assert open_to_all == PAGES | HEALTH


def test_an_application_with_a_route_that_says_nothing_does_not_start(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    blueprint = Blueprint("careless", __name__, url_prefix="/careless")

    @blueprint.route("", get="get_careless")
    @blueprint.response(200)
    def get() -> dict[str, str]:
        return {}

    monkeypatch.setattr("webapp.observability.health.blp", blueprint)
    with pytest.raises(guard.Unclassified, match="/careless"):
        create_app({"APP_ENV": "testing", "DATABASE_URL": database_url})


def test_the_reason_of_a_refusal_is_told_in_body_and_challenge(guarded: Flask) -> None:
    client = guarded.test_client()
    reader = bearer(make_holder(guarded, "reader", Scope.ITEMS_READ))

    missing = client.get("/api/v1/items")
    bad = client.get("/api/v1/items", headers=NO_KEYS["a bad key"])
    lacking = client.post("/api/v1/items", json={"name": "x"}, headers=reader)

    assert (missing.status_code, missing.content_type) == (401, "application/problem+json")
    assert missing.headers["WWW-Authenticate"] == 'Bearer realm="webapp"'
    assert "Authorization: Bearer KEY" in missing.json["detail"]
    assert 'error="invalid_token"' in bad.headers["WWW-Authenticate"]
    assert lacking.status_code == 403
    assert 'scope="items:write"' in lacking.headers["WWW-Authenticate"]
    assert lacking.json["detail"] == "The API key lacks the scope items:write."


def test_who_may_not_is_told_so_before_anything_else(guarded: Flask) -> None:
    client = guarded.test_client()

    assert client.post("/api/v1/items", data="{").status_code == 401
    assert client.get("/api/v1/items?unknown=1").status_code == 401
    assert client.get("/api/v1/items/999").status_code == 401
    assert client.get("/api/v1/nothing").status_code == 404
    assert client.post("/health/live").status_code == 405


def test_the_log_names_the_key_of_each_request_and_never_shows_it(
    guarded: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    key = make_holder(guarded, "ann", Scope.ITEMS_READ)

    with caplog.at_level("INFO", logger="webapp.requests"):
        for method, path in (("GET", "/api/v1/items"), ("POST", "/api/v1/items")):
            guarded.test_client().open(path, method=method, headers=bearer(key))

    said = [record.facts for record in caplog.records if record.name == "webapp.requests"]
    assert [(line["key"], line["status"]) for line in said] == [("ann", 200), ("ann", 403)]
    assert key not in caplog.text


def test_the_scheme_may_be_written_in_any_case(guarded: Flask) -> None:
    key = make_holder(guarded, "ann", Scope.ITEMS_READ)

    answer = guarded.test_client().get("/api/v1/items", headers={"Authorization": f"bEARER {key}"})

    assert answer.status_code == 200


def test_a_key_that_is_revoked_works_for_no_more_than_a_lease(guarded: Flask) -> None:
    client = guarded.test_client()
    key = bearer(make_holder(guarded, "ann", Scope.ITEMS_READ))
    assert client.get("/api/v1/items", headers=key).status_code == 200

    told = guarded.test_cli_runner().invoke(args=["keys", "revoke", "ann"])

    assert told.exit_code == 0, told.output
    answer = client.get("/api/v1/items", headers=key)
    assert (answer.status_code, answer.json["detail"]) == (401, "The API key has been revoked.")


def test_two_callers_may_choose_the_same_idempotency_key(guarded: Flask) -> None:
    client, body = guarded.test_client(), {"name": "mine"}
    answers = [
        client.post("/api/v1/items", json=body, headers={**bearer(key), "Idempotency-Key": "1"})
        for key in (make_holder(guarded, name, Scope.ITEMS_WRITE) for name in ("ann", "bob"))
    ]

    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json["id"] != answers[1].json["id"]


def test_the_document_names_the_scheme_and_the_scopes_of_each_call(guarded: Flask) -> None:
    document = guarded.test_client().get("/openapi.json").json
    paths = document["paths"]

    assert document["components"]["securitySchemes"]["ApiKey"]["scheme"] == "bearer"
    assert paths["/api/v1/items"]["post"]["security"] == [{"ApiKey": ["items:write"]}]
    assert {"401", "403"} <= set(paths["/api/v1/items"]["post"]["responses"])
    assert paths["/health/live"]["get"]["security"] == []


def test_without_keys_the_document_asks_for_none(client: FlaskClient) -> None:
    document = client.get("/openapi.json").json

    assert "securitySchemes" not in document["components"]
    assert "security" not in document["paths"]["/api/v1/items"]["post"]


def test_keys_go_on_working_while_the_database_is_away(
    guarded: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = guarded.test_client()
    X = {"X": [[1], [2], [3]], "y": [1, 2, 3]}
    key = bearer(make_holder(guarded, "ann", Scope.ML_PREDICT, Scope.ML_TRAIN))
    unmet = bearer(make_holder(guarded, "bob", Scope.ML_PREDICT))
    unknown = bearer(make_key().text)
    assert client.post("/api/v1/ml/train", json=X, headers=key).status_code == 201
    ask = {"json": {"features": [4]}}
    assert client.post("/api/v1/ml/predict", headers=key, **ask).status_code == 200

    with guarded.app_context():
        monkeypatch.setattr(db.engine.pool, "connect", _refuse)
        guarded.extensions["keyring"].wait_out_leases()

        for known in (key, unmet):
            assert client.post("/api/v1/ml/predict", headers=known, **ask).status_code == 200
        away = client.post("/api/v1/ml/predict", headers=unknown, **ask)
    assert (away.status_code, "Retry-After" in away.headers) == (503, True)


def test_a_key_that_was_revoked_before_the_database_went_away_stays_so(
    guarded: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, read = guarded.test_client(), Scope.ITEMS_READ
    ann, bob = (bearer(make_holder(guarded, name, read)) for name in ("ann", "bob"))
    keyring = guarded.extensions["keyring"]
    assert client.get("/api/v1/items", headers=ann).status_code == 200
    with guarded.app_context():
        revoke_keys(db.session(), "ann")
        keyring.wait_out_leases()
        assert client.get("/api/v1/items", headers=bob).status_code == 200

        monkeypatch.setattr(db.engine.pool, "connect", _refuse)
        keyring.wait_out_leases()

        assert client.get("/api/v1/items", headers=ann).status_code == 401


def test_a_worker_that_has_met_no_request_knows_the_keys(
    guarded: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = bearer(make_holder(guarded, "ann", Scope.ML_PREDICT))
    with guarded.app_context():
        guarded.extensions["keyring"].load()
        monkeypatch.setattr(db.engine.pool, "connect", _refuse)

        asked = guarded.test_client().post("/api/v1/ml/predict", headers=key, json={})

    assert asked.status_code == 422


def test_a_worker_starts_while_the_database_is_away(
    guarded: Flask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with guarded.app_context():
        monkeypatch.setattr(db.engine.pool, "connect", _refuse)

        guarded.extensions["keyring"].load()

    assert "could not be loaded" in caplog.text


def test_the_recent_keys_are_those_used_or_made_last(guarded: Flask) -> None:
    with guarded.app_context():
        session, names = db.session(), ("a", "b", "c", "d")
        keys = {name: create_key(session, name=name, scopes=[])[0].key_id for name in names}
        note_uses(session, {keys["a"]: utc_now() + timedelta(hours=1)})
        revoke_keys(session, "c")

        recent = [key.name for key in list_recent_keys(session, most=3)]

    assert recent == ["a", "d", "c"]


def test_an_answer_belongs_to_the_holder_not_to_the_name(guarded: Flask) -> None:
    client = guarded.test_client()

    def create(key: str) -> str:
        headers = {**bearer(key), "Idempotency-Key": "1"}
        response = client.post("/api/v1/items", json={"name": "mine"}, headers=headers)
        assert response.status_code == 201
        return str(response.json["id"])

    first = create(make_holder(guarded, "ann", Scope.ITEMS_WRITE))
    with guarded.app_context():
        _, rotated = rotate_key(db.session(), "ann", overlap=timedelta(0), expires_in=None)
    again = create(rotated)
    with guarded.app_context():
        revoke_keys(db.session(), "ann")
    other = create(make_holder(guarded, "ann", Scope.ITEMS_WRITE))

    assert again == first
    assert other != first


def _refuse(*_: object) -> None:
    raise OperationalError("", {}, Exception("away"))


def test_no_key_is_kept_as_it_is(guarded: Flask, tmp_path: Path) -> None:
    key = make_holder(guarded, "ann", Scope.ITEMS_READ)
    secret = key.rpartition("_")[2]

    with guarded.app_context(), db.engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT * FROM api_key").all()

    assert "ann" in str(rows)
    assert secret not in str(rows)
