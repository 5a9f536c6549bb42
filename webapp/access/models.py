"""The table of API keys. Of a key itself only the hash is stored."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from webapp.actor import NAME_LENGTH
from webapp.db.base import Base, BigIntPrimaryKey, utc_now


class ApiKey(Base):
    """A key of a holder. A holder has two keys while one replaces the other.

    ``holder_id`` is the ``key_id`` of the holder's first key: a name may go to another holder
    later.
    """

    __tablename__ = "api_key"

    id: Mapped[BigIntPrimaryKey]
    key_id: Mapped[str] = mapped_column(sa.String(12), unique=True)
    holder_id: Mapped[str] = mapped_column(sa.String(12))
    digest: Mapped[str] = mapped_column(sa.String(64), unique=True)
    name: Mapped[str] = mapped_column(sa.String(NAME_LENGTH), index=True)
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
