"""Whom a request names, and where it comes from: hosts and addresses in all their spellings."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask import Flask, request
from flask.testing import FlaskClient

from tests.conftest import app_on
from tests.faults import on_sqlite
from tests.web.test_api import ITEMS, assert_problem
from webapp.web.request import plain_address

pytestmark = on_sqlite


@pytest.fixture
def named_app(database_url: str) -> Iterator[Flask]:
    """Return an application that answers by some names, behind a proxy that tells them."""
    names = "localhost,.Example.COM,10.0.0.1"
    with app_on(
        database_url, TRUSTED_HOSTS=names, PROXY_HOPS="1", CORS_ORIGINS="https://a.com"
    ) as app:
        yield app


TRUSTED = [
    *("localhost", "LocalHost:8000", "10.0.0.1:8000", "example.com.", "ml.example.com:"),
    *("ML.Example.COM", "ML.EXAMPLE.COM.:8443", "a.b.example.com:443"),
]
UNTRUSTED = [
    *("evil.example", "example.com.evil.example", "example.com..", "xn--exmple-cua.com"),
    *("10.0.0.2", "localhost.localdomain", "notexample.com", "127.0.0.1"),
]
ANY = ["web_1:8000", "anything.example", "[::1]:8000", "127.0.0.1", "UPPER.example.", ""]
NO_HOSTS = [
    *("a b", "a/b", "http://localhost", "user@localhost", "<script>", "a,b", "[::1", "::1"),
    *("localhost:port", "localhost:8000:1", "localhost:123456", "a?b", "é", "[evil]", "a\tb"),
]


def test_a_trusted_name_is_answered_in_every_spelling_and_another_is_not(named_app: Flask) -> None:
    client = named_app.test_client()

    for header in ("Host", "X-Forwarded-Host"):
        for host in TRUSTED:
            assert client.get(ITEMS, headers={header: host}).status_code == 200, host
        for host in UNTRUSTED:
            assert_problem(client.get(ITEMS, headers={header: host}), 400)
    for path in (ITEMS, "/docs", "/nothing"):
        assert_problem(client.get(path, headers={"Host": ""}), 400)
    preflight = {"Host": "evil.example", "Access-Control-Request-Method": "GET"}
    assert_problem(client.options(ITEMS, headers=preflight), 400)


def test_probes_and_prometheus_ask_by_address_and_may_add_what_they_like(named_app: Flask) -> None:
    client = named_app.test_client()

    for path in ("/health/live", "/health/ready", "/metrics"):
        assert client.get(path, headers={"Host": "172.18.0.5:8000"}).status_code == 200
    for path in ("/health/live", "/health/ready"):
        for query in ("x=1&x=2", "%FF", "probe"):
            assert client.get(f"{path}?{query}", json={"probe": 1}).status_code == 200


def test_where_no_names_are_listed_any_host_is_answered_and_what_is_none_refused(
    client: FlaskClient,
) -> None:
    for host in ANY:
        assert client.get(ITEMS, headers={"Host": host}).status_code == 200, host
    for host in NO_HOSTS:
        for path in (ITEMS, "/docs", "/health/live"):
            problem = assert_problem(client.get(path, headers={"Host": host}), 400)
            assert "Host" in problem["detail"], host


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("198.51.100.7:40001", "198.51.100.7"),
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


@pytest.mark.parametrize(
    ("hops", "address", "status"),
    [("0", "127.0.0.1", 400), ("1", "10.0.0.9", 200), ("2", "198.51.100.7", 200)],
)
def test_what_proxies_say_is_believed_as_far_as_they_are_trusted(
    database_url: str, hops: str, address: str, status: int
) -> None:
    with app_on(database_url, PROXY_HOPS=hops, TRUSTED_HOSTS="ml.example.com") as app:
        seen: list[str] = []
        app.before_request(lambda: seen.append(str(request.remote_addr)))
        headers = {
            "X-Forwarded-For": "192.0.2.66, [::ffff:198.51.100.7]:4711, 10.0.0.9",
            "X-Forwarded-Proto": "https",
            "X-Forwarded-Host": "ml.example.com",
        }

        response = app.test_client().get(ITEMS, headers=headers)

        assert response.status_code == status
        assert ("Strict-Transport-Security" in response.headers) is (hops != "0")
        assert seen == [address]
