"""The worker in a thread of this process, and a real gunicorn around it; with short deadlines."""

from __future__ import annotations

import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from gunicorn.config import Config
from gunicorn.sock import create_sockets

from tests.server.app import app
from webapp.server import connection, worker

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 1.0
MAX_BODY = 48 * 2**20
DEADLINES: list[tuple[Any, str, float]] = [
    (worker, "REQUEST_DEADLINE", 1.0),
    (connection, "REQUEST_DEADLINE", 1.0),
    (worker, "HANG_UP_DEADLINE", 0.5),
    (worker, "STOP_DEADLINE", 1.0),
    (worker, "TICK", 0.2),
    (connection, "PATIENCE", PATIENCE),
    (worker.EpollWorker, "max_body", MAX_BODY),
]


class Server:
    """Where a server listens on 127.0.0.1."""

    port: int

    def connect(self) -> socket.socket:
        """Return a connection; ten seconds is the longest wait for anything."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)


class WorkerThread(Server):
    """A worker in a thread."""

    def __init__(self, **settings: object) -> None:
        config = Config()
        for name, value in {
            "bind": "127.0.0.1:0",
            "threads": 2,
            "keepalive": 30,
            **settings,
        }.items():
            config.set(name, value)
        log = logging.getLogger("tests.server")
        self.addresses = create_sockets(config, log)
        self.port = self.addresses[0].getsockname()[1]
        self.worker: Any = worker.EpollWorker(
            0, os.getppid(), self.addresses, app, 30, config, log
        )
        self.worker.PIPE, self.worker.wsgi = os.pipe(), app
        self._thread = threading.Thread(target=self.worker.run)
        self._thread.start()

    def clients(self) -> int:
        """Return how many connections the worker has."""
        return len(self.worker._connections)

    def stop(self) -> None:
        """Stop as at a signal."""
        self.worker.alive = False
        os.write(self.worker.PIPE[1], b"1")
        self._thread.join()


@contextmanager
def running_worker(**settings: object) -> Iterator[WorkerThread]:
    """Run a worker until the block ends."""
    with pytest.MonkeyPatch.context() as patch:
        for where, name, value in DEADLINES:
            patch.setattr(where, name, value)
        server = WorkerThread(**settings)
        try:
            yield server
        finally:
            server.stop()


class Gunicorn(Server):
    """A running gunicorn of one worker."""

    def __init__(self, log: Path, *arguments: str) -> None:
        self.log = log
        options = ("-c", "python:tests.server.runner", "--bind", "127.0.0.1:0", *arguments)
        command = [sys.executable, "-m", "gunicorn", *options, "tests.server.app:app"]
        with log.open("wb") as output:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        self.port = int(self.wait_for(r"127\.0\.0\.1:(\d+)"))
        with self.connect() as client:
            client.settimeout(30)
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            client.recv(1)
        (self.worker,) = psutil.Process(self.process.pid).children()

    def wait_for(self, pattern: str, seconds: float = 30) -> str:
        """Return the first group of a pattern (or nothing) once the log has it."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.log.read_text())):
            assert time.monotonic() < deadline, f"no {pattern}:\n{self.log.read_text()}"
            time.sleep(0.01)
        return found[1] if found.groups() else ""


@contextmanager
def running_gunicorn(log: Path, *arguments: str) -> Iterator[Gunicorn]:
    """Run gunicorn until the block ends."""
    server = Gunicorn(log, *arguments)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()  # its worker sees that it is alone, and leaves
            server.process.wait()


# What follows is read by gunicorn, as its settings.

worker_class = "webapp.server.worker.EpollWorker"
preload_app = True
threads = 2
control_socket_disable = True
worker_tmp_dir = "/dev/shm"  # noqa: S108


def on_starting(server: object) -> None:
    """Shorten the deadlines, which the worker inherits."""
    for where, name, value in DEADLINES:
        setattr(where, name, value)
