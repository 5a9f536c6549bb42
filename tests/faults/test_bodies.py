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
END = b"\r\n--x--\r\n"
FORM = {"Content-Type": "multipart/form-data; boundary=x"}
GZIP = {"Content-Encoding": "gzip"}
KEPT_WHOLE = ("rows in JSON", "a Parquet file")
"""What is parsed in memory, up to the limit, however it is sent."""


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
        data = pack(PART % b"", b"1,2\n", END)
    elif attack == "a file of a form":
        data = PART % b".gz" + pack(b"a,y\n", b"," * 99 + b"\n") + END
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


@both_workers
def test_chunked_bodies_are_taken_whole_or_not_at_all(
    database_url: str, tmp_path: Path, worker_class: str
) -> None:
    rows = b"a,b,y\n" + b"".join(b"%d,%d,%d\n" % (n, n * n, 2 * n + 3) for n in range(2000))
    packed = gzip.compress(rows)
    settings = {**SETTINGS, "WORKER_CLASS": worker_class}
    with running_gunicorn(database_url, tmp_path / "log", **settings) as server:
        api, session = f"{server.url}{API}", requests.Session()

        def send(path: str, data: bytes, size: int, **headers: str) -> int:
            chunks = (data[start : start + size] for start in range(0, len(data), size))
            headers.setdefault("Content-Type", "text/csv")
            return session.post(f"{api}{path}", chunks, headers=headers, timeout=60).status_code

        for size in (7, 1000, 10**6):
            assert send("/ml/train?target=y", rows, size) == 201
            assert send("/ml/train?target=y", packed, size, **GZIP) == 201
        assert send("/ml/train?target=y", packed[:-9], 1000, **GZIP) == 400
        # What a refused request leaves unread must not be taken for the next one.
        assert send("/nothing", b"GET / HTTP/1.1\r\n" * 100_000, 1000) == 404
        assert (
            send("/items", b'{"name": "taken"}', 7, **{"Content-Type": "application/json"}) == 201
        )
        blanks = b" " * (LIMIT + 1)
        assert send("/items", blanks, 10**6, **{"Content-Type": "application/json"}) == 413
        versions = requests.get(f"{api}/ml/models/default/versions", timeout=10).json()
        items = requests.get(f"{api}/items", timeout=10).json()

    assert [item["name"] for item in items] == ["taken"]
    assert len(versions) == 6
    assert len({version["data_digest"] for version in versions}) == 1
