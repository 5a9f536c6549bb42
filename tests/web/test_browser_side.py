"""What browsers are told: origins, what a page may load, and what may be kept."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.conftest import dispose_app, make_app
from tests.faults import on_sqlite
from tests.web.test_api import ITEMS, ML, api_calls, assert_problem

pytestmark = on_sqlite

ORIGIN = "https://app.example.com"
FOREIGN = [
    *("https://evil.example", "http://app.example.com", "https://app.example.com:8443"),
    *("https://app.example.com.evil.example", "https://APP.example.com", "null", "", "*"),
]
PATHS = ["/", "/docs", "/docs/swagger-ui.css", "/openapi.json", "/health/live", ITEMS, "/nothing"]


@pytest.fixture
def sharing_client(database_url: str) -> Iterator[FlaskClient]:
    """Return a client of an application whose answers pages of one origin may read."""
    app = make_app(database_url, CORS_ORIGINS=f"{ORIGIN},http://localhost:5173")
    yield app.test_client()
    dispose_app(app)


def cors_headers(response: TestResponse) -> set[str]:
    return {name for name, _ in response.headers if name.startswith("Access-Control-")}


def ask_for(client: FlaskClient, method: str, path: str, origin: str = ORIGIN) -> TestResponse:
    """Send the preflight of a browser."""
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,content-type,if-match",
    }
    return client.options(path, headers=headers)


# Origins


def test_by_default_no_page_of_another_origin_may_read_an_answer(client: FlaskClient) -> None:
    for response in (client.get(ITEMS, headers={"Origin": ORIGIN}), ask_for(client, "GET", ITEMS)):
        assert cors_headers(response) == set()
        assert "Vary" not in response.headers


def test_a_page_of_a_listed_origin_may_read_an_answer(sharing_client: FlaskClient) -> None:
    for origin in (ORIGIN, "http://localhost:5173"):
        response = sharing_client.get(ITEMS, headers={"Origin": origin})

        assert response.headers["Access-Control-Allow-Origin"] == origin
        assert "Access-Control-Allow-Credentials" not in response.headers
        exposed = response.headers["Access-Control-Expose-Headers"].split(", ")
        assert {"ETag", "Link", "Location", "Retry-After", "X-Pagination"} <= set(exposed)


def test_a_page_of_another_origin_may_not_and_caches_are_told_that_answers_differ(
    sharing_client: FlaskClient,
) -> None:
    for origin in FOREIGN:
        answered = sharing_client.get(ITEMS, headers={"Origin": origin})
        asked = ask_for(sharing_client, "GET", ITEMS, origin)
        assert cors_headers(answered) == set()
        assert "Access-Control-Allow-Origin" not in asked.headers
        assert "Origin" in answered.vary
    assert "Origin" in sharing_client.get(ITEMS).vary


def test_a_page_may_read_errors_too(sharing_client: FlaskClient) -> None:
    headers = {"Origin": ORIGIN}
    for response, status in (
        (sharing_client.get("/nothing", headers=headers), 404),
        (sharing_client.put(ITEMS, headers=headers), 405),
        (sharing_client.post(ITEMS, headers=headers, json={}), 422),
    ):
        assert_problem(response, status)
        assert response.headers["Access-Control-Allow-Origin"] == ORIGIN


def test_a_page_may_read_that_its_limit_is_reached(database_url: str) -> None:
    app = make_app(database_url, CORS_ORIGINS=ORIGIN, RATE_LIMIT="1 per hour")
    client = app.test_client()

    for _ in range(3):
        assert ask_for(client, "GET", ITEMS).status_code == 204  # which does not count
    assert client.get(ITEMS, headers={"Origin": ORIGIN}).status_code == 200
    refused = client.get(ITEMS, headers={"Origin": ORIGIN})

    dispose_app(app)
    assert refused.status_code == 429
    assert refused.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert refused.headers["Content-Security-Policy"]
    assert ask_for(client, "GET", ITEMS).status_code == 204


def test_a_browser_that_asks_first_is_told_what_a_page_may_send(
    sharing_client: FlaskClient,
) -> None:
    app = sharing_client.application
    paths = {path for _, path in api_calls(app)} | {f"{ITEMS}/not-a-number"}

    for path in paths:
        response = ask_for(sharing_client, "DELETE", path)

        assert (response.status_code, response.data) == (204, b"")
        assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
        methods = response.headers["Access-Control-Allow-Methods"].split(", ")
        assert {method for method, _ in api_calls(app)} <= {*methods, "OPTIONS"}
        allowed = response.headers["Access-Control-Allow-Headers"].lower().split(", ")
        assert {"authorization", "content-type", "idempotency-key", "if-match"} <= set(allowed)
        assert {"if-none-match", "x-request-id"} <= set(allowed)


def test_options_without_a_question_are_answered_as_ever(sharing_client: FlaskClient) -> None:
    response = sharing_client.options(ITEMS, headers={"Origin": ORIGIN})

    assert response.allow.as_set(preserve_casing=True) == {"GET", "HEAD", "OPTIONS", "POST"}


# What every answer says


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_is_framed(client: FlaskClient, path: str) -> None:
    with client.get(path) as response:
        for name, value in (
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "DENY"),
            ("Referrer-Policy", "no-referrer"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
        ):
            assert response.headers.getlist(name) == [value], name
        for name in ("Content-Security-Policy", "Cache-Control"):
            assert len(response.headers.getlist(name)) == 1, name
        policy = response.headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in policy
        if path not in ("/", "/docs"):
            assert policy == "default-src 'none'; frame-ancestors 'none'"


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_runs_nothing_but_files_of_this_service(client: FlaskClient, path: str) -> None:
    policy = client.get(path).headers["Content-Security-Policy"]

    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["script-src"] == "'self'"
    assert directives["base-uri"] == directives["form-action"] == "'none'"
    assert "unsafe" not in policy
    assert "*" not in policy


def test_a_fault_of_ours_is_framed_too(own_app: Flask) -> None:
    own_app.add_url_rule("/broken", view_func=lambda: 1 / 0)

    response = own_app.test_client().get("/broken")

    assert response.status_code == 500
    assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")


def test_https_is_remembered_where_it_is_spoken_here_or_by_a_trusted_proxy(
    database_url: str,
) -> None:
    for hops, scheme, told, remembered in (
        ("0", "http", "https", False),
        ("0", "https", "http", True),
        ("1", "http", "https", True),
    ):
        app = make_app(database_url, PROXY_HOPS=hops)
        headers = {"X-Forwarded-Proto": told}
        response = app.test_client().get("/", base_url=f"{scheme}://localhost", headers=headers)
        dispose_app(app)
        assert ("Strict-Transport-Security" in response.headers) is remembered


def test_what_has_a_validator_may_be_kept_and_other_answers_of_the_api_not(
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
