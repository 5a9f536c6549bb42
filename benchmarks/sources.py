"""Training on files in parts: `make source-bench`, whose table docs/performance.md quotes.

Least squares on Parquet files, in parts by one process, by two as a job of the service has them,
and by two workers of a Dask cluster, beside the same training in memory, and beside only reading
the files. They take turns; each runs in a process of its own, on few rows first, so that imports
and the start of workers do not count, and then on all. That all give the same coefficients is
checked, to nine digits.
"""

from __future__ import annotations

import os

# As in gunicorn's workers, and before NumPy is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import psutil
from pyarrow import parquet

from benchmarks.competitors.common import sample
from benchmarks.contenders import ROOT
from benchmarks.exchange import check_same
from benchmarks.resources import find_peak
from benchmarks.work import make_table
from webapp import PRELOADED
from webapp.jobs.processes import LocalExecutor, ProcessLimits, TaskExecutor
from webapp.jobs.steps import Steps
from webapp.ml.core.learning import Choices, make_dataset_from
from webapp.ml.core.packing import SourceFiles, pack_files
from webapp.ml.core.sources import open_source
from webapp.ml.core.streaming import train_from_source
from webapp.ml.core.tables.shapes import CsvDialect
from webapp.ml.core.training import TrainingSpec, train
from webapp.ml.training import service, work

FEW_ROWS, N_PARTS, ROUNDS = 1_000, 20, 3
WORKERS, LOOK = 2, 0.02  # s between looks at the memory of workers
TARGET, SPEC = Choices("y"), TrainingSpec(test_size=0)  # fitted to all rows, whatever the way
PATTERN, LIMITS = "*.parquet", ProcessLimits(2**33, 600)
Found: TypeAlias = dict[str, Any]
Coefficients: TypeAlias = Mapping[str, Any]
Way: TypeAlias = Callable[[Path, Any], Coefficients | None]


def write_parts(folder: Path, n_rows: int) -> None:
    """Write rows as Parquet files, each drawn on its own."""
    folder.mkdir()
    for number in range(N_PARTS):
        table = make_table(*sample.make_rows(n_rows // N_PARTS, seed=number))
        parquet.write_table(table, folder / f"{number:02}.parquet")


def train_in_parts(folder: Path, _executor: None) -> Coefficients:
    """Train on the files of a folder, part by part."""
    source = open_source(str(folder), PATTERN)
    trained = train_from_source(source, TARGET, SPEC, clock=time.perf_counter)
    return trained.coefficients or {}


def train_in_steps(folder: Path, executor: TaskExecutor) -> Coefficients:
    """Train on the files of a folder as a job does whose parts several processes read."""
    files = SourceFiles(PATTERN, TARGET, CsvDialect())
    packed = pack_files(files, spec=asdict(SPEC), metric=None)
    training = work.SourceTraining(packed, str(folder), 0, 0, None, LIMITS.seconds)

    def further(steps: Steps, answer: Found) -> Found:
        return service.train_in_steps(steps, answer, limits=LIMITS, prepare=lambda: (training,))

    first = executor.submit(work.fit_source, training, limits=LIMITS)
    coefficients: Coefficients = Steps(executor, first, further).result()["version"][
        "coefficients"
    ]
    return coefficients


def train_in_memory(folder: Path, _executor: None) -> Coefficients:
    """Read the files of a folder, and train on all rows at once."""
    dataset = make_dataset_from(open_source(str(folder), PATTERN).read_all()[0], TARGET)
    return train(dataset, SPEC, clock=time.perf_counter).coefficients or {}


def read_only(folder: Path, _executor: None) -> None:
    """Read the files of a folder, some rows at a time, by one thread."""
    for path in sorted(folder.glob(PATTERN)):
        for _ in parquet.ParquetFile(path).iter_batches(use_threads=False):
            pass


@contextmanager
def open_local() -> Iterator[TaskExecutor]:
    """Yield what runs jobs in child processes, as the service does."""
    executor = LocalExecutor("benchmark", WORKERS, PRELOADED)
    yield executor
    executor.shutdown()


@contextmanager
def open_dask() -> Iterator[TaskExecutor]:
    """Yield what runs jobs on a Dask cluster of its own, on this machine."""
    from distributed import LocalCluster

    from webapp.jobs.dask import DaskExecutor

    with LocalCluster(
        n_workers=WORKERS, threads_per_worker=1, dashboard_address=None, memory_limit=0
    ) as cluster:
        executor = DaskExecutor(cluster.scheduler_address, PRELOADED)
        yield executor
        executor.shutdown()


READ, IN_MEMORY = "only read the files", "train in memory"
WAYS: dict[str, tuple[Way, Callable[[], Any]]] = {
    READ: (read_only, nullcontext),
    "train in parts, one process": (train_in_parts, nullcontext),
    f"train in parts, {WORKERS} processes": (train_in_steps, open_local),
    f"train in parts, {WORKERS} Dask workers": (train_in_steps, open_dask),
    IN_MEMORY: (train_in_memory, nullcontext),
}


class Watch(threading.Thread):
    """Notes the most memory that a descendant of this process has held, in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._ended = threading.Event()

    def run(self) -> None:
        """Look at all of them, again and again."""
        while not self._ended.wait(LOOK):
            for child in psutil.Process().children(recursive=True):
                try:
                    status = Path(f"/proc/{child.pid}/status").read_text()
                except OSError:  # it has ended
                    continue
                if "VmHWM" in status:
                    self.peak = max(self.peak, find_peak(status))

    def stop(self) -> int:
        """Return what it has noted."""
        self._ended.set()
        self.join()
        return self.peak


def run(name: str, folder: Path) -> Found:
    """Return the seconds of a way, the coefficients, and the peak memory in bytes.

    ``peak`` is that of this process, and ``worker`` of the largest one that works for it.
    """
    way, open_executor = WAYS[name]
    with open_executor() as executor:
        for _ in range(WORKERS):
            way(folder / "few", executor)
        watch = Watch()
        if executor is not None:
            watch.start()
        started = time.perf_counter()
        coefficients = way(folder / "all", executor)
        seconds = time.perf_counter() - started
        worker = 0 if executor is None else watch.stop()
    peak = find_peak(Path("/proc/self/status").read_text())
    return {"seconds": seconds, "coefficients": coefficients, "peak": peak, "worker": worker}


def run_apart(way: str, folder: Path, data: str) -> Found:
    """Return what ``run`` finds in a process of its own, on a folder of this one."""
    command = [sys.executable, "-m", "benchmarks.sources", "--way", way, "--folder", folder / data]
    return json.loads(subprocess.check_output(command, cwd=ROOT, text=True))


def list_numbers(coefficients: Coefficients) -> list[float]:
    """Return the coefficients, and the intercept."""
    return [*coefficients["coefficients"].values(), coefficients["intercept"]]


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
    expected = rounds[0][IN_MEMORY]
    for found in rounds:
        for way in WAYS:
            if way != READ:
                check_same(*(list_numbers(ran["coefficients"]) for ran in (found[way], expected)))
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
