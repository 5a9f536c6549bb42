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


class Target:
    """A running gunicorn, and what it answers to bad input."""

    def __init__(self, server: GunicornServer) -> None:
        self.server = server
        self.inputs = 0
        self.complaints: list[str] = []

    def send(self, expected: set[int], *pieces: bytes) -> None:
        """Send bytes and no more, and compare the status of what comes back, 0 for nothing."""
        with self.server.connect() as connection:
            with contextlib.suppress(OSError):  # who refuses need not read to the end
                for piece in pieces:
                    connection.sendall(piece)
                connection.shutdown(socket.SHUT_WR)
            answer = receive(connection)
        found = re.match(rb"HTTP/1\.[01] (\d{3}) ", answer)
        status = int(found[1]) if found else 0
        self.inputs += 1
        if status not in expected or (status == 0 and answer):
            self.complaints.append(f"{pieces[0][:200]!r}: {answer[:200]!r}")
        if b"Traceback" in answer or b"site-packages" in answer:
            self.complaints.append(f"{pieces[0][:200]!r} tells of the inside: {answer[:400]!r}")

    def memory(self) -> dict[int, int]:
        """Return resident bytes by worker."""
        return {pid: psutil.Process(pid).memory_info().rss for pid in self.server.workers()}

    def predict(self) -> float:
        """Predict over a connection of its own."""
        url = f"{self.server.url}{API_PREFIX}/ml/predict"
        answer = requests.post(url, json={"features": [1, 2, 3]}, timeout=60)
        return float(answer.json()["prediction"])


def receive(connection: socket.socket) -> bytes:
    """Return what comes until the other side closes, or hangs up."""
    answer = b""
    with contextlib.suppress(OSError):
        while piece := connection.recv(65_536):
            answer += piece
    return answer


@pytest.fixture
def target(database_url: str, tmp_path: Path, worker_class: str) -> Iterator[Target]:
    """Return a gunicorn of two workers with a trained model."""
    settings = {"WEB_CONCURRENCY": "2", "WORKER_CLASS": worker_class}
    settings |= {"MAX_CONTENT_LENGTH": str(LIMIT), "WEB_GRACEFUL_TIMEOUT": "1"}
    with running_gunicorn(database_url, tmp_path / "log", **settings) as server:
        body = {"X": [[1, 2, 3], [4, 5, 6]], "y": [1, 2]}
        answer = requests.post(f"{server.url}{API_PREFIX}/ml/train", json=body, timeout=60)
        assert answer.status_code == 201
        yield Target(server)


@both_workers
def test_raw_bytes_do_no_harm(target: Target, worker_class: str, record: Record) -> None:
    predicted = pytest.approx(target.predict())
    for _ in range(20):
        assert target.predict() == predicted  # both workers are warm
    before = target.memory()
    assert len(before) == 2

    for head, status in HEADS:
        # gunicorn's own worker takes some of them.
        target.send({status} if worker_class == "epoll" else {*range(500), 501, 505}, head)
    for data, expected in RAW:
        target.send(expected, data)
    for number in range(30):  # bodies far over the limit
        kind = (b"application/json", b"text/csv", b"multipart/form-data; boundary=x")[number % 3]
        frame = CHUNKED if number % 10 == 0 else b"Content-Length: %d\r\n" % STREAM
        head = post(frame, b"%x\r\n" % STREAM if number % 10 == 0 else b"", path=TRAIN)
        # gunicorn's own worker hands over what has come, which is no table (422).
        head = head.replace(b"application/json", kind)
        target.send({0, 413, 422}, head, *[b"[" * 65_536] * (STREAM // 65_536))
    shown = "\n".join(target.complaints[:20])
    assert not target.complaints, f"{len(target.complaints)} of {target.inputs}:\n{shown}"
    with contextlib.ExitStack() as half_open:
        for data in (b"", b"G", b"GET / HTTP/1.1\r\nX: ", post(b"Content-Length: 99\r\n", b"[")):
            half_open.enter_context(target.server.connect()).sendall(data)
        assert target.predict() == predicted  # while they are slow

    api = f"{target.server.url}{API_PREFIX}"
    assert requests.get(f"{api}/items", timeout=60).json() == []
    assert requests.get(f"{api}/ml/models/default", timeout=60).json()["last_version"] == 1
    after = target.memory()
    assert set(after) == set(before), "a worker has died"
    assert max(after[worker] - before[worker] for worker in before) < MOST_GROWTH
    assert "Traceback" not in target.server.log.read_text()
    record(f"bad input: raw bytes to {worker_class}", target.inputs, target.inputs, 0)
