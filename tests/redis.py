"""A real Redis server for the tests, on 127.0.0.1 and a free port."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.gunicorn_server import wait_until
from tests.ports import hold_port, listens, port_of

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
        wait_until(lambda: listens(self._port), START_TIMEOUT)

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
