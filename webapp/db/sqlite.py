"""Connections to an SQLite file, also to one that cannot be written.

SQLite finds out whether it can write a file when it opens it, and a connection that was opened
read-only stays so. Such connections are not kept in the pool, so that writes succeed again soon
after the file can be written.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection, Dialect, Engine, ExceptionContext
from sqlalchemy.pool import ConnectionPoolEntry

from webapp.db.base import WRITES
from webapp.db.outages import is_refused_write


def configure(engine: Engine) -> None:
    """Give an engine our connections and transactions."""
    event.listen(engine, "do_connect", _connect)
    event.listen(engine, "begin", _begin)
    event.listen(engine, "handle_error", _note_refused_write)
    event.listen(engine, "checkin", _drop_if_read_only)


def _connect(
    dialect: Dialect, record: ConnectionPoolEntry, arguments: Any, parameters: dict[str, Any]
) -> Any:
    connection: Any = dialect.connect(*arguments, **parameters)
    file = Path(connection.execute("PRAGMA database_list").fetchone()[2])
    record.info["read_only"] = not (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK))
    try:
        _prepare(connection)
    except sqlite3.Error:
        connection.close()
        # SQLite cannot read a write-ahead log in a folder that cannot be written, because it makes
        # a file beside it. Without a log the file is complete, and safe to read without locks.
        has_log = file.with_name(f"{file.name}-wal").exists()
        if has_log or not file.is_file() or os.access(file.parent, os.W_OK):
            raise
        return dialect.connect(f"{file.as_uri()}?immutable=1", **{**parameters, "uri": True})
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA foreign_keys = ON")
    try:
        connection.execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError as error:
        # A file that cannot be written can be read in any mode. Or it is busy: another process
        # is changing the mode at this moment, and this connection will follow.
        if not error.sqlite_errorname.startswith(("SQLITE_READONLY", "SQLITE_BUSY")):
            raise
        connection.execute("PRAGMA schema_version")


def _begin(connection: Connection) -> None:
    # A transaction that reads first and writes later fails if another has written in between;
    # one that takes the write lock at its start waits its turn instead.
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _note_refused_write(context: ExceptionContext) -> None:
    # The file could be written when it was opened, but not the index of the write-ahead log: all
    # connections of a process share it, as the first of them could open it. (`is_disconnect`
    # would close the connection too early: SQLite then keeps the index open.)
    if context.connection is not None and is_refused_write(context):
        context.connection.info["read_only"] = True


def _drop_if_read_only(connection: object, record: ConnectionPoolEntry) -> None:
    if connection is not None and record.info.get("read_only"):
        record.invalidate()
