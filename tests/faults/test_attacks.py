"""Requests made to take far more memory or time than their bytes: bounded, while others go on."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
import requests
import skops.io
from pyarrow import parquet
from sklearn.linear_model import Ridge

from tests.bad_input.census import ARROW, CSV, FORM, JSON, PARQUET, form, part
from tests.conftest import migrate
from tests.faults import on_sqlite, scaled
from tests.faults.attacks import measured_attack
from tests.faults.record import RecordAttack
from tests.gunicorn_server import ROOT, GunicornServer, both_workers, running_gunicorn
from tests.tables import to_csv, to_parquet
from webapp.ml.core.formats.skops import MOST_NODES

pytestmark = pytest.mark.slow

API = "/api/v1"
TRAIN, UPLOAD = "/ml/train?target=y", "/ml/models/attacked/versions"
LOGISTIC = "&estimator=logistic_regression"
GZIP = {"Content-Encoding": "gzip"}
MEGABYTE = 1_000_000
UNPACKED = scaled(300, 1000) * MEGABYTE  # of a bomb
LIMIT = 100 * MEGABYTE  # of a body; large enough to be seen in memory, were it kept
MOST_SECONDS = 60  # generous: what was mended took longer than that at the sizes here
SETTINGS = {"MAX_CONTENT_LENGTH": str(LIMIT), "MAX_ROWS": "1000000000"}
REFUSALS = scaled(16, 500)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GunicornServer]:
    """Return a service of one worker, so that what it takes is the attack's."""
    folder = tmp_path_factory.mktemp("attacks")
    url = f"sqlite:///{folder}/attacked.db"
    migrate(url)
    with running_gunicorn(url, folder / "log", WEB_CONCURRENCY="1", **SETTINGS) as server:
        yield server


# --- bodies that unpack to a thousand times their size ----------------------------------------


def pack(start: bytes, pattern: bytes) -> bytes:
    """Return a gzip file of a pattern that is repeated to about ``UNPACKED`` bytes."""
    packed = io.BytesIO()
    block = pattern * (MEGABYTE // len(pattern))
    with gzip.GzipFile(fileobj=packed, mode="wb") as file:
        file.write(start)
        for _ in range(UNPACKED // len(block)):
            file.write(block)
    return packed.getvalue()


def packed_form() -> bytes:
    head, _, _ = form(part("file", b"|", "rows.csv")).partition(b"|")
    return pack(head, b"1,2\n")


def packed_file() -> bytes:
    return form(part("file", pack(b"a,y\n", b"," * 99 + b"\n"), "rows.csv.gz"))


# --- tables -----------------------------------------------------------------------------------


def write_batches(*batches: pa.RecordBatch, **options: Any) -> bytes:
    """Return an Arrow stream."""
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(**options)
    with pa.ipc.new_stream(sink, batches[0].schema, options=options) as stream:
        for batch in batches:
            stream.write_batch(batch)
    return sink.getvalue()


def repeated_pages(times: int) -> bytes:
    """Return a file of 30 columns whose footer names the same pages 2**times times."""
    column = pa.array(np.arange(400.0))
    table = pa.table({**{f"x{number}": column for number in range(29)}, "y": column})
    data = to_parquet(table, use_dictionary=False, write_statistics=False)
    metadata = parquet.read_metadata(io.BytesIO(data))
    for _ in range(times):
        metadata.append_row_groups(metadata)
    footer = io.BytesIO()
    metadata.write_metadata_file(footer)
    length = int.from_bytes(data[-8:-4], "little")
    return data[: -8 - length] + footer.getvalue()[4:]


def many_pages() -> bytes:
    table = pa.table({"x": np.arange(400_000.0), "y": np.arange(400_000.0)})
    options = {"data_page_size": 1, "write_batch_size": 1, "use_dictionary": False}
    return to_parquet(table, compression="none", **options)


def labelled_batch(labels: pa.Array) -> pa.RecordBatch:
    y = pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), labels)
    return pa.record_batch({"x": pa.array([1.0]), "y": y})


def shared_dictionary() -> bytes:
    labels = pa.array([f"{number:07}" for number in range(1_900_000)])
    return write_batches(*[labelled_batch(labels)] * 12_000)


def growing_dictionary() -> bytes:
    labels = pa.array([f"{number:07}" for number in range(200_000)])
    more = (pa.concat_arrays([labels, pa.array(map(str, range(n)))]) for n in range(1, 400))
    return write_batches(*map(labelled_batch, more), emit_dictionary_deltas=True)


