"""Whom a request names, and where it comes from: hosts and addresses in all their spellings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, request
from flask.testing import FlaskClient

from tests.conftest import dispose_app, make_app
from tests.web.test_api import ITEMS, assert_problem
from webapp.web.request import plain_address

NAMES = "localhost,.Example.COM,10.0.0.1"


@pytest.fixture
def named_app(database_url: str) -> Iterator[Flask]:
    """Return an application that answers by three names."""
    app = make_app(database_url, TRUSTED_HOSTS=NAMES)
    yield app
    dispose_app(app)


def ask(app: Flask, host: str, path: str = ITEMS) -> Any:
    return app.test_client().get(path, headers={"Host": host})


def test_a_trusted_name_is_answered_in_every_spelling(named_app: Flask) -> None:
    for host in (
        *(
            "ML.Example.COM",
            "ml.example.com.",
            "ML.EXAMPLE.COM.:8443",
            "example.com.",
            "LOCALHOST",
        ),
        *("LocalHost:8000", "10.0.0.1:8000", "ml.example.com:", "a.b.example.com:443"),
    ):
        assert ask(named_app, host).status_code == 200, host


def test_another_name_is_refused(named_app: Flask) -> None:
    for host in (
        *("evil.example", "example.com.evil.example", "example.com..", "xn--exmple-cua.com"),
        *("10.0.0.2", "localhost.localdomain", "notexample.com"),
    ):
        assert_problem(ask(named_app, host), 400)


def test_probes_and_prometheus_ask_by_address(named_app: Flask) -> None:
    for path in ("/health/live", "/health/ready", "/metrics"):
        assert ask(named_app, "172.18.0.5:8000", path).status_code == 200


def test_what_is_no_host_is_refused_by_any_application(app: Flask) -> None:
    for host in (
        *("a b", "a/b", "http://localhost", "user@localhost", "<script>", "a,b", "[::1", "::1"),
        *("localhost:port", "localhost:8000:1", "localhost:123456", "a?b", "é", "[evil]", "a\tb"),
    ):
        for path in (ITEMS, "/docs", "/health/live"):
            assert "Host" in assert_problem(ask(app, host, path), 400)["detail"], host


def test_a_host_is_answered_where_none_is_listed(app: Flask) -> None:
    for host in (
        "web_1:8000",
        "anything.example",
        "[::1]:8000",
        "127.0.0.1",
        "UPPER.example.",
        "",
    ):
        assert ask(app, host).status_code == 200, host


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("198.51.100.7:40001", "198.51.100.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:DB8::1]", "2001:db8::1"),
        ("[2001:db8:0::1]:4711", "2001:db8::1"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("[::ffff:198.51.100.7]:40001", "198.51.100.7"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        *((junk, junk) for junk in ("unknown", "_hidden", "a:b", "1.2.3:4", "[x]:1", "\xff::")),
    ],
)
def test_an_address_is_read_without_port_and_in_one_spelling(text: str, address: str) -> None:
    assert plain_address(text) == address


def test_a_caller_is_limited_whatever_port_its_proxy_adds(database_url: str) -> None:
    app = make_app(database_url, RATE_LIMIT="3 per hour", PROXY_HOPS="1")
    client = app.test_client()

    def status(address: str) -> int:
        return client.get(ITEMS, headers={"X-Forwarded-For": address}).status_code

    for spelling, other_caller in (
        ("203.0.113.1:{}", "203.0.113.2:4000"),
        ("[2001:db8::{}]:4711", "[2001:db8:0:1::1]:4711"),
        ("[::ffff:203.0.113.3]:{}", "::ffff:203.0.113.4"),
    ):
        found = [status(spelling.format(number)) for number in range(1000, 1004)]
        assert found == [200, 200, 200, 429]
        assert status(other_caller) == 200
    dispose_app(app)


def test_a_tls_terminator_before_the_nearest_proxy_is_believed(database_url: str) -> None:
    app = make_app(database_url, PROXY_HOPS="2", TRUSTED_HOSTS="ml.example.com")
    seen: list[str] = []
    app.before_request(lambda: seen.append(str(request.remote_addr)))
    headers = {
        "X-Forwarded-For": "192.0.2.66, 198.51.100.7, 10.0.0.9",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "ml.example.com",
    }

    response = app.test_client().get(ITEMS, headers=headers)

    assert response.status_code == 200
    assert "Strict-Transport-Security" in response.headers
    assert seen == ["198.51.100.7"]
    dispose_app(app)


def test_probes_pass_over_what_is_added_to_them(client: FlaskClient) -> None:
    for path in ("/health/live", "/health/ready"):
        for query in ("x=1", "x=1&x=2", "%FF", "probe", ""):
            assert client.get(f"{path}?{query}").status_code == 200
        assert client.get(path, json={"probe": 1}).status_code == 200
