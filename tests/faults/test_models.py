"""Uploads that unpack to far more than they are: what they cost, and what others notice."""

from __future__ import annotations

import io
import json
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


FEW, MANY = MOST_UPLOADED_NODES // 3 - 10, MOST_UPLOADED_NODES - 100
# What makes a file, and the megabytes that it may take beside twice its length.
FILES = {
    "many numbers": (lambda: make_file(0, [NUMBER] * 600_000), 250),
    "many arrays": (lambda: make_file(90_000), 250),
    "many empty nodes": (lambda: make_file(0, [{}] * 10**7), 250),
    "many empty lists": (lambda: make_file(0, [[]] * 10**7), 250),
    "many numbers that are no nodes": (lambda: make_file(0, [0.5] * 10**7), 250),
    # No more than a large forest.
    "as many nodes as are read": (
        lambda: make_file(FEW, [LIST | {"content": []}] * (MANY - FEW)),
        600,
    ),
}


@on_sqlite
def test_a_model_file_of_whatever_size_costs_little_and_holds_nobody_up(
    database_url: str, tmp_path: Path, record_attack: RecordAttack
) -> None:
    with running_gunicorn(database_url, tmp_path / "log", WEB_CONCURRENCY="2") as server:
        for name, (make, megabytes) in FILES.items():
            data = make()
            with measured_attack(server) as cost:
                answer = upload(server.url, data)
            cost.bytes_in, cost.bytes_out = len(data), len(answer.content)
            record_attack(f"model file of {name}", cost)

            assert answer.status_code in ((201, 422) if megabytes == 600 else (422,)), answer.text
            assert cost.peak_memory < megabytes * 10**6 + 2 * len(data), name
            assert cost.worst_health < 5, name


def upload(url: str, data: bytes) -> requests.Response:
    files = {"artifact": ("model.skops", data)}
    return requests.post(f"{url}{ML}/models/attacked/versions", files=files, timeout=120)
