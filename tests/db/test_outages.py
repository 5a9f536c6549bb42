"""What a database refuses is an outage, a lack of room or a missing schema: never a 500."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.conftest import Backend, dispose_app, make_app
from webapp.db.outages import find_outage
from webapp.extensions import db

ITEMS = "/api/v1/items"


def refuse_inserts(app: Flask, backend: Backend, *, sqlite: str, sqlstate: str) -> None:
    """Make the database itself refuse new items, with an error of its own."""
    with app.app_context():
        if backend.name == "sqlite":

            def obstruct(connection: sa.Connection, *_: object) -> None:
                connection.connection.dbapi_connection.execute(sqlite)

            sa.event.listen(db.engine, "before_cursor_execute", obstruct)
            return
        with db.engine.begin() as connection:
            connection.exec_driver_sql(
                "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
                f"$$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '{sqlstate}'; END $$"
            )
            connection.exec_driver_sql(
                "CREATE TRIGGER refuse BEFORE INSERT ON item EXECUTE FUNCTION refuse()"
            )


def allow_inserts(app: Flask, backend: Backend) -> None:
    with app.app_context():
        if backend.name == "postgresql":
            with db.engine.begin() as connection:
                connection.exec_driver_sql("DROP TRIGGER refuse ON item")


def create_item(client: FlaskClient) -> TestResponse:
    return client.post(ITEMS, json={"name": "a", "description": "d" * 10_000})


@pytest.mark.parametrize(
    ("sqlite", "sqlstate", "status", "words"),
    [
        ("PRAGMA max_page_count = 1", "53100", 507, "no room"),
        ("PRAGMA query_only = on", "25006", 503, "cannot be written"),
        ("PRAGMA query_only = on", "53300", 503, "database"),
        ("PRAGMA query_only = on", "40P01", 503, "database"),
        ("PRAGMA query_only = on", "57P01", 503, "database"),
    ],
)
def test_a_refused_write_is_answered_clearly_and_leaves_nothing(
    own_app: Flask,
    backend: Backend,
    sqlite: str,
    sqlstate: str,
    status: int,
    words: str,
) -> None:
    client = own_app.test_client()
    refuse_inserts(own_app, backend, sqlite=sqlite, sqlstate=sqlstate)
    stored = 0
    # A file has some free pages before it must grow.
    while (response := create_item(client)).status_code == 201:
        stored += 1
    listed = client.get(ITEMS)
    allow_inserts(own_app, backend)

    assert response.status_code == status
    assert words in response.json["detail"]
    assert int(response.headers["Retry-After"]) > 0
    assert len(listed.json) == stored < 100


def test_a_file_that_is_no_database_is_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "webapp.db"
    path.write_bytes(b"not a database, but long enough for one" * 100)
    app = make_app(f"sqlite:///{path}")

    client = app.test_client()
    response, ready = client.get(ITEMS), client.get("/health/ready")

    dispose_app(app)
    assert (response.status_code, ready.status_code) == (503, 503)
    assert "damaged" in response.json["detail"]


def test_a_column_that_is_missing_means_an_older_schema(app: Flask, client: FlaskClient) -> None:
    with app.app_context(), db.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE item RENAME COLUMN description TO text")
    try:
        response = client.get(ITEMS)
    finally:
        with app.app_context(), db.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE item RENAME COLUMN text TO description")

    assert response.status_code == 503
    assert "flask db upgrade" in response.json["detail"]


def test_a_fault_of_ours_is_no_outage(app: Flask) -> None:
    with app.app_context(), db.engine.connect() as connection:
        with pytest.raises(sa.exc.DBAPIError) as raised:
            connection.exec_driver_sql("SELEC 1")
        connection.rollback()

    assert find_outage(ValueError()) is None
    assert find_outage(raised.value) is None


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
