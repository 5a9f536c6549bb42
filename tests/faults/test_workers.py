"""Workers that are killed, retired and stopped while clients keep them busy."""

from __future__ import annotations

import http.client
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Backend
from tests.faults import on_postgresql, on_sqlite, only_sqlite, scaled
from tests.faults.load import (
    Answer,
    Client,
    Load,
    NotConnected,
    predict,
    train_default,
)
from tests.faults.losses import find_lost
from tests.faults.record import Record
from tests.gunicorn_server import GunicornServer, running_gunicorn

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path("/proc/self/task").exists(), reason="finds gunicorn's workers in /proc"
    ),
]

WORKERS = 2
CUT_OFF = ("BrokenPipe", "ConnectionReset", "IncompleteRead", "RemoteDisconnected")
A_MOMENT = 2.0  # seconds: on a busy machine, a client learns late that its connection was reset


def wait_until(condition: Callable[[], bool], seconds: float) -> float:
    """Return the seconds that a condition took to become true."""
    started = time.monotonic()
    while not condition():
        waited = time.monotonic() - started
        assert waited < seconds, f"not so within {seconds} s"
        time.sleep(0.01)
    return time.monotonic() - started


@on_postgresql
def test_a_killed_worker_takes_only_the_requests_along_that_it_was_answering(
    database_url: str, tmp_path: Path, record: Record
) -> None:
    kills = scaled(3, 20)
    killed_at, refilled_after = [], []
    log = tmp_path / "gunicorn.log"
    with running_gunicorn(database_url, log, WEB_CONCURRENCY=str(WORKERS)) as server:
        train_default(server.url)
        with Load(server.url, clients=6) as load:
            for _ in range(kills):
                time.sleep(0.5)
                victim = random.choice(sorted(server.workers()))  # noqa: S311 (any will do)
                server.kill_worker(victim)
                killed_at.append(time.monotonic())
                refilled_after.append(wait_until(lambda: is_full(server, victim), 5))  # noqa: B023
            time.sleep(0.5)
        ledger = load.ledger
        lost = find_lost(server.url, ledger)

    unexplained = [
        failure
        for failure in ledger.unanswered
        if not any(0 <= failure[0] - at < A_MOMENT for at in killed_at)
        or not failure[1].startswith(CUT_OFF)
    ]
    print(
        f"{kills} kills: {ledger.acknowledged()} operations acknowledged, "
        f"{len(ledger.unanswered)} in flight at a killed worker; "
        f"the pool was full again after at most {max(refilled_after):.2f} s"
    )
    record("worker killed under load: kills", kills, kills - len(unexplained), len(lost))
    record(
        "worker killed under load: operations",
        ledger.acknowledged() + len(ledger.unanswered),
        ledger.acknowledged() - len(lost),
        len(lost),
    )
    assert lost == []
    assert unexplained == []
    assert ledger.refused == []
    # In three kills, it can be that no killed worker was just answering.
    assert len(ledger.unanswered) <= load.clients * kills
    assert min(len(ledger.items), len(ledger.versions), ledger.predictions) > 0


def is_full(server: GunicornServer, without: int) -> bool:
    workers = server.workers()
    return len(workers) == WORKERS and without not in workers


def forest_rows() -> dict:
    """Return a training that takes a second or two."""
    numbers = random.Random(0)  # noqa: S311 (any rows will do)
    X = [[numbers.random() for _ in range(10)] for _ in range(500)]
    return {"X": X, "y": [sum(row) for row in X], "estimator": "random_forest"}


