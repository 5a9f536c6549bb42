"""Peak memory of training and predicting on 1,000,000 × 10 rows, over HTTP and by `flask ml`.

Run by `make memory`. Prints multiples of the data's own size (80 MB as float64) above what the
process held before, or a command takes for a thousand rows, and seconds. Needs Linux: /proc.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import requests
from pyarrow import csv, ipc, parquet

from benchmarks.competitors.common import sample
from tests.conftest import migrate
from tests.gunicorn_server import ROOT, running_gunicorn

SMALL, LARGE = 1_000, 1_000_000
DATA_BYTES = LARGE * sample.N_FEATURES * 8
MEDIA_TYPES = {
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
    "arrow": "application/vnd.apache.arrow.stream",
}
FLASK = "import runpy; runpy.run_module('flask', run_name='__main__')"
SHOW_PEAK = "import atexit; atexit.register(lambda: print(open('/proc/self/status').read())); "


def write_files(folder: Path, n_rows: int) -> None:
    """Write the same rows in every form, with their target to train on and without it."""
    X, y = sample.make_rows(n_rows)
    table = pa.table({**{f"x{index}": column for index, column in enumerate(X.T)}, "y": y})
    for what, rows in {"train": table, "predict": table.drop_columns("y")}.items():
        stem = folder / f"{what}-{n_rows}"
        csv.write_csv(rows, f"{stem}.csv")
        parquet.write_table(rows, f"{stem}.parquet")
        with ipc.new_stream(f"{stem}.arrow", rows.schema) as writer:
            writer.write_table(rows, max_chunksize=65_536)


def find_peak(status: str) -> int:
    """Return the most memory that a process has held, in bytes, from its status in /proc."""
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if "VmHWM" in line)


def measure_http(url: str, folder: Path, what: str, form: str, log: Path) -> tuple[int, float]:
    """Return the bytes that one gunicorn worker takes for the large file, and seconds."""
    path = "/train?target=y" if what == "train" else "/predict/batch"
    headers = {"Content-Type": MEDIA_TYPES[form], "Accept": "text/csv"}
    with running_gunicorn(url, log, WEB_CONCURRENCY="1") as server:
        (worker,) = server.workers()
        process = Path(f"/proc/{worker}")
        for n_rows in (SMALL, LARGE):  # the small one brings imports and the allocator's pages
            (process / "clear_refs").write_text("5")  # the peak counts from here
            before = find_peak((process / "status").read_text())
            started = time.perf_counter()
            with (folder / f"{what}-{n_rows}.{form}").open("rb") as body:
                requests.post(
                    f"{server.url}/api/v1/ml{path}", data=body, headers=headers, timeout=300
                ).raise_for_status()
            seconds = time.perf_counter() - started
            extra = find_peak((process / "status").read_text()) - before
    return extra, seconds


def measure_command(url: str, folder: Path, what: str, form: str) -> tuple[int, float]:
    """Return the bytes that `flask ml` takes more for the large file, and seconds."""
    peaks, seconds = [], 0.0
    for n_rows in (SMALL, LARGE):
        file = folder / f"{what}-{n_rows}.{form}"
        more = ["--target", "y"] if what == "train" else [folder / "out.csv"]
        started = time.perf_counter()
        ran = subprocess.run(
            [sys.executable, "-c", SHOW_PEAK + FLASK, "ml", what, file, *more],
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": url, "APP_ENV": "testing"},
            capture_output=True,
            text=True,
            check=True,
        )
        seconds = time.perf_counter() - started
        peaks.append(find_peak(ran.stdout))
    return peaks[1] - peaks[0], seconds


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        url = f"sqlite:///{folder / 'webapp.db'}"
        migrate(url)
        for n_rows in (SMALL, LARGE):
            write_files(folder, n_rows)
        print("| what | form | peak, × 80 MB | time |\n|---|---|---|---|")
        for form in MEDIA_TYPES:
            for what in ("train", "predict"):
                for way in ("HTTP", "flask ml"):
                    extra, seconds = (
                        measure_http(url, folder, what, form, folder / "log")
                        if way == "HTTP"
                        else measure_command(url, folder, what, form)
                    )
                    share = extra / DATA_BYTES
                    print(f"| {way} {what} | {form} | {share:.2f} | {seconds:.1f} s |", flush=True)


if __name__ == "__main__":
    main()
