"""What a database error means for the service: an outage, no room, or a fault of our own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from webapp import errors
from webapp.errors import ServiceError, Unavailable

DATABASE_ERRORS = (DBAPIError, PoolTimeoutError)
"""What SQLAlchemy raises if a database fails, or cannot be reached."""

# By the beginning of an SQLSTATE (PostgreSQL's manual, appendix A) or of SQLite's name.
_MEANINGS: dict[str, type[Unavailable]] = {
    "25006": errors.DatabaseReadOnly,  # read_only_sql_transaction: a standby, after a failover
    "42P01": errors.SchemaMissing,  # undefined_table
    "42703": errors.SchemaMissing,  # undefined_column
    "53100": errors.StorageFull,  # disk_full
    "XX001": errors.DatabaseDamaged,  # data_corrupted
    "XX002": errors.DatabaseDamaged,  # index_corrupted
    "SQLITE_CORRUPT": errors.DatabaseDamaged,
    "SQLITE_FULL": errors.StorageFull,
    "SQLITE_IOERR_SHMSIZE": errors.StorageFull,  # no room for the index of the write-ahead log
    "SQLITE_NOTADB": errors.DatabaseDamaged,
    "SQLITE_READONLY": errors.DatabaseReadOnly,
}


def find_outage(error: Exception) -> Unavailable | None:
    """Return what a database error means for the service; None if it is a fault of our own.

    The driver's message can hold host names and SQL: it is never a part of the result.
    """
    original = getattr(error, "orig", None)
    code = getattr(original, "pgcode", None) or getattr(original, "sqlite_errorname", None) or ""
    if code == "SQLITE_ERROR":  # SQL that cannot be run, for whatever reason
        missing = str(original).startswith(("no such table", "no such column"))
        return errors.SchemaMissing() if missing else None
    for beginning, meaning in _MEANINGS.items():
        if code.startswith(beginning):
            return meaning()
    # The database is away, hangs, was locked for too long, or rolled a deadlock back.
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    if lost or isinstance(error, (OperationalError, InterfaceError, PoolTimeoutError)):
        return errors.DatabaseUnavailable()
    return None


@contextmanager
def outages_translated() -> Iterator[None]:
    """Raise Unavailable in place of a database error that means an outage."""
    try:
        yield
    except DATABASE_ERRORS as error:
        outage = find_outage(error)
        if outage is None:
            raise
        raise outage from error


def is_refused_write(context: ExceptionContext) -> bool:
    """Say whether an error (SQLAlchemy's ``handle_error`` event) is a read-only database's."""
    error = context.sqlalchemy_exception
    return error is not None and isinstance(find_outage(error), errors.DatabaseReadOnly)


def driver_message(outage: ServiceError) -> str:
    """Return the first line of the driver's message about an outage: never for a client."""
    message = getattr(outage.__cause__, "orig", outage.__cause__)
    return next(iter(str(message or "").splitlines()), "")
