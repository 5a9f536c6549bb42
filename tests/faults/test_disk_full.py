"""A disk without room: writes are refused and leave nothing, all else goes on, room heals it."""

from __future__ import annotations

import errno
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
from flask.testing import FlaskClient

from tests.conftest import Backend, dispose_app, execute_on_server, make_app, migrate
from tests.faults import FULL, on_sqlite
from tests.faults.books import (
    Books,
    Call,
    find_differences,
    in_process,
    serving,
    train_default,
)
from tests.faults.record import Record
from tests.faults.volumes import MEGABYTE, can_mount, fill, make_room, small_volume
from tests.gunicorn_server import running_gunicorn
from webapp.extensions import db

ROUNDS = 15 if FULL else 1
WRITES = 200 if FULL else 40  # at each full disk
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


def check_full_disk(
    call: Call, take_room: Callable[[], None], give_room: Callable[[], None]
) -> Books:
    """Take a service through full disks; return its books."""
    train_default(call)
    books = Books(call)
    for number in range(8):
        assert (books.train if number % 4 == 0 else books.create_item)(number), books.faults
    for round_ in range(1, ROUNDS + 1):
        take_room()
        refused_before = books.refused.total()
        first = 1000 * round_
        books.write(range(first, first + WRITES))
        books.read()
        assert books.refused.total() - refused_before > WRITES / 2, "the disk was not full"
        give_room()
        # The very next write succeeds, in whichever worker.
        for number in range(first + 900, first + 908):
            assert (books.train if number % 4 == 0 else books.create_item)(number), books.faults
    return books


@on_sqlite
@needs_mount
def test_a_full_disk_of_the_database_costs_nothing_that_was_acknowledged(
    backend: Backend, tmp_path: Path, record: Record
) -> None:
    size = {"sqlite": 8, "postgresql": 40}[backend.name] * MEGABYTE
    log = tmp_path / "gunicorn.log"
    with ExitStack() as stack:
        volume = stack.enter_context(small_volume(size=size))
        url = stack.enter_context(database_on(volume, backend))
        # Starting workers takes seconds, and PostgreSQL does not mind who asks.
        with serving(url, log, workers=FULL or backend.name == "sqlite") as call:
            books = check_full_disk(call, lambda: fill(volume), lambda: make_room(volume))
        app = make_app(url)
        with app.app_context():
            differences = find_differences(books, db.engine)
        dispose_app(app)
    lost = len(differences) + len(books.faults) + books.unanswered
    record("disk of the database full: writes", books.tried, books.tried - lost, lost)
    record("disk of the database full: reads", books.reads, books.reads - len(books.faults), 0)
    assert differences == []
    assert (books.faults, books.unanswered) == ([], 0)
    assert set(books.refused) == {507}
    assert not log.exists() or "Traceback" not in log.read_text()


def test_a_database_that_may_not_grow_costs_nothing_that_was_acknowledged(
    backend: Backend, own_app: Flask, record: Record
) -> None:
    if backend.name == "postgresql":
        pytest.skip("PostgreSQL has no such limit")
    most_pages = {"now": 2**30}

    def limit(connection: sa.Connection, *_: object) -> None:
        driver = connection.connection.dbapi_connection
        driver.execute(f"PRAGMA max_page_count = {most_pages['now']}")

    with own_app.app_context():
        sa.event.listen(db.engine, "before_cursor_execute", limit)

    books = check_full_disk(
        in_process(own_app.test_client()),
        lambda: most_pages.update(now=1),
        lambda: most_pages.update(now=2**30),
    )

    with own_app.app_context():
        differences = find_differences(books, db.engine)
    lost = len(differences) + len(books.faults) + books.unanswered
    record("database may not grow: writes", books.tried, books.tried - lost, lost)
    assert differences == []
    assert (books.faults, books.unanswered) == ([], 0)
    assert set(books.refused) == {507}


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


@needs_mount
@pytest.mark.skipif(not FULL, reason="with FAULTS=full only")
def test_a_full_temporary_folder_refuses_large_uploads_only(
    backend: Backend, database_url: str, tmp_path: Path, record: Record
) -> None:
    if backend.name == "postgresql":
        pytest.skip("the database has no part in it")
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


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.ENOENT])
def test_no_temporary_folder_at_all_is_no_room(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        # ENOENT is what Python's tempfile raises where no folder can be written.
        raise OSError(code, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr("webapp.items.routes.service.list_items", refuse)

    response = client.get("/api/v1/items")

    assert response.status_code == 507
    assert int(response.headers["Retry-After"]) > 0


def test_another_file_that_is_not_there_is_a_fault_of_ours(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr("webapp.items.routes.service.list_items", refuse)

    assert client.get("/api/v1/items").status_code == 500
