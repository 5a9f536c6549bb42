"""Bodies that unpack to a thousand times their size, or come in chunks, sent to a real server."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.faults import on_sqlite, scaled
from tests.faults.attacks import measured_attack
from tests.faults.record import RecordAttack
from tests.gunicorn_server import GunicornServer, both_workers, running_gunicorn

UNPACKED = scaled(300, 1000) * 1_000_000  # bytes of a bomb
LIMIT = 100_000_000  # bytes of a body; large enough to be seen in memory, were it kept
MOST_MEMORY = 60_000_000  # bytes that the workers may need for one of them
API = "/api/v1"
SETTINGS = {"WEB_CONCURRENCY": "2", "MAX_CONTENT_LENGTH": str(LIMIT), "MAX_ROWS": "1000000000"}

pytestmark = [pytest.mark.slow, on_sqlite]


@pytest.fixture
def server(database_url: str, tmp_path: Path) -> Iterator[GunicornServer]:
    """Return the service as it is run."""
    with running_gunicorn(database_url, tmp_path / "gunicorn.log", **SETTINGS) as server:
        yield server


def pack(start: bytes, pattern: bytes) -> bytes:
    """Return a gzip file of a pattern that is repeated to about ``UNPACKED`` bytes."""
    packed = io.BytesIO()
    block = pattern * (1_000_000 // len(pattern))
    with gzip.GzipFile(fileobj=packed, mode="wb") as file:
        file.write(start)
        for _ in range(UNPACKED // len(block)):
            file.write(block)
    return packed.getvalue()


PART = b'--x\r\nContent-Disposition: form-data; name="file"; filename="rows.csv%b"\r\n\r\n'
END = b"\r\n--x--\r\n"
TRAIN = "/ml/train?target=y"
GZIP, JSON = {"Content-Encoding": "gzip"}, {"Content-Type": "application/json"}
FORM, PARQUET = "multipart/form-data; boundary=x", "application/x-parquet"


@pytest.mark.parametrize(
    ("attack", "path", "content_type", "start", "pattern", "held"),
    [
        ("JSON of blanks", "/items", "application/json", b"", b" ", 0),
        # What is parsed in memory, up to the limit, however it is sent.
        ("rows in JSON", TRAIN, "application/json", b"", b"\0", 2 * LIMIT),
        ("a Parquet file", TRAIN, PARQUET, b"", b"\0", 2 * LIMIT),
        ("a form", TRAIN, FORM, PART % b"", b"1,2\n", 0),
        ("a file of a form", TRAIN, FORM, b"a,y\n", b"," * 99 + b"\n", 0),
    ],
)
def test_a_body_that_unpacks_to_a_gigabyte_costs_next_to_nothing(
    server: GunicornServer,
    record_attack: RecordAttack,
    attack: str,
    path: str,
    content_type: str,
    start: bytes,
    pattern: bytes,
    held: int,
) -> None:
    data, headers = pack(start, pattern), {"Content-Type": content_type, **GZIP}
    if attack == "a file of a form":
        data, headers = PART % b".gz" + data + END, {"Content-Type": content_type}

    with measured_attack(server) as cost:
        response = requests.post(f"{server.url}{API}{path}", data, headers=headers, timeout=120)
        cost.bytes_in, cost.bytes_out = len(data), len(response.content)
    record_attack(f"gzip: {attack}", cost)

    assert len(data) < UNPACKED / 200
    assert response.status_code in (413, 422), response.text
    assert cost.peak_memory < MOST_MEMORY + held
    assert cost.worst_health < 5


@both_workers
def test_chunked_bodies_are_taken_whole_or_not_at_all(
    database_url: str, tmp_path: Path, worker_class: str
) -> None:
    rows = b"a,b,y\n" + b"".join(b"%d,%d,%d\n" % (n, n * n, 2 * n + 3) for n in range(2000))
    packed, csv = gzip.compress(rows), {"Content-Type": "text/csv"}
    settings = {**SETTINGS, "WORKER_CLASS": worker_class}
    with running_gunicorn(database_url, tmp_path / "log", **settings) as server:
        api, session = f"{server.url}{API}", requests.Session()

        def send(path: str, data: bytes, size: int, headers: dict[str, str]) -> int:
            chunks = (data[start : start + size] for start in range(0, len(data), size))
            return session.post(f"{api}{path}", chunks, headers=headers, timeout=60).status_code

        for size in (7, 10**6):
            assert send(TRAIN, rows, size, csv) == 201
            assert send(TRAIN, packed, size, csv | GZIP) == 201
        assert send(TRAIN, packed[:-9], 1000, csv | GZIP) == 400
        # What a refused request leaves unread must not be taken for the next one.
        assert send("/nothing", b"GET / HTTP/1.1\r\n" * 100_000, 1000, csv) == 404
        assert send("/items", b'{"name": "taken"}', 7, JSON) == 201
        assert send("/items", b" " * (LIMIT + 1), 10**6, JSON) == 413
        versions = requests.get(f"{api}/ml/models/default/versions", timeout=10).json()
        items = requests.get(f"{api}/items", timeout=10).json()

    assert [item["name"] for item in items] == ["taken"]
    assert len(versions) == 4
    assert len({version["data_digest"] for version in versions}) == 1
