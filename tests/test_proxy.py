"""The proxy in front: whom it believes, whose bodies it takes in, what it says when it refuses."""

from __future__ import annotations

import gzip
import http.client
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask
from werkzeug.serving import make_server

from tests.access.holders import bearer, make_holder
from tests.faults import on_sqlite
from tests.faults.volumes import can_mount, small_volume
from tests.nginx import BINARY, Proxy, render_configuration, running_proxy
from tests.ports import hold_port, port_of
from webapp.scopes import Scope
from webapp.server.worker import STOP_DEADLINE

pytestmark = pytest.mark.skipif(BINARY is None, reason="nginx is not installed")

LARGE = 100_000  # bytes from which on the proxy asks for the key first
Start = Callable[..., Proxy]


def echo(environ: Mapping[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """Answer with the request's headers (a WSGI application)."""
    told = {name: value for name, value in environ.items() if isinstance(value, str)}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(told).encode()]


@contextmanager
def serving(application: Any) -> Iterator[str]:
    """Serve a WSGI application on loopback until the block ends; the value is its address."""
    server = make_server("127.0.0.1", 0, application, threaded=True)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that puts a proxy in front of a WSGI application."""
    with ExitStack() as stack:

        def run(application: Any, **settings: str) -> Proxy:
            address = stack.enter_context(serving(application))
            return stack.enter_context(running_proxy(tmp_path, [address], **settings))

        yield run


@pytest.fixture
def key(guarded: Flask) -> str:
    """Return a key that may predict and train."""
    return make_holder(guarded, "ann", Scope.ML_PREDICT, Scope.ML_TRAIN)


@contextmanager
def begun_upload(proxy: Proxy, length: int = LARGE, **headers: str) -> Iterator[socket.socket]:
    """Send the head of a training and half of its body; the value is the connection."""
    lines = {"Host": "proxy", "Content-Type": "text/csv", "Content-Length": str(length), **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as connection:
        connection.sendall(f"POST /api/v1/ml/train?target=y HTTP/1.1\r\n{head}\r\n".encode())
        connection.sendall(b"x" * (length // 2))
        yield connection


def read_answer(connection: socket.socket) -> tuple[int, http.client.HTTPMessage, Any]:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, response.headers, json.loads(response.read())


@on_sqlite
@pytest.mark.parametrize("authorization", [{}, {"Authorization": "Bearer nonsense"}])
def test_a_large_body_without_a_good_key_is_refused_before_it_is_taken_in(
    start: Start, guarded: Flask, authorization: dict[str, str]
) -> None:
    proxy = start(guarded)

    with begun_upload(proxy, length=2**27, **authorization) as connection:
        status, headers, problem = read_answer(connection)
        waiting = [path for path in (proxy.folder / "client_body").rglob("*") if path.is_file()]

    assert status == 401
    assert headers["Content-Type"] == "application/problem+json"
    (challenge,) = headers.get_all("WWW-Authenticate")
    assert challenge.startswith('Bearer realm="webapp"')
    assert problem["status"] == 401
    assert problem["instance"] == "/api/v1/ml/train"
    assert "Authorization: Bearer KEY" in problem["detail"]
    assert not waiting


def table(rows: int) -> bytes:
    lines = [f"{row}.5,{row % 7},{row * 3}" for row in range(rows)]
    return "\n".join(["a,b,y", *lines, ""]).encode()


def train(proxy: Proxy, body: Any, **headers: str) -> requests.Response:
    url = f"{proxy.url}/api/v1/ml/train?target=y"
    headers = {"Content-Type": "text/csv", **headers}
    return requests.post(url, data=body, headers=headers, timeout=30)


@on_sqlite
@pytest.mark.parametrize(("coding", "chunked"), [("identity", True), ("gzip", False)])
def test_a_large_body_with_a_good_key_reaches_the_application(
    start: Start, guarded: Flask, key: str, coding: str, chunked: bool
) -> None:
    body = table(10_000) if coding == "identity" else gzip.compress(table(10_000), 0)
    assert len(body) > LARGE

    sent = iter([body]) if chunked else body
    answer = train(start(guarded), sent, **{"Content-Encoding": coding}, **bearer(key))

    assert answer.status_code == 201, answer.text
    assert answer.json()["model"]["n_train"] == 8_000


@on_sqlite
def test_without_keys_large_bodies_are_taken_and_logged(start: Start, app: Flask) -> None:
    proxy = start(app)

    assert train(proxy, table(10_000)).status_code == 201
    line = proxy.read_log()
    assert (line["method"], line["path"], line["status"]) == ("POST", "/api/v1/ml/train", "201")
    assert "target" not in str(line)


@on_sqlite
def test_one_key_cannot_take_all_the_room(start: Start, guarded: Flask, key: str) -> None:
    other = make_holder(guarded, "bob", Scope.ML_TRAIN)
    proxy = start(guarded)

    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(begun_upload(proxy, **bearer(key)))
        # They are counted once nginx has read their heads.
        status = 0
        while status != 429:
            connection = stack.enter_context(begun_upload(proxy, **bearer(key)))
            connection.settimeout(0.5)
            try:
                status, headers, problem = read_answer(connection)
            except TimeoutError:
                continue
        small = requests.get(f"{proxy.url}/api/v1/ml/models", headers=bearer(key), timeout=10)
        large = train(proxy, table(10_000), **bearer(other))

    assert headers["Retry-After"] == "1"
    assert "wait until one is answered" in problem["detail"]
    assert small.status_code == 200
    assert large.status_code == 201


@on_sqlite
@pytest.mark.skipif(not can_mount(), reason="mounting needs root")
def test_a_body_without_room_is_to_be_sent_later(start: Start, guarded: Flask, key: str) -> None:
    with (
        small_volume(size=2**19) as folder,
        serving(guarded) as address,
        running_proxy(folder, [address]) as proxy,
    ):
        answer = train(proxy, b"x" * 2**20, **bearer(key))

    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "5"
    assert answer.json()["status"] == 503


def test_a_body_above_the_applications_limit_is_refused_by_that_limit(start: Start) -> None:
    proxy = start(echo, MAX_CONTENT_LENGTH="2000")

    answer = requests.post(proxy.url, data=b"x" * 2001, timeout=10)

    assert answer.status_code == 413
    assert answer.json()["detail"] == "The body is larger than 2000 bytes."


def test_the_proxy_closes_an_idle_connection_before_a_worker_that_stops_does() -> None:
    (upstream,) = re.findall(r"upstream web \{(.*?)\}", render_configuration(), re.S)
    (seconds,) = re.findall(r"keepalive_timeout (\d+)s;", upstream)

    assert int(seconds) <= STOP_DEADLINE / 2


CLIENT = {"for": "127.0.0.1", "proto": "http", "host": "here:8000", "port": "8000", "prefix": None}
FRONTED = {"for": "203.0.113.5", "proto": "https", "host": "ml.example.com", "prefix": "/ml"}
FRONT = {f"X-Forwarded-{name.title()}": value for name, value in FRONTED.items()}
FRONT["X-Forwarded-For"] = "198.51.100.9, 203.0.113.5"
HTTPS, IPV6 = {"X-Forwarded-Proto": "https"}, {"X-Forwarded-Host": "[2001:db8::1]"}


@pytest.mark.parametrize(
    ("trusted", "headers", "expected"),
    [
        # Nothing that a client says about itself is believed.
        ("", {**FRONT, "Forwarded": "for=203.0.113.5"}, CLIENT),
        ("10.0.0.0/8 192.0.2.7", FRONT, CLIENT),
        # What stands before the nearest proxy that is not trusted, the client may have made up.
        ("10.0.0.0/8 127.0.0.0/8", FRONT, {**FRONTED, "port": "443"}),
        ("10.0.0.0/8 127.0.0.0/8", {**FRONT, "X-Forwarded-For": "203.0.113.5, 10.1.2.3"}, FRONTED),
        # The port is the one that the client called.
        ("127.0.0.1", {}, {"port": "8000"}),
        ("127.0.0.1", HTTPS, {"port": "8000"}),
        ("127.0.0.1", {"X-Forwarded-Port": "8443"}, {"port": "8443"}),
        ("127.0.0.1", {"X-Forwarded-Host": "ml.example.com:444"}, {"port": "444"}),
        ("127.0.0.1", IPV6, {"port": "80"}),
        ("127.0.0.1", {**IPV6, **HTTPS}, {"port": "443"}),
    ],
)
def test_the_application_is_told_what_a_trusted_proxy_says(
    start: Start, trusted: str, headers: dict[str, str], expected: dict[str, str | None]
) -> None:
    proxy = start(echo, PROXY_TRUSTED=trusted)

    said = requests.get(proxy.url, headers={"Host": "here:8000", **headers}, timeout=10).json()

    assert {name: said.get(f"HTTP_X_FORWARDED_{name.upper()}") for name in expected} == expected


def test_an_error_of_the_proxy_is_logged_as_the_request_that_failed(tmp_path: Path) -> None:
    with hold_port() as held, running_proxy(tmp_path, [f"127.0.0.1:{port_of(held)}"]) as proxy:
        answer = requests.put(f"{proxy.url}/api/v1/items/7?secret=1", data="{}", timeout=10)
    line = proxy.read_log()

    assert answer.status_code == 502
    assert answer.headers["Retry-After"] == "5"
    assert answer.json()["instance"] == "/api/v1/items/7"
    assert (line["method"], line["path"], line["status"]) == ("PUT", "/api/v1/items/7", "502")
    assert line["message"] == "PUT 502"
    assert line["request_id"] == answer.headers["X-Request-ID"] == answer.json()["request_id"]
    assert "secret" not in proxy.log.read_text()


@on_sqlite
def test_pages_are_compressed_and_answers_with_an_etag_are_not(start: Start, app: Flask) -> None:
    proxy = start(app)
    long = {"name": "long", "description": "d" * 5000}
    item = requests.post(f"{proxy.url}/api/v1/items", json=long, timeout=10)
    url = f"{proxy.url}{item.headers['Location']}"

    document = requests.get(f"{proxy.url}/openapi.json", timeout=10)
    page = requests.get(f"{proxy.url}/docs/swagger-ui.css", timeout=10)
    known = {"If-Match": item.headers["ETag"]}
    changed = requests.put(url, json={"name": "new"}, headers=known, timeout=10)

    assert document.headers["Content-Encoding"] == page.headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in requests.get(url, timeout=10).headers
    assert changed.status_code == 200
