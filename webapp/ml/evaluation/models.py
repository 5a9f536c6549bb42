"""The table of evaluations."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column, relationship

from webapp.db.base import Base, BigInt, BigIntPrimaryKey, utc_now


class Evaluation(Base):
    """The metrics of a version on some rows. They go with the version."""

    __tablename__ = "evaluation"
    __table_args__ = (sa.Index("ix_evaluation_version_id_id", "version_id", "id"),)

    id: Mapped[BigIntPrimaryKey]
    version_id: Mapped[int] = mapped_column(
        BigInt, sa.ForeignKey("model_version.id", ondelete="CASCADE")
    )
    metrics: Mapped[dict[str, Any]]
    n_rows: Mapped[int] = mapped_column(BigInt)
    data_digest: Mapped[str] = mapped_column(sa.String(64))
    warnings: Mapped[list[Any]]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    created_by: Mapped[str | None] = mapped_column(sa.String(128))
    version: Mapped[Any] = relationship("ModelVersion")
