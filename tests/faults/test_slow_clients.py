"""Clients that send or read slowly, many at a time, and how quickly everybody else is answered."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import pytest

from tests.conftest import migrate
from tests.faults import scaled
from tests.faults.attacks import Cost, measured_attack
from tests.faults.load import Background, Poller, predict, train_default
from tests.faults.record import RecordAttack
from tests.gunicorn_server import GunicornServer, running_gunicorn

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(select, "epoll"), reason="the worker needs epoll"),
]

SECONDS = scaled(4.0, 20.0)
WARM_UP = 3.0
QUICK = 1.5  # seconds; a quiet machine needs a fiftieth of it
ROWS = b"x1\n" + b"0.5\n" * 400_000  # of a batch whose answer has some 10 MB
KEPT = b"Host: x\r\n"
HOST = KEPT + b"Connection: close\r\n"
TRAIN = b"POST /api/v1/ml/models/slow/train?target=y HTTP/1.1\r\n" + HOST
PART = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n'
CSV, FORM = b"Content-Type: text/csv\r\n", b"Content-Type: multipart/form-data; boundary=x\r\n"
LENGTH = b"Content-Length: 9000000\r\n\r\n"
BATCH = b"POST /api/v1/ml/predict/batch HTTP/1.1\r\n" + HOST + CSV


@dataclass(frozen=True)
class Slowness:
    """What each client sends first, and then at each step; and how many bytes it reads then."""

    first: bytes
    drip: bytes = b""
    read: int = 0
    pause: float = 1.0  # seconds
    clients: int = 64


LONG = "reads 40 kB/s of a long answer"
SLOW = {
    "body of 1 B/s": Slowness(TRAIN + CSV + LENGTH + b"x,y\n", b"1"),
    "form of 4.6 kB/s": Slowness(
        TRAIN + FORM + LENGTH + PART + b"x,y\n", b"1,2\n" * 115, pause=0.1
    ),
    "head of 1 B/s": Slowness(b"GET / HTTP/1.1\r\nX: ", b"x"),
    # 64 batches would be work for several seconds, whoever reads the answers.
    LONG: Slowness(
        BATCH + b"Content-Length: %d\r\n\r\n" % len(ROWS) + ROWS, read=4096, pause=0.1, clients=8
    ),
}


class Attackers(Background):
    """Clients that are all slow in the same way, until the block ends."""

    def __init__(self, server: GunicornServer, how: Slowness, cost: Cost) -> None:
        super().__init__(threads=1)
        self._how, self._cost = how, cost
        self._sockets = [socket.socket() for _ in range(how.clients)]
        for client in self._sockets:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            client.settimeout(30)
            client.connect(server.address)
            client.sendall(how.first)
            cost.bytes_in += len(how.first)

    def work(self, _name: str) -> None:
        """Send and read a little on each connection, again and again."""
        while not self.stopped.wait(self._how.pause):
            for client in self._sockets:
                with suppress(OSError):  # the server may have closed it by now
                    self._cost.bytes_in += client.send(self._how.drip)
                    if self._how.read and select.select([client], [], [], 0)[0]:
                        self._cost.bytes_out += len(client.recv(self._how.read))
        for client in self._sockets:
            client.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GunicornServer]:
    """Return a service of two workers with four threads each, and a model to predict by."""
    path = tmp_path_factory.mktemp("slow")
    database = f"sqlite:///{path / 'app.db'}"  # what is slow here is no matter of the database
    migrate(database)
    with running_gunicorn(database, path / "log", WEB_CONCURRENCY="2", WEB_THREADS="4") as server:
        train_default(server.url)
        yield server


def check_others(server: GunicornServer, cost: Cost) -> None:
    """Check that predictions and health are answered quickly for a while."""
    with Poller(server.url, predict) as poller:
        time.sleep(SECONDS)
    assert cost.worst_health < QUICK
    assert all(probe.is_answered(200) for probe in poller.probes)
    assert max(probe.seconds for probe in poller.probes) < QUICK


@pytest.mark.parametrize("name", SLOW)
def test_slow_clients_keep_nobody_else_waiting(
    server: GunicornServer, name: str, record_attack: RecordAttack
) -> None:
    how = SLOW[name]
    with measured_attack(server) as cost, Attackers(server, how, cost):
        time.sleep(WARM_UP if name == LONG else 0)  # until the batches are scored
        check_others(server, cost)
    record_attack(f"{how.clients} clients: {name}", cost)


def test_idle_connections_do_not_shut_newcomers_out(
    server: GunicornServer, record_attack: RecordAttack
) -> None:
    hello = b"GET /health/live HTTP/1.1\r\n" + KEPT + b"\r\n"
    with ExitStack() as opened, measured_attack(server) as cost:
        for _ in range(2100):
            opened.enter_context(server.connect()).sendall(hello)
            cost.bytes_in += len(hello)
        check_others(server, cost)
    record_attack("2,100 idle kept-alive connections", cost)
