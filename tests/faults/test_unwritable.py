"""A database that cannot be written, or a full disk: all else goes on, and it heals by itself."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.conftest import Backend, dispose_app, execute_on_server, make_app, migrate
from tests.faults import FULL, full_only, on_sqlite, only_postgresql, only_sqlite, scaled
from tests.faults.load import Client, Connect, InProcess, Ledger, serving, train_default
from tests.faults.losses import find_differences, find_unclear
from tests.faults.record import Record
from tests.faults.volumes import MEGABYTE, can_mount, fill, make_room, remount, small_volume
from tests.gunicorn_server import GunicornServer, running_gunicorn
from webapp.extensions import db

pytestmark = pytest.mark.slow

ROUNDS = scaled(1, 8)
WRITES = scaled(24, 60)  # in each round, while nothing can be written
READ_ONLY, FULL_DISK = (503, "cannot be written"), (507, "no room")
needs_mount = pytest.mark.skipif(not can_mount(), reason="needs root, and leave to mount a tmpfs")

# Permissions do not bind root, unless it has given up the right to pass over them.
UNPRIVILEGED = (
    ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    if sys.platform.startswith("linux") and os.geteuid() == 0
    else ()
)
needs_permissions = pytest.mark.skipif(
    bool(UNPRIVILEGED) and shutil.which("setpriv") is None, reason="permissions do not bind root"
)


def write_again(ledger: Ledger, connect: Connect, first: int, *, grace: int = 0) -> None:
    """Write what must succeed at once in whichever worker, but for a few."""
    client = connect()
    accepted = [ledger.write(client, number) for number in range(first, first + 8)]
    assert accepted.count(False) <= grace, (ledger.refused[-1:], ledger.unanswered[-1:])


def live_through(
    connect: Connect, forbid: Callable[[], None], allow: Callable[[], None], *, grace: int = 0
) -> Ledger:
    """Take a service through times in which nothing can be written; return what it answered.

    ``grace`` is the number of writes that may be refused after each of them.
    """
    ledger = Ledger()
    train_default(connect())
    write_again(ledger, connect, 0)
    for first in range(1000, 1000 * ROUNDS + 1, 1000):
        before = len(ledger.refused)
        forbid()
        try:
            ledger.write_many(connect, range(first, first + WRITES))
        finally:
            allow()
        assert len(ledger.refused) - before > WRITES / 2, "it could be written"
        write_again(ledger, connect, first + 900, grace=grace)
    return ledger


def settle(
    ledger: Ledger,
    url: str,
    record: Record,
    fault: str,
    refusal: tuple[int, str],
    *,
    most_unanswered: int = 0,
) -> None:
    """Hold the ledger against the database, and put down the figures."""
    app = make_app(url)
    with app.app_context():
        differences = find_differences(ledger, db.engine)
    dispose_app(app)
    status, words = refusal
    faults = ledger.faults + find_unclear(ledger.refused, words)
    lost = len(differences) + len(faults) + len(ledger.unanswered)
    record(fault, ledger.tried(), ledger.tried() - lost, lost)
    assert (differences, faults) == ([], [])
    assert len(ledger.unanswered) <= most_unanswered
    assert {answer.status for answer in ledger.refused} == {status}


def replace_workers(server: GunicornServer) -> None:
    """Have gunicorn start its workers anew, so that they open the database as it is now."""
    booted = server.log.read_text().count("Booting worker")
    server.process.send_signal(signal.SIGHUP)
    while server.log.read_text().count("Booting worker") < booted + 2:
        time.sleep(0.05)
    while server.log.read_text().count("Worker exiting") < booted:
        time.sleep(0.05)


def change(command: str, how: str, *files: Path) -> None:
    """Change the mode, or the attributes, of files; skip where the file system has no such."""
    if subprocess.run([command, how, *files], capture_output=True).returncode:
        pytest.skip(f"{command} does not work here")


@only_sqlite
@needs_permissions
@pytest.mark.parametrize(
    "fault", ["without permission", pytest.param("immutable", marks=full_only)]
)
def test_files_that_cannot_be_written_refuse_writes_only(
    backend: Backend, tmp_path: Path, record: Record, fault: str
) -> None:
    folder, log = tmp_path / "data", tmp_path / "gunicorn.log"
    folder.mkdir()
    url = f"sqlite:///{folder / 'webapp.db'}"
    migrate(url)

    def forbid() -> None:
        if fault == "immutable":
            change("chattr", "+i", *folder.iterdir())
        else:
            change("chmod", "a-w", *folder.iterdir(), folder)
            replace_workers(server)  # who has the files open already goes on writing

    def allow() -> None:
        if fault == "immutable":
            change("chattr", "-i", *folder.iterdir())
        else:
            change("chmod", "u+w", folder, *folder.iterdir())

    with running_gunicorn(url, log, prefix=UNPRIVILEGED, WEB_CONCURRENCY="2") as server:
        ledger = live_through(lambda: Client(server.url, kept=False), forbid, allow)

    # The kernel ends a process that writes to mapped memory of an immutable file (SIGBUS), and
    # SQLite maps the index of its log. Each worker can go once, with four requests.
    most = ROUNDS * 2 * 4 if fault == "immutable" else 0
    settle(ledger, url, record, f"open files {fault}", READ_ONLY, most_unanswered=most)
    assert "Traceback" not in log.read_text()


@only_sqlite
@needs_mount
@pytest.mark.parametrize("journal", ["WAL", "DELETE"])  # the latter as `flask backup` leaves it
def test_a_volume_mounted_read_only_refuses_writes_only(
    backend: Backend, tmp_path: Path, record: Record, journal: str
) -> None:
    with small_volume(size=8 * MEGABYTE) as volume:
        url = f"sqlite:///{volume / 'webapp.db'}"
        migrate(url)
        apps = [make_app(url)]

        def forbid() -> None:
            dispose_app(apps.pop())  # or the volume would be busy
            with closing(sqlite3.connect(volume / "webapp.db")) as connection:
                connection.execute(f"PRAGMA journal_mode = {journal}")
            remount(volume, "ro")
            apps.append(make_app(url))

        ledger = live_through(lambda: InProcess(apps[0]), forbid, lambda: remount(volume, "rw"))
        dispose_app(apps.pop())
        settle(ledger, url, record, f"volume mounted read-only, journal {journal}", READ_ONLY)


@only_postgresql
def test_a_server_set_read_only_refuses_writes_only(
    backend: Backend, database_url: str, record: Record
) -> None:
    name = str(sa.make_url(database_url).database)
    app = make_app(database_url)

    def alter(what: str) -> None:
        execute_on_server(str(backend.server_url), f"ALTER DATABASE {name} {what}")

    def forbid() -> None:
        alter("SET default_transaction_read_only = on")
        with app.app_context():
            db.engine.dispose()

    # The first refusal replaces the sessions that began as read-only ones.
    ledger = live_through(lambda: InProcess(app), forbid, lambda: alter("RESET ALL"), grace=1)
    dispose_app(app)

    settle(ledger, database_url, record, "default_transaction_read_only", READ_ONLY)


@contextmanager
def database_on(volume: Path, backend: Backend) -> Iterator[str]:
    """Make a migrated database whose every file is on a volume."""
    if backend.server_url is None:
        url = f"sqlite:///{volume / 'webapp.db'}"
        migrate(url)
        yield url
        return
    if "TEST_DATABASE_URL" in os.environ:
        pytest.skip("the server may be on another machine, where nothing can be mounted")
    name = f"small_{uuid.uuid4().hex}"
    tables = volume / "tables"
    tables.mkdir(mode=0o700)
    shutil.chown(tables, "nobody")  # as whom tests/postgres.py runs the server
    execute_on_server(backend.server_url, f"CREATE TABLESPACE {name} LOCATION '{tables}'")
    execute_on_server(backend.server_url, f"CREATE DATABASE {name} TABLESPACE {name}")
    url = sa.make_url(backend.server_url).set(database=name).render_as_string(False)
    try:
        migrate(url)
        yield url
    finally:
        backend.drop(url)
        execute_on_server(backend.server_url, f"DROP TABLESPACE {name}")


@on_sqlite
@needs_mount
def test_a_full_disk_of_the_database_costs_nothing_that_was_acknowledged(
    backend: Backend, tmp_path: Path, record: Record
) -> None:
    size = {"sqlite": 16, "postgresql": 40}[backend.name] * MEGABYTE  # the log alone takes 4
    log = tmp_path / "gunicorn.log"
    with small_volume(size=size) as volume, database_on(volume, backend) as url:
        # Starting workers takes seconds, and PostgreSQL does not mind who asks.
        with serving(url, log, workers=FULL or backend.name == "sqlite") as connect:
            ledger = live_through(connect, lambda: fill(volume), lambda: make_room(volume))
        settle(ledger, url, record, "disk of the database full: writes and reads", FULL_DISK)
    assert not log.exists() or "Traceback" not in log.read_text()
