"""What only a real server is sent: bytes that are no request, and bodies that end early."""

from __future__ import annotations

import contextlib
import re
import socket
from pathlib import Path

import pytest
import requests

from tests.faults import on_sqlite
from tests.faults.record import Record
from tests.gunicorn_server import GunicornServer, running_gunicorn
from tests.server.malformed import HEADS
from webapp import API_PREFIX

pytestmark = [pytest.mark.slow, on_sqlite]

LIMIT = 1_000_000  # bytes of a body
TRAIN = f"{API_PREFIX}/ml/train?target=y".encode()
ITEMS = f"{API_PREFIX}/items".encode()
HOST = b"Host: x\r\nConnection: close\r\n"
JSON = HOST + b"Content-Type: application/json\r\n"
BODY = b'{"name": "kept?"}'


def post(head: bytes, body: bytes = b"", path: bytes = ITEMS) -> bytes:
    return b"POST " + path + b" HTTP/1.1\r\n" + JSON + head + b"\r\n" + body


def get(path: bytes, head: bytes = b"") -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\n" + HOST + head + b"\r\n"


CHUNKED = b"Transfer-Encoding: chunked\r\n"
PART = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n'
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY) - 1, BODY[:-1])  # of JSON that ends early

SHORT_BODIES = (
    (b"text/csv", b"x,y\n1,2\n3,4\n"),
    (b"application/vnd.apache.parquet", b"PAR1"),
    (b"application/vnd.apache.arrow.stream", b"\xff\xff\xff\xff"),
    (b"multipart/form-data; boundary=x", PART + b"x,y\n1,2"),
    (b"multipart/form-data; boundary=x", PART + b"x,y\n1,2\n\r\n--x--\r\n"),
)
# What is sent → the statuses that may answer it; 0 is a closed connection without an answer.
RAW: list[tuple[bytes, set[int]]] = [
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100) + b"\r\n\r\n", {0, 400}),  # TLS
    (b"\x00\xff\x01\xfe" * 100 + b"\r\n\r\n", {0, 400}),
    (b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n" + get(b"/nothing"), {400}),
    (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200_000, {0, 400, 431}),
    (b"GET /" + b"x" * 1_000_000, {0, 400, 414}),
    (b"GET /health/live HTTP/1.1\nHost: x\n\n", {0, 200, 400}),
    (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", {200, 204, 400, 404}),
    (b"TRACE " + ITEMS + b" HTTP/1.1\r\n" + HOST + b"\r\n", {405}),
    (b"GET /nothing HTTP/1.1\r\nHost: a b\\c\r\n\r\n", {400, 404}),
    (get(b"/nothing", b"X-Forwarded-Proto: https\r\nSCRIPT_NAME: /x\r\n"), {400, 404}),
    (get(b"/nothing", b"Upgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"), {404}),
    (post(b"", BODY), {400}),
    (post(CHUNKED, CHUNKS), {400}),
    (post(CHUNKED, CHUNKS[:-5]), {400}),
    (post(CHUNKED, b"%x\r\n" % (3 * LIMIT) + b" " * (3 * LIMIT)), {413}),
    (post(CHUNKED, b"800\r\n%b\r\n" % bytes(2048) * 1500), {413}),
    (post(b"Content-Length: %d\r\n" % (LIMIT + 1), BODY), {413}),
    (post(b"Content-Length: 900000\r\n", b"[" * 900_000), {400}),
    (post(b"Content-Length: 17\r\n")[:-10], {0, 400}),  # the head ends early
    (post(b"Content-Length: 500\r\n", BODY), {400}),
    *((post(b"Content-Length: 500\r\n", body, TRAIN).replace(b"application/json", kind), {400})
      for kind, body in SHORT_BODIES),
]  # fmt: skip


def find_fault(server: GunicornServer, expected: set[int], data: bytes) -> str:
    """Send bytes and no more; return the answer if it is none of those expected (0: no answer)."""
    answer = b""
    with server.connect() as connection, contextlib.suppress(OSError):
        with contextlib.suppress(OSError):  # who refuses need not read to the end
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(65_536):
            answer += piece
    found = re.match(rb"HTTP/1\.[01] (\d{3}) ", answer)
    status = int(found[1]) if found else 0
    is_right = status in expected and (status or not answer)
    tells = b"Traceback" in answer or b"site-packages" in answer
    return "" if is_right and not tells else f"{data[:200]!r}: {answer[:400]!r}"


def test_raw_bytes_do_no_harm(database_url: str, tmp_path: Path, record: Record) -> None:
    settings = {"MAX_CONTENT_LENGTH": str(LIMIT), "WEB_GRACEFUL_TIMEOUT": "1"}
    with running_gunicorn(
        database_url, tmp_path / "log", WEB_CONCURRENCY="2", **settings
    ) as server:
        api = f"{server.url}{API_PREFIX}"
        body = {"X": [[1, 2, 3], [4, 5, 6]], "y": [1, 2]}
        assert requests.post(f"{api}/ml/train", json=body, timeout=60).status_code == 201
        workers = server.workers()

        faults = [find_fault(server, {status}, head) for head, status in HEADS]
        faults += [find_fault(server, expected, data) for data, expected in RAW]
        prediction = requests.post(f"{api}/ml/predict", json={"features": [1, 2, 3]}, timeout=60)
        items = requests.get(f"{api}/items", timeout=60).json()
        model = requests.get(f"{api}/ml/models/default", timeout=60).json()
        assert server.workers() == workers, "a worker has died"
    assert set(faults) == {""}
    assert prediction.status_code == 200
    assert (items, model["last_version"]) == ([], 1)
    assert "Traceback" not in (tmp_path / "log").read_text()
    record("bad input: raw bytes", len(faults), len(faults), 0)
