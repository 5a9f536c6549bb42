"""The promise of the lease: whoever has an activation's answer never meets the older version.

Two models return the constants 7 and 11. Clients predict over fresh connections, through all
workers of two gunicorn masters ("hosts"), while activations alternate. LEASE_TEST_SECONDS makes
it as long as wanted (`make lease-test`).
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import Backend
from tests.faults.load import Client
from tests.gunicorn_server import GunicornServer, running_gunicorn

pytestmark = pytest.mark.slow

SECONDS = float(os.environ.get("LEASE_TEST_SECONDS", "5"))
FEWEST = 10  # activations, however slow the machine
CLIENTS = 4
CONSTANTS = {1: 7.0, 2: 11.0}
ML = "/api/v1/ml"


def call(url: str, method: str, path: str, body: object) -> dict:
    """Send one request over a connection of its own."""
    with Client(url, kept=False) as client:
        answer = client.call(method, ML + path, body)
    assert answer.status < 300, answer
    assert answer.headers.get("X-Model-Stale") is None
    return answer.body


class Watch:
    """What the activations have promised so far, and what the predictions have shown."""

    def __init__(self) -> None:
        self.promised = 2
        self.activating: int | None = None
        self.lock = threading.Lock()
        self.seen: Counter[int] = Counter()
        self.mismatched: list[dict] = []
        self.stale: list[dict] = []
        self.stop = threading.Event()

    def check(self, allowed_before: set[int], answer: dict) -> None:
        """Hold a prediction against what could serve while it was under way."""
        number = answer["model"]["version"]
        with self.lock:
            allowed = allowed_before | self.allowed()
            self.seen[number] += 1
            if abs(answer["prediction"] - CONSTANTS[number]) > 1e-9:
                self.mismatched.append(answer)
            if number not in allowed:
                self.stale.append(answer)

    def allowed(self) -> set[int]:
        """Return what may serve now: what was promised, and what is being activated."""
        return {self.promised} | ({self.activating} if self.activating else set())


def predict_until_stopped(urls: Iterator[str], watch: Watch) -> None:
    while not watch.stop.is_set():
        with watch.lock:
            url, allowed = next(urls), watch.allowed()
        watch.check(allowed, call(url, "POST", "/predict", {"features": [0.5]}))


def alternate_activations(servers: list[GunicornServer], watch: Watch) -> int:
    """Activate one version and the other in turn; return how often."""
    ends = time.monotonic() + SECONDS
    for count, (number, server) in enumerate(
        zip(itertools.cycle((1, 2)), itertools.cycle(servers), strict=False)
    ):
        if count >= FEWEST and time.monotonic() > ends:
            return count
        with watch.lock:
            watch.activating = number
        call(server.url, "PUT", "/models/default/active", {"version": number})
        with watch.lock:
            watch.promised, watch.activating = number, None
        time.sleep(0.02)
    raise AssertionError("unreachable")


def test_no_prediction_is_older_than_an_acknowledged_activation(
    backend: Backend, database_url: str, tmp_path: Path
) -> None:
    hosts = 1 if backend.name == "sqlite" else 2
    watch = Watch()
    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                running_gunicorn(
                    database_url,
                    tmp_path / f"gunicorn-{host}.log",
                    WEB_CONCURRENCY=str(4 // hosts),
                    MODEL_LEASE_MS="100",
                    ACCESS_LOG="false",
                )
            )
            for host in range(hosts)
        ]
        for constant in CONSTANTS.values():
            rows = {"X": [[0.0], [1.0]], "y": [constant, constant]}
            call(servers[0].url, "POST", "/train", rows)
        urls = itertools.cycle([server.url for server in servers])
        clients = [
            threading.Thread(target=predict_until_stopped, args=(urls, watch))
            for _ in range(CLIENTS)
        ]
        for client in clients:
            client.start()

        activations = alternate_activations(servers, watch)

        watch.stop.set()
        for client in clients:
            client.join()

    print(f"{watch.seen.total()} predictions, {activations} activations: {dict(watch.seen)}")
    assert watch.mismatched == []
    assert watch.stale == []
    assert watch.seen.total() > activations
    assert watch.seen.keys() == CONSTANTS.keys()
