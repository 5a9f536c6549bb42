"""The proxy under attack and through an upgrade: real nginx before real gunicorn masters."""

from __future__ import annotations

import copy
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import requests

from tests.access.holders import bearer, make_holder
from tests.conftest import dispose_app, make_app
from tests.faults import on_postgresql, scaled
from tests.faults.attacks import measured_attack
from tests.faults.load import Load, train_default
from tests.faults.losses import find_lost
from tests.faults.record import Record, RecordAttack
from tests.faults.volumes import MEGABYTE, can_mount, small_volume
from tests.gunicorn_server import running_gunicorn
from tests.nginx import BINARY, Proxy, running_proxy
from tests.ports import hold_port, port_of
from webapp.scopes import Scope

ROOT = Path(__file__).parent.parent.parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BINARY is None, reason="nginx is not installed"),
    on_postgresql,
]


# Bodies that come slowly


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Path]:
    """Return a folder for the proxy; its own small file system, where one can be mounted."""
    if not can_mount():
        yield tmp_path
        return
    with small_volume(size=scaled(64, 1024) * MEGABYTE) as folder:
        yield folder


class SlowSender(threading.Thread):
    """Announces a body of 255 MB without a key, and sends on whatever the server answers."""

    def __init__(self, proxy: Proxy, ended: threading.Event) -> None:
        super().__init__(daemon=True)
        self._port, self._ended = proxy.port, ended
        self.sent = self.got = 0

    def run(self) -> None:
        """Send 2 MB in each tenth of a second (10 MB at full scale), and again when hung up on."""
        chunk = bytes(scaled(2, 10) * MEGABYTE)
        while not self._ended.is_set():
            with (
                suppress(OSError),
                socket.create_connection(("127.0.0.1", self._port), timeout=1) as connection,
            ):
                connection.sendall(
                    b"POST /api/v1/ml/predict/batch HTTP/1.1\r\nHost: proxy\r\n"
                    b"Content-Type: text/csv\r\nContent-Length: 267386880\r\n\r\n"
                )
                while not self._ended.wait(0.1):
                    connection.sendall(chunk)
                    self.sent += len(chunk)


def test_slow_bodies_without_a_key_take_nothing_from_those_who_have_one(
    database_url: str, tmp_path: Path, room: Path, record_attack: RecordAttack
) -> None:
    app = make_app(database_url, AUTH="on")
    key = bearer(make_holder(app, "ann", Scope.ML_PREDICT, Scope.ML_TRAIN))
    dispose_app(app)
    row, batch = {"features": [1.0, 2.0]}, "x1,x2\n" + "1.5,2.5\n" * 100_000
    csv = {**key, "Content-Type": "text/csv", "Accept": "text/csv"}
    statuses: list[int] = []
    lines: set[int] = set()
    ended = threading.Event()
    with (
        running_gunicorn(database_url, tmp_path / "log", AUTH="on") as server,
        running_proxy(room, [server.url.removeprefix("http://")]) as proxy,
    ):
        ml = f"{proxy.url}/api/v1/ml"
        rows = {"X": [[1.0, 2.0], [3.0, 5.0], [4.0, 1.0]], "y": [1.0, 2.0, 3.0]}
        trained = requests.post(f"{ml}/train", json=rows, headers=key, timeout=60)
        assert trained.status_code == 201
        watched = copy.copy(server)
        watched.url = proxy.url  # what everybody else notices, they notice behind the proxy
        senders = [SlowSender(proxy, ended) for _ in range(5)]
        with measured_attack(watched) as cost:
            for sender in senders:
                sender.start()
            until = time.monotonic() + scaled(6, 30)
            while time.monotonic() < until:
                for path, body in (("predict", {"json": row}), ("predict/batch", {"data": batch})):
                    headers = key if "json" in body else csv
                    answer = requests.post(f"{ml}/{path}", **body, headers=headers, timeout=60)
                    statuses.append(answer.status_code)
                    lines.add(answer.text.count("\n"))
            ended.set()
            for sender in senders:
                sender.join()
        stored = sum(path.stat().st_size for path in (room / "client_body").rglob("*"))

    cost.bytes_in = sum(sender.sent for sender in senders)
    record_attack("5 slow bodies of 255 MB without a key, at the proxy", cost)
    assert cost.bytes_in > scaled(64, 1024) * MEGABYTE  # more than there is room for
    assert set(statuses) == {200}
    assert lines == {1, 100_001}  # no answer was cut off
    assert len(statuses) >= 4
    assert stored < 8 * MEGABYTE
    assert cost.worst_health < 5


# An upgrade


@pytest.fixture
def containers(tmp_path: Path, database_url: str) -> Iterator[dict[str, str]]:
    """Return the environment in which `docker` runs web containers as gunicorn masters."""
    commands, folder = tmp_path / "bin", tmp_path / "containers"
    commands.mkdir()
    folder.mkdir()
    (commands / "docker").write_text(
        f'#!/bin/sh\nexec "{sys.executable}" "{ROOT / "tests/faults/docker.py"}" "$@"\n'
    )
    (commands / "docker").chmod(0o755)
    held = [hold_port() for _ in range(4)]
    yield {
        **os.environ,
        "PATH": f"{commands}:{os.environ['PATH']}",
        "FOLDER": str(folder),
        "PORTS": " ".join(str(port_of(port)) for port in held),
        "APP_ENV": "testing",
        "DATABASE_URL": database_url,
        "WEB_CONCURRENCY": "2",
    }
    for path in folder.iterdir():
        if path.suffix != ".log":
            with suppress(ProcessLookupError):
                os.kill(int(path.read_text()), signal.SIGTERM)
    for port in held:
        port.close()


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_an_upgrade_under_load_loses_no_request(
    containers: dict[str, str], tmp_path: Path, record: Record
) -> None:
    ports, folder = containers["PORTS"].split(), Path(containers["FOLDER"])
    up = ["docker", "compose", "up", "--no-recreate", "--scale", "web=2", "web"]
    subprocess.run(up, env=containers, check=True)
    before = sorted(path.name for path in folder.iterdir() if path.name in ports)
    proxied = tmp_path / "proxy"
    proxied.mkdir()
    with ExitStack() as stack:
        proxy = stack.enter_context(running_proxy(proxied, [f"127.0.0.1:{p}" for p in ports]))
        train_default(proxy.url)
        with Load(proxy.url, clients=6) as load:
            for _ in range(scaled(1, 5)):
                time.sleep(1)
                subprocess.run(["make", "upgrade"], cwd=ROOT, env=containers, check=True)
            time.sleep(1)
        ledger = load.ledger
        lost = find_lost(proxy.url, ledger)
    errors = [line for line in proxy.log.read_text().splitlines() if '"status":"5' in line]
    errors += proxy.errors.read_text().splitlines()[-20:]
    after = sorted(path.name for path in folder.iterdir() if path.name in ports)

    failed = len(ledger.refused) + len(ledger.unanswered)
    tried = ledger.acknowledged() + failed
    record("upgrade of two web containers under load: requests", tried, tried - failed, len(lost))
    assert len(after) == 2
    assert before != after or scaled(1, 5) % 2 == 0
    assert ledger.acknowledged() > 100
    assert (ledger.refused, ledger.unanswered, lost) == ([], [], []), errors