class Stream:
    """Clients that repeat a request until nobody accepts their connection any more.

    A connection that was accepted must bring an answer: ``lost`` holds the errors otherwise.
    """

    def __init__(
        self, url: str, send: Callable[[Client], Answer], *, clients: int, kept: bool
    ) -> None:
        self.answered: list[tuple[float, Answer]] = []  # when, and what
        self.lost: list[str] = []
        self.refused = 0
        self.give_up = threading.Event()
        self._url, self._send, self._kept = url, send, kept
        self._threads = [threading.Thread(target=self._repeat) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until all clients have met a closed door."""
        for thread in self._threads:
            thread.join()

    def _repeat(self) -> None:
        client = Client(self._url, kept=self._kept)
        while not self.give_up.is_set():
            try:
                answer = self._send(client)
            except NotConnected:
                self.refused += 1
                break
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(repr(error))
            else:
                self.answered.append((time.monotonic(), answer))
        client.close()


def signal_master(server: GunicornServer) -> None:
    os.kill(server.process.pid, signal.SIGTERM)


def signal_everyone(server: GunicornServer) -> None:
    """Signal as a supervisor does that stops a whole control group; the workers first."""
    for process in [*server.workers(), server.process.pid]:
        os.kill(process, signal.SIGTERM)


@on_sqlite
def test_a_stop_answers_everybody_who_has_connected(
    backend: Backend, database_url: str, tmp_path: Path, record: Record
) -> None:
    graceful_timeout = 20
    in_flight = lost = 0
    once = (signal_master if backend.name == "sqlite" else signal_everyone,)
    for stop in scaled(once, (signal_master, signal_everyone) * 5):
        server = GunicornServer(
            database_url,
            tmp_path / "gunicorn.log",
            WEB_CONCURRENCY=str(WORKERS),
            WEB_GRACEFUL_TIMEOUT=str(graceful_timeout),
        )
        try:
            server.wait_until_ready()
            train_default(server.url)
            streams = start_streams(server)
            idle = Client(server.url)
            predict(idle)
            time.sleep(1)

            stop(server)
            stopped_at = time.monotonic()
            time.sleep(0.2)
            last = predict(idle)
            idle.close()
            for stream in streams:
                stream.join()
            server.process.wait(timeout=graceful_timeout)
            took = time.monotonic() - stopped_at
        finally:
            server.stop(signal.SIGQUIT)
        late = [answer for stream in streams for at, answer in stream.answered if at > stopped_at]
        failures = [error for stream in streams for error in stream.lost]
        in_flight += len(late) + len(failures)
        lost += len(failures)
        print(f"{len(late)} answered after the signal, lost {failures}, gone after {took:.2f} s")
        assert server.process.returncode == 0
        assert took < graceful_timeout
        assert {answer.status for answer in late} <= {200, 201}
        assert (last.status, last.headers["Connection"]) == (200, "close")
        assert all(stream.answered for stream in streams)
    record("SIGTERM with requests in flight", in_flight, in_flight - lost, lost)
    # Without a proxy, who connects as the listener ends may be reset: 2 of 14,930 were.
    assert lost <= 1 + in_flight // 1000


def start_streams(server: GunicornServer) -> list[Stream]:
    slow = forest_rows()
    return [
        Stream(server.url, predict, clients=12, kept=False),
        Stream(server.url, predict, clients=2, kept=True),
        Stream(
            server.url,
            lambda client: client.call("POST", "/api/v1/ml/models/forest/train", slow),
            clients=2,
            kept=False,
        ),
    ]


@only_sqlite  # it matters to neither
def test_a_retired_worker_leaves_the_door_open(
    database_url: str, tmp_path: Path, record: Record
) -> None:
    reloads, log = scaled(1, 10), tmp_path / "gunicorn.log"
    settings = {"WEB_CONCURRENCY": str(WORKERS), "GUNICORN_CMD_ARGS": "--max-requests=200"}
    with running_gunicorn(database_url, log, **settings) as server:
        train_default(server.url)
        streams = [
            Stream(server.url, predict, clients=6, kept=False),
            Stream(server.url, predict, clients=2, kept=True),
        ]
        for _ in range(reloads):
            wait_until(lambda: len(server.workers()) == WORKERS, 30)
            before = server.workers()
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: not before & server.workers(), 30)  # noqa: B023
        wait_until(lambda: log.read_text().count("Autorestarting worker") >= reloads, 60)
        for stream in streams:
            stream.give_up.set()
            stream.join()

    answers = sum(len(stream.answered) for stream in streams)
    lost = [error for stream in streams for error in stream.lost]
    refused = sum(stream.refused for stream in streams)
    record("workers retired under load", answers + len(lost) + refused, answers, len(lost))
    assert lost == []
    assert refused == 0
    statuses = Counter(answer.status for stream in streams for _, answer in stream.answered)
    # On a busy machine, a new worker may not reach its database in time.
    assert statuses.keys() <= {200, 503}
    assert statuses[200] > 20 * statuses[503]
