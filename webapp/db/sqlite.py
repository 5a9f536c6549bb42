"""Connections to an SQLite file, also to one that cannot be written, now or for the moment.

What SQLite finds when it opens a file stays with the connection: read-only once, it is so after
the fault is mended. Worse, all connections of a process share the memory of the write-ahead
log, and that stays as the first of them could open it. So none is kept in the pool while there
is doubt whether the file can be written; the first write that is committed ends the doubt.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection, Dialect, Engine, ExceptionContext
from sqlalchemy.pool import ConnectionPoolEntry

from webapp.db.outages import find_outage
from webapp.errors import DatabaseReadOnly

WRITES = "writes"
"""Execution option of a connection whose transaction will write."""


class SQLiteFile:
    """How this process opens one file, and whether it doubts that the file can be written."""

    def __init__(self) -> None:
        self._doubtful = False

    def attach(self, engine: Engine) -> None:
        """Have an engine open its connections here."""
        event.listen(engine, "do_connect", self._open)
        event.listen(engine, "begin", _begin)
        event.listen(engine, "handle_error", self._note_error)
        event.listen(engine, "commit", self._note_commit)
        event.listen(engine, "checkin", self._let_go_in_doubt)

    def _open(
        self,
        dialect: Dialect,
        record: ConnectionPoolEntry,
        arguments: list[Any],
        parameters: dict[str, Any],
    ) -> Any:
        connection = dialect.connect(*arguments, **parameters)
        try:
            file = Path(connection.execute("PRAGMA database_list").fetchone()[2])
            if not (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)):
                self._doubtful = record.info["read_only"] = True
            _prepare(connection)
        except sqlite3.OperationalError:
            connection.close()
            if parameters.get("uri") or not _is_frozen(file):
                raise
            parameters = {**parameters, "uri": True}
            return dialect.connect(f"{file.as_uri()}?immutable=1", **parameters)
        except BaseException:
            connection.close()
            raise
        return connection

    def _note_error(self, context: ExceptionContext) -> None:
        error = context.sqlalchemy_exception
        if error is not None and isinstance(find_outage(error), DatabaseReadOnly):
            self._doubtful = True

    def _note_commit(self, connection: Connection) -> None:
        if self._doubtful and connection.get_execution_options().get(WRITES):
            self._doubtful = False

    def _let_go_in_doubt(
        self, connection: sqlite3.Connection | None, record: ConnectionPoolEntry
    ) -> None:
        if connection is not None and (self._doubtful or record.info.get("read_only")):
            record.invalidate()


def _prepare(connection: Any) -> None:
    connection.execute("PRAGMA foreign_keys = ON")
    try:
        connection.execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError as error:
        # A file that cannot be written can be read in any mode. Or it is busy: another process
        # is just about to change the mode, and this connection will follow.
        if not error.sqlite_errorname.startswith(("SQLITE_READONLY", "SQLITE_BUSY")):
            raise
        connection.execute("PRAGMA schema_version")


def _begin(connection: Connection) -> None:
    # A transaction that reads first and writes later fails when another has written in
    # between; one that announces the write waits its turn instead.
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _is_frozen(file: Path) -> bool:
    """Say whether nobody can be writing a file: only then is it safe to read without locks.

    A write-ahead log cannot be read without a file of shared memory beside it, and that cannot
    be made in a folder that cannot be written. Where the folder has no log, the file has it all,
    and whoever had it open in order to write would have made a log.
    """
    return (
        file.is_file()
        and not os.access(file.parent, os.W_OK)
        and not file.with_name(f"{file.name}-wal").exists()
    )
