"""How long predictions take beside nothing, beside large trainings, and beside activations.

Run by `make latency`: one client that sends its next request once the last is answered, to four
workers on a new SQLite database.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import requests

from benchmarks.memory import MEDIA_TYPES, write_files
from tests.conftest import migrate
from tests.faults.load import Client, predict, train_constant
from tests.gunicorn_server import running_gunicorn

ROWS = 100_000
SECONDS = 8.0


def measure(url: str, beside: Callable[[], None]) -> tuple[list[float], int, int]:
    """Predict for some seconds, and meanwhile do something again and again.

    Returns the milliseconds of each prediction, how many were not answered with 200, and how
    often the other thing was done.
    """
    stop, done = threading.Event(), []

    def repeat() -> None:
        while not stop.is_set():
            beside()
            done.append(1)

    thread = threading.Thread(target=repeat)
    thread.start()
    took, failed = [], 0
    end = time.monotonic() + SECONDS
    with Client(url) as client:
        while time.monotonic() < end:
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
        write_files(folder, ROWS)
        table = (folder / f"train-{ROWS}.csv").read_bytes()
        database_url = f"sqlite:///{folder / 'webapp.db'}"
        migrate(database_url)
        settings = {"WEB_CONCURRENCY": "4", "ACCESS_LOG": "false", "APP_ENV": "development"}
        with running_gunicorn(database_url, folder / "log", **settings) as server:
            models = f"{server.url}/api/v1/ml/models"
            with Client(server.url) as client:
                for value in (7.0, 11.0):
                    assert train_constant(client, "default", value).status == 201

            def train() -> None:
                headers = {"Content-Type": MEDIA_TYPES["csv"]}
                url = f"{models}/large/train?target=y"
                requests.post(url, data=table, headers=headers, timeout=60).raise_for_status()

            def activate() -> None:
                for number in (1, 2):
                    url, body = f"{models}/default/active", {"version": number}
                    requests.put(url, json=body, timeout=60).raise_for_status()

            print("| beside | times | predictions | failed | p50 ms | p99 ms | worst ms |")
            print("|---|---|---|---|---|---|---|")
            for what, beside in {
                "nothing": lambda: time.sleep(0.1),
                f"training on {ROWS:,} rows": train,
                "activations": activate,
            }.items():
                took, failed, times = measure(server.url, beside)
                p50, p99 = np.percentile(took, [50, 99])
                figures = f"{len(took):,} | {failed} | {p50:.1f} | {p99:.1f} | {max(took):.0f}"
                print(f"| {what} | {'–' if what == 'nothing' else times} | {figures} |")


if __name__ == "__main__":
    main()
