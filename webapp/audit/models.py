"""The table of the audit."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from webapp.db.base import Base, BigIntPrimaryKey, utc_now


class AuditEntry(Base):
    """An action of an actor on a subject, committed together with what it tells of."""

    __tablename__ = "audit_entry"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[BigIntPrimaryKey]
    at: Mapped[datetime] = mapped_column(default=utc_now)
    actor: Mapped[str | None] = mapped_column(sa.String(128))
    address: Mapped[str | None] = mapped_column(sa.String(64))
    request_id: Mapped[str | None] = mapped_column(sa.String(128))
    action: Mapped[str] = mapped_column(sa.String(32))
    subject: Mapped[str] = mapped_column(sa.String(128), index=True)
    details: Mapped[dict[str, Any]]
