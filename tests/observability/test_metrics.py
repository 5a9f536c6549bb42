"""Metrics: exact counts over all workers, however these end."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from flask import Flask
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Backend, app_on
from tests.gunicorn_server import GunicornServer, running_gunicorn
from webapp.observability.metrics import OTHER, Family, SharedCounts

SAMPLE = {"X": [[1, 2, 3], [4, 5, 6]], "y": [10, 20]}
BODY = {"features": [1, 2, 3]}
PREDICT = "/api/v1/ml/predict"
CONVERTERS = {
    "item_id": "id",
    "name": "name",
    "number": "id",
    "alias": "name",
    "plot": "name",
    "job": "id",
}
COUNTS = Family(("name",), {"counts": ""})
HELD = Family((), {"held": ""}, gauges=True)


def parse(text: str) -> dict[tuple[str, ...], float]:
    """Return the samples of a scrape by their name and the values of their labels."""
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(server: GunicornServer) -> dict[tuple[str, ...], float]:
    answer = requests.get(f"{server.url}/metrics", timeout=10)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    return parse(answer.text)


def test_a_scrape_shows_requests_predictions_trainings_and_the_process(own_app: Flask) -> None:
    client = own_app.test_client()
    client.post("/api/v1/ml/train", json=SAMPLE)
    one_class = {"X": SAMPLE["X"], "y": ["a", "a"], "estimator": "logistic_regression"}
    client.post("/api/v1/ml/train", json=one_class)
    client.post(PREDICT, json=BODY)
    client.post("/api/v1/ml/predict/batch", json={"instances": SAMPLE["X"]})
    client.post("/api/v1/ml/models/nothing/predict", json=BODY)
    client.get("/made/up?by=a-client")
    client.open("/health/live", method="BREW")

    found = parse(client.get("/metrics").text)

    expected = {
        ("requests_total", "POST", PREDICT, "200"): 1,
        ("requests_total", "GET", "unmatched", "404"): 1,
        ("requests_total", "other", "unmatched", "405"): 1,
        ("request_duration_seconds_count", "POST", PREDICT, "200"): 1,
        ("request_duration_seconds_bucket", "+Inf", "POST", PREDICT, "200"): 1,
        ("predictions_total", "default", "1"): 2,
        ("predicted_rows_total", "default", "1"): 3,
        ("stale_predictions_total", "default", "1"): 0,
        ("jobs_total", "train", "succeeded"): 1,
        ("jobs_total", "train", "refused"): 1,
        ("jobs_queued",): 0,
        ("jobs_running",): 0,
        ("oldest_queued_job_seconds",): 0,
        ("model_active_version", "default"): 1,
        ("artifact_cache_misses_total",): 1,
        ("artifact_cache_hits_total",): 1,
        ("artifact_cache_versions",): 1,
        ("workers",): 1,
        ("database_up",): 1,
    }
    assert {key: found[f"webapp_{key[0]}", *key[1:]] for key in expected} == expected
    assert found["webapp_request_duration_seconds_sum", "POST", PREDICT, "200"] > 0
    assert found["webapp_job_duration_seconds_sum", "train", "succeeded"] > 0
    assert found["webapp_database_pool_in_use",] <= 1  # the scrape may have one itself
    assert found["webapp_database_pool_size",] > 0
    assert not [labels for labels in found if "made" in str(labels) or "nothing" in str(labels)]


def test_every_counter_is_shown_as_0_before_it_counts(own_app: Flask, database_url: str) -> None:
    own_app.test_client().post("/api/v1/ml/train", json=SAMPLE)
    with app_on(database_url) as app:
        client = app.test_client()
        found = parse(client.get("/metrics").text)
        document = client.get("/openapi.json").json

    for outcome in ("succeeded", "refused", "failed", "cancelled"):
        assert found["webapp_jobs_total", "train", outcome] == 0
    assert found["webapp_jobs_taken_up_again_total", "train"] == 0
    for name in ("predictions", "predicted_rows", "stale_predictions"):
        assert found[f"webapp_{name}_total", "default", "1"] == 0
    for path, operations in document["paths"].items():
        rule = re.sub(r"{(\w+)}", lambda m: f"<{CONVERTERS[m[1]]}:{m[1]}>", path)
        for method in set(operations) - {"parameters"}:
            for status in {"500", "503", *operations[method]["responses"]} - {"default"}:
                assert found["webapp_requests_total", method.upper(), rule, status] == 0


def test_a_database_that_is_away_takes_no_scrape_away(absent_database: str) -> None:
    with app_on(absent_database) as app:
        client = app.test_client()
        client.get("/health/live")
        found = parse(client.get("/metrics").text)

    assert found["webapp_database_up",] == 0
    assert found["webapp_requests_total", "GET", "/health/live", "200"] == 1


def test_without_metrics_there_is_nothing_at_their_url(database_url: str) -> None:
    with app_on(database_url, METRICS="false") as app:
        assert app.test_client().get("/metrics").status_code == 404


def send_until(server: GunicornServer, stop: threading.Event) -> Counter[int]:
    """Predict until ``stop`` is set; return the statuses, each with its count."""
    answered = Counter[int]()
    with requests.Session() as session:
        while not stop.is_set():
            answer = session.post(f"{server.url}{PREDICT}", json=BODY, timeout=10)
            answered[answer.status_code] += 1
    return answered


@pytest.mark.slow
def test_counts_of_four_workers_equal_what_was_answered_though_workers_come_and_go(
    backend: Backend, database_url: str, tmp_path: Path
) -> None:
    settings = {"WEB_CONCURRENCY": "4", "GUNICORN_CMD_ARGS": "--max-requests=150"}
    log = tmp_path / "gunicorn.log"
    with running_gunicorn(database_url, log, ACCESS_LOG="false", **settings) as server:
        requests.post(f"{server.url}/api/v1/ml/train", json=SAMPLE, timeout=10)
        stop, before, counts = threading.Event(), server.workers(), []
        with ThreadPoolExecutor(6) as pool:
            answered = [pool.submit(send_until, server, stop) for _ in range(6)]
            while len(counts) < 8 or before <= server.workers():
                time.sleep(0.5)
                counts.append(scrape(server)["webapp_predictions_total", "default", "1"])
            stop.set()
        told = sum([mine.result() for mine in answered], Counter())
        after_retirements = scrape(server)

        for worker in server.workers():
            server.kill_worker(worker)
        server.wait_until_ready()
        after_kills = scrape(server)

    # On a busy machine, a new worker may not reach its database in time.
    assert set(told) <= {200, 503}
    assert counts == sorted(counts)
    for found in (after_retirements, after_kills):
        assert found["webapp_predictions_total", "default", "1"] == told[200]
        assert found["webapp_requests_total", "POST", PREDICT, "200"] == told[200]
        assert found["webapp_request_duration_seconds_count", "POST", PREDICT, "200"] == told[200]
        assert 1 <= found["webapp_workers",] <= 8


def test_series_beyond_the_limit_are_counted_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webapp.observability.metrics.MAX_SERIES", 3)
    shared = SharedCounts([COUNTS], slots=2)

    for name in ("a", "long" * 1000, "b", "c", "d", "a"):
        shared.record(COUNTS, (name,), (1,))

    counts = shared.read()["counts"]
    assert counts == {("a",): [2], (OTHER,): [3], ("b",): [1]}


def run_in_child(shared: SharedCounts) -> None:
    """Count one of each in a process of its own, which is then killed."""
    child = os.fork()
    if child == 0:
        shared.record(COUNTS, ("child",), (1,))
        shared.record(HELD, (), (1,))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_process_that_was_killed_leaves_its_counts_to_the_next_and_holds_nothing() -> None:
    shared = SharedCounts([COUNTS, HELD], slots=1)

    for _ in range(5):
        run_in_child(shared)

    assert shared.read() == {"counts": {("child",): [5]}, "held": {}}
    shared.record(COUNTS, ("parent",), (1,))
    shared.record(HELD, (), (7,))
    run_in_child(shared)  # the only slot is taken: it counts for nothing
    assert shared.read() == {"counts": {("child",): [5], ("parent",): [1]}, "held": {(): [7]}}


def test_threads_of_a_process_lose_no_count() -> None:
    shared = SharedCounts([COUNTS], slots=1)

    def count(_: int) -> None:
        for _ in range(5000):
            shared.record(COUNTS, ("one",), (1,))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(8)))

    assert shared.read()["counts"] == {("one",): [40_000]}
