"""A disk without room: writes are refused and leave nothing, all else goes on, room heals it."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import requests
import sqlalchemy as sa
from flask import Flask

from tests.conftest import Backend, dispose_app, execute_on_server, make_app, migrate
from tests.faults import FULL, full_only, on_sqlite, only_sqlite, scaled
from tests.faults.load import Connect, InProcess, Ledger, serving, train_default
from tests.faults.losses import find_differences, find_unclear
from tests.faults.record import Record
from tests.faults.volumes import MEGABYTE, can_mount, fill, make_room, small_volume
from tests.gunicorn_server import running_gunicorn
from webapp.extensions import db

pytestmark = pytest.mark.slow

ROUNDS = scaled(1, 15)
WRITES = scaled(40, 200)  # at each full disk
needs_mount = pytest.mark.skipif(not can_mount(), reason="needs root, and leave to mount a tmpfs")


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


def write_on_full_disk(
    connect: Connect, take_room: Callable[[], None], give_room: Callable[[], None]
) -> Ledger:
    """Take a service through full disks; return what its clients were told."""
    client, ledger = connect(), Ledger()
    train_default(client)
    for number in range(8):
        assert ledger.write(client, number), ledger.refused
    for round_ in range(1, ROUNDS + 1):
        take_room()
        refused_before = len(ledger.refused)
        first = 1000 * round_
        ledger.write_many(connect, range(first, first + WRITES))
        ledger.read(client)
        assert len(ledger.refused) - refused_before > WRITES / 2, "the disk was not full"
        give_room()
        # The very next write succeeds, in whichever worker.
        for number in range(first + 900, first + 908):
            assert ledger.write(client, number), ledger.refused[-1]
    return ledger


def settle(ledger: Ledger, differences: list[str], record: Record, fault: str) -> None:
    """Put down the figures; fail where anything was lost, or refused in another way."""
    faults = ledger.faults + find_unclear(ledger.refused, "no room")
    lost = len(differences) + len(faults) + len(ledger.unanswered)
    record(fault, ledger.tried(), ledger.tried() - lost, lost)
    assert differences == []
    assert (faults, ledger.unanswered) == ([], [])
    assert {answer.status for answer in ledger.refused} == {507}


@on_sqlite
@needs_mount
def test_a_full_disk_of_the_database_costs_nothing_that_was_acknowledged(
    backend: Backend, tmp_path: Path, record: Record
) -> None:
    size = {"sqlite": 16, "postgresql": 40}[backend.name] * MEGABYTE  # the log alone takes 4
    log = tmp_path / "gunicorn.log"
    with ExitStack() as stack:
        volume = stack.enter_context(small_volume(size=size))
        url = stack.enter_context(database_on(volume, backend))
        # Starting workers takes seconds, and PostgreSQL does not mind who asks.
        with serving(url, log, workers=FULL or backend.name == "sqlite") as connect:
            ledger = write_on_full_disk(connect, lambda: fill(volume), lambda: make_room(volume))
        app = make_app(url)
        with app.app_context():
            differences = find_differences(ledger, db.engine)
        dispose_app(app)
    settle(ledger, differences, record, "disk of the database full: writes and reads")
    assert not log.exists() or "Traceback" not in log.read_text()


@only_sqlite  # PostgreSQL has no such limit
def test_a_database_that_may_not_grow_costs_nothing_that_was_acknowledged(
    own_app: Flask, record: Record
) -> None:
    most_pages = {"now": 2**30}

    def limit(connection: sa.Connection, *_: object) -> None:
        driver = connection.connection.dbapi_connection
        driver.execute(f"PRAGMA max_page_count = {most_pages['now']}")

    with own_app.app_context():
        sa.event.listen(db.engine, "before_cursor_execute", limit)

    ledger = write_on_full_disk(
        lambda: InProcess(own_app),
        lambda: most_pages.update(now=1),
        lambda: most_pages.update(now=2**30),
    )

    with own_app.app_context():
        differences = find_differences(ledger, db.engine)
    settle(ledger, differences, record, "database may not grow: writes and reads")


def table(rows: int) -> bytes:
    """Return a CSV table of some bytes per row, whose target is a constant."""
    return b"x,y\n" + b"".join(b"%d,7\n" % row for row in range(rows))


def upload(call_url: str, rows: int) -> requests.Response:
    """Train on a table that is sent as a file; one of more than 500 kB waits on the disk."""
    return requests.post(
        f"{call_url}/api/v1/ml/train",
        files={"file": ("rows.csv", table(rows))},
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
        before = [upload(server.url, 70_000).status_code for _ in range(2)]
        fill(volume)
        refused = [upload(server.url, 70_000) for _ in range(tries)]
        small = upload(server.url, 100).status_code
        make_room(volume)
        after = upload(server.url, 70_000).status_code
        left = list(volume.iterdir())

    survived = sum(answer.status_code == 507 for answer in refused)
    record("temporary folder full: uploads", tries, survived, tries - survived)
    assert before == [201] * 2
    assert survived == tries
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in refused)
    assert (small, after) == (201, 201)
    assert left == []
    assert "Traceback" not in log.read_text()
