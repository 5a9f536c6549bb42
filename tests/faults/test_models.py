"""Uploads that unpack to far more than they are: what they cost, and what others notice."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import skops.io
from sklearn.linear_model import Ridge

from tests.faults import on_sqlite
from tests.faults.attacks import measured_attack
from tests.faults.load import ML
from tests.faults.record import RecordAttack
from tests.gunicorn_server import running_gunicorn
from webapp.ml.core.artifacts import MOST_UPLOADED_NODES

pytestmark = pytest.mark.slow

FIELD = "solver_"  # a list may stand in any attribute of a fitted estimator
NUMBER = {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode"}
NUMBER |= {"content": "1", "is_json": True}
LIST = {"__class__": "list", "__module__": "builtins", "__loader__": "ListNode"}
MEGABYTE = 10**6


def make_file(n_arrays: int, content: Sequence[Any] = ()) -> bytes:
    """Return the file of a Ridge whose schema holds many times its coefficients, and more."""
    buffer = io.BytesIO(skops.io.dumps(Ridge().fit(np.eye(3), np.arange(3.0))))
    with zipfile.ZipFile(buffer) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    schema = json.loads(members["schema.json"])
    attributes = schema["content"]["content"]
    attributes[FIELD] = LIST | {"content": [attributes["coef_"]] * n_arrays + list(content)}
    members["schema.json"] = json.dumps(schema, separators=(",", ":")).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, part in members.items():
            archive.writestr(name, part)
    return buffer.getvalue()


def make_directory(n_members: int) -> bytes:
    """Return a zip archive of nothing but a directory (ZIP64, APPNOTE.TXT 4.3)."""
    head = b"PK\x03\x04" + bytes(26)
    entry = b"PK\x01\x02" + struct.pack("<6H3I5H2I", 20, 20, *[0] * 7, 7, *[0] * 6)
    directory = b"".join(entry + b"%07d" % number for number in range(n_members))
    end = len(head) + len(directory)
    sizes = (n_members, n_members, len(directory), len(head))
    return b"".join(
        [
            *(head, directory),
            b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, *sizes),
            b"PK\x06\x07" + struct.pack("<IQI", 0, end, 1),
            b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, *[0xFFFF] * 2, *[2**32 - 1] * 2, 0),
        ]
    )


FILES = {
    "numbers": lambda: make_file(0, [NUMBER] * 600_000),
    "arrays": lambda: make_file(90_000),
    "empty nodes": lambda: make_file(0, [{}] * 10**7),
    "empty lists": lambda: make_file(0, [[]] * 10**7),
    "numbers that are no nodes": lambda: make_file(0, [0.5] * 10**7),
    "members": lambda: make_directory(10**6),
}


@on_sqlite
def test_a_model_that_unpacks_to_millions_of_nodes_is_refused_at_once(
    database_url: str, tmp_path: Path, record_attack: RecordAttack
) -> None:
    with running_gunicorn(database_url, tmp_path / "log", WEB_CONCURRENCY="2") as server:
        for name, make in FILES.items():
            data = make()
            with measured_attack(server) as cost:
                answer = upload(server.url, data)
            cost.bytes_in, cost.bytes_out = len(data), len(answer.content)
            record_attack(f"model file of many {name}", cost)

            assert answer.status_code == 422, (name, answer.text)
            assert cost.peak_memory < 250 * MEGABYTE + 2 * len(data), name
            assert cost.worst_health < 5, name


@on_sqlite
def test_the_largest_schema_that_is_read_costs_no_more_than_a_large_forest(
    database_url: str, tmp_path: Path, record_attack: RecordAttack
) -> None:
    n_arrays = MOST_UPLOADED_NODES // 3 - 10
    empty = [LIST | {"content": []}] * (MOST_UPLOADED_NODES - n_arrays - 100)
    data = make_file(n_arrays, empty)
    with running_gunicorn(database_url, tmp_path / "log", WEB_CONCURRENCY="2") as server:
        with measured_attack(server) as cost:
            answer = upload(server.url, data)
        cost.bytes_in, cost.bytes_out = len(data), len(answer.content)
        record_attack("model file of as many nodes as are read", cost)

    assert answer.status_code in (201, 422), answer.text
    assert cost.peak_memory < 600 * MEGABYTE
    assert cost.worst_health < 5


def upload(url: str, data: bytes) -> requests.Response:
    files = {"artifact": ("model.skops", data)}
    return requests.post(f"{url}{ML}/models/attacked/versions", files=files, timeout=120)
