"""What only a real server is sent: bytes that are no request, and bodies that do not end."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.faults import on_sqlite
from tests.faults.record import Record
from tests.gunicorn_server import GunicornServer, running_gunicorn
from webapp import API_PREFIX

pytestmark = [pytest.mark.slow, on_sqlite]

LIMIT = 1_000_000  # bytes of a body
MOST_GROWTH = 30 * 2**20  # bytes that a worker may keep of all this
STREAM = 64 * 1024 * 1024  # bytes of a body that is sent although it is refused
TRAIN = f"{API_PREFIX}/ml/train".encode()
ITEMS = f"{API_PREFIX}/items".encode()
HOST = b"Host: x\r\nConnection: close\r\n"
JSON = HOST + b"Content-Type: application/json\r\n"
BODY = b'{"name": "kept?"}'


def post(head: bytes, body: bytes = b"", path: bytes = ITEMS) -> bytes:
    return b"POST " + path + b" HTTP/1.1\r\n" + JSON + head + b"\r\n" + body


def get(path: bytes, head: bytes = b"") -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\n" + HOST + head + b"\r\n"


SIZE = str(len(BODY)).encode()
LENGTH = b"Content-Length: " + SIZE + b"\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
PART = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n'
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)

# Bytes → the statuses that may answer them; 0 is a closed connection without an answer.
RAW: list[tuple[str, bytes, set[int]]] = [
    *((f"length {length}", post(b"Content-Length: " + length + b"\r\n", BODY), {400, 413})
      for length in (b"-1", b"abc", b"1e3", b"+5", b"0x10", b"1_0", b"", b"9" * 30, b"9" * 5000,
                     b"1, 1", b"17 17", b"\xd9\xa1", b"1.0", str(LIMIT + 1).encode())),
    ("no length", post(b"", BODY), {400}),
    ("two lengths", post(LENGTH + b"Content-Length: 2\r\n", BODY), {400}),
    ("one length twice", post(LENGTH + LENGTH, BODY), {400}),
    ("length and chunked", post(LENGTH + CHUNKED, CHUNKS), {400}),
    ("chunked and length", post(CHUNKED + LENGTH, CHUNKS), {400}),
    ("chunked twice", post(CHUNKED + CHUNKED, CHUNKS), {400, 411}),
    ("chunked", post(CHUNKED, CHUNKS), {411}),
    ("chunked in capitals", post(b"Transfer-Encoding: CHUNKED\r\n", CHUNKS), {411}),
    ("chunked over the limit", post(CHUNKED, b"%x\r\n" % (3 * LIMIT) + b" " * (3 * LIMIT)), {411}),
    ("a chunk of nonsense", post(CHUNKED, b"zz\r\n"), {400, 411}),
    ("a chunk too long to count", post(CHUNKED, b"f" * 100 + b"\r\n"), {400, 411}),
    ("chunked in HTTP/1.0", post(CHUNKED, CHUNKS).replace(b"HTTP/1.1", b"HTTP/1.0"), {400, 411}),
    ("a blank before the colon", post(b"Content-Length : 17\r\n", BODY), {400}),
    ("chunked, hidden", post(LENGTH + b"Transfer-Encoding : chunked\r\n", CHUNKS), {400}),
    ("chunked, folded", post(LENGTH + b"Transfer-Encoding:\r\n chunked\r\n", CHUNKS), {400}),
    ("an identity", post(LENGTH + b"Transfer-Encoding: identity\r\n", BODY), {400, 501}),
    ("xchunked", post(b"Transfer-Encoding: xchunked\r\n", CHUNKS), {400, 501}),
    ("gzip", post(b"Transfer-Encoding: gzip, chunked\r\n", CHUNKS), {400, 411, 501}),
    ("two types", post(LENGTH + b"Content-Type: text/csv\r\n", BODY), {400}),
    ("two hosts", get(b"/", b"Host: y\r\n"), {400}),
    ("a header with NUL", get(b"/", b"X: a\0b\r\n"), {400}),
    ("a header with a bare CR", get(b"/", b"X: a\rY: b\r\n"), {400}),
    ("a header without a colon", get(b"/", b"X\r\n"), {400}),
    ("a header without a name", get(b"/", b": x\r\n"), {400}),
    ("a header with a strange name", get(b"/", b"X(\xff): x\r\n"), {400}),
    ("a long header", get(b"/", b"X: " + b"x" * 100_000 + b"\r\n"), {400, 431}),
    ("many headers", get(b"/", b"".join(b"X%d: x\r\n" % i for i in range(5000))), {400, 431}),
    ("headers without end", b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200_000, {0, 400, 431}),
    ("a long line", get(b"/" + b"x" * 100_000), {400, 414}),
    ("a long query", get(b"/?" + b"x" * 100_000), {400, 414}),
    ("a line without end", b"GET /" + b"x" * 1_000_000, {0, 400, 414}),
    ("garbage", b"\x00\xff\x01\xfe" * 100 + b"\r\n\r\n", {0, 400}),
    ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100) + b"\r\n\r\n", {0, 400}),
    ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {0, 400, 505}),
    ("HTTP/0.9", b"GET /health/live\r\n\r\n", {0, 400}),
    ("HTTP/3.0", b"GET / HTTP/3.0\r\n\r\n", {400, 505}),
    ("HTTP/1.10", b"GET / HTTP/1.10\r\n\r\n", {400}),
    ("no version", b"GET / HTTP/\r\n\r\n", {400}),
    ("lower case", b"get / http/1.1\r\n\r\n", {400}),
    ("no method", b" / HTTP/1.1\r\n\r\n", {400}),
    ("no target", b"GET  HTTP/1.1\r\n" + HOST + b"\r\n", {400}),
    ("blanks", b"GET  /  HTTP/1.1\r\n\r\n", {400}),
    ("bare line feeds", b"GET /health/live HTTP/1.1\nHost: x\n\n", {0, 200, 400}),
    ("NUL in the target", get(b"/\0"), {400}),
    ("a target in UTF-8", get(b"/\xe2\x98\x83"), {400}),
    ("a target in Latin-1", get(ITEMS + b"?q=\xff"), {400}),
    ("NUL, escaped", get(ITEMS + b"/%00"), {404}),
    ("a bad escape", get(ITEMS + b"/%zz"), {404}),
    ("bytes, escaped", get(ITEMS + b"/%ff%fe"), {404}),
    ("a slash, escaped", get(API_PREFIX.encode() + b"/ml/models/a%2Fb"), {404}),
    ("dots", get(API_PREFIX.encode() + b"/ml/models/.."), {404}),
    ("dots, escaped", get(b"/docs/%2e%2e/%2e%2e/config.py"), {404}),
    ("dots to the root", get(b"/../../../../etc/passwd"), {404}),
    ("two slashes", get(b"//etc/passwd"), {404}),
    ("a target with a host", get(b"http://x/nothing"), {404}),
    ("a target with another scheme", get(b"file:///etc/passwd"), {400, 404}),
    ("a star", b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", {200, 204, 400, 404}),
    ("CONNECT", b"CONNECT x:443 HTTP/1.1\r\n" + HOST + b"\r\n", {400, 404, 405}),
    ("TRACE", b"TRACE " + ITEMS + b" HTTP/1.1\r\n" + HOST + b"\r\n", {405}),
    ("no host", b"GET /nothing HTTP/1.1\r\nConnection: close\r\n\r\n", {400, 404}),
    ("a strange host", b"GET /nothing HTTP/1.1\r\nHost: a b\\c\r\n\r\n", {400, 404}),
    ("an expectation", get(b"/health/live", b"Expect: miracles\r\n"), {417}),
    ("an upgrade", get(b"/nothing", b"Upgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"), {404}),
    ("a proxy's header", get(b"/nothing", b"X-Forwarded-Proto: https\r\nSCRIPT_NAME: /x\r\n"),
     {400, 404}),
    ("a PROXY line", b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n" + get(b"/nothing"), {400}),
    ("1e6 deep", post(b"Content-Length: 900000\r\n", b"[" * 900_000), {400}),
    ("a body that ends early", post(b"Content-Length: 500\r\n", BODY), {400}),
    *((f"{kind} that ends early",
       post(b"Content-Length: 500\r\n", body, TRAIN + query).replace(b"application/json", kind),
       {400})
      for kind, query, body in (
          (b"application/json", b"", b'{"X": [[1], [2]], "y": [1, 2]}'),
          (b"text/csv", b"?target=y", b"x,y\n1,2\n3,4\n"),
          (b"text/csv", b"?target=y", b"x,y"),
          (b"application/vnd.apache.parquet", b"?target=y", b"PAR1"),
          (b"application/vnd.apache.arrow.stream", b"?target=y", b"\xff\xff\xff\xff"),
          (b"multipart/form-data; boundary=x", b"?target=y",
           PART + b"x,y\n1,2"),
          (b"multipart/form-data; boundary=x", b"?target=y",
           PART + b"x,y\n1,2\n3,4\n\r\n--x--\r\n"),
      )),
    ("a head that ends early", post(LENGTH)[:-10], {0, 400}),
    ("a CSV over the limit", post(b"Content-Length: 2000000\r\n", path=TRAIN), {413}),
]  # fmt: skip


class Target:
    """A running gunicorn, and what the census learns of its answers."""

    def __init__(self, server: GunicornServer) -> None:
        host, _, port = server.url.rpartition("/")[2].partition(":")
        self.server = server
        self.address = (host, int(port))
        self.inputs = self.server_errors = 0
        self.complaints: list[str] = []

    @contextlib.contextmanager
    def connect(self) -> Iterator[socket.socket]:
        """Open a connection; half a minute is the longest wait for anything."""
        with socket.create_connection(self.address, timeout=30) as connection:
            yield connection

    def send(self, note: str, data: bytes, expected: set[int]) -> None:
        """Send bytes and no more, and judge what comes back until the server closes."""
        with self.connect() as connection:
            with contextlib.suppress(OSError):  # who refuses need not read to the end
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
            self.judge(note, receive(connection), expected)

    def judge(self, note: str, answer: bytes, expected: set[int]) -> None:
        """Compare the status of an answer, 0 for none, and count."""
        found = re.match(rb"HTTP/1\.[01] (\d{3}) ", answer)
        status = int(found[1]) if found else 0
        self.inputs += 1
        # 501 is what RFC 9112 (6.1) has for a transfer coding that nobody knows.
        self.server_errors += status >= 500 and status not in expected
        if status not in expected or (status == 0 and answer):
            self.complaints.append(f"{note}: {answer[:200]!r}")
        if b"Traceback" in answer or b"site-packages" in answer:
            self.complaints.append(f"{note}: tells of the inside: {answer[:400]!r}")

    def workers(self) -> dict[int, int]:
        """Return resident bytes by worker."""
        found = {}
        for status in Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError):
                text = status.read_text()
                if f"\nPPid:\t{self.server.process.pid}\n" in text:
                    resident = re.search(r"VmRSS:\s+(\d+) kB", text)
                    found[int(status.parent.name)] = int(resident[1]) * 1024 if resident else 0
        return found


def receive(connection: socket.socket) -> bytes:
    """Return what comes until the other side closes, or hangs up."""
    answer = b""
    with contextlib.suppress(OSError):
        while piece := connection.recv(65_536):
            answer += piece
    return answer


@pytest.fixture
def target(database_url: str, tmp_path: Path) -> Iterator[Target]:
    """Return a gunicorn of two workers with a trained model."""
    settings = {
        "WEB_CONCURRENCY": "2",
        "MAX_CONTENT_LENGTH": str(LIMIT),
        "WEB_GRACEFUL_TIMEOUT": "1",
    }
    with running_gunicorn(database_url, tmp_path / "log", **settings) as server:
        body = {"X": [[1, 2, 3], [4, 5, 6]], "y": [1, 2]}
        answer = requests.post(f"{server.url}{API_PREFIX}/ml/train", json=body, timeout=60)
        assert answer.status_code == 201
        yield Target(server)


def predict(target: Target) -> float:
    body = {"features": [1, 2, 3]}
    url = f"{target.server.url}{API_PREFIX}/ml/predict"
    return float(requests.post(url, json=body, timeout=60).json()["prediction"])


def stream_too_much(target: Target, request: bytes, expected: set[int]) -> None:
    """Go on with a body far over the limit until the server has had enough of it."""
    with target.connect() as connection:
        connection.sendall(request)
        piece, sent = b"[" * 65_536, 0
        with contextlib.suppress(OSError):
            while sent < STREAM:
                sent += connection.send(piece)
        target.judge("a stream", receive(connection), expected)


def test_raw_bytes_do_no_harm(target: Target, record: Record) -> None:
    predicted = pytest.approx(predict(target))
    for _ in range(20):
        assert predict(target) == predicted  # both workers are warm
    before = target.workers()
    assert len(before) == 2

    for note, data, expected in RAW:
        target.send(note, data, expected)
    for number in range(50):
        media = (b"application/json", b"text/csv", b"multipart/form-data; boundary=x")[number % 3]
        if number % 10:
            request = post(b"Content-Length: %d\r\n" % STREAM, path=TRAIN)
        else:
            request = post(CHUNKED, b"%x\r\n" % STREAM, path=TRAIN)
        expected = {0, 413} if number % 10 else {0, 411}
        stream_too_much(target, request.replace(b"application/json", media), expected)
    shown = "\n".join(target.complaints[:20])
    assert not target.complaints, f"{len(target.complaints)} of {target.inputs}:\n{shown}"
    pipelined = get(b"/nothing").replace(b"close", b"keep-alive") * 3 + get(b"/nothing")
    with target.connect() as connection:
        connection.sendall(pipelined)
        answers = receive(connection)
        assert answers.count(b"HTTP/1.1 404 ") == 4
        target.inputs += 4
    with contextlib.ExitStack() as half_open:
        for data in (b"", b"G", b"GET / HTTP/1.1\r\nX: ", post(b"Content-Length: 99\r\n", b"[")):
            half_open.enter_context(target.connect()).sendall(data)
            target.inputs += 1
        assert predict(target) == predicted  # while they dawdle

    live = requests.get(f"{target.server.url}/health/live", timeout=60)
    assert live.status_code == 200
    assert predict(target) == predicted
    items = requests.get(f"{target.server.url}{API_PREFIX}/items", timeout=60)
    assert items.json() == []
    versions = requests.get(f"{target.server.url}{API_PREFIX}/ml/models/default", timeout=60)
    assert versions.json()["last_version"] == 1
    after = target.workers()
    assert set(after) == set(before), "a worker has died"
    grown = max(after[worker] - before[worker] for worker in before)
    assert grown < MOST_GROWTH
    assert "Traceback" not in target.server.log.read_text()
    good = target.inputs - target.server_errors
    record("bad input: raw bytes", target.inputs, good, target.server_errors)
