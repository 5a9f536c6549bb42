"""A real Redis server for the tests, on 127.0.0.1 and a free port."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.ports import hold_port, port_of

BINARY = next(filter(None, map(shutil.which, ("redis-server", "valkey-server"))), None)
START_TIMEOUT = 20


class RedisServer:
    """A Redis without a file at ``url``, which can be frozen, stopped and started again."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.url = f"redis://127.0.0.1:{port}/0"
        self.start()

    def start(self) -> None:
        """Start the server, empty."""
        options = ["--bind", "127.0.0.1", "--port", str(self._port), "--save", ""]
        self.process = subprocess.Popen([str(BINARY), *options], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self._port)):
                return
            time.sleep(0.02)
        raise RuntimeError("Redis does not start")

    def freeze(self) -> None:
        """Let the server accept connections, but answer nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End the server."""
        self.process.kill()
        self.process.wait(timeout=START_TIMEOUT)


@contextmanager
def running_redis() -> Iterator[RedisServer]:
    """Run a Redis server until the block ends."""
    with hold_port() as held:
        server = RedisServer(port_of(held))
        try:
            yield server
        finally:
            server.stop()
