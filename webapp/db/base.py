"""What every model and every engine shares: Base, column types, transactions, pages.

No Flask here: models derive from ``Base`` and stay usable with any SQLAlchemy session.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column

WRITES, READS = "writes", "reads"
"""Execution options of a connection: ``begin_write`` and ``begin_read``."""


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


def begin_write(session: Session) -> None:
    """Start a transaction that will write.

    Every service function that writes calls this before its first query. SQLite then takes
    its one write lock at once; PostgreSQL locks rows as they are written. What the session has
    read before is read again.
    """
    session.rollback()
    session.connection(execution_options={WRITES: True})


def take_turns(session: Session, number: int) -> None:
    """Wait until no other transaction that has called this with the same number is under way.

    On SQLite, only one transaction writes at a time.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(sa.select(sa.func.pg_advisory_xact_lock(number)))


def begin_read(session: Session) -> None:
    """Start queries that each see the newest state.

    PostgreSQL needs no transaction for them: without the two messages about one, a read of one
    item takes 27 µs of CPU less, of 489.
    """
    session.rollback()
    session.connection(execution_options={READS: True})


def keep_nothing(_made: object) -> None:
    """Do nothing: the default of ``before_commit``, where no answer is stored."""


def insert_if_absent(session: Session, model: type[Base], values: Mapping[str, Any]) -> None:
    """Insert a row, or do nothing if a unique constraint says that it exists."""
    session.execute(_insert(session, model, values).on_conflict_do_nothing())


def insert_or_correct(session: Session, model: type[Base], values: Mapping[str, Any]) -> None:
    """Insert a row; if one with its primary key exists and differs, update that."""
    statement = _insert(session, model, values)
    keys = [column.name for column in model.__table__.primary_key]
    new = {name: statement.excluded[name] for name in values if name not in keys}
    differs = sa.or_(*(getattr(model, name) != value for name, value in new.items()))
    session.execute(statement.on_conflict_do_update(index_elements=keys, set_=new, where=differs))


def _insert(session: Session, model: type[Base], values: Mapping[str, Any]) -> Any:
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    return (sqlite.insert if is_sqlite else postgresql.insert)(model).values(**values)
