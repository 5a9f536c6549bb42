"""The whole way against real gunicorn workers, and with jobs on a cluster of two workers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import requests
from pyarrow import parquet

from tests.faults import on_postgresql
from tests.gunicorn_server import running_gunicorn, wait_until
from tests.jobs.test_dask import cluster_in

ML = "/api/v1/ml"
LATER, DEADLINE = {"Prefer": "respond-async"}, 60.0  # seconds


def predict(url: str) -> requests.Response:
    """Predict over a connection of its own, so that any worker may answer."""
    return requests.post(f"{url}{ML}/predict", json={"features": [1, 2, 3]}, timeout=30)


def train_and_predict(url: str) -> tuple[int, list[dict[str, Any]]]:
    """Train on the sample data; return the version and what workers then answer."""
    sample = requests.get(f"{url}{ML}/sample-data", timeout=30).json()
    rows = {"X": sample["X"], "y": sample["y"]}
    trained = requests.post(f"{url}{ML}/train", json=rows, timeout=30).json()
    return trained["model"]["version"], [predict(url).json() for _ in range(100)]


@on_postgresql
def test_a_model_serves_in_every_worker_and_after_a_restart_with_the_other_kind_of_worker(
    database_url: str, tmp_path: Path
) -> None:
    log = tmp_path / "gunicorn.log"
    settings = {"WEB_CONCURRENCY": "2", "ACCESS_LOG": "false"}
    with running_gunicorn(database_url, log, WORKER_CLASS="epoll", **settings) as server:
        untrained = predict(server.url)
        first, answers = train_and_predict(server.url)

    with running_gunicorn(database_url, log, WORKER_CLASS="gthread", **settings) as server:
        after = predict(server.url).json()
        second, later_answers = train_and_predict(server.url)

    assert untrained.status_code == 409
    assert (first, second) == (1, 2)
    expected = {**after, "prediction": pytest.approx(4.960877268, abs=1e-8)}
    for version, found in ((1, [*answers, after]), (2, later_answers)):
        model = {"name": "default", "version": version}
        assert all(answer == {**expected, "model": model} for answer in found)
    assert "/health/ready" not in log.read_text()  # there is no access log
    assert "Traceback" not in log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["sqlite", "postgresql"], indirect=True)
def test_jobs_of_every_kind_are_done_by_a_cluster_of_two_workers(
    database_url: str, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    values = random.standard_normal((250_000, 4))
    table = pa.table({**dict(zip("abcd", values.T, strict=True)), "y": values.sum(axis=1)})
    data = tmp_path / "data"
    data.mkdir()
    for part in range(20):  # 200 MB: for several processes
        parquet.write_table(table, data / f"{part:02}.parquet", compression="none")
    rows = {"X": values[:2000, :3].tolist(), "y": values[:2000, 3].tolist()}
    slow = {**rows, "estimator": "random_forest", "params": {"n_estimators": 1000}}

    with cluster_in(tmp_path) as cluster:
        settings = {"TRAINING_ENGINE": cluster.address, "DATA_ROOT": str(data)}
        log = tmp_path / "gunicorn.log"
        with running_gunicorn(database_url, log, WEB_CONCURRENCY="2", **settings) as server:

            def submit(path: str, body: Any, **headers: str) -> str:
                answer = requests.post(
                    f"{server.url}{ML}/models/{path}",
                    json=body,
                    headers={**LATER, **headers},
                    timeout=30,
                )
                assert answer.status_code == 202, answer.text
                return server.url + answer.headers["Location"]

            def is_running(url: str) -> bool:
                return bool(requests.get(url, timeout=30).json()["status"] == "running")

            def show(url: str) -> dict[str, Any]:
                return dict(requests.get(url, headers={"Prefer": "wait=60"}, timeout=90).json())

            waited_for = requests.post(f"{server.url}{ML}/train", json=rows, timeout=60)
            source = submit("parts/train", {"source": "*.parquet", "target": "y"})
            search = submit(
                "best/search",
                {**rows, "estimator": "ridge", "grid": {"alpha": [0.1, 1.0, 10.0]}, "cv": 3},
            )
            first = {url: show(url) for url in (source, search)}
            cancelled = submit("slow/train", slow)
            wait_until(lambda: is_running(cancelled), DEADLINE)
            assert requests.delete(cancelled, timeout=30).status_code == 204
            forest = submit("slow/train", slow)
            wait_until(lambda: is_running(forest), DEADLINE)
            assert predict(server.url).status_code == 200
            ready = requests.get(f"{server.url}/health/ready", timeout=30).json()
            states = {url: show(url)["status"] for url in (source, search, cancelled, forest)}
            predicted = requests.post(
                f"{server.url}{ML}/models/parts/predict",
                json={"features": [1, 2, 3, 4]},
                timeout=30,
            ).json()

    assert waited_for.status_code == 201, waited_for.text
    assert states == {
        source: "succeeded",
        search: "succeeded",
        cancelled: "cancelled",
        forest: "succeeded",
    }, json.dumps(first)
    assert first[source]["progress"] == {"done": 5_000_000, "total": 5_000_000, "unit": "rows"}
    assert predicted["prediction"] == pytest.approx(10, rel=1e-9)
    assert ready["checks"]["training engine"] == "ok"
