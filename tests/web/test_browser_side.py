"""What browsers are told: origins, what a page may load, and what may be stored."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.conftest import app_on
from tests.faults import on_sqlite
from tests.web.test_api import ITEMS, ML, api_calls, assert_problem

pytestmark = on_sqlite

ORIGIN = "https://app.example.com"
FOREIGN = [
    *("https://evil.example", "http://app.example.com", "https://app.example.com:8443"),
    *("https://app.example.com.evil.example", "https://APP.example.com", "null", "", "*"),
]


@pytest.fixture
def sharing_client(database_url: str) -> Iterator[FlaskClient]:
    """Return a client of an application whose answers pages of two origins may read."""
    with app_on(database_url, CORS_ORIGINS=f"{ORIGIN},http://localhost:5173") as app:
        yield app.test_client()


def ask_for(client: FlaskClient, method: str, path: str, origin: str = ORIGIN) -> TestResponse:
    """Send the preflight of a browser."""
    headers = {"Origin": origin, "Access-Control-Request-Method": method}
    return client.options(path, headers=headers)


def test_a_page_of_a_listed_origin_alone_may_read_answers(
    client: FlaskClient, sharing_client: FlaskClient
) -> None:
    for origin in (ORIGIN, "http://localhost:5173"):
        response = sharing_client.get(ITEMS, headers={"Origin": origin})
        assert response.headers["Access-Control-Allow-Origin"] == origin
        assert "Access-Control-Allow-Credentials" not in response.headers
        exposed = response.headers["Access-Control-Expose-Headers"].split(", ")
        read = {"ETag", "Link", "Location", "Retry-After", "X-Pagination", "X-Warnings"}
        assert read <= set(exposed)
    for origin in FOREIGN:
        answered = sharing_client.get(ITEMS, headers={"Origin": origin})
        assert not [name for name, _ in answered.headers if name.startswith("Access-Control-")]
        asked = ask_for(sharing_client, "GET", ITEMS, origin)
        assert "Access-Control-Allow-Origin" not in asked.headers
        assert "Origin" in answered.vary  # caches are told that answers differ
    for response in (client.get(ITEMS, headers={"Origin": ORIGIN}), ask_for(client, "GET", ITEMS)):
        assert "Access-Control-Allow-Origin" not in response.headers
        assert "Vary" not in response.headers


def test_a_page_may_read_errors_too_and_that_its_limit_is_reached(database_url: str) -> None:
    with app_on(database_url, CORS_ORIGINS=ORIGIN, RATE_LIMIT="3 per hour") as app:
        client, headers = app.test_client(), {"Origin": ORIGIN}

        for _ in range(4):
            assert ask_for(client, "GET", ITEMS).status_code == 204  # which does not count
        for response, status in (
            (client.get("/nothing", headers=headers), 404),
            (client.put(ITEMS, headers=headers), 405),
            (client.post(ITEMS, headers=headers, json={}), 422),
            (client.get(ITEMS, headers=headers), 429),
        ):
            assert_problem(response, status)
            assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
            assert response.headers["Content-Security-Policy"]


def test_a_browser_that_asks_first_is_told_what_a_page_may_send(
    sharing_client: FlaskClient,
) -> None:
    calls = list(api_calls(sharing_client.application))

    for path in {path for _, path in calls} | {f"{ITEMS}/not-a-number"}:
        response = ask_for(sharing_client, "DELETE", path)
        assert (response.status_code, response.data) == (204, b"")
        assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
        methods = response.headers["Access-Control-Allow-Methods"].split(", ")
        assert {method for method, _ in calls} <= {*methods, "OPTIONS"}
        allowed = set(response.headers["Access-Control-Allow-Headers"].lower().split(", "))
        assert {"authorization", "content-type", "idempotency-key", "if-match"} <= allowed
        assert {"if-none-match", "x-request-id"} <= allowed
    plain = sharing_client.options(ITEMS, headers={"Origin": ORIGIN})
    assert plain.allow.as_set(preserve_casing=True) == {"GET", "HEAD", "OPTIONS", "POST"}


def test_every_answer_has_each_security_header_once(own_app: Flask) -> None:
    own_app.add_url_rule("/broken", view_func=lambda: 1 / 0)
    client = own_app.test_client()

    for path in ("/docs/swagger-ui.css", "/openapi.json", "/health/live", ITEMS, "/no", "/broken"):
        with client.get(path) as response:
            for name, value in (
                ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
                ("X-Content-Type-Options", "nosniff"),
                ("X-Frame-Options", "DENY"),
                ("Referrer-Policy", "no-referrer"),
                ("Cross-Origin-Resource-Policy", "same-origin"),
            ):
                assert response.headers.getlist(name) == [value], path
            assert len(response.headers.getlist("Cache-Control")) == 1
    for scheme in ("http", "https"):
        headers = client.get(ITEMS, base_url=f"{scheme}://localhost").headers
        assert ("Strict-Transport-Security" in headers) is (scheme == "https")


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_runs_nothing_but_files_of_this_service(client: FlaskClient, path: str) -> None:
    (policy,) = client.get(path).headers.getlist("Content-Security-Policy")

    closed = {f"{name} 'none'" for name in ("default-src", "base-uri", "form-action")}
    assert {*closed, "frame-ancestors 'none'", "script-src 'self'"} <= set(policy.split("; "))
    assert "unsafe" not in policy
    assert "*" not in policy


def test_what_has_an_etag_may_be_stored_and_other_answers_of_the_api_not(
    client: FlaskClient,
) -> None:
    location = client.post(ITEMS, json={"name": "a"}).headers["Location"]

    first = client.get(location)
    again = client.get(location, headers={"If-None-Match": first.headers["ETag"]})

    assert again.status_code == 304
    for response in (first, again):
        assert response.headers["Cache-Control"] == "private, no-cache"
    for path in (ITEMS, f"{ITEMS}/9", f"{ML}/model-info", "/health/ready", "/openapi.json"):
        assert client.get(path).headers["Cache-Control"] == "no-store", path
    with client.get("/docs/swagger-ui.css") as response:
        assert "max-age=3600" in response.headers["Cache-Control"]
    assert client.get("/docs").headers["Cache-Control"] == "no-cache"
