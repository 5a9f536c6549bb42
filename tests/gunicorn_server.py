"""A real gunicorn with real workers, as an operator runs it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import requests

from tests.ports import hold_port, port_of

ROOT = Path(__file__).parent.parent
START_TIMEOUT = 60
FORK_SERVERS = ("trainings", "uploads")  # children of the master that are no workers
both_workers = pytest.mark.parametrize("worker_class", ["epoll", "gthread"])
"""Where it matters which of gunicorn's workers runs: a test has it from ``worker_class``."""


def wait_until(condition: Callable[[], bool], seconds: float) -> float:
    """Return the seconds that a condition took to become true; fail after so many."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() < started + seconds, f"not so within {seconds} s"
        time.sleep(0.01)
    return time.monotonic() - started


def _children_of(process: int) -> dict[int, str]:
    """Return the names of a process's children, by their numbers."""
    names = {}
    with suppress(OSError):  # they come and go
        listed = Path(f"/proc/{process}/task/{process}/children").read_text()
        for child in map(int, listed.split()):
            with suppress(OSError):
                names[child] = Path(f"/proc/{child}/comm").read_text().strip()
    return names


class GunicornServer:
    """A running gunicorn master; ``url`` is where it listens."""

    def __init__(self, database_url: str, log: Path, **settings: str) -> None:
        self._held_port = hold_port()
        port = port_of(self._held_port)
        self.address = ("127.0.0.1", port)
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        own = {"APP_ENV": "testing", "DATABASE_URL": database_url, "BIND": f"127.0.0.1:{port}"}
        environ = {**os.environ, **own, **settings}
        command = [sys.executable, "-m", "gunicorn"]
        with log.open("ab") as out:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=out, stderr=out)

    def wait_until_ready(self) -> None:
        """Wait until the service answers that it can serve."""

        def is_ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            with suppress(requests.RequestException):
                return requests.get(f"{self.url}/health/ready", timeout=5).status_code == 200
            return False

        wait_until(is_ready, START_TIMEOUT)

    def connect(self) -> socket.socket:
        """Return a connection; half a minute is the longest wait for anything."""
        return socket.create_connection(self.address, timeout=30)

    def workers(self) -> set[int]:
        """Return the processes of the workers (Linux: read from /proc)."""
        children = _children_of(self.process.pid)
        return {child for child, name in children.items() if name not in FORK_SERVERS}

    def trainings(self) -> set[int]:
        """Return the processes of the trainings that run (Linux)."""
        children = _children_of(self.process.pid)
        servers = [child for child, name in children.items() if name == "trainings"]
        forked = [item for server in servers for item in _children_of(server).items()]
        return {child for child, name in forked if name == "trainings"}

    def kill_worker(self, worker: int) -> None:
        """Kill a worker, unless it has just left by itself."""
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)

    def stop(self) -> None:
        """End the master, and with it its workers."""
        self._held_port.close()
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(timeout=60)


@contextmanager
def running_gunicorn(database_url: str, log: Path, **settings: str) -> Iterator[GunicornServer]:
    """Run gunicorn on a migrated database until the block ends."""
    server = GunicornServer(database_url, log, **settings)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()
