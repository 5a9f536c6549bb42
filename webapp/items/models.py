"""The table of items, and what the database keeps beside it to find any page of them."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from webapp.database import Base, BigInt, BigIntPrimaryKey, sorted_text, utc_now

NAME_LENGTH = 255
DESCRIPTION_LENGTH = 10_000
SORT_KEYS = ("id", "name", "created_at")
SORTS = [sign + key for key in SORT_KEYS for sign in ("", "-")]

TEXT_INDEX = "item_text"
"""What begins with this name is no table of ours: an index of the letters in names and
descriptions, which the migrations make where the database can. On PostgreSQL it is a GIN index of
``pg_trgm``, on SQLite an FTS5 table."""


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


class ItemBlock(Base):
    """How many items have an id of one block; triggers keep it right, nobody else writes it.

    A block holds the ids from ``block * SIZE`` on. Its items are the sum over its slots: those
    who write at the same time count in different ones, and need not wait for each other.
    """

    __tablename__ = "item_block"
    SIZE = 8192  # also in the triggers

    block: Mapped[int] = mapped_column(BigInt, primary_key=True, autoincrement=False)
    slot: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    items: Mapped[int] = mapped_column(BigInt)
