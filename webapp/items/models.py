"""The table of items."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from webapp.database import Base, BigIntPrimaryKey, sorted_text, utc_now

NAME_LENGTH = 255
DESCRIPTION_LENGTH = 10_000
SORT_KEYS = ("id", "name", "created_at")


class Item(Base):
    """An item. ``revision`` counts its states; every UPDATE and DELETE is bound to one."""

    __tablename__ = "item"
    # Without AUTOINCREMENT, SQLite gives the id of a deleted last row to the next one, and
    # an old ETag would fit a new item.
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[BigIntPrimaryKey]
    name: Mapped[str] = mapped_column(sorted_text(NAME_LENGTH), index=True)
    description: Mapped[str] = mapped_column(default="")
    created_at: Mapped[datetime] = mapped_column(default=utc_now, index=True)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now, onupdate=utc_now)
    revision: Mapped[int] = mapped_column()

    __mapper_args__ = {"version_id_col": revision}  # noqa: RUF012 (SQLAlchemy declares it so)
