"""Every route with every kind of key: who gets in, and how the others are told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.exc import OperationalError
from werkzeug.test import EnvironBuilder

from tests.access.holders import bearer, make_holder
from tests.bad_input.census import PATH_VALUES
from tests.conftest import app_on
from webapp import create_app
from webapp.access import guard, service
from webapp.db.base import utc_now
from webapp.extensions import db
from webapp.scopes import Scope
from webapp.web.blueprint import Blueprint

ITEMS = "/api/v1/items"
NO_KEYS = {
    "no key": {},
    "an empty header": {"Authorization": ""},
    "another scheme": {"Authorization": "Basic YW5uOmFubg=="},
    "no token": {"Authorization": "Bearer"},
    "a bad key": bearer("webapp_0123456789ab_" + "A" * 43),
    "no shape": bearer("ann"),
    "not even ASCII": {"Authorization": "Bearer ключ".encode().decode("latin-1")},
}
OPEN_TO_ALL = {"/", "/docs", "/docs/<path:name>", "/openapi.json", "/static/<path:filename>"}
OPEN_TO_ALL |= {"/health/live", "/health/ready"}


def calls_of(app: Flask) -> Iterator[tuple[str, str, str, frozenset[str]]]:
    """Return each method of each rule, a path that it matches, and the scopes it needs."""
    values = {**PATH_VALUES, "filename": "x.css"}
    table, adapter = guard.classify_routes(app), app.url_map.bind("localhost")
    for rule in app.url_map.iter_rules():
        arguments = {name: values[name] for name in rule.arguments - set(rule.defaults or ())}
        path = adapter.build(rule.endpoint, {**(rule.defaults or {}), **arguments})
        for method in sorted(rule.methods or ()):
            yield rule.rule, method, path, table[rule.endpoint, method]


def takes_body(app: Flask, method: str, path: str, headers: Mapping[str, str]) -> bool:
    """Ask the application, as the server does, whether a large body is worth receiving."""
    environ = EnvironBuilder(path, method=method, headers=dict(headers)).get_environ()
    del environ["wsgi.input"]  # it has not come
    return bool(app.takes_body(environ))  # type: ignore[attr-defined]


def refuse(*_: object) -> None:
    """Stand in for the connections of a database that is away."""
    raise OperationalError("", {}, Exception("away"))


def test_every_route_with_every_kind_of_key(guarded: Flask) -> None:
    client = guarded.test_client()
    expired = make_holder(guarded, "expired", *Scope, expires_in=timedelta(0))
    revoked = make_holder(guarded, "revoked", *Scope)
    with guarded.app_context():
        service.revoke_keys(db.session(), "revoked")
    refused = [*NO_KEYS.values(), bearer(expired), bearer(revoked)]
    keys = {scope: make_holder(guarded, scope.replace(":", "-"), scope) for scope in Scope}
    wrong = []

    for _, method, path, needed in calls_of(guarded):
        expected = [(headers, 401 if needed else 200) for headers in refused]
        for scope, key in keys.items():  # the scheme's name is case-insensitive
            allowed = not needed or scope in needed
            expected.append(({"Authorization": f"bEARER {key}"}, 200 if allowed else 403))
        for headers, status in expected:
            answer = client.open(path, method=method, headers=headers)
            refusal = answer.status_code if answer.status_code in (401, 403) else 200
            is_challenged = "Bearer " in answer.headers.get("WWW-Authenticate", "")
            taken = takes_body(guarded, method, path, headers)
            if (refusal, is_challenged, taken) != (status, status != 200, status == 200):
                wrong.append(f"{method} {path} {headers}: {answer.status_code}, taken: {taken}")

    assert not wrong


def test_a_large_body_is_taken_for_a_route_and_a_trusted_host_only(database_url: str) -> None:
    direct = {"Host": "10.0.0.7:8000"}
    proxied = {**direct, "X-Forwarded-Host": "ml.example.com"}

    with app_on(database_url, PROXY_HOPS="1", TRUSTED_HOSTS="ml.example.com") as app:
        assert takes_body(app, "POST", "/api/v1/ml/train", proxied)
        assert not takes_body(app, "POST", "/api/v1/ml/train", direct)
        assert not takes_body(app, "POST", "/nothing", proxied)
        assert not takes_body(app, "PUT", "/api/v1/ml/train", proxied)


def test_only_pages_and_health_are_open_to_all(guarded: Flask) -> None:
    open_to_all = {
        rule for rule, method, _, needed in calls_of(guarded) if method != "OPTIONS" and not needed
    }
    assert open_to_all == OPEN_TO_ALL


def test_a_route_that_says_nothing_starts_no_application(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    blueprint = Blueprint("careless", __name__, url_prefix="/careless")

    @blueprint.route("", get="get_careless")
    @blueprint.response(200)
    def get() -> dict[str, str]:
        return {}

    monkeypatch.setattr("webapp.observability.health.blp", blueprint)
    with pytest.raises(RuntimeError, match=r"/careless.*blp\.allow"):
        create_app({"APP_ENV": "testing", "DATABASE_URL": database_url})


def test_the_reason_of_a_refusal_is_told_in_body_and_challenge(guarded: Flask) -> None:
    client = guarded.test_client()
    reader = bearer(make_holder(guarded, "reader", Scope.ITEMS_READ))

    missing = client.get(ITEMS)
    bad = client.get(ITEMS, headers=NO_KEYS["a bad key"])
    lacking = client.post(ITEMS, json={"name": "x"}, headers=reader)

    assert (missing.status_code, missing.content_type) == (401, "application/problem+json")
    assert missing.headers["WWW-Authenticate"] == 'Bearer realm="webapp"'
    assert "Authorization: Bearer KEY" in missing.json["detail"]
    assert 'error="invalid_token"' in bad.headers["WWW-Authenticate"]
    assert lacking.status_code == 403
    assert 'scope="items:write"' in lacking.headers["WWW-Authenticate"]
    assert lacking.json["detail"] == "The API key lacks the scope items:write."
    assert client.get("/api/v1/nothing").status_code == 404  # which is no secret
    assert client.post("/health/live").status_code == 405


def test_the_log_names_each_key(guarded: Flask, caplog: pytest.LogCaptureFixture) -> None:
    key = make_holder(guarded, "ann", Scope.ITEMS_READ)

    with caplog.at_level("INFO", logger="webapp.requests"):
        for method in ("GET", "POST"):
            guarded.test_client().open(ITEMS, method=method, headers=bearer(key))

    said = [record.facts for record in caplog.records if record.name == "webapp.requests"]
    assert [(line["key"], line["status"]) for line in said] == [("ann", 200), ("ann", 403)]
    assert key not in caplog.text


def test_no_worker_accepts_a_key_once_its_revocation_is_reported(guarded: Flask) -> None:
    client = guarded.test_client()
    key = bearer(make_holder(guarded, "ann", Scope.ITEMS_READ))
    assert client.get(ITEMS, headers=key).status_code == 200

    guarded.test_cli_runner().invoke(args=["keys", "revoke", "ann"])

    answer = client.get(ITEMS, headers=key)
    assert (answer.status_code, answer.json["detail"]) == (401, "The API key has been revoked.")


def test_the_document_names_the_scopes_of_each_call(guarded: Flask, client: FlaskClient) -> None:
    document = guarded.test_client().get("/openapi.json").json
    without_keys = client.get("/openapi.json").json

    post = document["paths"][ITEMS]["post"]
    assert document["components"]["securitySchemes"]["ApiKey"]["scheme"] == "bearer"
    assert post["security"] == [{"ApiKey": ["items:write"]}]
    assert {"401", "403"} <= set(post["responses"])
    assert document["paths"]["/health/live"]["get"]["security"] == []
    assert "securitySchemes" not in without_keys["components"]
    assert "security" not in without_keys["paths"][ITEMS]["post"]


def test_known_keys_count_as_before_while_the_database_is_away(
    guarded: Flask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client, keyring = guarded.test_client(), guarded.extensions["keyring"]

    def predict(headers: Mapping[str, str]) -> int:
        answer = client.post("/api/v1/ml/predict", json={"features": [4]}, headers=headers)
        assert ("Retry-After" in answer.headers) == (answer.status_code == 503)
        return answer.status_code

    used = bearer(make_holder(guarded, "used", Scope.ML_PREDICT, Scope.ML_TRAIN))
    unmet, revoked = (bearer(make_holder(guarded, n, Scope.ML_PREDICT)) for n in ("b", "c"))
    rows = {"X": [[1], [2], [3]], "y": [1, 2, 3]}
    assert client.post("/api/v1/ml/train", json=rows, headers=used).status_code == 201
    with guarded.app_context():
        service.revoke_keys(db.session(), "c")
        keyring.wait_out_leases()
        assert predict(used) == 200

        monkeypatch.setattr(db.engine.pool, "connect", refuse)
        keyring.wait_out_leases()

        statuses = [predict(headers) for headers in (used, unmet, revoked, NO_KEYS["a bad key"])]
        keyring.close()
    assert statuses == [200, 200, 401, 503]
    assert "last uses of API keys could not be stored" in caplog.text


def test_a_worker_starts_while_the_database_is_away(
    guarded: Flask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with guarded.app_context():
        monkeypatch.setattr(db.engine.pool, "connect", refuse)
        guarded.extensions["keyring"].load()

        asked = guarded.test_client().get(ITEMS, headers=NO_KEYS["a bad key"])

    assert asked.status_code == 503
    assert "The API keys could not be loaded" in caplog.text


def test_the_recent_keys_are_those_used_or_created_last(guarded: Flask) -> None:
    with guarded.app_context():
        session, names = db.session(), ("a", "b", "c", "d")
        ids = {n: service.create_key(session, name=n, scopes=[])[0].key_id for n in names}
        service.note_uses(session, {ids["a"]: utc_now() + timedelta(hours=1)})
        service.revoke_keys(session, "c")

        recent = [key.name for key in service.list_recent_keys(session, most=3)]

    assert recent == ["a", "d", "c"]


def test_an_idempotency_key_belongs_to_a_holder_not_to_a_name_or_a_key(guarded: Flask) -> None:
    client = guarded.test_client()

    def create(key: str) -> int:
        headers = {**bearer(key), "Idempotency-Key": "1"}
        response = client.post(ITEMS, json={"name": "mine"}, headers=headers)
        assert response.status_code == 201
        return int(response.json["id"])

    first = create(make_holder(guarded, "ann", Scope.ITEMS_WRITE))
    with guarded.app_context():
        _, rotated = service.rotate_key(db.session(), "ann", overlap=timedelta(0), expires_in=None)
    again = create(rotated)
    with guarded.app_context():
        service.revoke_keys(db.session(), "ann")
    others = [create(make_holder(guarded, name, Scope.ITEMS_WRITE)) for name in ("ann", "bob")]

    assert again == first
    assert len({first, *others}) == 3
