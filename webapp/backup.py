"""What `flask backup` does: a consistent, checked copy of a database that is in use.

SQLite's own online backup copies the pages of one moment while others go on writing. The copy
appears under its name only once it is whole, checked and on the disk.
"""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import URL, Engine

from webapp.errors import BackupFailed

PAGES_PER_STEP = 2_000  # some 8 MB: often enough for a progress bar, and for an interruption
_SIDE_FILES = ("-journal", "-wal")


def back_up(
    engine: Engine,
    target: Path,
    *,
    overwrite: bool = False,
    on_progress: Callable[[int, int], object] = lambda copied, total: None,
) -> None:
    """Write a copy of an SQLite database to ``target``, one file that needs no other.

    All that was committed before the call is in it. ``on_progress`` is told the pages that are
    copied and the pages there are. Raises BackupFailed; nothing of the copy is left then.
    """
    if engine.dialect.name != "sqlite":
        raise BackupFailed(f"This is PostgreSQL. Copy it with {dump_command(engine.url, target)}")
    with outages_of_files(target), engine.connect() as connection:
        # The first query opens a transaction that sees one moment: without it, every write of
        # another process would make the copy begin anew. A schema that is missing shows here.
        connection.execute(sa.text("SELECT version_num FROM alembic_version"))
        _check_target(connection, target, overwrite=overwrite)
        source = connection.connection.driver_connection
        with partial_file(target) as partial:
            _copy(source, partial, on_progress)
            shutil.copymode(_file_of(connection), partial)
            _sync(partial)
            _check_target(connection, target, overwrite=overwrite)
            partial.replace(target)
            if os.name == "posix":
                _sync(target.parent)


def dump_command(url: URL, target: Path) -> str:
    """Return the command that copies a PostgreSQL database; it asks for the password."""
    query = url.difference_update_query(["password"]).query
    plain = URL.create("postgresql", url.username, None, url.host, url.port, url.database, query)
    return shlex.join(["pg_dump", "--format=custom", f"--file={target}", str(plain)])


@contextmanager
def outages_of_files(target: Path) -> Iterator[None]:
    """Raise BackupFailed for what SQLite and the file system say while a copy is made."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        full = getattr(error, "sqlite_errorname", "") == "SQLITE_FULL"
        if full or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise BackupFailed(f"{target.parent} has no room for the copy.") from None
        reason = getattr(error, "strerror", None) or error
        raise BackupFailed(f"{target} cannot be written: {reason}.") from None


@contextmanager
def partial_file(target: Path) -> Iterator[Path]:
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


def _check_target(connection: sa.Connection, target: Path, *, overwrite: bool) -> None:
    if target.exists() and target.samefile(_file_of(connection)):
        raise BackupFailed(f"{target} is the database itself.")
    if target.exists() and not overwrite:
        raise BackupFailed(f"{target} exists already; --force overwrites it.")
    for suffix in _SIDE_FILES:
        beside = target.with_name(target.name + suffix)
        if beside.exists():  # SQLite would take it for a part of the copy
            raise BackupFailed(f"{beside} is in the way: it belongs to another database.")


def _file_of(connection: sa.Connection) -> Path:
    return Path(connection.exec_driver_sql("PRAGMA database_list").one()[2])


def _copy(
    source: sqlite3.Connection | None, partial: Path, on_progress: Callable[[int, int], object]
) -> None:
    def tell(_status: int, remaining: int, total: int) -> None:
        on_progress(total - remaining, total)

    assert source is not None  # noqa: S101 (it is open: it has just answered)
    with closing(sqlite3.connect(partial, isolation_level=None)) as copy:
        # A copy that is not whole is thrown away: it needs neither a journal nor waiting for
        # the disk at each step.
        copy.execute("PRAGMA journal_mode = OFF")
        copy.execute("PRAGMA synchronous = OFF")
        source.backup(copy, pages=PAGES_PER_STEP, progress=tell)
        # The pages say that a write-ahead log belongs to them; none does to the copy.
        copy.execute("PRAGMA journal_mode = DELETE")
        (verdict, *_), *_ = copy.execute("PRAGMA integrity_check").fetchall()
    if verdict != "ok":
        raise BackupFailed("The database is damaged: its copy does not pass SQLite's own check.")


def _sync(path: Path) -> None:
    """Wait until a file, or what a folder lists, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
