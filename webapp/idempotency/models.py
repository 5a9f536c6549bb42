"""The table of idempotency keys."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from webapp.db.base import Base, BigIntPrimaryKey, utc_now

KEY_LENGTH = 255


class IdempotencyKey(Base):
    """A key of a caller, and the answer to its request.

    Until ``status`` is set, the request is under way: the process that has the ``token`` works
    on it and keeps renewing ``claimed_until``. Past that time another process may take over.
    """

    __tablename__ = "idempotency_key"
    __table_args__ = (sa.UniqueConstraint("caller", "key"),)

    id: Mapped[BigIntPrimaryKey]
    caller: Mapped[str] = mapped_column(sa.String(128))
    key: Mapped[str] = mapped_column(sa.String(KEY_LENGTH))
    fingerprint: Mapped[str] = mapped_column(sa.String(64))
    token: Mapped[str] = mapped_column(sa.String(32))
    claimed_until: Mapped[datetime]
    created_at: Mapped[datetime] = mapped_column(default=utc_now, index=True)
    status: Mapped[int | None]
    headers: Mapped[dict[str, Any] | None]
    body: Mapped[bytes | None]
