"""Peak memory of training and predicting on 1,000,000 × 10 rows, over HTTP and by `flask ml`.

Run by `make memory`. Prints multiples of the data's own size (80 MB as float64) above what the
process held before, and seconds. Needs Linux: peaks are read from /proc.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import requests
from pyarrow import csv, ipc, parquet

from tests.conftest import migrate
from tests.gunicorn_server import ROOT, running_gunicorn

ROWS, FEATURES = 1_000_000, 10
DATA_BYTES = ROWS * FEATURES * 8
MEDIA_TYPES = {
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
    "arrow": "application/vnd.apache.arrow.stream",
}


def write_files(folder: Path, rows: int, name: str) -> dict[str, Path]:
    """Write the same rows in every form; return their paths by form."""
    random = np.random.RandomState(0)
    X = random.randn(rows, FEATURES)
    columns = {f"x{index}": X[:, index] for index in range(FEATURES)}
    table = pa.table({**columns, "y": X.sum(axis=1) + random.randn(rows)})
    paths = {form: folder / f"{name}.{form}" for form in MEDIA_TYPES}
    csv.write_csv(table, paths["csv"])
    parquet.write_table(table, paths["parquet"])
    with ipc.new_stream(str(paths["arrow"]), table.schema) as writer:
        writer.write_table(table, max_chunksize=65_536)
    return paths


def read_peak(pid: int) -> int:
    """Return the most memory that a process has held, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if "VmHWM" in line)


def reset_peak(pid: int) -> int:
    """Start counting the peak anew; return what the process holds now, in bytes."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return read_peak(pid)


def find_worker(master: int) -> int:
    """Return the only worker of a gunicorn master."""
    children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    (worker,) = map(int, children)
    return worker


def measure_http(
    database_url: str,
    folder: Path,
    small: dict[str, Path],
    large: dict[str, Path],
    features: dict[str, Path],
) -> None:
    """Print the peaks of one gunicorn worker."""
    for form, media_type in MEDIA_TYPES.items():
        with running_gunicorn(database_url, folder / "log", WEB_CONCURRENCY="1") as server:
            worker, ml = find_worker(server.process.pid), f"{server.url}/api/v1/ml"
            headers = {"Content-Type": media_type, "Accept": "text/csv"}

            def post(path: str, file: Path, url: str = ml, headers: dict = headers) -> None:
                with file.open("rb") as body:
                    answer = requests.post(url + path, data=body, headers=headers, timeout=300)
                answer.raise_for_status()

            post("/train?target=y", small[form])  # imports, and the allocator's first pages
            for what, path, file in (
                ("train", "/train?target=y", large[form]),
                ("predict", "/predict/batch", features[form]),
            ):
                before, started = reset_peak(worker), time.perf_counter()
                post(path, file)
                seconds = time.perf_counter() - started
                report(f"HTTP {what}", form, read_peak(worker) - before, seconds)


def measure_commands(
    database_url: str,
    folder: Path,
    small: dict[str, Path],
    large: dict[str, Path],
    features: dict[str, Path],
) -> None:
    """Print the peaks of `flask ml train` and `flask ml predict`."""
    for form in MEDIA_TYPES:
        for what, arguments in (
            ("train", ["train", "{}", "--target", "y"]),
            ("predict", ["predict", "{}", str(folder / "out.csv")]),
        ):
            files = (small, large) if what == "train" else (small, features)
            peaks = []
            for paths in files:
                path = paths[form]
                if what == "predict" and paths is small:
                    path = folder / f"small-features.{form}"
                started = time.perf_counter()
                peaks.append(run_command(database_url, [a.format(path) for a in arguments]))
                seconds = time.perf_counter() - started
            report(f"flask ml {what}", form, peaks[1] - peaks[0], seconds)


def run_command(database_url: str, arguments: list[str]) -> int:
    """Run a `flask ml` command; return its peak memory in bytes."""
    environment = {**os.environ, "DATABASE_URL": database_url, "APP_ENV": "testing"}
    process = subprocess.Popen(
        [sys.executable, "-m", "flask", "ml", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    peak = 0
    while process.poll() is None:
        try:
            # Not ru_maxrss: a child's begins at what its parent held when it was started.
            peak = max(peak, read_peak(process.pid))
        except (OSError, StopIteration):
            break  # it has just ended
        time.sleep(0.01)
    assert process.wait() == 0, arguments
    return peak


def report(what: str, form: str, extra: int, seconds: float) -> None:
    """Print one row of the table."""
    print(f"| {what} | {form} | {extra / DATA_BYTES:.2f} | {seconds:.1f} s |", flush=True)


def main() -> None:
    """Measure everything, in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        database_url = f"sqlite:///{folder / 'webapp.db'}"
        migrate(database_url)
        small, large = write_files(folder, 1000, "small"), write_files(folder, ROWS, "large")
        features = {}
        for size, paths in (("small", small), ("large", large)):
            table = parquet.read_table(paths["parquet"]).drop_columns("y")
            target = {form: folder / f"{size}-features.{form}" for form in MEDIA_TYPES}
            csv.write_csv(table, target["csv"])
            parquet.write_table(table, target["parquet"])
            with ipc.new_stream(str(target["arrow"]), table.schema) as writer:
                writer.write_table(table, max_chunksize=65_536)
            features = target
        del table
        print("| what | form | peak, × 80 MB | time |\n|---|---|---|---|")
        measure_http(database_url, folder, small, large, features)
        measure_commands(database_url, folder, small, large, features)


if __name__ == "__main__":
    main()
