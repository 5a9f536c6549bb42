"""How long predictions take beside nothing, beside large trainings, and beside activations.

Run by `make latency`. One client that sends its next request once the last is answered, to four
workers on a fresh SQLite database; milliseconds.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import requests

from benchmarks.memory import write_files
from tests.conftest import migrate
from tests.faults.load import Client, predict, train_constant
from tests.gunicorn_server import running_gunicorn

ROWS = 100_000
SECONDS = 8.0


def train_on(url: str, table: bytes) -> None:
    """Train a model of another name on a table."""
    response = requests.post(
        f"{url}/api/v1/ml/models/large/train?target=y",
        data=table,
        headers={"Content-Type": "text/csv"},
        timeout=60,
    )
    assert response.status_code == 201, response.text


def activate(url: str) -> None:
    """Activate each of two versions in turn."""
    with Client(url) as client:
        for number in (1, 2):
            answer = client.call("PUT", "/api/v1/ml/models/default/active", {"version": number})
            assert answer.status == 200, answer.body


def measure(url: str, beside: Callable[[], None]) -> tuple[list[float], int, int]:
    """Predict for some seconds, and meanwhile do something again and again.

    Returns the milliseconds of each prediction, how many were not answered with 200, and how
    often the other thing was done.
    """
    stop = threading.Event()
    done = []

    def repeat() -> None:
        while not stop.is_set():
            beside()
            done.append(1)

    thread = threading.Thread(target=repeat)
    thread.start()
    took, failed = [], 0
    ends = time.monotonic() + SECONDS
    with Client(url) as client:
        while time.monotonic() < ends:
            answer = predict(client)
            took.append(answer.seconds * 1000)
            failed += answer.status != 200
    stop.set()
    thread.join()
    return took, failed, len(done)


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = write_files(folder, ROWS, "large")["csv"].read_bytes()
        url = f"sqlite:///{folder / 'webapp.db'}"
        migrate(url)
        settings = {"WEB_CONCURRENCY": "4", "ACCESS_LOG": "false", "APP_ENV": "development"}
        with running_gunicorn(url, folder / "log", **settings) as server:
            with Client(server.url) as client:
                for value in (7.0, 11.0):
                    assert train_constant(client, "default", value).status == 201
            beside = {
                "nothing": lambda: time.sleep(0.1),
                f"training on {ROWS:,} rows": lambda: train_on(server.url, table),
                "activations": lambda: activate(server.url),
            }
            print("| beside | times | predictions | failed | p50 ms | p99 ms | worst ms |")
            print("|---|---|---|---|---|---|---|")
            for what, do in beside.items():
                took, failed, times = measure(server.url, do)
                p50, p99 = np.percentile(took, [50, 99])
                times_shown = "–" if what == "nothing" else times
                print(
                    f"| {what} | {times_shown} | {len(took):,} | {failed} "
                    f"| {p50:.1f} | {p99:.1f} | {max(took):.0f} |"
                )


if __name__ == "__main__":
    main()
