"""A real Redis server for the tests, on 127.0.0.1 and a free port."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.ports import hold_port, port_of

BINARY = next(filter(None, map(shutil.which, ("redis-server", "valkey-server"))), None)
START_TIMEOUT = 20


class RedisServer:
    """A Redis without a file; ``url`` is where it listens. It can be frozen, and ended."""

    def __init__(self) -> None:
        assert BINARY, "Redis is not installed"
        self._held_port = hold_port()
        self.port = port_of(self._held_port)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        """Start the server, with nothing in it."""
        self.process = subprocess.Popen(
            [
                *(str(BINARY), "--bind", "127.0.0.1", "--port", str(self.port)),
                *("--save", "", "--appendonly", "no"),
            ],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise RuntimeError("Redis does not start")

    def freeze(self) -> None:
        """Let the server accept connections, and say nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let the server go on."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End the server."""
        self.process.kill()
        self.process.wait(timeout=START_TIMEOUT)

    def close(self) -> None:
        """End the server, and give the port back."""
        self.stop()
        self._held_port.close()


@contextmanager
def running_redis() -> Iterator[RedisServer]:
    """Run a Redis server until the block ends."""
    server = RedisServer()
    try:
        yield server
    finally:
        server.close()
