"""What a database refuses is an outage, a lack of room or a missing schema: never a 500."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from tests.conftest import Backend, app_on
from webapp.db.outages import find_outage
from webapp.extensions import db

ITEMS = "/api/v1/items"
REFUSE = (
    "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '{}'; END $$"
)
TRIGGER = "CREATE TRIGGER refuse BEFORE INSERT ON item EXECUTE FUNCTION refuse()"


def execute(app: Flask, *statements: str) -> None:
    with app.app_context(), db.engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


@pytest.mark.parametrize(
    ("pragma", "sqlstate", "status", "words"),
    [
        ("max_page_count = 1", "53100", 507, "no room"),
        ("query_only = on", "25006", 503, "cannot be written"),
        *(("query_only = on", code, 503, "database") for code in ("53300", "40P01", "57P01")),
    ],
)
def test_a_write_that_the_database_refuses_is_answered_clearly_and_leaves_nothing(
    own_app: Flask, backend: Backend, pragma: str, sqlstate: str, status: int, words: str
) -> None:
    def obstruct(connection: sa.Connection, *_: object) -> None:
        connection.connection.dbapi_connection.execute(f"PRAGMA {pragma}")

    if backend.name == "postgresql":
        execute(own_app, REFUSE.format(sqlstate), TRIGGER)
    else:
        with own_app.app_context():
            sa.event.listen(db.engine, "before_cursor_execute", obstruct)
    client, stored = own_app.test_client(), 0
    body = {"name": "a", "description": "d" * 10_000}
    while (response := client.post(ITEMS, json=body)).status_code == 201:
        stored += 1  # a file has some free pages before it must grow
    listed = client.get(ITEMS)
    if backend.name == "postgresql":
        execute(own_app, "DROP TRIGGER refuse ON item")

    assert response.status_code == status
    assert words in response.json["detail"]
    assert int(response.headers["Retry-After"]) > 0
    assert len(listed.json) == stored < 100


def test_a_file_that_is_no_database_is_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "webapp.db"
    path.write_bytes(b"not a database, but long enough for one" * 100)

    with app_on(f"sqlite:///{path}") as app:
        client = app.test_client()
        response, ready = client.get(ITEMS), client.get("/health/ready")

    assert (response.status_code, ready.status_code) == (503, 503)
    assert "damaged" in response.json["detail"]


def test_a_column_that_is_missing_means_an_older_schema(app: Flask, client: FlaskClient) -> None:
    execute(app, "ALTER TABLE item RENAME COLUMN description TO text")
    try:
        response = client.get(ITEMS)
    finally:
        execute(app, "ALTER TABLE item RENAME COLUMN text TO description")

    assert response.status_code == 503
    assert "flask db upgrade" in response.json["detail"]


def test_a_fault_of_ours_is_no_outage(app: Flask) -> None:
    with pytest.raises(sa.exc.DBAPIError) as raised:
        execute(app, "SELEC 1")

    assert find_outage(ValueError()) is None
    assert find_outage(raised.value) is None
