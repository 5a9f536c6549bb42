"""The promise of the lease: reads after an acknowledged activation never return the older version.

Two versions return the constants 7 and 11. Clients predict over fresh connections, through all
workers of two gunicorn masters ("hosts"), while activations alternate. LEASE_TEST_SECONDS makes
it as long as wanted (`make lease-test`).
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import Backend
from tests.faults.load import ML, Answer, Client
from tests.gunicorn_server import running_gunicorn

pytestmark = pytest.mark.slow

SECONDS = float(os.environ.get("LEASE_TEST_SECONDS", "5"))
FEWEST = 10  # activations, however slow the machine
CLIENTS = 4
CONSTANTS = {1: 7.0, 2: 11.0}


def call(url: str, method: str, path: str, body: object) -> Answer:
    """Send one request over a connection of its own."""
    with Client(url, kept=False) as client:
        answer = client.call(method, ML + path, body)
    assert answer.status < 300, answer
    assert "X-Model-Stale" not in answer.headers
    return answer


class Watch:
    """Which versions may serve at a time, and which did."""

    def __init__(self) -> None:
        self.allowed = {2}  # the one that was acknowledged, and the one that is being activated
        self.seen: Counter[int] = Counter()
        self.wrong: list[object] = []
        self.lock = threading.Lock()
        self.stopped = threading.Event()

    def activate(self, url: str, number: int) -> None:
        """Activate a version; once that is acknowledged, no other may serve."""
        with self.lock:
            self.allowed = self.allowed | {number}
        call(url, "PUT", "/models/default/active", {"version": number})
        with self.lock:
            self.allowed = {number}

    def predict(self, url: str) -> None:
        """Predict, and hold the answer against what could serve while it was under way."""
        with self.lock:
            before = self.allowed
        answer = call(url, "POST", "/predict", {"features": [0.5]}).body
        number = answer["model"]["version"]
        with self.lock:
            self.seen[number] += 1
            exact = abs(answer["prediction"] - CONSTANTS[number]) < 1e-9
            if not exact or number not in before | self.allowed:
                self.wrong.append(answer)


def test_no_prediction_is_older_than_an_acknowledged_activation(
    backend: Backend, database_url: str, tmp_path: Path
) -> None:
    hosts = 1 if backend.name == "sqlite" else 2
    settings = {"WEB_CONCURRENCY": str(4 // hosts), "MODEL_LEASE_MS": "100", "ACCESS_LOG": "false"}
    watch = Watch()

    def predict_until_stopped(urls: list[str]) -> None:
        for url in itertools.cycle(urls):
            watch.predict(url)
            if watch.stopped.is_set():
                return

    with ExitStack() as stack:
        logs = [tmp_path / f"gunicorn-{host}.log" for host in range(hosts)]
        servers = [running_gunicorn(database_url, log, **settings) for log in logs]
        urls = [stack.enter_context(server).url for server in servers]
        for constant in CONSTANTS.values():
            call(urls[0], "POST", "/train", {"X": [[0.0], [1.0]], "y": [constant, constant]})
        pool = stack.enter_context(ThreadPoolExecutor(CLIENTS))
        stack.callback(watch.stopped.set)
        clients = [pool.submit(predict_until_stopped, urls) for _ in range(CLIENTS)]
        ends, activations = time.monotonic() + SECONDS, 0
        while activations < FEWEST or time.monotonic() < ends:
            watch.activate(urls[activations // 2 % hosts], 1 + activations % 2)
            activations += 1
            time.sleep(0.02)
        watch.stopped.set()
        for client in clients:
            client.result()

    print(f"{watch.seen.total()} predictions, {activations} activations: {dict(watch.seen)}")
    assert watch.wrong == []
    assert watch.seen.total() > activations
    assert watch.seen.keys() == CONSTANTS.keys()
