"""The schema: migrations and models agree, on both databases, back and forth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_migrate import check, downgrade, upgrade

from tests.conftest import Backend, app_on, execute_on_server, table_names
from tests.faults import only_sqlite
from tests.gunicorn_server import ROOT
from webapp.db.base import Base
from webapp.extensions import db
from webapp.items.models import TEXT_INDEX

REVISIONS = sorted(ROOT.glob("migrations/versions/*.py"))
BEFORE_SIGNATURES = "e1f8a3c65b20"
BEFORE_TEXT_INDEX = "6c0f4e7a91d2"


@pytest.fixture
def fresh_app(empty_database: str) -> Iterator[Flask]:
    """Return an application on a database without any table."""
    with app_on(empty_database) as app, app.app_context():
        yield app


def execute(*statements: str) -> None:
    with db.engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def insert_items(*names: str) -> None:
    statement = sa.text(
        "INSERT INTO item (name, description, created_at, updated_at, revision) "
        "VALUES (:name, '', CURRENT_TIMESTAMP, CURRENT_TIMESTAMP, 1)"
    )
    with db.engine.begin() as connection:
        connection.execute(statement, [{"name": name} for name in names])


def search(app: Flask, text: str) -> tuple[list[str], int]:
    """Return the names of the items that hold a text, and how many items there are."""
    client = app.test_client()
    total = json.loads(client.get("/api/v1/items").headers["X-Pagination"])["total"]
    found = client.get("/api/v1/items", query_string={"q": text}).json
    db.session.remove()  # the context outlives the request: what it has read must not stay locked
    return [item["name"] for item in found], total


def test_every_revision_goes_down_and_up_again_to_what_the_models_say(fresh_app: Flask) -> None:
    upgrade()
    downgrade(revision="base")
    assert table_names() == set()

    for _ in REVISIONS:
        upgrade(revision="+1")

    assert table_names() == set(Base.metadata.tables)
    check()  # exits, naming what differs


@only_sqlite
def test_the_ids_that_are_never_to_be_used_twice_are_not(fresh_app: Flask) -> None:
    upgrade()
    query = "SELECT name FROM sqlite_master WHERE sql LIKE '%AUTOINCREMENT%'"
    with db.engine.connect() as connection:
        found = set(connection.exec_driver_sql(query).scalars())

    tables = Base.metadata.tables.values()
    assert found == {t.name for t in tables if t.dialect_options["sqlite"]["autoincrement"]}


def test_versions_of_before_get_the_signature_that_they_would_have_now(fresh_app: Flask) -> None:
    upgrade()
    body = {"X": [[1.5, 2], [3, 4.5]], "y": [1, 2], "feature_names": ["a", "b"]}
    trained = fresh_app.test_client().post("/api/v1/ml/train", json=body).json["model"]
    db.session.remove()

    downgrade(revision=BEFORE_SIGNATURES)
    upgrade()

    shown = fresh_app.test_client().get("/api/v1/ml/models/default/versions/1").json
    db.session.remove()
    assert shown["signature"] == {**trained["signature"], "target": None}
    assert shown["signature"]["columns"][1]["maximum"] == 4.5


def test_items_are_kept_counted_and_found_after_going_up_and_down(fresh_app: Flask) -> None:
    upgrade(revision=BEFORE_TEXT_INDEX)
    insert_items("one of old", "another")

    upgrade()
    insert_items("one of new")
    first = search(fresh_app, "one of")
    downgrade(revision=BEFORE_TEXT_INDEX)
    insert_items("one in between")
    upgrade()
    upgrade()  # changes nothing

    assert first == (["one of old", "one of new"], 3)
    assert search(fresh_app, "one ") == (["one of old", "one of new", "one in between"], 4)


def test_where_no_index_of_trigrams_can_be_made_all_else_works(
    backend: Backend, empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend.name == "sqlite":
        monkeypatch.setattr("sqlite3.dbapi2.sqlite_version_info", (3, 33, 0))
    else:  # with a role that may create no extension
        name = sa.make_url(empty_database).database
        execute_on_server(empty_database, "GRANT ALL ON SCHEMA public TO pg_monitor")
        execute_on_server(empty_database, f"ALTER DATABASE {name} SET role = pg_monitor")

    with app_on(empty_database) as app, app.app_context():
        upgrade()
        inspector = sa.inspect(db.engine)
        indexes = {index["name"] for index in inspector.get_indexes("item")}
        tables = inspector.get_table_names()
        insert_items("one of old", "another")
        found = search(app, "one of")
        downgrade(revision=BEFORE_TEXT_INDEX)

    assert TEXT_INDEX not in {*indexes, *tables}
    assert found == (["one of old"], 2)


SECOND = (
    "INSERT INTO activation (model_id, version_id, version_number, reason, activated_at) "
    "SELECT model_id, version_id, version_number, reason, activated_at FROM activation"
)
END, DELETE = "UPDATE activation SET ended_at = CURRENT_TIMESTAMP", "DELETE FROM model_version"


def test_the_database_itself_keeps_one_active_version_per_model(app: Flask) -> None:
    app.test_client().post("/api/v1/ml/train", json={"X": [[1], [2]], "y": [3, 4]})

    with app.app_context():
        for forbidden in (SECOND, DELETE):
            with pytest.raises(sa.exc.IntegrityError):
                execute(forbidden)
        execute(END, SECOND, END, DELETE)
        with db.engine.connect() as connection:
            rows = connection.exec_driver_sql("SELECT version_id, version_number FROM activation")
            assert list(map(tuple, rows)) == [(None, 1), (None, 1)]


def run_upgrade(url: str) -> subprocess.Popen[str]:
    """Start `flask db upgrade` in a process of its own."""
    command = [sys.executable, "-m", "flask", "db", "upgrade"]
    environ = {**os.environ, "DATABASE_URL": url, "APP_ENV": "testing"}
    return subprocess.Popen(command, cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True)


def test_a_database_that_is_away_is_one_clear_line(absent_database: str) -> None:
    process = run_upgrade(absent_database)
    (line,) = process.communicate(timeout=60)[1].splitlines()

    assert process.returncode == 1
    assert "not available" in line


@pytest.mark.slow
def test_replicas_that_start_at_once_migrate_once(empty_database: str) -> None:
    replicas = [run_upgrade(empty_database) for _ in range(3)]
    logs = [replica.communicate(timeout=120)[1] for replica in replicas]

    assert [replica.returncode for replica in replicas] == [0, 0, 0], logs
    assert sum(log.count("Running upgrade") for log in logs) == len(REVISIONS)
