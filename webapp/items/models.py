"""The table of items."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from webapp.db.base import Base, BigIntPrimaryKey, sorted_text, utc_now

NAME_LENGTH = 255
DESCRIPTION_LENGTH = 10_000
SORT_KEYS = ("id", "name", "created_at")
MOST_COUNTED = 10_000  # items: a longer list has no total, and no page numbers beyond them
SORTS = [sign + key for key in SORT_KEYS for sign in ("", "-")]

TEXT_INDEX = "item_text"
"""The trigram index of names and descriptions, which the migrations create where the database can:
a GIN index of ``pg_trgm`` on PostgreSQL, an FTS5 table (and tables of its own) on SQLite."""


class Item(Base):
    """An item. ``revision`` counts its states; every UPDATE and DELETE is bound to one."""

    __tablename__ = "item"
    # Without AUTOINCREMENT, SQLite gives the id of a deleted last row to the next one, and
    # an old ETag would fit a new item.
    __table_args__ = (
        # Whole orders: the id tells apart what is equal by the other key.
        sa.Index("ix_item_name_id", "name", "id"),
        sa.Index("ix_item_created_at_id", "created_at", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[BigIntPrimaryKey]
    name: Mapped[str] = mapped_column(sorted_text(NAME_LENGTH))
    description: Mapped[str] = mapped_column(default="")
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now, onupdate=utc_now)
    revision: Mapped[int] = mapped_column()

    __mapper_args__ = {"version_id_col": revision}  # noqa: RUF012 (SQLAlchemy declares it so)
