"""Limits: how many requests a caller may send, who counts as one, and where they are counted."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from flask import Flask, request
from flask.testing import FlaskClient

from tests.access.holders import bearer, make_holder
from tests.conftest import app_on
from tests.faults import on_sqlite
from tests.gunicorn_server import running_gunicorn
from tests.redis import BINARY, RedisServer, running_redis
from tests.web.test_api import ITEMS, ML, assert_problem
from webapp.scopes import Scope
from webapp.web import limits
from webapp.web.request import IDENTITY_KEY, Identity

pytestmark = on_sqlite

LIMIT = 5
RATE_LIMIT = f"{LIMIT} per hour"

# In CI the server is installed, and its absence is a failure; elsewhere it may be missing.
needs_redis = pytest.mark.skipif(
    BINARY is None and "CI" not in os.environ, reason="needs Redis (apt install redis-server)"
)


@pytest.fixture
def limited_app(database_url: str) -> Iterator[Flask]:
    """Return an application that lets each caller send five requests an hour.

    Its callers are who they say they are in `X-Key`.
    """
    with app_on(database_url, RATE_LIMIT=RATE_LIMIT) as app:
        app.before_request_funcs[None].insert(0, believe_key)
        yield app


def believe_key() -> None:
    """Stand in for the guard."""
    if key := request.headers.get("X-Key"):
        request.environ[IDENTITY_KEY] = Identity(key, key, name="a name", scopes=frozenset())


def statuses(client: FlaskClient, number: int, path: str = ITEMS, **options: object) -> list[int]:
    return [client.get(path, **options).status_code for _ in range(number)]


def from_address(address: str) -> dict[str, dict[str, str]]:
    return {"environ_overrides": {"REMOTE_ADDR": address}}


ALL_BUT_ONE = [200] * LIMIT + [429]


def test_all_routes_count_together_and_beyond_the_limit_requests_are_refused(
    limited_app: Flask,
) -> None:
    client = limited_app.test_client()

    for path in ("/health/live", "/health/ready"):  # which do not count
        assert statuses(client, 2 * LIMIT, path) == [200] * 2 * LIMIT
    assert client.get(ITEMS).status_code == 200
    assert client.get(f"{ITEMS}/1").status_code == 404
    assert client.get("/nothing").status_code == 404
    assert client.get("/docs").status_code == 200
    assert client.post(f"{ML}/predict", json={}).status_code == 422
    response = client.get(ITEMS)
    problem = assert_problem(response, 429)
    assert problem["detail"].startswith(f"Too many requests: the limit is {RATE_LIMIT}. Retry in ")
    assert 0 < int(response.headers["Retry-After"]) <= 3600


def test_after_what_retry_after_says_requests_are_answered_again(database_url: str) -> None:
    with app_on(database_url, RATE_LIMIT="2 per second") as app:
        client = app.test_client()

        refused = next(r for r in iter(lambda: client.get(ITEMS), None) if r.status_code == 429)
        time.sleep(int(refused.headers["Retry-After"]))

        assert client.get(ITEMS).status_code == 200


def test_each_key_and_each_network_without_one_has_a_limit_of_its_own(limited_app: Flask) -> None:
    client = limited_app.test_client()

    assert statuses(client, LIMIT, headers={"X-Key": "a"}) == [200] * LIMIT
    elsewhere = client.get(ITEMS, headers={"X-Key": "a"}, **from_address("203.0.113.9"))
    assert elsewhere.status_code == 429
    assert statuses(client, LIMIT, headers={"X-Key": "b"}) == [200] * LIMIT
    for address in ("203.0.113.1", "203.0.113.2"):
        assert statuses(client, LIMIT + 1, **from_address(address)) == ALL_BUT_ONE
    for host in range(LIMIT):
        assert client.get(ITEMS, **from_address(f"2001:db8::{host:x}")).status_code == 200
    assert client.get(ITEMS, **from_address("2001:db8::ffff:1")).status_code == 429
    for other in ("2001:db8:0:1::1", "\xff::"):  # a proxy may send any text
        assert client.get(ITEMS, **from_address(other)).status_code == 200


def test_whoever_the_guard_refuses_counts_too(database_url: str) -> None:
    with app_on(database_url, AUTH="on", RATE_LIMIT=RATE_LIMIT) as app:
        client = app.test_client()
        ann, bob = (bearer(make_holder(app, name, Scope.ML_PREDICT)) for name in ("ann", "bob"))
        assert statuses(client, LIMIT + 1, headers=ann) == [403] * LIMIT + [429]
        assert statuses(client, LIMIT) == [401] * LIMIT
        response = client.get(ITEMS)
        assert_problem(response, 429)
        assert int(response.headers["Retry-After"]) > 0
        assert client.get(ITEMS, headers=bob).status_code == 403


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """Return a Redis with nothing in it."""
    with running_redis() as server:
        yield server


@pytest.mark.slow
@needs_redis
@pytest.mark.parametrize("shared", [True, False])
def test_workers_count_together_in_redis_and_each_alone_without_it(
    database_url: str, redis_server: RedisServer, tmp_path: Path, shared: bool
) -> None:
    settings = {"RATELIMIT_STORAGE_URI": redis_server.url} if shared else {}
    with running_gunicorn(
        database_url,
        tmp_path / "gunicorn.log",
        **{"WEB_CONCURRENCY": "2", "RATE_LIMIT": "20 per hour", **settings},
    ) as server:
        # Each on a connection of its own, so that both workers get some.
        found = [requests.get(server.url + ITEMS, timeout=10).status_code for _ in range(60)]

    assert found.count(429) == 60 - found.count(200)
    assert found.count(200) == 20 if shared else 20 <= found.count(200) <= 40


@needs_redis
@pytest.mark.parametrize("fault", ["stop", "freeze"])
def test_without_an_answer_of_redis_each_worker_counts_alone_and_asks_it_no_more(
    database_url: str,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: str,
) -> None:
    monkeypatch.setattr(limits, "STORE_PAUSE", 600.0)
    settings = {"RATE_LIMIT": RATE_LIMIT, "RATELIMIT_STORAGE_URI": redis_server.url}
    with app_on(database_url, **settings) as app:
        client = app.test_client()
        assert client.get(ITEMS).status_code == 200
        getattr(redis_server, fault)()

        found = statuses(client, LIMIT + 1)

        redis_server.thaw()
    assert found == ALL_BUT_ONE
    assert caplog.text.count("each worker counts alone") == 1


@needs_redis
def test_a_redis_that_is_away_at_the_start_is_used_once_it_is_there(
    database_url: str, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STORE_PAUSE", 0.2)
    redis_server.stop()
    settings = {"RATE_LIMIT": RATE_LIMIT, "RATELIMIT_STORAGE_URI": redis_server.url}
    with app_on(database_url, **settings) as app:
        client = app.test_client()
        assert statuses(client, LIMIT + 1) == ALL_BUT_ONE

        redis_server.start()
        time.sleep(0.3)

        assert statuses(client, LIMIT + 1) == ALL_BUT_ONE
