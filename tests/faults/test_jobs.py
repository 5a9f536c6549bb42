"""Jobs whose process, owner or database goes away: each becomes one version, or says why not."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.conftest import Backend, migrate
from tests.faults import on_postgresql, on_sqlite, only_sqlite, scaled
from tests.faults.jobs import MODEL, Submissions, count_failures, forest
from tests.faults.load import (
    ML,
    Client,
    Probe,
    predict,
    predicts,
    stream,
    train_default,
)
from tests.faults.record import Record
from tests.gunicorn_server import (
    GunicornServer,
    both_workers,
    running_gunicorn,
    wait_until,
)
from tests.postgres import running_server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path("/proc/self/task").exists(), reason="finds the processes in /proc"
    ),
]

SETTINGS = {"WEB_CONCURRENCY": "2", "TRAINING_PROCESSES": "2", "ACCESS_LOG": "false"}
CUT_OFF = ("BrokenPipe", "ConnectionReset", "IncompleteRead", "RemoteDisconnected")
AWAY = scaled(5, 30)  # seconds
DEADLINE = 60.0  # seconds until something begins
CANCELLED_WITHIN = 2.0  # seconds


@contextmanager
def predicting(url: str) -> Iterator[list[Probe]]:
    """Have a client predict until the block ends: each answer must be right."""
    with stream(url, predict, every=0.05) as probes:
        yield probes
    wrong = [probe.answer for probe in probes if probe.answer and not predicts(probe.answer)]
    unanswered = [repr(probe.error) for probe in probes if probe.error]
    assert wrong == []
    assert [error for error in unanswered if not error.startswith(CUT_OFF)] == []
    assert len(probes) > len(unanswered)


def kill_all(processes: set[int]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


@on_sqlite
def test_a_job_whose_process_is_killed_is_done_again_and_then_fails_with_that_reason(
    database_url: str, tmp_path: Path, record: Record
) -> None:
    kills, killed = scaled(4, 40), set[int]()
    with running_gunicorn(database_url, tmp_path / "log", **SETTINGS) as server:
        submissions = Submissions(server.url)
        train_default(server.url)
        with predicting(server.url):
            for _ in range(kills):
                submissions.submit(forest(100))
                wait_until(lambda: bool(server.trainings() - killed), DEADLINE)
                victims = server.trainings() - killed
                kill_all(victims)
                killed.update(victims)
            jobs = submissions.settle(database_url, record, "process of a training killed")

    assert max(job["attempts"] for job in jobs) == 2
    assert count_failures(jobs) <= len(killed) / 2


def find_owners(submissions: Submissions, server: GunicornServer) -> set[int]:
    """Return the workers that own a running job."""
    owners = {int(job["claimed_by"].rpartition(":")[2]) for job in submissions.running()}
    return owners & server.workers()


@on_postgresql
@both_workers
def test_jobs_of_owners_that_are_killed_at_random_moments_are_neither_lost_nor_doubled(
    database_url: str, tmp_path: Path, record: Record, worker_class: str
) -> None:
    kills = scaled(5, 50)  # in each of two kinds of workers
    settings = {**SETTINGS, "WORKER_CLASS": worker_class}
    with running_gunicorn(database_url, tmp_path / "log", **settings) as server:
        submissions = Submissions(server.url)
        train_default(server.url)
        with predicting(server.url):
            for _ in range(kills):
                submissions.submit(forest(20))
                submissions.submit(forest(100))
                wait_until(lambda: bool(find_owners(submissions, server)), DEADLINE)
                time.sleep(random.uniform(0, 0.5))  # noqa: S311 (any moment will do)
                owners = find_owners(submissions, server) or server.workers()
                if owners:
                    server.kill_worker(min(owners))
            what = f"owner of jobs killed, {worker_class}"
            jobs = submissions.settle(database_url, record, what)

    count_failures(jobs)
    assert {job["status"] for job in jobs} >= {"succeeded"}


@on_postgresql
def test_jobs_outlive_all_workers(database_url: str, tmp_path: Path, record: Record) -> None:
    with running_gunicorn(database_url, tmp_path / "log", **SETTINGS) as server:
        submissions = Submissions(server.url)
        train_default(server.url)
        with predicting(server.url):
            for _ in range(scaled(1, 10)):
                for _ in range(4):
                    submissions.submit(forest(100))
                wait_until(lambda: bool(server.trainings()), DEADLINE)
                workers = server.workers()
                kill_all(workers)
                wait_until(lambda: len(server.workers() - workers) == 2, DEADLINE)  # noqa: B023
            jobs = submissions.settle(database_url, record, "all workers killed")

    count_failures(jobs)


@on_sqlite
def test_a_service_that_stops_leaves_its_jobs_to_the_next(
    database_url: str, tmp_path: Path, record: Record
) -> None:
    with running_gunicorn(database_url, tmp_path / "log", **SETTINGS) as server:
        submissions = Submissions(server.url)
        for _ in range(3):
            submissions.submit(forest(300))
        wait_until(lambda: len(submissions.running()) == 2, DEADLINE)
    with running_gunicorn(database_url, tmp_path / "log", **SETTINGS) as server:
        submissions.url = server.url
        jobs = submissions.settle(database_url, record, "service stopped and started")

    assert [(job["status"], job["attempts"]) for job in jobs] == [("succeeded", 1)] * 3


@on_sqlite
def test_a_service_that_stops_does_not_wait_for_a_request_longer_than_it_may(
    database_url: str, tmp_path: Path, record: Record
) -> None:
    settings = {**SETTINGS, "WEB_GRACEFUL_TIMEOUT": "2"}
    with running_gunicorn(database_url, tmp_path / "log", **settings) as server:
        submissions = Submissions(server.url)
        submissions.submit(forest(1000))
        wait_until(lambda: len(submissions.running()) == 1, DEADLINE)
        with server.connect() as waiting:
            ask_to_train(waiting, forest(1000))
            wait_until(lambda: len(server.trainings()) == 2, DEADLINE)
            server.stop()
    with running_gunicorn(database_url, tmp_path / "log", **SETTINGS) as server:
        submissions.url = server.url
        (job,) = submissions.settle(database_url, record, "service stopped in a long request")

    assert (job["status"], job["attempts"]) == ("succeeded", 1)


def outlive(
    url: str,
    log: Path,
    record: Record,
    what: str,
    go: Callable[[], None],
    back: Callable[[], None],
) -> list[dict[str, Any]]:
    """Take jobs through a time without a database: some end meanwhile, others wait."""
    with running_gunicorn(url, log, **SETTINGS) as server:
        submissions = Submissions(server.url)
        train_default(server.url)
        with stream(server.url, predict, clients=8):
            time.sleep(1)  # every worker predicts: one that has never predicted knows no model
        with predicting(server.url):
            for trees in (100, 300, 100, 100):
                submissions.submit(forest(trees))
            wait_until(lambda: len(server.trainings()) == 2, DEADLINE)
            go()
            time.sleep(AWAY)
            back()
            return submissions.settle(url, record, what)


def test_jobs_outlive_a_database_that_is_away(tmp_path: Path, record: Record) -> None:
    with running_server() as postgres:
        backend = Backend("postgresql", tmp_path, postgres.url)
        url = backend.make_empty()
        migrate(url)
        what = f"PostgreSQL gone for {AWAY} s"
        jobs = outlive(url, tmp_path / "log", record, what, postgres.stop, postgres.start)

    assert [job["status"] for job in jobs] == ["succeeded"] * 4


@only_sqlite
def test_jobs_outlive_a_database_that_is_locked(
    database_url: str, tmp_path: Path, record: Record
) -> None:
    path = str(sa.make_url(database_url).database)
    with closing(sqlite3.connect(path, isolation_level=None, timeout=60)) as connection:
        lock, unlock = (
            partial(connection.execute, sql) for sql in ("BEGIN IMMEDIATE", "ROLLBACK")
        )
        what = f"database locked for {AWAY} s"
        jobs = outlive(database_url, tmp_path / "log", record, what, lock, unlock)

    assert [job["status"] for job in jobs] == ["succeeded"] * 4


@on_postgresql
@both_workers
def test_a_client_that_hangs_up_cancels_its_job(
    database_url: str, tmp_path: Path, record: Record, worker_class: str
) -> None:
    times, late = scaled(3, 20), []
    settings = {**SETTINGS, "WORKER_CLASS": worker_class}
    with running_gunicorn(database_url, tmp_path / "log", **settings) as server:
        submissions = Submissions(server.url)
        for number in range(1, times + 1):
            submissions.jobs.append(number)
            hang_up(server, number)
            hung_up = time.monotonic()
            wait_until(lambda: submissions.look(number)["status"] == "cancelled", DEADLINE)  # noqa: B023
            wait_until(lambda: not server.trainings(), DEADLINE)
            if time.monotonic() - hung_up > CANCELLED_WITHIN:
                late.append(number)
        with Client(server.url) as client:
            stored = client.call("GET", MODEL).status
    record(f"client hung up, {worker_class}", times, times - len(late), len(late))

    assert late == []
    assert stored == 404


def ask_to_train(connection: socket.socket, rows: dict[str, Any]) -> None:
    """Send the request of a training, and do not wait for its answer."""
    body = json.dumps(rows).encode()
    head = f"POST {MODEL}/train HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)


def hang_up(server: GunicornServer, number: int) -> None:
    """Ask for a training that takes long, and leave once it runs."""
    with server.connect() as connection, Client(server.url) as looking:
        ask_to_train(connection, forest(1000))

        def runs() -> bool:
            job = looking.call("GET", f"{ML}/jobs/{number}")
            return job.status == 200 and job.body["status"] == "running"

        wait_until(runs, DEADLINE)
