"""What an attack costs the service, and what everybody else notices of it meanwhile."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

import psutil

from tests.gunicorn_server import GunicornServer

HEALTH_PAUSE = 0.1  # seconds between two looks at the service's health
HEALTH_TIMEOUT = 10.0  # seconds after which a look counts as unanswered
MEMORY_PAUSE = 0.05


@dataclass
class Cost:
    """What an attack sent, got and took; the caller counts the bytes.

    ``peak_memory`` is what all processes of the service took together beyond what they held
    before, in bytes; ``worst_health`` the seconds of the slowest answer of /health/live on a
    connection of its own, ``HEALTH_TIMEOUT`` where one failed or did not come.
    """

    bytes_in: int = 0
    bytes_out: int = 0
    seconds: float = 0.0
    peak_memory: int = 0
    worst_health: float = 0.0


@contextmanager
def measured_attack(server: GunicornServer) -> Iterator[Cost]:
    """Watch a service while the block attacks it; the cost is complete when the block is left."""
    cost, ended = Cost(), threading.Event()
    held_before = _memory(server)

    def watch_health() -> None:
        while not ended.wait(HEALTH_PAUSE):
            started = time.monotonic()
            connection = http.client.HTTPConnection(*server.address, timeout=HEALTH_TIMEOUT)
            with closing(connection), suppress(OSError, http.client.HTTPException):
                connection.request("GET", "/health/live")
                if connection.getresponse().status == 200:
                    cost.worst_health = max(cost.worst_health, time.monotonic() - started)
                    continue
            cost.worst_health = HEALTH_TIMEOUT

    def watch_memory() -> None:
        while not ended.wait(MEMORY_PAUSE):
            cost.peak_memory = max(cost.peak_memory, _memory(server) - held_before)

    started = time.monotonic()
    with ThreadPoolExecutor(2) as watchers:
        watching = [watchers.submit(watch) for watch in (watch_health, watch_memory)]
        try:
            yield cost
        finally:
            cost.seconds = time.monotonic() - started
            ended.set()
    for watched in watching:
        watched.result()


def _memory(server: GunicornServer) -> int:
    """Return the resident bytes of a service's processes that are theirs alone."""
    held = 0
    with suppress(psutil.NoSuchProcess):
        master = psutil.Process(server.process.pid)
        for process in [master, *master.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                memory = process.memory_info()
                held += memory.rss - memory.shared
    return held
