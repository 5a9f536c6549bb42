"""Writing and reading the audit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from webapp.actor import current_actor
from webapp.audit.models import AuditEntry
from webapp.db.base import Page, begin_read


def record(
    session: Session, action: str, subject: str, details: Mapping[str, Any] | None = None
) -> None:
    """Add an entry by the current actor to the session's transaction; the caller commits.

    ``action`` is such as ``item.create``, ``subject`` such as ``item 7``. ``details`` are JSON,
    without any data that clients have sent.
    """
    actor = current_actor()
    entry = AuditEntry(
        actor=actor.name,
        address=actor.address,
        request_id=actor.request_id,
        action=action,
        subject=subject,
        details=dict(details or {}),
    )
    session.add(entry)


def list_entries(
    session: Session, *, page: int, page_size: int, subject: str | None = None
) -> Page[AuditEntry]:
    """Return one page of the entries, or of those about a subject, the latest first."""
    begin_read(session)
    query = sa.select(AuditEntry).order_by(AuditEntry.id.desc())
    if subject is not None:
        query = query.where(AuditEntry.subject == subject)
    found = session.scalars(query.offset((page - 1) * page_size).limit(page_size + 1)).all()
    return Page(
        found[:page_size],
        number=page,
        size=page_size,
        total=None,  # the audit only grows: counting would take longer and longer
        more=len(found) > page_size,
    )
