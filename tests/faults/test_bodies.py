"""Bodies that unpack to a thousand times their size, or go on for ever, sent to a real server."""

from __future__ import annotations

import gzip
import io
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from tests.faults import on_sqlite, scaled
from tests.faults.attacks import measured_attack
from tests.faults.record import RecordAttack
from tests.gunicorn_server import GunicornServer, running_gunicorn

UNPACKED = scaled(300, 1000) * 1_000_000  # bytes of a bomb
LIMIT = 100_000_000  # bytes of a body; large enough to be seen in memory, were it kept
MOST_MEMORY = 60_000_000  # bytes that the workers may need for one of them
API = "/api/v1"

pytestmark = [pytest.mark.slow, on_sqlite]


@pytest.fixture
def gthread(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a server with gunicorn's own worker, which takes bodies in chunks."""
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--worker-class gthread")
    settings = {"WEB_CONCURRENCY": "2", "MAX_CONTENT_LENGTH": str(LIMIT)}
    with running_gunicorn(database_url, tmp_path / "gunicorn.log", **settings) as server:
        yield urlsplit(server.url).netloc


@pytest.fixture
def server(database_url: str, tmp_path: Path) -> Iterator[GunicornServer]:
    """Return the service as it is run."""
    settings = {"WEB_CONCURRENCY": "2", "MAX_CONTENT_LENGTH": str(LIMIT), "MAX_ROWS": "1000000000"}
    with running_gunicorn(database_url, tmp_path / "gunicorn.log", **settings) as server:
        yield server


def pack(start: bytes, pattern: bytes, end: bytes = b"") -> bytes:
    """Return a gzip file of a pattern that is repeated to about ``UNPACKED`` bytes."""
    packed = io.BytesIO()
    block = pattern * (1_000_000 // len(pattern))
    with gzip.GzipFile(fileobj=packed, mode="wb") as file:
        file.write(start)
        for _ in range(UNPACKED // len(block)):
            file.write(block)
        file.write(end)
    return packed.getvalue()


PART = b'--x\r\nContent-Disposition: form-data; name="file"; filename="rows.csv%b"\r\n\r\n'
FORM = {"Content-Type": "multipart/form-data; boundary=x"}
GZIP = {"Content-Encoding": "gzip"}


@pytest.mark.parametrize(
    ("attack", "path", "headers"),
    [
        ("JSON of blanks", "/items", {**GZIP, "Content-Type": "application/json"}),
        ("rows in JSON", "/ml/train", {**GZIP, "Content-Type": "application/json"}),
        (
            "a Parquet file",
            "/ml/train?target=y",
            {**GZIP, "Content-Type": "application/x-parquet"},
        ),
        ("a form", "/ml/train?target=y", {**GZIP, **FORM}),
        ("a file of a form", "/ml/train?target=y", FORM),
    ],
)
def test_a_body_that_unpacks_to_a_gigabyte_costs_next_to_nothing(
    server: GunicornServer, record_attack: RecordAttack, attack: str, path: str, headers: dict
) -> None:
    if attack == "a form":
        data = pack(PART % b"", b"1,2\n", b"\r\n--x--\r\n")
    elif attack == "a file of a form":
        data = PART % b".gz" + pack(b"a,y\n", b"," * 99 + b"\n") + b"\r\n--x--\r\n"
    else:
        data = pack(b"", b" " if attack == "JSON of blanks" else b"\0")

    with measured_attack(server) as cost:
        response = requests.post(f"{server.url}{API}{path}", data, headers=headers, timeout=120)
        cost.bytes_in, cost.bytes_out = len(data), len(response.content)
    record_attack(f"gzip: {attack}", cost)

    assert len(data) < UNPACKED / 200
    assert response.status_code in (413, 422), response.text
    assert cost.peak_memory < MOST_MEMORY + (LIMIT if attack in KEPT_WHOLE else 0) * 2
    assert cost.worst_health < 5


KEPT_WHOLE = ("rows in JSON", "a Parquet file")
"""What is parsed in memory, up to the limit, however it is sent."""


def exchange(address: str, *pieces: bytes, hang_up: bool = False) -> bytes:
    """Send a request in pieces; return the answer's first line, nothing where none came."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
            if hang_up:
                connection.shutdown(socket.SHUT_WR)
            return connection.recv(65536).partition(b"\r\n")[0]
        except (ConnectionResetError, BrokenPipeError):
            return b""


def head(path: str, *lines: str, content_type: str = "application/json") -> bytes:
    every = ["Host: x", "Connection: close", "Transfer-Encoding: chunked", *lines]
    every.append(f"Content-Type: {content_type}")
    return "\r\n".join([f"POST {API}{path} HTTP/1.1", *every, "", ""]).encode()


def chunks(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        piece = data[start : start + size]
        yield b"%x;name=value\r\n%b\r\n" % (len(piece), piece)
    yield b"0\r\nX-Sum: x\r\n\r\n"


def test_bodies_in_chunks_are_taken_whole_or_not_at_all(gthread: str) -> None:
    rows = b"a,b,y\n" + b"".join(
        b"%d,%d,%d\n" % (n, n * n, 2 * n + 3 * n * n) for n in range(2000)
    )
    train = "/ml/train?target=y"
    packed = head(train, "Content-Encoding: gzip", content_type="text/csv")
    item = head("/items")

    for size in (7, 1000, 10**6):
        assert b" 201 " in exchange(gthread, item, *chunks(b'{"name": "taken"}', size))
        plain = head(train, content_type="text/csv")
        assert b" 201 " in exchange(gthread, plain, b"".join(chunks(rows, size)))
        assert b" 201 " in exchange(gthread, packed, b"".join(chunks(gzip.compress(rows), size)))
    refused = {
        "no chunk": exchange(gthread, item, b"zz\r\n"),
        "no end": exchange(gthread, item, b'11\r\n{"name": "kept?"}\r\n', hang_up=True),
        "half a chunk": exchange(gthread, item, b'fff\r\n{"name": "kept?"}', hang_up=True),
        "half a gzip": exchange(gthread, packed, *chunks(gzip.compress(rows)[:-9], 1000)),
    }
    for note, answer in refused.items():
        assert b" 400 " in answer or not answer, note

    names = {
        item["name"] for item in requests.get(f"http://{gthread}{API}/items", timeout=10).json()
    }
    versions = requests.get(f"http://{gthread}{API}/ml/models/default/versions", timeout=10).json()
    assert names == {"taken"}
    assert len(versions) == 6
    assert len({version["data_digest"] for version in versions}) == 1


def test_chunks_without_end_are_refused_at_the_limit(gthread: str) -> None:
    blanks = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    too_many = [blanks] * (LIMIT // 0x100000 + 2)

    for path, pieces in (("/items", [blanks, blanks, b"0\r\n\r\n"]), ("/ml/train", too_many)):
        answer = exchange(gthread, head(path), *pieces)
        assert b" 413 " in answer or not answer
    assert requests.get(f"http://{gthread}/health/live", timeout=10).status_code == 200
