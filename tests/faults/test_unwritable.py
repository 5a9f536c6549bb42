"""A database that cannot be written, or a full disk: all else goes on, and it heals by itself."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.conftest import Backend, app_on, dispose_app, execute_on_server, make_app, migrate
from tests.faults import only_postgresql, only_sqlite, scaled
from tests.faults.load import Client, Connect, InProcess, Ledger, train_default
from tests.faults.losses import find_broken, find_lost, find_unacknowledged
from tests.faults.record import Record
from tests.faults.volumes import MEGABYTE, can_mount, fill, make_room, remount, small_volume
from tests.gunicorn_server import running_gunicorn
from webapp.extensions import db

pytestmark = pytest.mark.slow

ROUNDS = scaled(1, 8)
WRITES = scaled(24, 60)  # in each round, while nothing can be written
READ_ONLY, FULL_DISK = 503, 507
needs_mount = pytest.mark.skipif(not can_mount(), reason="needs root, and leave to mount a tmpfs")


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


def settle(ledger: Ledger, url: str, record: Record, fault: str, status: int) -> None:
    """Hold the ledger against the database, and put down the figures."""
    with app_on(url) as app, app.app_context():
        client = InProcess(app)
        lost = find_lost(client, ledger) + find_unacknowledged(client, ledger)
        lost += find_broken(db.engine)
    bad, tried = len(lost) + len(ledger.unanswered), ledger.acknowledged() + len(ledger.refused)
    record(fault, tried, tried - bad, bad)
    assert (lost, ledger.unanswered) == ([], [])
    assert {answer.status for answer in ledger.refused} == {status}


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


@only_sqlite
@needs_mount
def test_a_full_disk_of_the_database_costs_nothing_that_was_acknowledged(
    backend: Backend, tmp_path: Path, record: Record
) -> None:
    log = tmp_path / "gunicorn.log"
    with small_volume(size=16 * MEGABYTE) as volume:
        url = f"sqlite:///{volume / 'webapp.db'}"
        migrate(url)
        with running_gunicorn(url, log, WEB_CONCURRENCY="2") as server:
            ledger = live_through(
                lambda: Client(server.url, kept=False),
                lambda: fill(volume),
                lambda: make_room(volume),
            )
        settle(ledger, url, record, "disk of the database full: writes and reads", FULL_DISK)
    assert "Traceback" not in log.read_text()
