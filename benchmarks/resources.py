"""What trainings take: memory (`make memory`), and time of predictions (`make latency`)."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import requests
from pyarrow import csv, parquet

from benchmarks.competitors.common import sample
from benchmarks.work import MEDIA_TYPES, make_table, write_arrow
from tests.conftest import migrate
from tests.faults.load import Client, predict, train_constant
from tests.gunicorn_server import ROOT, running_gunicorn

SMALL, LARGE = 1_000, 1_000_000
DATA_BYTES = LARGE * sample.N_FEATURES * 8
WRITE = {"CSV": csv.write_csv, "Parquet": parquet.write_table, "Arrow": write_arrow}
SHOW_PEAK = "import atexit; atexit.register(lambda: print(open('/proc/self/status').read())); "
FLASK = "import runpy; runpy.run_module('flask', run_name='__main__')"
N_ROWS, SECONDS = 100_000, 8.0  # of a training that predictions run beside, of each line


def find_peak(status: str) -> int:
    """Return the most memory that a process has held, in bytes, from its status in /proc."""
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if "VmHWM" in line)


def measure_http(database_url: str, files: list[Path], what: str, form: str) -> tuple[int, float]:
    """Return the bytes that one gunicorn worker takes for the last file, and seconds."""
    path = "/train?target=y" if what == "train" else "/predict/batch"
    headers = {"Content-Type": MEDIA_TYPES.get(form, "text/csv"), "Accept": "text/csv"}
    log = files[0].with_name("log")
    with running_gunicorn(database_url, log, WEB_CONCURRENCY="1") as server:
        (worker,) = server.workers()
        process = Path(f"/proc/{worker}")
        for file in files:  # the small one brings imports and the allocator's pages
            (process / "clear_refs").write_text("5")  # the peak counts from here
            before = find_peak((process / "status").read_text())
            started = time.perf_counter()
            with file.open("rb") as body:
                url = f"{server.url}/api/v1/ml{path}"
                requests.post(url, data=body, headers=headers, timeout=300).raise_for_status()
            seconds = time.perf_counter() - started
        return find_peak((process / "status").read_text()) - before, seconds


def measure_command(
    database_url: str, files: list[Path], what: str, _form: str
) -> tuple[int, float]:
    """Return the bytes that `flask ml` takes more for the last file, and seconds."""
    peaks = []
    for file in files:
        more = ["--target", "y"] if what == "train" else [file.with_name("out.csv")]
        started = time.perf_counter()
        ran = subprocess.run(
            [sys.executable, "-c", SHOW_PEAK + FLASK, "ml", what, file, *more],
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": database_url, "APP_ENV": "testing"},
            capture_output=True,
            text=True,
            check=True,
        )
        seconds = time.perf_counter() - started
        peaks.append(find_peak(ran.stdout))
    return peaks[-1] - peaks[0], seconds


def measure_memory(folder: Path, database_url: str) -> None:
    """Print the peak memory of training and predicting on 1,000,000 × 10 rows.

    In multiples of the data's own size (80 MB as float64), above what the process held before, or
    what a command takes for a thousand rows. Needs Linux: /proc.
    """
    print("| what | form | peak, × 80 MB | time |\n|---|---|---|---|")
    for form, write in WRITE.items():
        for what in ("train", "predict"):
            files = [folder / f"{n_rows}.{form.lower()}" for n_rows in (SMALL, LARGE)]
            for file in files:
                table = make_table(*sample.make_rows(int(file.stem)))
                write(table if what == "train" else table.drop_columns("y"), file)
            for way, measure in {"HTTP": measure_http, "flask ml": measure_command}.items():
                extra, seconds = measure(database_url, files, what, form)
                share = extra / DATA_BYTES
                print(f"| {way} {what} | {form} | {share:.2f} | {seconds:.1f} s |", flush=True)


def predict_beside(client: Client, beside: Callable[[], object]) -> str:
    """Return as cells of a table how predictions did while something was done again and again."""
    stop, done, answers = threading.Event(), [], []

    def repeat() -> None:
        while not stop.is_set():
            done.append(beside())

    thread = threading.Thread(target=repeat)
    thread.start()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        answers.append(predict(client))
    stop.set()
    thread.join()
    failed = sum(answer.status != 200 for answer in answers)
    took = [answer.seconds * 1000 for answer in answers]
    p50, p99, worst = np.percentile(took, [50, 99, 100])
    return f"{len(done)} | {len(took):,} | {failed} | {p50:.1f} | {p99:.1f} | {worst:.0f}"


def measure_latency(folder: Path, database_url: str) -> None:
    """Print how long predictions take beside nothing, large trainings, and activations.

    One client sends its next request once the last is answered, to four workers on SQLite.
    """
    csv.write_csv(make_table(*sample.make_rows(N_ROWS)), folder / "table.csv")
    table = (folder / "table.csv").read_bytes()
    settings = {"WEB_CONCURRENCY": "4", "ACCESS_LOG": "false", "APP_ENV": "development"}
    with (
        running_gunicorn(database_url, folder / "log", **settings) as server,
        Client(server.url) as client,
    ):
        models = f"{server.url}/api/v1/ml/models"
        for value in (7.0, 11.0):
            assert train_constant(client, "default", value).status == 201

        def train() -> None:
            url, headers = f"{models}/large/train?target=y", {"Content-Type": "text/csv"}
            requests.post(url, data=table, headers=headers, timeout=60).raise_for_status()

        def activate() -> None:
            for number in (1, 2):
                url, body = f"{models}/default/active", {"version": number}
                requests.put(url, json=body, timeout=60).raise_for_status()

        print("| beside | times | predictions | failed | p50 ms | p99 ms | worst ms |")
        print("|---|---|---|---|---|---|---|")
        print("| nothing |", predict_beside(client, lambda: time.sleep(0.1)), "|")
        print(f"| training on {N_ROWS:,} rows |", predict_beside(client, train), "|")
        print("| activations |", predict_beside(client, activate), "|")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        migrate(f"sqlite:///{name}/webapp.db")
        measure = {"memory": measure_memory, "latency": measure_latency}[sys.argv[1]]
        measure(Path(name), f"sqlite:///{name}/webapp.db")
