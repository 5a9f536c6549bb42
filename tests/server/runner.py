"""The worker in a thread of this process, and a real gunicorn around it; with short deadlines."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.sock import create_sockets

from tests.server.app import app
from webapp.server import connection, worker

PATIENCE = 1.0
MAX_BODY = 48 * 2**20
DEADLINES: list[tuple[Any, str, float]] = [
    (worker, "REQUEST_DEADLINE", 1.0),
    (connection, "REQUEST_DEADLINE", 1.0),
    (worker, "HANG_UP_DEADLINE", 1.0),
    (worker, "STOP_DEADLINE", 1.0),
    (worker, "TICK", 0.2),
    (connection, "PATIENCE", PATIENCE),
    (worker.EpollWorker, "max_body", MAX_BODY),
]


class WorkerThread:
    """A worker in a thread, at the first of its ``addresses``."""

    def __init__(self, **settings: object) -> None:
        own, log = Config(), logging.getLogger("tests.server")
        defaults = {"bind": "127.0.0.1:0", "threads": threads, "keepalive": keepalive}
        for name, value in (defaults | settings).items():
            own.set(name, value)
        self.addresses = create_sockets(own, log)
        self.worker: Any = worker.EpollWorker(0, os.getppid(), self.addresses, app, 30, own, log)
        self.worker.PIPE, self.worker.wsgi = os.pipe(), app
        self._thread = threading.Thread(target=self.worker.run)
        self._thread.start()

    def connect(self) -> socket.socket:
        """Return a connection; ten seconds is the longest wait for anything."""
        return socket.create_connection(self.addresses[0].getsockname(), timeout=10)

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


# What follows is read by gunicorn, as its settings.

wsgi_app = "tests.server.app:app"
bind = os.environ.get("BIND")
worker_class = "webapp.server.worker.EpollWorker"
preload_app = True
threads = 2
keepalive = 30
control_socket_disable = True
worker_tmp_dir = "/dev/shm"  # noqa: S108


def on_starting(server: object) -> None:
    """Shorten the deadlines, which the worker inherits."""
    for where, name, value in DEADLINES:
        setattr(where, name, value)
