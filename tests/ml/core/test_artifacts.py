"""Artifacts: what comes back is bit for bit what went in, and nothing else comes in."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from sklearn.datasets import load_diabetes
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from webapp.errors import ArtifactUnusable
from webapp.ml.core import artifacts

X, y = load_diabetes(return_X_y=True)


def load(data: bytes) -> object:
    """Load bytes under their own digest: only what they are can be wrong."""
    return artifacts.loads(data, artifacts.digest(data))


def make_zip(**files: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("_", "."), text)
    return buffer.getvalue()


def replace_in_zip(data: bytes, **changes: object) -> bytes:
    """Return a skops file with other values at the top of its schema."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "schema.json":
                content = json.dumps(json.loads(content) | changes).encode()
            new.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def artifact() -> bytes:
    """Return the bytes of a fitted linear regression."""
    return artifacts.dumps(LinearRegression().fit(X, y))


@pytest.mark.parametrize("params", [{}, {"fit_intercept": False}, {"positive": True}])
def test_a_model_that_was_stored_predicts_the_very_bits(params: dict[str, bool]) -> None:
    estimator = LinearRegression(**params).fit(X, y)
    data = artifacts.dumps(estimator)

    loaded = artifacts.loads(data, artifacts.digest(data))

    assert type(loaded) is LinearRegression
    assert loaded.get_params() == estimator.get_params()
    assert np.array_equal(loaded.predict(X), estimator.predict(X))


def test_the_digest_is_the_sha_256_of_the_bytes(artifact: bytes) -> None:
    assert artifacts.digest(artifact) == hashlib.sha256(artifact).hexdigest()


@pytest.mark.parametrize("expected", ["", "0" * 64, "not a digest"])
def test_bytes_with_another_digest_are_refused(artifact: bytes, expected: str) -> None:
    with pytest.raises(ArtifactUnusable, match="digest"):
        artifacts.loads(artifact, expected)


@pytest.mark.parametrize("place", [0, 40, -1])
def test_a_single_flipped_bit_is_noticed(artifact: bytes, place: int) -> None:
    changed = bytearray(artifact)
    changed[place] ^= 1

    with pytest.raises(ArtifactUnusable, match="digest"):
        artifacts.loads(bytes(changed), artifacts.digest(artifact))


@pytest.mark.parametrize("kept", [0, 1, 30, 500, -1])
def test_a_truncated_artifact_is_refused(artifact: bytes, kept: int) -> None:
    with pytest.raises(ArtifactUnusable):
        artifacts.loads(artifact[:kept], artifacts.digest(artifact))
    with pytest.raises(ArtifactUnusable):
        load(artifact[:kept])


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    data = f"cos\nmkdir\n(S'{trace}'\ntR.".encode()

    with pytest.raises(ArtifactUnusable):
        load(data)

    assert not trace.exists()


@pytest.mark.parametrize(
    "estimator",
    [
        RandomForestRegressor(n_estimators=2, max_depth=2),
        Ridge(),
        DummyRegressor(),
        make_pipeline(StandardScaler(), LinearRegression()),
        make_pipeline(FunctionTransformer(np.abs), LinearRegression()),
    ],
    ids=["forest", "ridge", "dummy", "pipeline", "function"],
)
def test_an_estimator_that_is_not_on_the_list_is_refused(estimator: Any) -> None:
    data = skops.io.dumps(estimator.fit(X, y))

    with pytest.raises(ArtifactUnusable):
        load(data)


@pytest.mark.parametrize(
    "value",
    [
        3,
        "text",
        [1, 2],
        {"coef_": [1.0]},
        np.zeros(3),
        LinearRegression,
        print,
        [LinearRegression().fit(X, y)],
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_skops_file_that_holds_no_estimator_is_refused(value: object) -> None:
    data = skops.io.dumps(value)

    with pytest.raises(ArtifactUnusable):
        load(data)


@pytest.mark.parametrize(
    "data",
    [
        make_zip(),
        make_zip(other_txt="{}"),
        make_zip(schema_json=""),
        make_zip(schema_json="not JSON"),
        make_zip(schema_json="null"),
        make_zip(schema_json="[]"),
        make_zip(schema_json="{}"),
        make_zip(schema_json='{"protocol": "2"}'),
        make_zip(schema_json='{"protocol": 2}'),
        make_zip(schema_json="[" * 100_000),
    ],
    ids=[
        "no files",
        "no schema",
        "empty",
        "text",
        "null",
        "list",
        "object",
        "odd",
        "bare",
        "deep",
    ],
)
def test_a_zip_that_is_no_skops_file_is_refused(data: bytes) -> None:
    with pytest.raises(ArtifactUnusable):
        load(data)


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": 10**6},
        {"__loader__": "NoSuchNode"},
        {"__module__": "no.such.module"},
        {"__class__": "NoSuchClass"},
        {"__module__": "builtins", "__class__": "eval"},
        {"__module__": "os", "__class__": "system", "__loader__": "FunctionNode"},
        {"content": None},
        {"content": {}},
    ],
    ids=str,
)
def test_a_schema_that_makes_no_sense_is_refused(
    artifact: bytes, changes: dict[str, object]
) -> None:
    with pytest.raises(ArtifactUnusable):
        load(replace_in_zip(artifact, **changes))


def test_damaged_contents_are_refused(artifact: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(artifact)) as archive:
        first = archive.infolist()[0]
    start = first.header_offset + 30 + len(first.filename)
    damaged = artifact[:start] + b"\xff" * 16 + artifact[start + 16 :]

    with pytest.raises(ArtifactUnusable):
        load(damaged)


def test_a_compression_that_nobody_knows_is_refused(artifact: bytes) -> None:
    directory = artifact.index(b"PK\x01\x02")
    unknown = artifact[: directory + 10] + b"\x63\x00" + artifact[directory + 12 :]

    with pytest.raises(ArtifactUnusable):
        load(unknown)


def test_a_refusal_does_not_show_what_the_file_holds() -> None:
    data = skops.io.dumps(RandomForestRegressor(n_estimators=1, max_depth=1).fit(X, y))

    with pytest.raises(ArtifactUnusable) as raised:
        load(data)

    assert "sklearn" not in str(raised.value)
