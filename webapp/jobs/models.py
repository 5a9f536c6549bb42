"""The table of jobs: work that was asked for, whose turn it is, and how it ended."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from webapp.db.base import Base, BigInt, BigIntPrimaryKey, utc_now

QUEUED, RUNNING = "queued", "running"
SUCCEEDED, FAILED, CANCELLED = "succeeded", "failed", "cancelled"
ENDED = (SUCCEEDED, FAILED, CANCELLED)
STATUSES = (QUEUED, RUNNING, *ENDED)


class Job(Base):
    """Work that was asked for.

    While a job has not ended, the process that has its ``token`` works on it, and keeps renewing
    ``claimed_until``: past that time another process takes it up. A job without a ``payload`` is
    done for a request that waits: nobody else can take it up. ``attempts`` counts the processes
    that began it.
    """

    __tablename__ = "job"
    __table_args__ = (
        sa.Index("ix_job_status_id", "status", "id"),
        sa.Index("ix_job_holder_id", "holder", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[BigIntPrimaryKey]
    kind: Mapped[str] = mapped_column(sa.String(16))
    model: Mapped[str] = mapped_column(sa.String(128))
    status: Mapped[str] = mapped_column(sa.String(16), default=QUEUED)
    options: Mapped[dict[str, Any]]
    payload: Mapped[bytes | None] = mapped_column(deferred=True)
    payload_size: Mapped[int] = mapped_column(BigInt)
    progress: Mapped[dict[str, Any] | None]
    result: Mapped[dict[str, Any] | None]
    problem: Mapped[dict[str, Any] | None]

    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None] = mapped_column(index=True)
    created_by: Mapped[str | None] = mapped_column(sa.String(128))
    holder: Mapped[str] = mapped_column(sa.String(64))
    request_id: Mapped[str | None] = mapped_column(sa.String(128))

    attempts: Mapped[int] = mapped_column(default=0)
    token: Mapped[str | None] = mapped_column(sa.String(32))
    claimed_by: Mapped[str | None] = mapped_column(sa.String(128))
    claimed_until: Mapped[datetime | None]

    waits_for = ""  # besides its turn; not in the table, as each process sees for itself
