"""What `flask backup` does: a consistent, checked copy of a database that is in use."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import URL, Engine

from webapp.errors import Unavailable

DAMAGED = "The database is damaged: SQLite's integrity check finds errors."


class BackupFailed(Unavailable):
    """No copy of the database was made, and nothing is left of it."""


def back_up(engine: Engine, target: Path, *, overwrite: bool = False) -> None:
    """Write a copy of an SQLite database to ``target``, as one file.

    It has all that was committed before the call; others may write meanwhile. Raises
    BackupFailed.
    """
    if engine.dialect.name != "sqlite":
        raise BackupFailed(f"This is PostgreSQL. Copy it with {dump_command(engine.url, target)}")
    try:
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT version_num FROM alembic_version"))  # is it ours?
            connection.rollback()  # VACUUM must not run in a transaction
            driver = connection.connection.cursor()
            file = Path(driver.execute("PRAGMA database_list").fetchone()[2])
            _check_target(target, file, overwrite=overwrite)
            with tempfile.TemporaryDirectory(
                dir=target.parent, prefix=f".{target.name}."
            ) as folder:
                copy = Path(folder) / target.name
                driver.execute("VACUUM INTO ?", (str(copy),))
                with closing(sqlite3.connect(copy)) as checked:
                    if checked.execute("PRAGMA integrity_check").fetchone() != ("ok",):
                        raise BackupFailed(DAMAGED)
                shutil.copymode(file, copy)
                _sync(copy)
                copy.replace(target)
        if os.name == "posix":
            _sync(target.parent)
    except (sqlite3.Error, OSError) as error:
        raise BackupFailed(_describe(error, target)) from None


def dump_command(url: URL, target: Path) -> str:
    """Return the command that copies a PostgreSQL database; it asks for the password."""
    query = url.difference_update_query(["password"]).query
    plain = URL.create("postgresql", url.username, None, url.host, url.port, url.database, query)
    return shlex.join(["pg_dump", "--format=custom", f"--file={target}", str(plain)])


def _describe(error: sqlite3.Error | OSError, target: Path) -> str:
    name = getattr(error, "sqlite_errorname", "")
    if name == "SQLITE_FULL" or getattr(error, "errno", 0) in (errno.ENOSPC, errno.EDQUOT):
        return f"{target.parent} has no room for the copy."
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return DAMAGED
    return f"{target} cannot be written: {getattr(error, 'strerror', None) or error}."


def _check_target(target: Path, database: Path, *, overwrite: bool) -> None:
    if target.exists() and target.samefile(database):
        raise BackupFailed(f"{target} is the database itself.")
    if target.exists() and not overwrite:
        raise BackupFailed(f"{target} exists already; --force overwrites it.")
    for suffix in ("-journal", "-wal"):
        beside = target.with_name(target.name + suffix)
        if beside.exists():  # SQLite would apply it to the copy
            raise BackupFailed(f"{beside} is in the way: it belongs to another database.")


def _sync(path: Path) -> None:
    """Wait until a file, or the list of files in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
