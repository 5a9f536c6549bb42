"""What trainings take: memory (`make memory`), and time of predictions (`make latency`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import requests

from benchmarks.competitors.common import sample
from benchmarks.work import MEDIA_TYPES, WRITERS, make_table, train
from tests.conftest import migrate
from tests.faults.load import ML, Client, predict, train_constant
from tests.gunicorn_server import ROOT, running_gunicorn

SMALL, LARGE = 1_000, 1_000_000
DATA_BYTES = LARGE * sample.N_FEATURES * 8
FLASK = """\
import atexit, runpy
atexit.register(lambda: print(open("/proc/self/status").read()))
runpy.run_module("flask", run_name="__main__")
"""
FORESTS, FOREST_ROWS = 50, 2_000
LATER = {"Content-Type": "application/json", "Prefer": "respond-async"}
N_ROWS, SECONDS = 100_000, 8.0  # of a training that predictions run beside, of each line
PAUSE = 0.005  # seconds between looks at the health


def find_peak(status: str) -> int:
    """Return the most memory that a process has held, in bytes, from its status in /proc."""
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if "VmHWM" in line)


def peak_of_worker(database_url: str, file: Path, what: str) -> int:
    """Return the peak of a gunicorn worker that is sent a file."""
    path = "/train?target=y" if what == "train" else "/predict/batch"
    headers = {"Content-Type": MEDIA_TYPES[file.suffix[1:]], "Accept": "text/csv"}
    with running_gunicorn(database_url, file.with_name("log"), WEB_CONCURRENCY="1") as server:
        url, body = f"{server.url}{ML}{path}", file.read_bytes()
        requests.post(url, data=body, headers=headers, timeout=300).raise_for_status()
        (worker,) = server.workers()
        return find_peak(Path(f"/proc/{worker}/status").read_text())


def peak_of_command(database_url: str, file: Path, what: str) -> int:
    """Return the peak of `flask ml` on a file."""
    more = ["--target", "y"] if what == "train" else [file.with_name("out.csv")]
    command = [sys.executable, "-c", FLASK, "ml", what, file, *more]
    environment = {**os.environ, "DATABASE_URL": database_url, "APP_ENV": "testing"}
    return find_peak(subprocess.check_output(command, cwd=ROOT, env=environment, text=True))


def measure_memory(folder: Path, database_url: str) -> None:
    """Print the peak memory of training and predicting on 1,000,000 × 10 rows.

    In multiples of the data's own size (80 MB as float64), above what a process takes for a
    thousand rows, which bring its imports. Needs Linux: /proc.
    """
    print("| what | form | peak, × 80 MB |\n|---|---|---|")
    for form, write in WRITERS.items():
        for what in ("train", "predict"):
            files = [folder / f"{n_rows}.{form}" for n_rows in (SMALL, LARGE)]
            for file in files:
                table = make_table(*sample.make_rows(int(file.stem)))
                write(table if what == "train" else table.drop_columns("y"), file)
            for way, find in {"HTTP": peak_of_worker, "flask ml": peak_of_command}.items():
                small, large = (find(database_url, file, what) for file in files)
                print(f"| {way} {what} | {form} | {(large - small) / DATA_BYTES:.2f} |")


def ask(url: str, what: str) -> tuple[list[float], int]:
    """Ask for predictions or the health for some seconds; return ms of each, and how many failed.

    Predictions come one after the other on one connection, looks at the health on new ones.
    """
    took, failed, end = [], 0, time.monotonic() + SECONDS
    with Client(url, kept=what == "prediction") as client:
        while time.monotonic() < end:
            if what == "prediction":
                answer = predict(client)
            else:
                time.sleep(PAUSE)
                answer = client.call("GET", "/health/live")
            took.append(1000 * answer.seconds)
            failed += answer.status != 200
    return took, failed


def measure_latency(folder: Path, database_url: str) -> None:
    """Print how long predictions take beside nothing, trainings, activations, and a long queue.

    One client of each kind sends its next request once the last is answered, to as many workers
    as there are cores, at least two, on SQLite.
    """
    training = train("CSV", N_ROWS)
    settings = {"ACCESS_LOG": "false", "APP_ENV": "development", "MAX_FIT_MEMORY": "4096"}
    with (
        running_gunicorn(database_url, folder / "log", **settings) as server,
        Client(server.url) as client,
        ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool,
    ):
        for value in (7.0, 11.0):
            assert train_constant(client, "default", value).status == 201

        def activate() -> None:
            for number in (1, 2):
                answer = client.call("PUT", f"{ML}/models/default/active", {"version": number})
                assert answer.status == 200

        def queue() -> None:
            """Put as many forests into the queue as are missing there."""
            queued = client.call("GET", f"{ML}/jobs?status=queued&page_size=1")
            total = json.loads(queued.headers["X-Pagination"])["total"]
            for _ in range(FORESTS - total):
                answer = requests.post(
                    f"{server.url}{ML}/models/f/train", forest, headers=LATER, timeout=30
                )
                assert answer.status_code == 202
            time.sleep(0.1)

        X, y = sample.make_rows(FOREST_ROWS)
        rows = {"X": X.tolist(), "y": y.tolist(), "estimator": "random_forest"}
        forest = json.dumps(rows).encode()
        print("| beside | times | asked for | answers | failed | p50 ms | p99 ms |")
        print("|---|---|---|---|---|---|---|")
        for name, act in {
            "nothing": lambda: time.sleep(0.1),
            f"training on {N_ROWS:,} rows": lambda: training.send(server.url),
            "activations": activate,
            f"{FORESTS} forests in the queue": queue,
        }.items():
            act()
            times = 0
            # In processes of their own: here, they would wait for what this one does.
            asking = {
                what: pool.submit(ask, server.url, what) for what in ("prediction", "health")
            }
            while not all(found.done() for found in asking.values()):
                act()
                times += 1
            for what, found in asking.items():
                took, failed = found.result()
                p50, p99 = np.percentile(took, [50, 99])
                counts = f"{times} | {what} | {len(took):,} | {failed}"
                print(f"| {name} | {counts} | {p50:.1f} | {p99:.1f} |")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        migrate(f"sqlite:///{name}/webapp.db")
        measure = {"memory": measure_memory, "latency": measure_latency}[sys.argv[1]]
        measure(Path(name), f"sqlite:///{name}/webapp.db")
