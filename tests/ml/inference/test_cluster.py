"""Predictions from folder to folder by a Dask cluster: as this host makes them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import Result
from flask import Flask

from tests.conftest import app_on
from tests.faults import on_sqlite
from tests.jobs.test_dask import Cluster, cluster_in
from tests.jobs.test_processes import wait_until
from tests.ml.calls import ML
from tests.tables import WRITERS

pytestmark = on_sqlite

N_PARTS = 40
N_ROWS = 2000  # of a part
X = [(row % 97) / 7 for row in range(N_ROWS)]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with cluster_in(tmp_path) as cluster:
        yield cluster


@pytest.fixture
def clustered(database_url: str, cluster: Cluster) -> Iterator[Flask]:
    """Return an application with a cluster, whose two workers are there, and with a model."""
    rows = {"X": [[float(n), float(n % 3)] for n in range(20)], "y": list(range(20))}
    with app_on(database_url, **cluster.settings) as app:
        executor = app.extensions["jobs"].executor
        wait_until(lambda: executor.describe_state() == "ok" and executor.processes == 2)
        trained = app.test_client().post(
            f"{ML}/train", json={**rows, "feature_names": ["a", "b"], "test_size": 0}
        )
        assert trained.status_code == 201, trained.text
        yield app


def write_inputs(folder: Path, suffix: str) -> Path:
    inputs = folder / f"in-{suffix}"
    inputs.mkdir()
    for number in range(N_PARTS):
        table = pa.table({"b": [value + number for value in X], "a": X})
        (inputs / f"{number:02}.{suffix}").write_bytes(WRITERS[suffix](table))
    return inputs


def predict(app: Flask, inputs: Path | str, out: Path | str, *options: str) -> Result:
    return app.test_cli_runner().invoke(args=["ml", "predict", str(inputs), str(out), *options])


def read_all(folder: Path) -> dict[str, bytes]:
    """Return the finished files of a folder by name."""
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}


@pytest.mark.slow
def test_a_cluster_predicts_each_file_as_this_host_does(clustered: Flask, tmp_path: Path) -> None:
    for suffix in ("csv", "parquet"):
        inputs = write_inputs(tmp_path, suffix)

        here = predict(clustered, inputs, tmp_path / f"here-{suffix}")
        there = predict(clustered, inputs, tmp_path / f"there-{suffix}", "--engine=dask")

        assert (here.exit_code, there.exit_code) == (0, 0), here.output + there.output
        assert f"{N_PARTS * N_ROWS} rows of {N_PARTS} files" in there.stderr
        expected = read_all(tmp_path / f"here-{suffix}")
        assert len(expected) == N_PARTS
        assert read_all(tmp_path / f"there-{suffix}") == expected

    again = predict(clustered, inputs, tmp_path / "there-parquet", "--engine=dask")
    by_url = predict(clustered, f"local://{inputs}", f"local://{tmp_path}/url", "--engine=dask")
    (inputs / "07.parquet").write_bytes(
        WRITERS["parquet"](pa.table({"a": [1.0, None], "b": X[:2]}))
    )
    faults = [
        predict(clustered, inputs, tmp_path / name, *options)
        for name, options in {"one": (), "two": ("--engine=dask",)}.items()
    ]

    assert "holds 'there-parquet/00.parquet' already" in again.stderr
    assert by_url.exit_code == 0, by_url.output
    assert read_all(tmp_path / "url") == expected
    assert [fault.exit_code for fault in faults] == [1, 1]
    for fault in faults:
        assert fault.stderr.splitlines()[-1] == faults[0].stderr.splitlines()[-1]
        assert "07.parquet.a.1: is missing" in fault.stderr


@pytest.mark.slow
def test_what_a_killed_worker_had_is_done_by_another_one(
    clustered: Flask, cluster: Cluster, tmp_path: Path
) -> None:
    inputs, out = write_inputs(tmp_path, "csv"), tmp_path / "there"
    assert predict(clustered, inputs, tmp_path / "here").exit_code == 0
    done_before: list[int] = []

    def kill() -> None:
        while not out.exists() or len(read_all(out)) < 3:
            time.sleep(0.002)
        cluster.workers[0].kill()
        cluster.workers[0].wait()
        done_before.append(len(read_all(out)))

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    done = predict(clustered, inputs, out, "--engine=dask")
    killer.join()

    assert done.exit_code == 0, done.output
    assert done_before[0] < N_PARTS
    assert read_all(out) == read_all(tmp_path / "here")


@pytest.mark.slow
def test_a_cluster_that_is_lost_is_told(
    clustered: Flask, cluster: Cluster, tmp_path: Path
) -> None:
    inputs, out = write_inputs(tmp_path, "csv"), tmp_path / "there"

    def stop() -> None:
        while not out.exists() or len(read_all(out)) < 3:
            time.sleep(0.002)
        cluster.stop()

    killer = threading.Thread(target=stop, daemon=True)
    killer.start()
    lost = predict(clustered, inputs, out, "--engine=dask")
    killer.join()
    away = predict(clustered, inputs, out, "--engine=dask", "--overwrite")

    for failed in (lost, away):
        assert failed.exit_code == 1
        assert "cluster" in failed.stderr.splitlines()[-1], failed.output
    assert set(read_all(out)) < set(read_all(inputs))


def test_a_cluster_is_for_folders_and_must_be_set(app: Flask, tmp_path: Path) -> None:
    app.test_cli_runner().invoke(args=["seed"])
    (tmp_path / "in").mkdir()
    rows = tmp_path / "in" / "0.csv"
    rows.write_text("x1,x2,x3\n1,2,3\n")

    for source, out, complaint in (
        (rows.parent, tmp_path / "out", "set TRAINING_ENGINE=tcp://scheduler:8786"),
        (rows, tmp_path / "out.csv", "are for folders"),
        ("s3://bucket/in", "s3://bucket", "a folder in its bucket"),
        (f"file://{rows.parent}", rows.parent, "Give another folder"),
    ):
        refused = predict(app, source, out, "--engine=dask")
        assert (refused.exit_code, complaint in refused.output) == (2, True), refused.output
    assert not (tmp_path / "out").exists()
