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
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
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
    """Write what must succeed at once, but for a few, in whichever worker."""
    client = connect()
    accepted = [ledger.write(client, number) for number in range(first, first + 8)]
    assert all(accepted[grace:]), (ledger.refused[-1:], ledger.unanswered[-1:])


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
        forbid()
        try:
            write_in_vain(ledger, connect, first)
        finally:
            allow()
        write_again(ledger, connect, first + 900, grace=grace)
    return ledger


def write_in_vain(ledger: Ledger, connect: Connect, first: int) -> None:
    """Write, and read beside it, while most writes must be refused."""
    before = len(ledger.refused)
    ledger.write_many(connect, range(first, first + WRITES))
    ledger.read(connect())
    assert len(ledger.refused) - before > WRITES / 2, "it could be written"


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


@pytest.fixture
def sqlite_url(backend: Backend, tmp_path: Path) -> str:
    """URL of a migrated SQLite database that is alone in a folder."""
    folder = tmp_path / "data"
    folder.mkdir()
    url = f"sqlite:///{folder / 'webapp.db'}"
    migrate(url)
    return url


def folder_of(url: str) -> Path:
    return Path(str(sa.make_url(url).database)).parent


def set_modes(folder: Path, *, files: int = 0o644, own: int = 0o755) -> None:
    folder.chmod(0o755)
    for file in folder.iterdir():
        file.chmod(files)
    folder.chmod(own)


def over_http(server: GunicornServer) -> Connect:
    """Return a way to reach any worker of a server."""
    return lambda: Client(server.url, kept=False)


def replace_workers(server: GunicornServer) -> None:
    """Have gunicorn start its workers anew, so that they open the database as it is now."""
    booted = server.log.read_text().count("Booting worker")
    server.process.send_signal(signal.SIGHUP)
    while server.log.read_text().count("Booting worker") < booted + 2:
        time.sleep(0.05)
    while server.log.read_text().count("Worker exiting") < booted:
        time.sleep(0.05)


@only_sqlite
@needs_permissions
def test_files_without_permission_refuse_writes_only(
    sqlite_url: str, tmp_path: Path, record: Record
) -> None:
    folder, log = folder_of(sqlite_url), tmp_path / "gunicorn.log"
    with running_gunicorn(sqlite_url, log, prefix=UNPRIVILEGED, WEB_CONCURRENCY="2") as server:

        def forbid() -> None:
            set_modes(folder, files=0o444, own=0o555)
            replace_workers(server)  # who has the files open already goes on writing

        ledger = live_through(over_http(server), forbid, lambda: set_modes(folder))

    settle(ledger, sqlite_url, record, "files and folder without permission", READ_ONLY)
    assert "Traceback" not in log.read_text()


@only_sqlite
@needs_permissions
@full_only
@pytest.mark.parametrize(
    ("part", "modes"), [("file", {"files": 0o444}), ("folder", {"own": 0o555})]
)
def test_a_copy_that_cannot_be_written_is_served(
    sqlite_url: str, tmp_path: Path, record: Record, part: str, modes: dict[str, int]
) -> None:
    folder, log = folder_of(sqlite_url), tmp_path / "gunicorn.log"
    app, ledger = make_app(sqlite_url), Ledger()
    train_default(InProcess(app))
    write_again(ledger, lambda: InProcess(app), 0)
    dispose_app(app)
    with sqlite3.connect(folder / "webapp.db") as connection:
        connection.execute("PRAGMA journal_mode = DELETE")  # as `flask backup` leaves it
    connection.close()
    set_modes(folder, **modes)

    with running_gunicorn(sqlite_url, log, prefix=UNPRIVILEGED, WEB_CONCURRENCY="2") as server:
        write_in_vain(ledger, over_http(server), 1000)
        set_modes(folder)
        write_again(ledger, over_http(server), 2000)

    settle(ledger, sqlite_url, record, f"copy without permission: {part}", READ_ONLY)


@only_sqlite
@needs_mount
def test_a_volume_mounted_read_only_refuses_writes_only(
    backend: Backend, tmp_path: Path, record: Record
) -> None:
    with small_volume(size=8 * MEGABYTE) as volume:
        url = f"sqlite:///{volume / 'webapp.db'}"
        migrate(url)
        apps = [make_app(url)]

        def forbid() -> None:
            dispose_app(apps.pop())  # or the volume would be busy
            remount(volume, "ro")
            apps.append(make_app(url))

        ledger = live_through(lambda: InProcess(apps[0]), forbid, lambda: remount(volume, "rw"))
        dispose_app(apps.pop())
        settle(ledger, url, record, "volume mounted read-only", READ_ONLY)


@only_sqlite
@full_only
@pytest.mark.skipif(shutil.which("chattr") is None, reason="needs chattr")
def test_open_files_that_cannot_be_written_any_more_refuse_writes_only(
    sqlite_url: str, tmp_path: Path, record: Record
) -> None:
    # The kernel ends a process that writes to mapped memory of such a file (SIGBUS), and SQLite
    # maps the index of its log. Each worker of the time can go once, with four requests at most;
    # gunicorn replaces it, and the new one opens the files as they are.
    folder, log, probe = folder_of(sqlite_url), tmp_path / "gunicorn.log", tmp_path / "probe"
    probe.touch()
    if subprocess.run(["chattr", "+i", probe], capture_output=True).returncode:
        pytest.skip("this file system knows no immutable files")
    subprocess.run(["chattr", "-i", probe], check=True)

    def change(how: str) -> None:
        subprocess.run(["chattr", how, *map(str, folder.iterdir())], check=True)

    with running_gunicorn(sqlite_url, log, WEB_CONCURRENCY="2") as server:
        ledger = live_through(over_http(server), lambda: change("+i"), lambda: change("-i"))

    most = ROUNDS * 2 * 4
    settle(ledger, sqlite_url, record, "open files immutable", READ_ONLY, most_unanswered=most)


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


def upload(url: str, rows: int) -> requests.Response:
    """Train on a table that is sent as a file; one of more than 500 kB waits on the disk."""
    return requests.post(
        f"{url}/api/v1/ml/train",
        files={"file": ("rows.csv", b"x,y\n" + b"".join(b"%d,7\n" % row for row in range(rows)))},
        data={"target": "y"},
        timeout=60,
    )


@only_sqlite  # the database has no part in it
@needs_mount
@full_only
def test_a_full_temporary_folder_refuses_large_uploads_only(
    database_url: str, tmp_path: Path, record: Record
) -> None:
    log, tries = tmp_path / "gunicorn.log", 40
    with (
        small_volume(size=2 * MEGABYTE) as volume,
        running_gunicorn(database_url, log, WEB_CONCURRENCY="1", TMPDIR=str(volume)) as server,
    ):
        before = upload(server.url, 70_000).status_code
        fill(volume)
        refused = [upload(server.url, 70_000) for _ in range(tries)]
        small = upload(server.url, 100).status_code
        make_room(volume)
        after = upload(server.url, 70_000).status_code
        left = list(volume.iterdir())

    survived = sum(answer.status_code == 507 for answer in refused)
    record("temporary folder full: uploads", tries, survived, tries - survived)
    assert survived == tries
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in refused)
    assert (before, small, after) == (201, 201, 201)
    assert left == []
    assert "Traceback" not in log.read_text()
