"""What `flask backup` does: a consistent, checked copy of a database that is in use."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import URL, Engine

from webapp.errors import Unavailable

_SIDE_FILES = ("-journal", "-wal")


class BackupFailed(Unavailable):
    """No copy of the database was made; nothing of it was kept."""


def back_up(engine: Engine, target: Path, *, overwrite: bool = False) -> None:
    """Write a copy of an SQLite database to ``target``, as one file.

    All that was committed before the call is in it; others may write meanwhile. Raises
    BackupFailed; then nothing of the copy is left.
    """
    if engine.dialect.name != "sqlite":
        raise BackupFailed(f"This is PostgreSQL. Copy it with {dump_command(engine.url, target)}")
    with _file_errors_translated(target), engine.connect() as connection:
        connection.execute(sa.text("SELECT version_num FROM alembic_version"))  # is it ours?
        file = Path(connection.exec_driver_sql("PRAGMA database_list").one()[2])
        connection.rollback()  # VACUUM must not run in a transaction
        _check_target(target, file, overwrite=overwrite)
        with _partial_file(target) as partial:
            source = connection.connection.cursor()
            source.execute("VACUUM INTO ?", (str(partial),))
            with closing(sqlite3.connect(partial)) as copy:
                (verdict, *_), *_ = copy.execute("PRAGMA integrity_check").fetchall()
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
            shutil.copymode(file, partial)
            _sync(partial)
            _check_target(target, file, overwrite=overwrite)
            partial.replace(target)
            if os.name == "posix":
                _sync(target.parent)


def dump_command(url: URL, target: Path) -> str:
    """Return the command that copies a PostgreSQL database; it asks for the password."""
    query = url.difference_update_query(["password"]).query
    plain = URL.create("postgresql", url.username, None, url.host, url.port, url.database, query)
    return shlex.join(["pg_dump", "--format=custom", f"--file={target}", str(plain)])


@contextmanager
def _file_errors_translated(target: Path) -> Iterator[None]:
    """Raise BackupFailed for what SQLite and the file system report while a copy is made."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        name = getattr(error, "sqlite_errorname", "SQLITE_CORRUPT")
        if name == "SQLITE_FULL" or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise BackupFailed(f"{target.parent} has no room for the copy.") from None
        if isinstance(error, sqlite3.Error) and name.startswith(
            ("SQLITE_CORRUPT", "SQLITE_NOTADB")
        ):
            raise BackupFailed("The database is damaged: SQLite's check finds errors.") from None
        reason = getattr(error, "strerror", None) or error
        raise BackupFailed(f"{target} cannot be written: {reason}.") from None


@contextmanager
def _partial_file(target: Path) -> Iterator[Path]:
    """Give the path of an empty file beside the target; whatever is left of it is removed."""
    descriptor, name = tempfile.mkstemp(
        dir=target.parent, prefix=f".{target.name}.", suffix=".partial"
    )
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        for suffix in ("", *_SIDE_FILES, "-shm"):
            Path(name + suffix).unlink(missing_ok=True)


def _check_target(target: Path, database: Path, *, overwrite: bool) -> None:
    if target.exists() and target.samefile(database):
        raise BackupFailed(f"{target} is the database itself.")
    if target.exists() and not overwrite:
        raise BackupFailed(f"{target} exists already; --force overwrites it.")
    for suffix in _SIDE_FILES:
        beside = target.with_name(target.name + suffix)
        if beside.exists():  # SQLite would take it for a part of the copy
            raise BackupFailed(f"{beside} is in the way: it belongs to another database.")


def _sync(path: Path) -> None:
    """Wait until a file, or the list of files in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
