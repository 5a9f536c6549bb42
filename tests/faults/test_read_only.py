"""A database that cannot be written: reads and predictions go on, and it heals by itself."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from flask import Flask

from tests.conftest import Backend, dispose_app, execute_on_server, make_app, migrate
from tests.faults import FULL, full_only, only_postgresql, only_sqlite, scaled
from tests.faults.load import Client, Connect, InProcess, Ledger, train_default
from tests.faults.losses import find_differences, find_unclear
from tests.faults.record import Record
from tests.faults.volumes import MEGABYTE, can_mount, remount, small_volume
from tests.gunicorn_server import GunicornServer, running_gunicorn
from webapp.extensions import db

pytestmark = pytest.mark.slow

ROUNDS = scaled(1, 8)
WRITES = scaled(12, 60)  # while nothing can be written
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


@pytest.fixture
def sqlite_url(backend: Backend, tmp_path: Path) -> str:
    """URL of a migrated SQLite database that is alone in a folder."""
    folder = tmp_path / "data"
    folder.mkdir()
    url = f"sqlite:///{folder / 'webapp.db'}"
    migrate(url)
    return url


def file_of(url: str) -> Path:
    return Path(str(sa.make_url(url).database))


def forbid_writing(folder: Path) -> None:
    for file in folder.iterdir():
        file.chmod(0o444)
    folder.chmod(0o555)


def allow_writing(folder: Path) -> None:
    folder.chmod(0o755)
    for file in folder.iterdir():
        file.chmod(0o644)


def replace_workers(server: GunicornServer) -> None:
    """Have gunicorn start its workers anew, so that they open the database as it is now."""
    booted = server.log.read_text().count("Booting worker")
    server.process.send_signal(signal.SIGHUP)
    while server.log.read_text().count("Booting worker") < booted + 2:
        time.sleep(0.05)
    while server.log.read_text().count("Worker exiting") < booted:
        time.sleep(0.05)


def write_in_vain(ledger: Ledger, connect: Connect, first: int) -> None:
    """Write and read while nothing can be written."""
    accepted = len(ledger.items) + len(ledger.versions)
    ledger.write_many(connect, range(first, first + WRITES))
    client = connect()
    for _ in range(4):
        ledger.read(client)
    assert len(ledger.items) + len(ledger.versions) == accepted, "it could be written"


def write_again(ledger: Ledger, connect: Connect, first: int) -> None:
    """Write what must succeed at once, in whichever worker."""
    client = connect()
    for number in range(first, first + 8):
        assert ledger.write(client, number), (ledger.refused[-1:], ledger.unanswered[-1:])


def over_http(server: GunicornServer) -> Connect:
    """Return a way to reach any worker of a server."""
    return lambda: Client(server.url, kept=False)


def settle(
    ledger: Ledger, url: str, record: Record, fault: str, *, most_unanswered: int = 0
) -> None:
    """Hold the ledger against the database, and put down the figures."""
    app = make_app(url)
    with app.app_context():
        differences = find_differences(ledger, db.engine)
    dispose_app(app)
    faults = ledger.faults + find_unclear(ledger.refused, "cannot be written")
    lost = len(differences) + len(faults) + len(ledger.unanswered)
    record(fault, ledger.tried(), ledger.tried() - lost, lost)
    assert differences == []
    assert faults == []
    assert len(ledger.unanswered) <= most_unanswered
    assert {answer.status for answer in ledger.refused} <= {503}


@only_sqlite
@needs_permissions
def test_files_without_permission_refuse_writes_only(
    sqlite_url: str, tmp_path: Path, record: Record
) -> None:
    folder, log = file_of(sqlite_url).parent, tmp_path / "gunicorn.log"
    start = {"prefix": UNPRIVILEGED, "WEB_CONCURRENCY": "2"}
    with running_gunicorn(sqlite_url, log, **start) as server:
        connect = over_http(server)
        train_default(server.url)
        ledger = Ledger()
        write_again(ledger, connect, 0)
        for round_ in range(1, ROUNDS + 1):
            forbid_writing(folder)
            # Who has the files open already goes on writing, and is right to.
            ledger.write_many(connect, range(1000 * round_, 1000 * round_ + 8))
            replace_workers(server)
            write_in_vain(ledger, connect, 1000 * round_ + 100)
            allow_writing(folder)
            write_again(ledger, connect, 1000 * round_ + 900)
    if FULL:  # from a cold start: the log was brought into the file when the service stopped
        forbid_writing(folder)
        with running_gunicorn(sqlite_url, log, **start) as server:
            connect = over_http(server)
            write_in_vain(ledger, connect, 100_000)
            allow_writing(folder)
            write_again(ledger, connect, 200_000)

    settle(ledger, sqlite_url, record, "files and folder without permission")
    assert "Traceback" not in log.read_text()


@only_sqlite
@needs_permissions
@full_only
@pytest.mark.parametrize("part", ["file", "folder"])
def test_a_copy_that_cannot_be_written_is_served(
    sqlite_url: str, tmp_path: Path, record: Record, part: str
) -> None:
    file, log = file_of(sqlite_url), tmp_path / "gunicorn.log"
    app, ledger = make_app(sqlite_url), Ledger()
    train_default(InProcess(app))
    write_again(ledger, lambda: InProcess(app), 0)
    dispose_app(app)
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")  # as `flask backup` leaves it
    connection.close()
    (file if part == "file" else file.parent).chmod(0o444 if part == "file" else 0o555)

    with running_gunicorn(sqlite_url, log, prefix=UNPRIVILEGED, WEB_CONCURRENCY="2") as server:
        connect = over_http(server)
        write_in_vain(ledger, connect, 1000)
        allow_writing(file.parent)
        write_again(ledger, connect, 2000)

    settle(ledger, sqlite_url, record, f"copy without permission: {part}")


@only_sqlite
@needs_mount
def test_a_volume_mounted_read_only_refuses_writes_only(
    backend: Backend, tmp_path: Path, record: Record
) -> None:
    with small_volume(size=8 * MEGABYTE) as volume:
        url = f"sqlite:///{volume / 'webapp.db'}"
        migrate(url)
        app, ledger = make_app(url), Ledger()
        train_default(InProcess(app))
        write_again(ledger, lambda: InProcess(app), 0)
        dispose_app(app)
        for round_ in range(1, ROUNDS + 1):
            remount(volume, "ro")
            app = make_app(url)
            write_in_vain(ledger, lambda: InProcess(app), 1000 * round_)  # noqa: B023
            remount(volume, "rw")
            write_again(ledger, lambda: InProcess(app), 1000 * round_ + 900)  # noqa: B023
            dispose_app(app)

        settle(ledger, url, record, "volume mounted read-only")


@contextmanager
def made_immutable(folder: Path) -> Iterator[None]:
    """Have the file system refuse what even an open file could write."""
    files = [str(file) for file in folder.iterdir()]
    subprocess.run(["chattr", "+i", *files], check=True)
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", *files], check=True)


@only_sqlite
@full_only
@pytest.mark.skipif(shutil.which("chattr") is None, reason="needs chattr")
def test_open_files_that_cannot_be_written_any_more_refuse_writes_only(
    sqlite_url: str, tmp_path: Path, record: Record
) -> None:
    # The kernel ends a process that writes to mapped memory of such a file (SIGBUS), and SQLite
    # maps the index of its log. Each worker of the time can go once, with four requests at most;
    # gunicorn replaces it, and the new one opens the files as they are.
    folder, log = file_of(sqlite_url).parent, tmp_path / "gunicorn.log"
    probe = tmp_path / "probe"
    probe.touch()
    if subprocess.run(["chattr", "+i", probe], capture_output=True).returncode:
        pytest.skip("this file system knows no immutable files")
    subprocess.run(["chattr", "-i", probe], check=True)
    with running_gunicorn(sqlite_url, log, WEB_CONCURRENCY="2") as server:
        connect, ledger = over_http(server), Ledger()
        train_default(server.url)
        write_again(ledger, connect, 0)
        for round_ in range(1, ROUNDS + 1):
            with made_immutable(folder):
                write_in_vain(ledger, connect, 1000 * round_)
            write_again(ledger, connect, 1000 * round_ + 900)

    settle(ledger, sqlite_url, record, "open files made immutable", most_unanswered=ROUNDS * 2 * 4)


@only_postgresql
def test_a_server_set_read_only_refuses_writes_only(
    backend: Backend, app: Flask, database_url: str, record: Record
) -> None:
    name = str(sa.make_url(database_url).database)
    sessions = f"FROM pg_stat_activity WHERE datname = '{name}'"

    def forbid() -> None:
        execute_on_server(
            backend.server_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on"
        )
        execute_on_server(backend.server_url, f"SELECT pg_terminate_backend(pid) {sessions}")

    def allow() -> None:
        execute_on_server(
            backend.server_url, f"ALTER DATABASE {name} RESET default_transaction_read_only"
        )

    ledger = Ledger()
    train_default(InProcess(app))
    write_again(ledger, lambda: InProcess(app), 0)
    for round_ in range(1, ROUNDS + 1):
        forbid()
        try:
            write_in_vain(ledger, lambda: InProcess(app), 1000 * round_)
        finally:
            allow()
        write_again(ledger, lambda: InProcess(app), 1000 * round_ + 900)

    settle(ledger, database_url, record, "default_transaction_read_only")
