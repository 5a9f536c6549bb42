"""A real gunicorn under the tests' own application, with short deadlines."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from webapp.server import connection, worker

ROOT = Path(__file__).parent.parent.parent
OPTIONS = ("-c", "python:tests.server.runner", "--bind", "127.0.0.1:0")
PATIENCE = 1.0
MAX_BODY = 48 * 2**20


class Server:
    """A running gunicorn; ``port`` is where it listens on 127.0.0.1."""

    def __init__(self, log: Path, *arguments: str) -> None:
        self.log = log
        command = [sys.executable, "-m", "gunicorn", *OPTIONS, *arguments, "tests.server.app:app"]
        with log.open("wb") as output:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        self.port = int(self.wait_for(r"127\.0\.0\.1:(\d+)"))
        with self.connect() as client:
            client.settimeout(30)
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            client.recv(1)

    def wait_for(self, pattern: str, seconds: float = 30) -> str:
        """Return the first group of a pattern (or nothing) once the log has it."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.log.read_text())):
            assert time.monotonic() < deadline, f"no {pattern}:\n{self.log.read_text()}"
            time.sleep(0.01)
        return found[1] if found.groups() else ""

    def connect(self) -> socket.socket:
        """Return a connection; ten seconds is the longest wait for anything."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def worker(self) -> psutil.Process:
        """Return the process of the only worker."""
        (worker,) = psutil.Process(self.process.pid).children()
        return worker

    def sockets(self) -> int:
        """Return how many sockets the worker has: its listeners, and its clients."""
        return len(self.worker().net_connections("all"))


@contextmanager
def running(log: Path, *arguments: str) -> Iterator[Server]:
    """Run a server until the block ends."""
    server = Server(log, *arguments)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()  # its workers see that they are alone, and leave
            server.process.wait()


# What follows is read by gunicorn, as its settings.

worker_class = "webapp.server.worker.EpollWorker"
preload_app = True
threads = 2
keepalive = 30
graceful_timeout = 10
control_socket_disable = True
worker_tmp_dir = "/dev/shm"  # noqa: S108


def on_starting(server: object) -> None:
    """Shorten the deadlines, which workers inherit."""
    worker.REQUEST_DEADLINE = connection.REQUEST_DEADLINE = 1.0
    worker.HANG_UP_DEADLINE = 0.5
    worker.STOP_DEADLINE = 1.0
    worker.TICK = 0.2
    worker.EpollWorker.max_body = MAX_BODY
    connection.PATIENCE = PATIENCE
