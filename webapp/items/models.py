"""The table of items."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from webapp.db.base import Base, BigIntPrimaryKey, sorted_text, utc_now

NAME_LENGTH = 255
DESCRIPTION_LENGTH = 10_000
SORTS = ["id", "-id", "name", "-name", "created_at", "-created_at"]  # `-` is descending
MOST_COUNTED = 10_000  # items: beyond them a list has neither a total nor page numbers

TEXT_INDEX = "item_text"
"""The trigram index of names and descriptions, which the migrations create where the database can:
a GIN index of ``pg_trgm`` on PostgreSQL, an FTS5 table (and tables of its own) on SQLite."""


def sort_keys(sort: str) -> list[str]:
    """Return the columns of one of ``SORTS``; the id orders items that are equal otherwise."""
    return list(dict.fromkeys((sort.removeprefix("-"), "id")))


class Item(Base):
    """An item. Each change increments ``revision``; every UPDATE and DELETE names the old one."""

    __tablename__ = "item"
    __table_args__ = (
        sa.Index("ix_item_name_id", "name", "id"),
        sa.Index("ix_item_created_at_id", "created_at", "id"),
        # Else SQLite would give a deleted item's id to a new one, which old ETags would match.
        {"sqlite_autoincrement": True},
    )

    id: Mapped[BigIntPrimaryKey]
    name: Mapped[str] = mapped_column(sorted_text(NAME_LENGTH))
    description: Mapped[str] = mapped_column(default="")
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now, onupdate=utc_now)
    revision: Mapped[int] = mapped_column()

    __mapper_args__ = {"version_id_col": revision}  # noqa: RUF012 (SQLAlchemy declares it so)
