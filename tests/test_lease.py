"""The promise of the lease: reads after an acknowledged activation never return the older version.

Two versions return the constants 7 and 11. Clients predict over fresh connections, through all
workers of two gunicorn masters ("hosts"), while activations alternate, or what an alias names, or
which version has all of the traffic.
LEASE_TEST_SECONDS makes it as long as wanted (`make lease-test`).
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import Backend
from tests.faults.load import ML, Answer, Client, predicts, stream
from tests.gunicorn_server import running_gunicorn

pytestmark = pytest.mark.slow

SECONDS = float(os.environ.get("LEASE_TEST_SECONDS", "5"))
FEWEST = 10  # activations, however slow the machine
CONSTANTS = {1: 7.0, 2: 11.0}
MODEL = "/models/default"
PLACES = {  # where a version is put, and where it then predicts
    "active": (f"{MODEL}/active", "/predict"),
    "alias": (f"{MODEL}/aliases/champion", f"{MODEL}/aliases/champion/predict"),
    "traffic": (f"{MODEL}/traffic", "/predict"),
}


def call(client: Client, method: str, path: str, body: object) -> Answer:
    """Send one request, which must succeed."""
    answer = client.call(method, ML + path, body)
    assert answer.status < 300, answer
    assert "X-Model-Stale" not in answer.headers
    return answer


class Watch:
    """Which versions may serve at a time, and which did."""

    def __init__(self, place: str) -> None:
        self.place, self.predict_at = PLACES[place]
        self.allowed = {2}  # the one that was acknowledged, and the one that is being activated
        self.seen: Counter[int] = Counter()
        self.wrong: list[object] = []
        self.lock = threading.Lock()

    def activate(self, client: Client, number: int) -> None:
        """Activate a version; once that is acknowledged, no other may serve."""
        with self.lock:
            self.allowed = self.allowed | {number}
        shared = self.place.endswith("/traffic")
        body = {"shares": {str(number): 100}} if shared else {"version": number}
        call(client, "PUT", self.place, body)
        with self.lock:
            self.allowed = {number}

    def predict(self, client: Client) -> Answer:
        """Predict, and hold the answer against what could serve while it was under way."""
        with self.lock:
            before = self.allowed
        answer = call(client, "POST", self.predict_at, {"features": [0.5]})
        number = answer.body["model"]["version"]
        with self.lock:
            self.seen[number] += 1
            is_allowed = number in before | self.allowed
            if not is_allowed or not predicts(answer, CONSTANTS[number]):
                self.wrong.append(answer)
        return answer


@pytest.mark.parametrize("place", PLACES)
def test_no_prediction_is_older_than_an_acknowledged_activation(
    backend: Backend, database_url: str, tmp_path: Path, place: str
) -> None:
    hosts = 1 if backend.name == "sqlite" else 2
    settings = {"WEB_CONCURRENCY": str(4 // hosts), "MODEL_LEASE_MS": "100", "ACCESS_LOG": "false"}
    watch, activations = Watch(place), 0
    with ExitStack() as stack:
        logs = [tmp_path / f"gunicorn-{host}.log" for host in range(hosts)]
        servers = [running_gunicorn(database_url, log, **settings) for log in logs]
        urls = [stack.enter_context(server).url for server in servers]
        clients = [stack.enter_context(Client(url, kept=False)) for url in urls]
        for constant in CONSTANTS.values():
            call(clients[0], "POST", "/train", {"X": [[0.0], [1.0]], "y": [constant, constant]})
        watch.activate(clients[0], 2)
        with ExitStack() as streaming:
            streams = [stream(url, watch.predict, clients=4 // hosts) for url in urls]
            probes = [streaming.enter_context(begun) for begun in streams]
            ends = time.monotonic() + SECONDS
            while activations < FEWEST or time.monotonic() < ends:
                watch.activate(clients[activations // 2 % hosts], 1 + activations % 2)
                activations += 1
                time.sleep(0.02)

    print(f"{watch.seen.total()} predictions, {activations} activations: {dict(watch.seen)}")
    assert watch.wrong == []
    assert watch.seen.total() == sum(map(len, probes)) > activations
    assert watch.seen.keys() == CONSTANTS.keys()
