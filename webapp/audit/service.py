"""Who acts at present, and the audit: the table of who did what. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from webapp.db.base import Base, BigIntPrimaryKey, Page, begin_read, utc_now

NAME_LENGTH = 63  # characters of the name of a key's holder, or of who runs a command


@dataclass(frozen=True)
class Actor:
    """Who does something, and from where; ``name`` is a key's holder or ``cli:NAME``."""

    name: str | None = None
    address: str | None = None
    request_id: str | None = None


_actor: ContextVar[Actor] = ContextVar("actor")
_find_sender: Callable[[], Actor | None] = lambda: None  # noqa: E731 (until there are requests)


def set_actor_source(find_sender: Callable[[], Actor | None]) -> None:
    """Set the function that returns who sent the current request, or None outside of requests."""
    global _find_sender
    _find_sender = find_sender


def set_actor(actor: Actor) -> None:
    """Set who acts in this thread outside of requests."""
    _actor.set(actor)


def current_actor() -> Actor:
    """Return who acts at present, as far as that is known."""
    return _find_sender() or _actor.get(Actor())


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


def record(
    session: Session, action: str, subject: str, details: Mapping[str, Any] | None = None
) -> None:
    """Add an entry by the current actor to the session's transaction; the caller commits.

    ``action`` is such as ``item.create``, ``subject`` such as ``item 7``. ``details`` are JSON,
    without any data that clients have sent.
    """
    who = current_actor()
    entry = AuditEntry(actor=who.name, address=who.address, request_id=who.request_id)
    entry.action, entry.subject, entry.details = action, subject, dict(details or {})
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
