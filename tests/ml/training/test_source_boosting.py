"""XGBoost and LightGBM trained on files over the workers of a cluster, or refused elsewhere."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import psutil
import pyarrow as pa
import pytest
import xgboost
from flask import Flask
from flask.testing import FlaskClient
from pyarrow import csv, parquet
from sklearn.metrics import r2_score

from tests.conftest import app_on
from tests.jobs.test_dask import CANCELLED_IN, Cluster, cluster_in
from tests.jobs.test_jobs import submit, wait_for
from tests.jobs.test_processes import wait_until
from tests.ml.calls import ML
from webapp.errors import InvalidInput
from webapp.ml.core.boosting import combine_parts, encode_target, load_part, plan_boosting
from webapp.ml.core.learning import Choices
from webapp.ml.core.sources import open_source
from webapp.ml.core.training import TrainingSpec

pytestmark = [pytest.mark.processes, pytest.mark.databases("sqlite")]

LIBRARIES = ("xgboost", "lightgbm")
N_ROWS, N_PARTS = 6000, 4
RANDOM = np.random.default_rng(3)
X = RANDOM.normal(size=(2 * N_ROWS, 4))
SUM = X[:, 0] * X[:, 1] + np.sin(2 * X[:, 2]) + 0.1 * RANDOM.normal(size=len(X))
GAPS = np.where(RANDOM.random(X.shape) < 0.05, np.nan, X)
NAMES = list("abcd")
TARGETS: dict[str, Any] = {
    "amount": SUM,
    "level": np.where(SUM > 0, "high", "low"),
    "grade": np.digitize(SUM, [-0.7, 0.7]) * 10,
}
FITTED = slice(N_ROWS)  # what the files hold; the others are new to all models
PARAMS = {"n_estimators": 150, "max_depth": 4}


def write_parts(root: Path) -> None:
    """Write a folder of Parquet for each target, in parts sorted by it: few have all classes."""
    for target, y in TARGETS.items():
        order = np.argsort(y[FITTED], kind="stable")
        columns = dict(zip(NAMES, GAPS[order].T, strict=True))
        first = pa.array(columns["a"], from_pandas=True)  # with nulls, where others have NaN
        table = pa.table({**columns, "a": first, target: y[order]})
        (root / target).mkdir()
        for number in range(N_PARTS):
            step = N_ROWS // N_PARTS
            part = table.slice(number * step, step)
            parquet.write_table(part, root / target / f"{number}.parquet")
    texts = pa.table({"a": [1.0, 2.0] * 10, "word": ["x", "y"] * 10, "amount": [0.5] * 20})
    csv.write_csv(texts, root / "words.csv")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("boosting")
    write_parts(root)
    return root


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"X": [[1], [2]], "y": [1, 2]}, "files (source)"),
        ({"source": "amount", "target": "amount"}, "TRAINING_ENGINE"),
    ],
)
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_booster_is_refused_where_it_cannot_be_trained(
    database_url: str, root: Path, body: dict[str, Any], words: str, library: str
) -> None:
    with app_on(database_url, DATA_ROOT=str(root)) as app:
        response = app.test_client().post(f"{ML}/train", json={**body, "estimator": library})

    assert response.status_code == 422
    assert words in response.json["errors"]["json"]["estimator"][0]
    assert "upload it" in response.json["errors"]["json"]["estimator"][0]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    ("options", "field", "words"),
    [
        ({"cv": 3}, "cv", "must be 0"),
        ({"scale": True}, "scale", "trees need none"),
        ({"params": {"max_depth": 99}}, "params", "must be an integer"),
        ({}, "source", "word is not: exclude it"),
    ],
)
def test_what_cannot_be_boosted_in_parts_is_named(
    root: Path, library: str, options: dict[str, Any], field: str, words: str
) -> None:
    spec = TrainingSpec(estimator=library, **options)

    with pytest.raises(InvalidInput) as refused:
        plan_boosting(open_source(str(root), "words.csv"), Choices("amount"), spec)

    assert words in str(refused.value.faults[field])


def test_classes_are_those_of_all_parts_also_where_a_file_has_text_that_looks_like_numbers(
    tmp_path: Path,
) -> None:
    for number, labels in enumerate((["1", "2", ""], ["3", "x", "1"])):
        csv.write_csv(pa.table({"a": [0.5, 1.5, 2.5], "y": labels}), tmp_path / f"{number}.csv")
    plan = plan_boosting(
        open_source(str(tmp_path), "*.csv"),
        Choices("y", "classification"),
        TrainingSpec(estimator="xgboost_classifier", test_size=0),
    )

    parts = [load_part(plan, part) for part in plan.parts]
    loaded = combine_parts(plan, [part.facts for part in parts])

    assert loaded.classes == ("1", "2", "3", "x")
    targets = [
        encode_target(part, codes).tolist()
        for part, codes in zip(parts, loaded.codes, strict=True)
    ]
    assert targets == [[0, 1], [2, 3, 0]]
    assert loaded.whole.n_missing == 1


@pytest.mark.parametrize(
    ("spoilt", "faults"),
    [
        ({"y": "w" * 300}, {"y": {"119999": ["must be 1 to 255 printable characters"]}}),
        ({"a": 1e39}, {"a": ["holds values too large to fit"]}),
    ],
)
def test_what_no_booster_can_learn_is_named_by_file_and_row(
    tmp_path: Path, spoilt: dict[str, Any], faults: dict[str, Any]
) -> None:
    rows = [{"a": 0.5, "y": "label " + "long" * (row % 2)} for row in range(120_000)]
    rows[-1] |= spoilt
    csv.write_csv(pa.Table.from_pylist(rows), tmp_path / "rows.csv")
    spec = TrainingSpec(estimator="xgboost_classifier")
    plan = plan_boosting(open_source(str(tmp_path), "*.csv"), Choices("y"), spec)

    with pytest.raises(InvalidInput) as refused:
        load_part(plan, plan.parts[0])

    assert refused.value.faults == {"rows.csv": faults}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster_in(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def clustered(database_url: str, cluster: Cluster, root: Path) -> Iterator[Flask]:
    with app_on(database_url, DATA_ROOT=str(root), **cluster.settings) as app:
        app.extensions["jobs"].start()
        yield app


def order(library: str, target: str, **params: Any) -> dict[str, Any]:
    """Return the body of a training on the files of a target."""
    suffix = "" if target == "amount" else "_classifier"
    body = {"source": target, "target": target, "estimator": library + suffix}
    return {**body, "params": {**PARAMS, **params}, "refit": target != "amount"}


def fit_in_memory(library: str, target: str, X: Any, y: Any) -> Any:
    """Return the model that the library itself fits with the same parameters."""
    kind = "Regressor" if target == "amount" else "Classifier"
    if library == "xgboost":
        return getattr(xgboost, f"XGB{kind}")(**PARAMS).fit(X, y)
    return getattr(lightgbm, f"LGBM{kind}")(**PARAMS, verbosity=-1).fit(X, y)


def predict_with(library: str, target: str, artifact: bytes, rows: Any) -> Any:
    """Return what the library predicts with a stored file: numbers, or probabilities."""
    if library == "xgboost":
        booster = xgboost.Booster()
        booster.load_model(bytearray(artifact))
        found = booster.inplace_predict(rows)
    else:
        found = lightgbm.Booster(model_str=artifact.decode()).predict(rows)
    return np.stack([1 - found, found], axis=1) if target == "level" else found


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_booster_is_trained_on_files_as_in_memory_and_served_as_by_its_library(
    clustered: Flask, tmp_path: Path, library: str, target: str
) -> None:
    client, name = clustered.test_client(), f"{library}-{target}"
    y = TARGETS[target]
    answer = client.post(f"{ML}/models/{name}/train", json=order(library, target))
    assert answer.status_code == 201, answer.text
    version = client.get(f"{ML}/models/{name}/versions/1").json

    assert (version["format"], version["origin"]) == (library, "trained")
    assert version["n_train"] + version["n_test"] == N_ROWS
    assert version["importances"]["method"] == "gain"
    assert {column["missing"] for column in version["signature"]["columns"]} == {True}
    mean = np.nanmean(GAPS[FITTED], axis=0)
    assert np.allclose(version["profile"]["mean"], mean, atol=0.05)
    codes = y if target == "amount" else np.unique(y, return_inverse=True)[1]
    alone = fit_in_memory(library, target, GAPS[FITTED], codes[FITTED])
    artifact = client.get(f"{ML}/models/{name}/versions/1/artifact").data
    new, actual = GAPS[N_ROWS:], codes[N_ROWS:]
    expected = predict_with(library, target, artifact, new)
    if target == "amount":
        metric, found = "r2_score", r2_score(actual, expected)
    else:
        metric, found = "accuracy", np.mean(expected.argmax(axis=1) == actual)
    assert found == pytest.approx(alone.score(new, actual), abs=0.02)
    assert version["metrics"][metric] == pytest.approx(found, abs=0.05)

    instances = [[None if np.isnan(v) else v for v in row] for row in new[:50].tolist()]
    got = client.post(f"{ML}/models/{name}/predict/batch", json={"instances": instances}).json
    (tmp_path / "in").mkdir()
    rows = pa.table(dict(zip(NAMES, new[:50].T, strict=True)))
    parquet.write_table(rows, tmp_path / "in" / "new.parquet")
    paths = (str(tmp_path / "in"), str(tmp_path / "out"))
    done = clustered.test_cli_runner().invoke(args=["ml", "predict", "--model", name, *paths])
    assert done.exit_code == 0, done.output
    written = parquet.read_table(tmp_path / "out" / "new.parquet")
    assert written["prediction"].to_pylist() == got["predictions"]
    if target == "amount":
        assert np.allclose(got["predictions"], expected[:50], rtol=1e-6)
        return
    classes = sorted(set(y.tolist()))
    assert version["classes"] == classes
    assert got["predictions"] == [classes[place] for place in expected[:50].argmax(axis=1)]
    probabilities = [got["probabilities"][str(label)] for label in classes]
    assert np.allclose(np.transpose(probabilities), expected[:50], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_boosting_that_is_cancelled_is_gone_on_all_workers_which_then_do_the_next(
    clustered: Flask, cluster: Cluster, library: str
) -> None:
    client = clustered.test_client()
    url = submit(client, order(library, "grade", n_estimators=1000, max_depth=10))
    wait_until(lambda: unit_of(client, url) == "iterations")
    workers = [psutil.Process(worker.pid) for worker in cluster.workers]
    working = {child.pid for worker in workers for child in list_working(worker)}
    assert len(working) == 2

    assert client.delete(url).status_code == 204
    cancelled_at = time.monotonic()
    wait_until(lambda: not any(map(psutil.pid_exists, working)))
    assert time.monotonic() < cancelled_at + CANCELLED_IN
    assert client.post(f"{ML}/train", json=order(library, "amount")).status_code == 201


@pytest.mark.slow
def test_several_boostings_at_once_end_all_though_none_has_all_workers(clustered: Flask) -> None:
    client = clustered.test_client()
    urls = [submit(client, order(library, "amount")) for library in LIBRARIES * 2]

    for url in urls:
        assert wait_for(client, url, "succeeded")["result"]["metrics"]["r2_score"] > 0.3


@pytest.mark.slow
@pytest.mark.parametrize("leads", [True, False])
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_boosting_goes_back_into_the_queue_when_a_worker_is_killed(
    database_url: str, tmp_path: Path, root: Path, library: str, leads: bool
) -> None:
    with (
        cluster_in(tmp_path) as cluster,
        app_on(database_url, DATA_ROOT=str(root), **cluster.settings) as app,
    ):
        client = app.test_client()
        app.extensions["jobs"].start()
        executor = app.extensions["jobs"].executor
        wait_until(lambda: executor.describe_state() == "ok" and executor.processes == 2)
        url = submit(client, order(library, "grade", n_estimators=200, max_depth=10))
        wait_until(lambda: unit_of(client, url) == "iterations")
        # Whoever leads has begun first.
        first, last = sorted(cluster.workers, key=began_working)
        killed = first if leads else last
        killed.kill()
        killed.wait()

        job = wait_for(client, url, "succeeded")
        assert (job["result"]["version"], job["attempts"]) == (1, 2)


@pytest.mark.slow
def test_trainings_run_where_all_connections_of_a_cluster_show_certificates(
    database_url: str, tmp_path: Path, root: Path
) -> None:
    with (
        cluster_in(tmp_path, tls=True) as cluster,
        app_on(database_url, DATA_ROOT=str(root), **cluster.settings) as app,
    ):
        client, executor = app.test_client(), app.extensions["jobs"].executor
        wait_until(lambda: executor.describe_state() == "ok" and executor.processes == 2)
        one_worker = {**order("xgboost", "amount"), "estimator": "ridge", "params": {}}
        assert client.post(f"{ML}/train", json=one_worker).status_code == 201
        for library in LIBRARIES:
            answer = client.post(f"{ML}/train", json=order(library, "amount"))
            assert answer.status_code == 201, answer.text
            assert answer.json["metrics"]["r2_score"] > 0.3


def unit_of(client: FlaskClient, url: str) -> str:
    """Return what a job counts at present."""
    job = client.get(url).json
    assert job["status"] in ("queued", "running"), job
    return str((job.get("progress") or {}).get("unit"))


def list_working(worker: psutil.Process) -> list[psutil.Process]:
    """Return the processes of a worker that do work."""
    children = worker.children(recursive=True)
    return [child for child in children if child.name() == "cluster" and child.parent() != worker]


def began_working(worker: subprocess.Popen[bytes]) -> float:
    """Return when a worker began what it does."""
    return min(child.create_time() for child in list_working(psutil.Process(worker.pid)))
