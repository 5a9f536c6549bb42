"""The schema: migrations and models agree, on both databases, back and forth."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from flask import Flask
from flask_migrate import downgrade, upgrade

from tests.conftest import dispose_app, make_app
from tests.postgres import free_port
from webapp.database import Base
from webapp.extensions import db

ROOT = Path(__file__).parent.parent
REVISIONS = sorted(ROOT.glob("migrations/versions/*.py"))


@pytest.fixture
def fresh_app(empty_database: str) -> Iterator[Flask]:
    """Return an application on a database without any table."""
    app = make_app(empty_database)
    with app.app_context():
        yield app
    dispose_app(app)


def tables() -> set[str]:
    return set(sa.inspect(db.engine).get_table_names()) - {"alembic_version", "sqlite_sequence"}


def test_models_and_migrations_agree(fresh_app: Flask) -> None:
    upgrade()

    with db.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"render_as_batch": True})
        assert compare_metadata(context, Base.metadata) == []


def test_every_revision_goes_down_and_up_again(fresh_app: Flask) -> None:
    upgrade()
    everything = tables()

    downgrade(revision="base")
    assert tables() == set()
    for _ in REVISIONS:
        upgrade(revision="+1")

    assert tables() == everything == set(Base.metadata.tables)


def test_upgrading_again_changes_nothing(fresh_app: Flask) -> None:
    upgrade()
    with db.engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO model (name, last_version, created_at) "
                "VALUES ('kept', 0, CURRENT_TIMESTAMP)"
            )
        )

    upgrade()

    with db.engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT name FROM model")) == "kept"


def test_the_database_itself_allows_one_active_version_per_model(fresh_app: Flask) -> None:
    upgrade()
    insert_model(1)
    insert_activation(ended=True)
    insert_activation(ended=True)
    insert_activation(ended=False)

    with pytest.raises(sa.exc.IntegrityError):
        insert_activation(ended=False)


def test_the_database_itself_refuses_to_delete_the_active_version(fresh_app: Flask) -> None:
    upgrade()
    insert_model(1)
    insert_activation(ended=False)
    delete = sa.text("DELETE FROM model_version")

    with pytest.raises(sa.exc.IntegrityError), db.engine.begin() as connection:
        connection.execute(delete)

    with db.engine.begin() as connection:
        connection.execute(sa.text("UPDATE activation SET ended_at = CURRENT_TIMESTAMP"))
        connection.execute(delete)
        row = connection.execute(sa.text("SELECT version_id, version_number FROM activation"))
        assert row.one() == (None, 1)


def insert_model(number: int) -> None:
    """Insert a model with one version by plain SQL."""
    statements = (
        "INSERT INTO artifact (digest, data) VALUES ('d', '')",
        "INSERT INTO model (id, name, last_version, created_at) "
        "VALUES (1, 'm', 1, CURRENT_TIMESTAMP)",
        "INSERT INTO model_version (id, model_id, number, origin, task, estimator, model_type, "
        "params, scale, feature_names, metrics, libraries, artifact_digest, created_at) VALUES "
        "(1, 1, 1, 'trained', 'regression', 'e', 't', '{}', false, '[]', '{}', '{}', 'd', "
        "CURRENT_TIMESTAMP)",
    )
    with db.engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))


def insert_activation(*, ended: bool) -> None:
    """Insert an activation of that version by plain SQL."""
    statement = sa.text(
        "INSERT INTO activation "
        "(model_id, version_id, version_number, reason, activated_at, ended_at) VALUES "
        "(1, 1, 1, 'train', CURRENT_TIMESTAMP, CASE WHEN :ended THEN CURRENT_TIMESTAMP END)"
    )
    with db.engine.begin() as connection:
        connection.execute(statement, {"ended": ended})


def test_a_database_that_is_away_is_one_clear_line() -> None:
    url = f"postgresql://nobody@127.0.0.1:{free_port()}/nothing"
    environment = {**os.environ, "DATABASE_URL": url, "APP_ENV": "testing"}

    result = subprocess.run(
        [sys.executable, "-m", "flask", "db", "upgrade"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )

    assert result.returncode == 1
    assert "not available" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.count("\n") == 1
