"""What only a real server is sent: bytes that are no request, and bodies that do not end."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from tests.faults import on_sqlite
from tests.faults.record import Record
from tests.gunicorn_server import GunicornServer, both_workers, running_gunicorn
from tests.server.malformed import HEADS
from webapp import API_PREFIX

pytestmark = [pytest.mark.slow, on_sqlite]

LIMIT = 1_000_000  # bytes of a body
MOST_GROWTH = 30 * 2**20  # bytes that a worker may keep of all this
STREAM = 64 * 1024 * 1024  # bytes of a body that is sent although it is refused
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

NOT_FOUND = ("%00", "%zz", "%ff%fe", "a%2Fb", "../../../etc/passwd", "%2e%2e/%2e%2e/config.py")
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
    *((get(ITEMS + b"/" + path.encode()), {404}) for path in NOT_FOUND),
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
      for kind, body in (  # the body does
          (b"text/csv", b"x,y\n1,2\n3,4\n"),
          (b"application/vnd.apache.parquet", b"PAR1"),
          (b"application/vnd.apache.arrow.stream", b"\xff\xff\xff\xff"),
          (b"multipart/form-data; boundary=x", PART + b"x,y\n1,2"),
          (b"multipart/form-data; boundary=x", PART + b"x,y\n1,2\n\r\n--x--\r\n"),
      )),
]  # fmt: skip
HALF = (
    *(b"", b"G", b"GET / HTTP/1.1\r\nX: "),
    post(b"Content-Length: 99\r\n", b"["),
    post(b"Content-Length: 900000\r\n", b"[", path=TRAIN),
)
"""Requests that stop halfway."""


def send(server: GunicornServer, pieces: list[bytes]) -> bytes:
    """Send bytes and no more; return what comes until the server closes, or hangs up."""
    answer = b""
    with server.connect() as connection, contextlib.suppress(OSError):
        with contextlib.suppress(OSError):  # who refuses need not read to the end
            for piece in pieces:
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(65_536):
            answer += piece
    return answer


def find_fault(server: GunicornServer, expected: set[int], pieces: list[bytes]) -> str:
    """Send an input; return the answer if it is none of the expected statuses (0: no answer)."""
    answer = send(server, pieces)
    found = re.match(rb"HTTP/1\.[01] (\d{3}) ", answer)
    status = int(found[1]) if found else 0
    is_right = status in expected and (status or not answer)
    tells = b"Traceback" in answer or b"site-packages" in answer
    return "" if is_right and not tells else f"{pieces[0][:200]!r}: {answer[:400]!r}"


def memory(server: GunicornServer) -> dict[int, int]:
    """Return resident bytes by worker."""
    return {pid: psutil.Process(pid).memory_info().rss for pid in server.workers()}


def predict(server: GunicornServer) -> float:
    """Predict over a connection of its own."""
    url = f"{server.url}{API_PREFIX}/ml/predict"
    return float(requests.post(url, json={"features": [1, 2, 3]}, timeout=60).json()["prediction"])


def list_inputs(worker_class: str) -> Iterator[tuple[set[int], list[bytes]]]:
    """Yield the statuses that may answer an input, and its pieces."""
    for head, status in HEADS:
        # gunicorn's own worker takes some of them.
        yield {status} if worker_class == "epoll" else {*range(500), 501, 505}, [head]
    for data, expected in RAW:
        yield expected, [data]
    for number in range(30):  # bodies far over the limit
        kind = (b"application/json", b"text/csv", b"multipart/form-data; boundary=x")[number % 3]
        is_chunked = number % 10 == 0
        frame = CHUNKED if is_chunked else b"Content-Length: %d\r\n" % STREAM
        head = post(frame, b"%x\r\n" % STREAM if is_chunked else b"", path=TRAIN)
        head = head.replace(b"application/json", kind)
        # gunicorn's own worker hands over what has come, which is no table (422).
        yield {0, 413, 422}, [head, *[b"[" * 65_536] * (STREAM // 65_536)]


@both_workers
def test_raw_bytes_do_no_harm(
    database_url: str, tmp_path: Path, worker_class: str, record: Record
) -> None:
    settings = {"WEB_CONCURRENCY": "2", "WORKER_CLASS": worker_class}
    settings |= {"MAX_CONTENT_LENGTH": str(LIMIT), "WEB_GRACEFUL_TIMEOUT": "1"}
    with running_gunicorn(database_url, tmp_path / "log", **settings) as server:
        api = f"{server.url}{API_PREFIX}"
        body = {"X": [[1, 2, 3], [4, 5, 6]], "y": [1, 2]}
        assert requests.post(f"{api}/ml/train", json=body, timeout=60).status_code == 201
        predicted = [predict(server) for _ in range(20)]  # both workers are warm
        before = memory(server)

        faults = [find_fault(server, *it) for it in list_inputs(worker_class)]
        with contextlib.ExitStack() as half_open:
            # gunicorn's own worker has a thread for each, which the other does not need.
            for data in HALF * (30 if worker_class == "epoll" else 1):
                half_open.enter_context(server.connect()).sendall(data)
            predicted.append(predict(server))  # while they are slow
        items = requests.get(f"{api}/items", timeout=60).json()
        model = requests.get(f"{api}/ml/models/default", timeout=60).json()
        after = memory(server)
    assert set(faults) == {""}
    assert predicted == [pytest.approx(predicted[0])] * 21
    assert (items, model["last_version"]) == ([], 1)
    assert set(after) == set(before), "a worker has died"
    assert max(after[worker] - before[worker] for worker in before) < MOST_GROWTH
    assert "Traceback" not in (tmp_path / "log").read_text()
    record(f"bad input: raw bytes to {worker_class}", len(faults), len(faults), 0)
