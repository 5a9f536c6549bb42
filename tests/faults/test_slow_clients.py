"""Clients that send or read slowly, many at a time, and how quickly everybody else is answered."""

from __future__ import annotations

import select
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.conftest import migrate
from tests.faults import scaled
from tests.faults.attacks import Cost, measured_attack
from tests.faults.load import Client, Poller, create_item, predict, train_default
from tests.faults.record import RecordAttack
from tests.gunicorn_server import GunicornServer, running_gunicorn

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(select, "epoll"), reason="the worker needs epoll"),
]

SECONDS = scaled(4.0, 20.0)
WARM_UP = 3.0
QUICK = 1.5  # seconds; a quiet machine needs a fiftieth of it
ROWS = 400_000  # of a batch whose answer has some 10 MB
KEPT = b"Host: x\r\n"
HOST = KEPT + b"Connection: close\r\n"
TRAIN = b"POST /api/v1/ml/models/slow/train?target=y HTTP/1.1\r\n" + HOST
PART = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n'
MULTIPART = b"Content-Type: multipart/form-data; boundary=x\r\n"


def batch() -> bytes:
    """Return a request whose answer is large."""
    body = b"x1\n" + b"0.5\n" * ROWS
    return (
        b"POST /api/v1/ml/predict/batch HTTP/1.1\r\n" + HOST + b"Content-Type: text/csv\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body) + body
    )


@dataclass(frozen=True)
class Slowness:
    """What each client sends first, and then at each step; and how many bytes it reads then."""

    first: Callable[[], bytes]
    drip: bytes = b""
    read: int = 0
    pause: float = 1.0  # seconds


LONG = "reads 40 kB/s of a long answer"
SLOW = {
    "reads nothing of the Swagger bundle": Slowness(
        lambda: b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\n" + HOST + b"\r\n"
    ),
    "body of 1 B/s": Slowness(
        lambda: TRAIN + b"Content-Type: text/csv\r\nContent-Length: 9000000\r\n\r\nx,y\n", b"1"
    ),
    "chunks of 1 B/s": Slowness(
        lambda: TRAIN + b"Content-Type: text/csv\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"1\r\n1\r\n",
    ),
    "form of 4.6 kB/s": Slowness(
        lambda: TRAIN + MULTIPART + b"Content-Length: 9000000\r\n\r\n" + PART + b"x,y\n",
        b"1,2\n" * 115,
        pause=0.1,
    ),
    "head of 1 B/s": Slowness(lambda: b"GET / HTTP/1.1\r\nX: ", b"x"),
    LONG: Slowness(batch, read=4096, pause=0.1),
}


class Attackers:
    """Clients that are all slow in the same way, until the block ends."""

    def __init__(self, server: GunicornServer, how: Slowness, *, clients: int, cost: Cost) -> None:
        self._how, self._cost = how, cost
        self._sockets = [connect(server, receive_buffer=8192) for _ in range(clients)]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._go_on)
        first = how.first()
        for client in self._sockets:
            client.sendall(first)
            cost.bytes_in += len(first)

    def __enter__(self) -> Attackers:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._ended.set()
        self._thread.join()
        for client in self._sockets:
            client.close()

    def _go_on(self) -> None:
        while not self._ended.wait(self._how.pause):
            for client in self._sockets:
                with suppress(OSError):  # the server may have closed it by now
                    self._cost.bytes_in += client.send(self._how.drip)
                    if self._how.read and select.select([client], [], [], 0)[0]:
                        self._cost.bytes_out += len(client.recv(self._how.read))


def connect(server: GunicornServer, *, receive_buffer: int = 0) -> socket.socket:
    """Return a connection, whose kernel takes only so many bytes before they are read."""
    url = urlsplit(server.url)
    client = socket.socket()
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(30)
    client.connect((url.hostname, url.port))
    return client


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a migrated database: what is slow here is no matter of the database."""
    path = tmp_path_factory.mktemp("slow") / "app.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="module")
def server(database: Path) -> Iterator[GunicornServer]:
    """Return a service of two workers with four threads each, and a model to predict by."""
    settings = {"WEB_CONCURRENCY": "2", "WEB_THREADS": "4"}
    log = database.with_name("log")
    with running_gunicorn(f"sqlite:///{database}", log, **settings) as server:
        train_default(server.url)
        yield server


@pytest.mark.parametrize(
    ("name", "clients"),
    # 64 batches are work for several seconds, whoever reads the answers.
    [(name, clients) for name in SLOW for clients in (8, 64) if clients == 8 or name != LONG],
)
def test_slow_clients_keep_nobody_else_waiting(
    server: GunicornServer, name: str, clients: int, record_attack: RecordAttack
) -> None:
    with (
        measured_attack(server) as cost,
        Attackers(server, SLOW[name], clients=clients, cost=cost),
    ):
        time.sleep(WARM_UP if name == LONG else 0)  # until the batches are scored
        with Poller(server.url, predict) as poller:
            time.sleep(SECONDS)
    record_attack(f"{clients} clients: {name}", cost)

    assert cost.worst_health < QUICK
    assert all(probe.is_answered(200) for probe in poller.probes)
    assert max(probe.seconds for probe in poller.probes) < QUICK


def test_idle_connections_do_not_shut_newcomers_out(
    server: GunicornServer, record_attack: RecordAttack
) -> None:
    hello = b"GET /health/live HTTP/1.1\r\n" + KEPT + b"\r\n"
    with ExitStack() as opened, measured_attack(server) as cost:
        clients = [opened.enter_context(connect(server)) for _ in range(2100)]
        for client in clients:
            client.sendall(hello)
            cost.bytes_in += len(hello)
        with Poller(server.url, predict) as poller:
            time.sleep(SECONDS)
    record_attack("2,100 idle kept-alive connections", cost)

    assert cost.worst_health < QUICK
    assert all(probe.is_answered(200) for probe in poller.probes)
    assert max(probe.seconds for probe in poller.probes) < QUICK


def test_writers_that_wait_for_a_lock_do_not_keep_health_waiting(
    server: GunicornServer, record_attack: RecordAttack, database: Path
) -> None:
    def write(number: int) -> None:
        with Client(server.url) as client:
            create_item(client, f"waiting {number}")

    writers = [threading.Thread(target=write, args=(number,)) for number in range(20)]
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with measured_attack(server) as cost:
            for writer in writers:
                writer.start()
            time.sleep(SECONDS)
        other.execute("ROLLBACK")
    for writer in writers:
        writer.join()
    record_attack("20 writers that wait for a lock", cost)

    assert cost.worst_health < QUICK
