"""What every model and every engine shares: Base, column types, transactions, pages.

No Flask here: models derive from ``Base`` and stay usable with any SQLAlchemy session.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar

import orjson
import sqlalchemy as sa
from sqlalchemy import event, orm
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Dialect, Engine, ExceptionContext
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column
from sqlalchemy.pool import ConnectionPoolEntry

from webapp.db.outages import find_outage
from webapp.db.postgresql import limit_waits
from webapp.db.sqlite import WRITES, SQLiteFile
from webapp.errors import DatabaseReadOnly

IDLE_LIMIT_MS = 60_000  # milliseconds that PostgreSQL lets a transaction do nothing


class UTCDateTime(sa.types.TypeDecorator[datetime]):
    """A timezone-aware UTC time. SQLite keeps no offset: it is put back on reading."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the time in UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the time in UTC, whether or not the database kept the offset."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """The base of every mapped class; constraints get the same names on every database."""

    registry = orm.registry(
        metadata=sa.MetaData(
            naming_convention={
                "ix": "ix_%(table_name)s_%(column_0_N_name)s",
                "uq": "uq_%(table_name)s_%(column_0_N_name)s",
                "ck": "ck_%(table_name)s_%(constraint_name)s",
                "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
                "pk": "pk_%(table_name)s",
            }
        ),
        type_annotation_map={
            datetime: UTCDateTime(),
            str: sa.Text(),
            # A Python None is SQL's NULL, not JSON's null.
            dict[str, Any]: sa.JSON(none_as_null=True),
            list[str]: sa.JSON(none_as_null=True),
            list[Any]: sa.JSON(none_as_null=True),
        },
    )
    metadata = registry.metadata


# SQLite counts rows by itself only for a column declared INTEGER.
BigInt = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
BigIntPrimaryKey = Annotated[int, mapped_column(BigInt, primary_key=True)]


def sorted_text(length: int) -> sa.String:
    """Return a text column type that sorts by code point, whatever the database's locale."""
    text = sa.String(length)
    return text.with_variant(sa.String(length, collation="C"), "postgresql")


T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some objects of a collection, and where they stand in it. Pages count from 1.

    ``total`` is None where counting all would take too long. ``end`` tells where the page ended in
    the collection's order, for a collection that can be read on from there.
    """

    objects: Sequence[T]
    number: int
    size: int
    total: int | None
    more: bool
    end: Sequence[Any] | None = None


def fetch_page(session: Session, statement: sa.Select[T], *, number: int, size: int) -> Page[T]:
    """Return one page of the objects that an ordered SELECT finds, counting them all.

    For collections that stay small: the time grows with the collection.
    """
    everything = statement.order_by(None).subquery()
    total = session.scalar(sa.select(sa.func.count()).select_from(everything)) or 0
    objects = session.scalars(statement.limit(size).offset((number - 1) * size)).all()
    return Page(objects, number=number, size=size, total=total, more=number * size < total)


def utc_now() -> datetime:
    """Return the present time, timezone-aware."""
    return datetime.now(UTC)


def engine_options(url: URL, *, pool_size: int, timeout: int) -> dict[str, Any]:
    """Return the keyword arguments of ``create_engine`` for a database.

    ``pool_size`` is the number of connections a process may hold, ``timeout`` the seconds
    that a statement may take, or on SQLite the wait for another writer.
    """
    options: dict[str, Any] = {
        "json_serializer": lambda value: orjson.dumps(value).decode(),
        "json_deserializer": orjson.loads,
        "hide_parameters": True,  # in messages: they are what clients have sent
    }
    if url.get_backend_name() == "sqlite":
        # The driver opens no transaction of its own: `webapp.db.sqlite` decides which kind.
        options["connect_args"] = {"isolation_level": None, "timeout": float(timeout)}
        return options
    return options | {
        "pool_size": pool_size,
        "max_overflow": 0,
        "pool_timeout": timeout,
        "connect_args": {
            "application_name": "webapp",
            # A host that vanished in the midst of a transaction must not keep its locks.
            "options": f"-c statement_timeout={timeout * 1000} -c timezone=UTC "
            f"-c idle_in_transaction_session_timeout={IDLE_LIMIT_MS}",
        },
    }


def configure_engine(engine: Engine, *, timeout: int) -> None:
    """Give an engine this service's transactions and time limits."""
    if engine.dialect.name == "sqlite":
        SQLiteFile().attach(engine)
    else:
        limit_waits(engine, timeout=timeout)
        event.listen(engine, "handle_error", _distrust_after_refused_write)
        event.listen(engine, "checkin", _let_go_if_read_only)


# A session that began while its server could not be written stays read-only afterwards: kept in
# the pool, it would refuse writes long after the fault is mended.


def _distrust_after_refused_write(context: ExceptionContext) -> None:
    """Have every pooled connection replaced once a write was refused as read-only."""
    error = context.sqlalchemy_exception
    if error is not None and isinstance(find_outage(error), DatabaseReadOnly):
        context.is_disconnect = True


def _let_go_if_read_only(connection: Any, record: ConnectionPoolEntry) -> None:
    """Keep no session that the server has told to be read-only (from PostgreSQL 14 on).

    A standby is not meant: its sessions can write as soon as it is promoted.
    """
    if connection is None or connection.closed:
        return
    if connection.info.parameter_status("default_transaction_read_only") == "on":
        record.invalidate()


def begin_write(session: Session) -> None:
    """Start the session's transaction as one that will write.

    Every service function that writes calls this before its first query. SQLite then takes
    its one write lock now; PostgreSQL locks rows as they are written and needs nothing. What
    the session has read before may be outdated by then, and is read again.
    """
    session.rollback()
    session.connection(execution_options={WRITES: True})


def begin_read(session: Session) -> None:
    """Start reading with queries that each see their own moment: no transaction is about them.

    PostgreSQL is then spared the messages that would begin and end one.
    """
    session.rollback()
    if session.get_bind().dialect.name == "postgresql":
        session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})


def keep_nothing(_made: object) -> None:
    """Do nothing: what a service calls before its commit where nobody keeps what it made."""


def insert_if_absent(session: Session, model: type[Base], values: Mapping[str, Any]) -> None:
    """Insert a row, or do nothing where a unique constraint says that it exists."""
    dialect = session.get_bind().dialect.name
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    session.execute(insert(model).values(**values).on_conflict_do_nothing())


def insert_or_correct(session: Session, model: type[Base], values: Mapping[str, Any]) -> None:
    """Insert a row; one that has its primary key but other values gets these."""
    dialect = session.get_bind().dialect.name
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    statement = insert(model).values(**values)
    keys = [column.name for column in model.__table__.primary_key]
    new = {name: statement.excluded[name] for name in values if name not in keys}
    differs = sa.or_(*(getattr(model, name) != value for name, value in new.items()))
    session.execute(statement.on_conflict_do_update(index_elements=keys, set_=new, where=differs))
