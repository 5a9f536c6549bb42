"""How Alembic reaches the database: the application's engine, one migrator at a time."""

import logging

import sqlalchemy as sa
from alembic import context
from alembic.util import CommandError
from flask import current_app

from webapp.db.base import UTCDateTime
from webapp.db.outages import driver_message, outages_translated
from webapp.db.postgresql import time_limit
from webapp.errors import Unavailable
from webapp.items.models import TEXT_INDEX

# Any number will do, as long as nothing else in the database locks the same one.
MIGRATION_LOCK = 7_463_190_552

log = logging.getLogger("alembic")
log.setLevel(logging.INFO)  # which revisions run is what an operator wants to see
migrate = current_app.extensions["migrate"]


def render_item(type_, obj, autogen_context):
    """Render our column types by what they are in SQL: a revision must outlive our code."""
    if type_ == "type" and isinstance(obj, UTCDateTime):
        return "sa.DateTime(timezone=True)"
    return False


def include_name(name, type_, parent_names):
    """Leave out of a comparison with the models what no model can describe."""
    return not (name or "").startswith(TEXT_INDEX)


def drop_empty_revision(context_, revision, directives):
    """Make no revision when the models and the schema agree already."""
    drafting = getattr(context.config.cmd_opts, "autogenerate", False)
    if drafting and directives[0].upgrade_ops.is_empty():
        directives[:] = []
        log.info("The schema is as the models say: no revision needed.")


def options():
    """Return what `context.configure` is told, online and offline."""
    return {
        **migrate.configure_args,
        "target_metadata": migrate.db.metadata,
        "render_item": render_item,
        "include_name": include_name,
        "process_revision_directives": drop_empty_revision,
        # SQLite changes a table by making it anew.
        "render_as_batch": True,
        # All revisions commit together or not at all, on SQLite too.
        "transactional_ddl": True,
    }


def migrate_offline():
    """Print the SQL instead of running it."""
    url = migrate.db.engine.url
    context.configure(
        url=url, dialect_name=url.get_backend_name(), literal_binds=True, **options()
    )
    with context.begin_transaction():
        context.run_migrations()


def migrate_online():
    """Bring the database to the wanted revision; a second migrator waits for the first."""
    engine = migrate.db.engine
    with time_limit(None), engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            lock_postgresql(connection)
        else:
            lock_sqlite(connection)
        context.configure(connection=connection, **options())
        with context.begin_transaction():
            context.run_migrations()
        # The pool must not hand out a connection that is set up for migrating.
        connection.commit()
        connection.invalidate()


def lock_postgresql(connection):
    """Take the lock of the session: it ends with the connection, also when we are killed."""
    connection.execute(sa.text("SET statement_timeout = 0"))
    connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": MIGRATION_LOCK})
    connection.commit()


def lock_sqlite(connection):
    """Take SQLite's one write lock; first switch off what would delete rows.

    A batch migration drops the old table, and with foreign keys on, that would cascade to
    the rows that refer to it. The switch has no effect within a transaction.
    """
    connection.connection.dbapi_connection.execute("PRAGMA foreign_keys = OFF")
    connection.execution_options(writes=True)


if context.is_offline_mode():
    migrate_offline()
else:
    try:
        with outages_translated():
            migrate_online()
    except Unavailable as error:
        # Flask-Migrate turns this into one line and a non-zero exit.
        raise CommandError(f"{error} {driver_message(error)}") from None
