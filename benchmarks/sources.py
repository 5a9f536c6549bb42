"""Training on files in parts: `make source-bench`, whose table docs/performance.md quotes.

Least squares on Parquet files, in parts by one process and by two, beside the same training in
memory, and beside only reading the files. They take turns; each runs in a process of its own, once
on few rows, so that imports and the start of workers do not count, and then on all. That all give
the same coefficients is checked, to nine digits.
"""

from __future__ import annotations

import os

# As in gunicorn's workers, and before NumPy is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeAlias

from pyarrow import parquet

from benchmarks.competitors.common import sample
from benchmarks.contenders import ROOT
from benchmarks.exchange import check_same
from benchmarks.resources import find_peak
from benchmarks.work import make_table
from webapp.ml.core.learning import Choices, make_dataset_from
from webapp.ml.core.sources import open_source
from webapp.ml.core.streaming import train_from_source
from webapp.ml.core.training import TrainedModel, TrainingSpec, train

FEW_ROWS, N_PARTS, ROUNDS = 1_000, 20, 3
WORKERS = 2
TARGET, SPEC = Choices("y"), TrainingSpec(test_size=0)  # fitted to all rows, whatever the way
Found: TypeAlias = dict[str, Any]


def write_parts(folder: Path, n_rows: int) -> None:
    """Write rows as Parquet files, each drawn on its own."""
    folder.mkdir()
    for number in range(N_PARTS):
        table = make_table(*sample.make_rows(n_rows // N_PARTS, seed=number))
        parquet.write_table(table, folder / f"{number:02}.parquet")


def train_in_parts(folder: Path, pool: ProcessPoolExecutor | None) -> TrainedModel:
    """Train on the files of a folder, part by part."""
    source = open_source(str(folder), "*.parquet")
    return train_from_source(source, TARGET, SPEC, clock=time.perf_counter, executor=pool)


def train_in_memory(folder: Path, _pool: None) -> TrainedModel:
    """Read the files of a folder, and train on all rows at once."""
    dataset = make_dataset_from(open_source(str(folder), "*.parquet").read_all(), TARGET)
    return train(dataset, SPEC, clock=time.perf_counter)


def read_only(folder: Path, _pool: None) -> None:
    """Read the files of a folder, some rows at a time, by one thread."""
    for path in sorted(folder.glob("*.parquet")):
        for _ in parquet.ParquetFile(path).iter_batches(use_threads=False):
            pass


READ, IN_MEMORY = "only read the files", "train in memory"
WAYS: dict[str, Callable[..., TrainedModel | None]] = {
    READ: read_only,
    "train in parts, one process": train_in_parts,
    f"train in parts, {WORKERS} processes": train_in_parts,
    IN_MEMORY: train_in_memory,
}


def run(way: str, folder: Path) -> Found:
    """Return the seconds of a way, the coefficients, and the peak memory in bytes.

    ``peak`` is that of this process, and ``worker`` of the largest one of the pool.
    """
    pool = None
    if str(WORKERS) in way:
        context = get_context("spawn")
        # No worker begins before all have started.
        wait = context.Barrier(WORKERS).wait
        pool = ProcessPoolExecutor(WORKERS, mp_context=context, initializer=wait)
    WAYS[way](folder / "few", pool)
    started = time.perf_counter()
    trained = WAYS[way](folder / "all", pool)
    seconds = time.perf_counter() - started
    if pool is not None:
        pool.shutdown()
    worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    peak = find_peak(Path("/proc/self/status").read_text())
    coefficients = None if trained is None else trained.estimator.coef_.tolist()
    return {"seconds": seconds, "coefficients": coefficients, "peak": peak, "worker": worker}


def run_apart(way: str, folder: Path, data: str) -> Found:
    """Return what ``run`` finds in a process of its own, on a folder of this one."""
    command = [sys.executable, "-m", "benchmarks.sources", "--way", way, "--folder", folder / data]
    return json.loads(subprocess.check_output(command, cwd=ROOT, text=True))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sources", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(run(options.way, options.folder)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # What a process takes for few rows, which bring its imports, is no part of the data's.
        for data, n_rows in {"base": FEW_ROWS, "real": options.rows}.items():
            (folder / data).mkdir()
            write_parts(folder / data / "few", FEW_ROWS)
            write_parts(folder / data / "all", n_rows)
        base = {way: run_apart(way, folder, "base") for way in WAYS}
        rounds = [
            {way: run_apart(way, folder, "real") for way in WAYS} for _ in range(options.rounds)
        ]
    for found in rounds:
        for way in WAYS:
            if way != READ:
                check_same(found[way]["coefficients"], rounds[0][IN_MEMORY]["coefficients"])
    data_bytes = options.rows * (sample.N_FEATURES + 1) * 8
    print(
        f"{options.rows:,} × {sample.N_FEATURES} in {N_PARTS} Parquet files, "
        f"{data_bytes / 1e6:,.0f} MB as numbers, {options.rounds} rounds\n\n"
        "| what | seconds | × reading (least – most) | peak, × the data | of a worker |\n"
        "|---|--:|---|--:|--:|"
    )
    for way in WAYS:
        seconds = statistics.median(found[way]["seconds"] for found in rounds)
        ratios = [f[way]["seconds"] / f[READ]["seconds"] for f in rounds]
        spread = f"{statistics.median(ratios):.1f} ({min(ratios):.1f} – {max(ratios):.1f})"
        peaks = [
            (statistics.median(found[way][of] for found in rounds) - base[way][of]) / data_bytes
            for of in ("peak", "worker")
        ]
        print(f"| {way} | {seconds:.2f} | {spread} | {peaks[0]:.2f} | {peaks[1]:.2f} |")


if __name__ == "__main__":
    main()