def short_batches() -> bytes:
    columns = {name: pa.array([1.0]) for name in [*(f"x{i}" for i in range(999)), "y"]}
    return write_batches(*[pa.record_batch(columns)] * 400)


def empty_batches() -> bytes:
    batch = pa.record_batch({"x": pa.array([], pa.float64()), "y": [0.0][:0]})
    return write_batches(*[batch] * 90_000)


def long_dictionary() -> bytes:
    labels = pa.array(["a" * 1000]).take(pa.array(np.zeros(900_000, np.int32)))
    return write_batches(labelled_batch(labels), compression="zstd")


def long_schema() -> bytes:
    schema = pa.schema([("x", pa.float64()), ("y", pa.float64())], {b"pandas": b"[" * 50_000_000})
    return write_batches(pa.record_batch([pa.array([1.0])] * 2, schema=schema))


# --- model files ------------------------------------------------------------------------------

NUMBER = {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode"}
NUMBER |= {"content": "1", "is_json": True}
LIST = {"__class__": "list", "__module__": "builtins", "__loader__": "ListNode"}
FEW, MANY = MOST_NODES // 3 - 10, MOST_NODES - 100


def model_file(node: Any, times: int, *, n_arrays: int = 0) -> bytes:
    """Return a form with a Ridge whose schema holds a node, and its coefficients, many times."""
    buffer = io.BytesIO(skops.io.dumps(Ridge().fit(np.eye(3), np.arange(3.0))))
    with zipfile.ZipFile(buffer) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    schema = json.loads(members["schema.json"])
    attributes = schema["content"]["content"]
    # A list may stand in any attribute of a fitted estimator.
    content = [attributes["coef_"]] * n_arrays + [node] * times
    attributes["solver_"] = LIST | {"content": content}
    members["schema.json"] = json.dumps(schema, separators=(",", ":")).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return form(part("artifact", buffer.getvalue(), "model.skops"))


# --- all of them ------------------------------------------------------------------------------


class Attack(NamedTuple):
    """A body, where it goes, words of the refusal (None: it may be taken), and most megabytes."""

    make: Callable[[], bytes]
    path: str
    content_type: str
    words: str | None = ""
    megabytes: int = 1500  # 50 million numbers are 400, and the record batch that holds them


LIBRARIES = 300  # of the process that those of uploads are forked from, which stays
PARSED = 60 + 2 * LIMIT // MEGABYTE  # what is parsed in memory, up to the limit
BATCHES, PAGES = "too many record batches", "decompresses to more than its rows"
ATTACKS = {
    "gzip: JSON of blanks": Attack(partial(pack, b"", b" "), "/items", JSON, "", 60),
    "gzip: rows in JSON": Attack(partial(pack, b"", b"\0"), "/ml/train", JSON, "", PARSED),
    "gzip: a Parquet file": Attack(partial(pack, b"", b"\0"), TRAIN, PARQUET, "", PARSED),
    "gzip: a form": Attack(packed_form, TRAIN, FORM, "", 60),
    "gzip file in a form": Attack(packed_file, TRAIN, FORM, "", 60),
    "table: pages named again": Attack(partial(repeated_pages, 9), TRAIN, PARQUET, None),
    "table: pages named often": Attack(
        partial(repeated_pages, 11), TRAIN, PARQUET, "has too many row groups"
    ),
    "table: many pages": Attack(many_pages, TRAIN, PARQUET, PAGES),
    "table: a dictionary of many batches": Attack(
        shared_dictionary, TRAIN + LOGISTIC, ARROW, BATCHES
    ),
    "table: a dictionary that grows": Attack(growing_dictionary, TRAIN + LOGISTIC, ARROW, BATCHES),
    "table: a dictionary of long labels": Attack(long_dictionary, TRAIN + LOGISTIC, ARROW, PAGES),
    "table: batches of a row": Attack(short_batches, TRAIN, ARROW, BATCHES),
    "table: empty batches": Attack(empty_batches, TRAIN, ARROW, BATCHES),
    "table: a long schema": Attack(long_schema, TRAIN, ARROW, "has a schema that is too long"),
    **{
        f"model file of {name}": Attack(make, UPLOAD, FORM, "", 250 + LIBRARIES)
        for name, make in {
            "many numbers": partial(model_file, NUMBER, 600_000),
            "many arrays": partial(model_file, NUMBER, 0, n_arrays=MOST_NODES),
            "many empty nodes": partial(model_file, {}, 10**7),
            "many empty lists": partial(model_file, [], 10**7),
            "many numbers that are no nodes": partial(model_file, 0.5, 10**7),
        }.items()
    },
    # No more than a large forest.
    "model file of as many nodes as are read": Attack(
        partial(model_file, LIST | {"content": []}, MANY - FEW, n_arrays=FEW),
        *(UPLOAD, FORM, None, 600 + LIBRARIES),
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_body_costs_no_more_than_its_size_may(
    server: GunicornServer, name: str, record_attack: RecordAttack
) -> None:
    make, path, content_type, words, megabytes = ATTACKS[name]
    data, url = make(), f"{server.url}{API}{path}"
    headers = {"Content-Type": content_type, **(GZIP if name.startswith("gzip:") else {})}

    with measured_attack(server) as cost:
        answer = requests.post(url, data, headers=headers, timeout=300)
        cost.bytes_in, cost.bytes_out = len(data), len(answer.content)
    record_attack(name, cost)

    assert answer.status_code in ((201, 422) if words is None else (413, 422)), answer.text
    assert (words or "") in answer.text
    assert cost.seconds < MOST_SECONDS
    assert cost.peak_memory < megabytes * MEGABYTE
    assert cost.worst_health < 5


def test_a_long_table_is_written_piece_by_piece(
    server: GunicornServer, record_attack: RecordAttack
) -> None:
    rows, model = scaled(5000, 49_000), f"{server.url}{API}/ml/models/long"
    table = to_csv(pa.table({"x": range(1000), "y": range(1000)}))
    options = {"target": "y", "estimator": "logistic_regression", "params": '{"max_iter": 1}'}
    csv = {"Content-Type": CSV}
    trained = requests.post(
        f"{model}/train", table, headers=csv, params={**options, "test_size": "0"}, timeout=300
    )

    with measured_attack(server) as cost:
        data = b"x\n" + b"0\n" * rows
        answer = requests.post(
            f"{model}/predict/batch",
            data,
            headers={**csv, "Accept": CSV},
            stream=True,
            timeout=300,
        )
        cost.bytes_in = len(data)
        for piece in answer.iter_content(2**16):
            cost.bytes_out += len(piece)
    record_attack("a long table is written piece by piece", cost)

    assert (trained.status_code, answer.status_code) == (201, 200)
    assert cost.bytes_out > 5000 * rows
    assert cost.peak_memory < 3 * 8 * 1000 * rows + 100 * MEGABYTE  # of probabilities
    assert cost.worst_health < 5


@on_sqlite
@both_workers
def test_chunked_bodies_are_taken_whole_or_not_at_all(
    database_url: str, tmp_path: Path, worker_class: str
) -> None:
    rows = b"a,b,y\n" + b"".join(b"%d,%d,%d\n" % (n, n * n, 2 * n + 3) for n in range(2000))
    packed, csv, item = gzip.compress(rows), {"Content-Type": CSV}, {"Content-Type": JSON}
    settings = {**SETTINGS, "WEB_CONCURRENCY": "2", "WORKER_CLASS": worker_class}
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
        assert send("/items", b'{"name": "taken"}', 7, item) == 201
        assert send("/items", b" " * (LIMIT + 1), 10**6, item) == 413
        versions = requests.get(f"{api}/ml/models/default/versions", timeout=10).json()
        items = requests.get(f"{api}/items", timeout=10).json()

    assert [item["name"] for item in items] == ["taken"]
    assert len(versions) == 4
    assert len({version["data_digest"] for version in versions}) == 1


def test_a_refused_csv_file_never_aborts_the_command(tmp_path: Path) -> None:
    # Refused in its first row, with much to be read ahead behind it.
    path = tmp_path / "refused.csv"
    path.write_bytes(b"a,y\nred,2\n" + b"1,2\n" * 900_000)
    url = f"sqlite:///{tmp_path}/refused.db"
    migrate(url)
    command = [sys.executable, "-m", "flask", "ml", "train", str(path), "--target", "y"]
    environment = {"PATH": "/usr/bin:/bin", "APP_ENV": "testing", "DATABASE_URL": url}

    def refuse(_: int) -> tuple[int, str]:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        return done.returncode, done.stderr

    with ThreadPoolExecutor(4) as several:
        answers = set(several.map(refuse, range(REFUSALS)))

    ((status, error),) = answers
    assert status == 1
    assert error.startswith("Error: refused.csv.a.0: is not a number, as nearly all")
