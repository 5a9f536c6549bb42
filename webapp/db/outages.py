"""What the errors of a database mean for the service: an outage, no room, or a fault of ours."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg2
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from webapp.errors import (
    DatabaseDamaged,
    DatabaseReadOnly,
    DatabaseUnavailable,
    SchemaMissing,
    ServiceError,
    StorageFull,
    Unavailable,
)

DATABASE_ERRORS = (DBAPIError, PoolTimeoutError)
"""All that SQLAlchemy raises for what a database, or the way to it, has refused."""

# The beginning of an SQLSTATE (PostgreSQL's manual, appendix A), the most exact first.
_SQLSTATES: dict[str, Callable[[], Unavailable]] = {
    "53100": StorageFull,  # disk_full
    "25006": DatabaseReadOnly,  # read_only_sql_transaction: a standby, after a failover
    "42P01": SchemaMissing,  # undefined_table
    "42703": SchemaMissing,  # undefined_column
    "XX001": DatabaseDamaged,  # data_corrupted
    "XX002": DatabaseDamaged,  # index_corrupted
    "08": DatabaseUnavailable,  # connection exceptions
    "40": DatabaseUnavailable,  # rolled back: deadlock, serialization
    "53": DatabaseUnavailable,  # insufficient resources: memory, connections
    "55": DatabaseUnavailable,  # not in the required state: lock not available
    "57": DatabaseUnavailable,  # operator intervention: shutdown, statement_timeout
    "58": DatabaseUnavailable,  # system errors: files that cannot be read or written
}
_SQLITE_NAMES: dict[str, Callable[[], Unavailable]] = {
    "SQLITE_FULL": StorageFull,
    "SQLITE_IOERR_SHMSIZE": StorageFull,  # no room for the index of the write-ahead log
    "SQLITE_READONLY": DatabaseReadOnly,
    "SQLITE_CORRUPT": DatabaseDamaged,
    "SQLITE_NOTADB": DatabaseDamaged,
}


def find_outage(error: Exception) -> Unavailable | None:
    """Return what a database error means for the service; None where it is a fault of ours.

    The driver's words can hold host names and SQL. They stay behind as the error's cause.
    """
    original = getattr(error, "orig", None)
    if isinstance(original, sqlite3.Error):
        name = getattr(original, "sqlite_errorname", "")
        found = _find_prefix(_SQLITE_NAMES, name)
        if name == "SQLITE_ERROR":  # SQL that cannot be run: no table for it, or our own fault
            if not str(original).startswith(("no such table", "no such column")):
                return None
            found = SchemaMissing
    elif isinstance(original, psycopg2.Error):
        found = _find_prefix(_SQLSTATES, original.pgcode or "")
    else:
        found = None
    if found is not None:
        return found()
    # The database is away, stuck, or locked for too long.
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    if lost or isinstance(error, (OperationalError, InterfaceError, PoolTimeoutError)):
        return DatabaseUnavailable()
    return None


@contextmanager
def outages_translated() -> Iterator[None]:
    """Raise the domain's Unavailable in place of a database error that means an outage."""
    try:
        yield
    except DATABASE_ERRORS as error:
        outage = find_outage(error)
        if outage is None:
            raise
        raise outage from error


def driver_message(outage: ServiceError) -> str:
    """Return the first line of what the driver said of an outage: never for a client."""
    said = getattr(outage.__cause__, "orig", outage.__cause__)
    return next(iter(str(said or "").splitlines()), "")


def _find_prefix(
    table: dict[str, Callable[[], Unavailable]], code: str
) -> Callable[[], Unavailable] | None:
    return next((meaning for prefix, meaning in table.items() if code.startswith(prefix)), None)
