"""Work on a Dask cluster: as in child processes of this host, on a real scheduler and workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from flask import Flask

from tests.conftest import app_on
from tests.jobs.test_jobs import ROWS, SLOW, submit, wait_for
from tests.jobs.test_processes import (
    LIMITS,
    LONG,
    die,
    double,
    fail,
    is_alive,
    refuse,
    sleep,
    tell_and_sort,
    wait_until,
)
from tests.ports import hold_port, listens, port_of
from webapp import PRELOADED
from webapp.errors import InvalidInput
from webapp.jobs.dask import DaskExecutor
from webapp.jobs.errors import EngineUnavailable
from webapp.jobs.processes import ProcessFailed

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
DEADLINE = 60.0  # seconds: of that, the first work on each worker takes some
CANCELLED_IN = 2.0  # seconds
START = 60.0  # seconds in which a scheduler must listen


class Cluster:
    """A scheduler and its workers, each a process with one thread for tasks.

    ``settings`` are those of a service that trains on them. With ``tls``, all show a certificate.
    """

    def __init__(self, folder: Path, tls: bool = False) -> None:
        self._folder = folder
        self._held = hold_port()
        self.port = port_of(self._held)
        self.address = f"{'tls' if tls else 'tcp'}://127.0.0.1:{self.port}"
        self.settings = {"TRAINING_ENGINE": self.address}
        self._options: list[str] = []
        if tls:
            certificate, key = make_certificate(folder)
            for option, name in (("ca-file", "CA"), ("cert", "CERT"), ("key", "KEY")):
                file = str(key if name == "KEY" else certificate)
                self._options += [f"--tls-{option}", file]
                self.settings[f"TRAINING_ENGINE_{name}"] = file
        self._scheduler: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []

    def _run(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            "dask",
            *arguments,
            *self._options,
            "--no-dashboard",
            "--preload",
            "webapp.jobs.dask",
        ]
        with (self._folder / f"{arguments[0]}.log").open("ab") as log:
            return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

    def start(self, workers: int = 2) -> None:
        """Start the scheduler, and so many workers."""
        protocol = self.address.partition(":")[0]
        options = ("--host", "127.0.0.1", "--port", str(self.port), "--protocol", protocol)
        self._scheduler = self._run("scheduler", *options)
        for _ in range(workers):
            self.add_worker()
        end = time.monotonic() + START
        while not listens(self.port):
            assert time.monotonic() < end, (self._folder / "scheduler.log").read_text()
            time.sleep(0.05)

    def add_worker(self) -> None:
        """Start one worker more."""
        options = ("--nthreads", "1", "--no-nanny", "--host", "127.0.0.1")
        folder = ("--local-directory", str(self._folder))
        self.workers.append(self._run("worker", self.address, *options, *folder))

    def stop(self) -> None:
        """Kill all of it."""
        for process in filter(None, (self._scheduler, *self.workers)):
            process.kill()
            process.wait()
        self.workers.clear()

    def close(self) -> None:
        """Kill all of it, and leave the port."""
        self.stop()
        self._held.close()


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate that is its own authority; return its file and that of its key."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "1", "-subj", "/CN=cluster"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def works(worker: subprocess.Popen[bytes]) -> bool:
    """Return whether a worker has a child, beside the process that it forks children from."""
    return len(psutil.Process(worker.pid).children(recursive=True)) > 1


@contextmanager
def cluster_in(folder: Path, tls: bool = False) -> Iterator[Cluster]:
    cluster = Cluster(folder, tls)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster_in(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def executor(cluster: Cluster) -> Iterator[DaskExecutor]:
    executor = DaskExecutor(cluster.address, PRELOADED)
    yield executor
    executor.shutdown()


@pytest.mark.slow
def test_the_answer_comes_from_a_process_of_the_cluster(
    cluster: Cluster, executor: DaskExecutor
) -> None:
    task = executor.submit(double, 3, limits=LONG)
    answer = task.result(DEADLINE)

    assert (answer["doubled"], answer["bytes"], answer["more"]) == (6, b"\0\1", b"")
    assert answer["process"] not in {os.getpid(), *(worker.pid for worker in cluster.workers)}
    assert executor.describe_state() == "ok"


@pytest.mark.slow
def test_work_that_does_not_end_well_says_why(executor: DaskExecutor) -> None:
    reasons = {sleep: "seconds", die: "died", fail: "error"}
    tasks = {work: executor.submit(work, limits=LIMITS) for work in reasons}
    refused = executor.submit(refuse, limits=LIMITS)

    for work, task in tasks.items():
        with pytest.raises(ProcessFailed) as failed:
            task.result(DEADLINE)
        assert failed.value.reason == reasons[work]
        assert work is not fail or "KeyError: 'a key'" in str(failed.value)
    with pytest.raises(InvalidInput) as caught:
        refused.result(DEADLINE)
    assert (caught.value.faults, caught.value.source) == ({"X": {"3": ["is odd"]}}, "json")


@pytest.mark.slow
def test_no_more_run_at_once_than_the_workers_have_threads_and_cancelled_work_is_gone(
    executor: DaskExecutor,
) -> None:
    tasks = [executor.submit(tell_and_sort, limits=LONG) for _ in range(3)]
    wait_until(lambda: sum(task.progress is not None for task in tasks) == 2)
    first, second, waiting = sorted(tasks, key=lambda task: task.progress is None)
    assert not waiting.running()
    assert first.progress is not None

    first.cancel()
    cancelled_at = time.monotonic()
    with pytest.raises(CancelledError):
        first.result(DEADLINE)
    wait_until(lambda: not is_alive(first.progress["done"]))
    assert time.monotonic() < cancelled_at + CANCELLED_IN
    wait_until(waiting.running)
    for task in (second, waiting):
        task.cancel()
        with pytest.raises(CancelledError):
            task.result(DEADLINE)


@pytest.mark.slow
def test_nothing_is_left_of_work_whose_owner_was_killed(cluster: Cluster) -> None:
    script = (
        "import time\n"
        "from tests.jobs.test_dask import *\n"
        "task = DaskExecutor(sys.argv[1]).submit(tell_and_sort, limits=LONG)\n"
        "wait_until(lambda: task.progress is not None)\n"
        "print(task.progress['done'], flush=True)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, cluster.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as owner:
        assert owner.stdout is not None
        child = int(owner.stdout.readline())
        assert is_alive(child)
        owner.send_signal(signal.SIGKILL)
    wait_until(lambda: not is_alive(child))


def test_a_cluster_that_is_away_is_named_and_waited_for_so_long() -> None:
    with hold_port() as held:
        executor = DaskExecutor(f"tcp://127.0.0.1:{port_of(held)}", patience=0.5)
        begun: list[bool] = []
        task = executor.submit_late(lambda: begun.append(True))  # type: ignore[arg-type, return-value]
        with pytest.raises(EngineUnavailable):
            task.result(DEADLINE)
        assert not begun
        assert executor.describe_state().startswith("unreachable: ")
        executor.shutdown()


@pytest.fixture
def clustered(database_url: str, cluster: Cluster) -> Iterator[Flask]:
    """Return an application whose jobs are done by the cluster."""
    with app_on(database_url, **cluster.settings) as app:
        app.extensions["jobs"].start()
        yield app


@pytest.mark.databases("sqlite")
def test_a_training_on_a_cluster_is_as_on_this_host(clustered: Flask) -> None:
    client = clustered.test_client()

    waited_for = client.post("/api/v1/ml/train", json=ROWS)
    assert waited_for.status_code == 201
    assert client.get("/health/ready").json["checks"]["training engine"] == "ok"
    job = wait_for(client, submit(client), "succeeded")
    made = waited_for.json["metrics"]
    assert job["result"]["metrics"].items() <= made.items()
    assert job["result"]["version"] == 2
    refused = client.post("/api/v1/ml/train", json={**ROWS, "y": [1, 2, 1e300], "cv": 2})
    assert (refused.status_code, bool(refused.json["errors"])) == (422, True)
    url = submit(client, SLOW)
    wait_for(client, url, "running")
    assert client.delete(url).status_code == 204
    assert client.get(url).json["status"] == "cancelled"
    wait_until(lambda: not clustered.extensions["jobs"].executor._under_way)


@pytest.mark.slow
@pytest.mark.databases("sqlite")
def test_work_of_a_worker_that_was_killed_is_done_by_another(
    database_url: str, tmp_path: Path
) -> None:
    with (
        cluster_in(tmp_path) as cluster,
        app_on(database_url, **cluster.settings) as app,
    ):
        client, runner = app.test_client(), app.extensions["jobs"]
        runner.start()
        url = submit(client, {**SLOW, "params": {"n_estimators": 100}})
        wait_until(lambda: any(map(works, cluster.workers)))
        (worker,) = filter(works, cluster.workers)
        worker.kill()
        worker.wait()

        job = wait_for(client, url, "succeeded")
        assert (job["result"]["version"], job["attempts"]) == (1, 2)


@pytest.mark.slow
@pytest.mark.databases("sqlite")
def test_jobs_wait_for_a_scheduler_that_is_away(database_url: str, tmp_path: Path) -> None:
    with (
        cluster_in(tmp_path) as cluster,
        app_on(database_url, **cluster.settings) as app,
    ):
        client, runner = app.test_client(), app.extensions["jobs"]
        runner.start()
        url = submit(client, SLOW)
        wait_for(client, url, "running")
        cluster.stop()

        assert wait_for(client, url, "queued")["attempts"] == 0
        wait_until(lambda: "unreachable" in client.get(url).json.get("waits_for", ""))
        state = client.get("/health/ready")
        assert state.status_code == 200
        assert state.json["checks"]["training engine"].startswith("unreachable: ")
        refused = client.post("/api/v1/ml/train", json=ROWS)
        assert (refused.status_code, int(refused.headers["Retry-After"]) > 0) == (503, True)
        second = submit(client, ROWS)

        client.delete(url)
        cluster.start()
        assert wait_for(client, second, "succeeded")["result"]["version"] == 1
        assert client.get("/health/ready").json["checks"]["training engine"] == "ok"
