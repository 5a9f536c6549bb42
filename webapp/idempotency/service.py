"""Claims on idempotency keys.

A claim is committed before the work begins, so that a concurrent repeat is refused. The answer is
stored in the transaction of the work, and only by the holder of the claim: both are committed
together or not at all, and never twice. The claim of a process that dies expires.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, mapped_column

from webapp.db.base import Base, BigIntPrimaryKey, begin_write, utc_now
from webapp.db.outages import outages_translated
from webapp.errors import Conflict, InvalidInput, Unavailable

KEY_LENGTH = 255
KEPT = timedelta(hours=24)
CLAIM = timedelta(seconds=15)
MOST_DELETED = 100  # expired keys that a new claim deletes


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


class KeyInFlight(Conflict):
    """The request with this key is still under way."""

    message = "A request with this Idempotency-Key is under way: try again later."
    retry_after = 1


class KeyReused(InvalidInput):
    """The key was used before with another request."""

    def __init__(self) -> None:
        message = "was used before, with another request: a new request needs a new key"
        super().__init__({"Idempotency-Key": [message]}, source="headers")


@dataclass(frozen=True)
class Claim:
    """The right to do the work of a key while its row has this token."""

    id: int
    token: str


@dataclass(frozen=True)
class StoredAnswer:
    """The first answer to a request."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def claim_key(
    session: Session, *, caller: str, key: str, fingerprint: str
) -> Claim | StoredAnswer:
    """Claim a key, or return the answer that its request got.

    ``fingerprint`` tells a request from others. Raises KeyReused where the key came with another
    request, and KeyInFlight while a process works on it.
    """
    begin_write(session)
    now = utc_now()
    _delete_expired(session, caller, key, now)
    row = session.scalar(
        sa.select(IdempotencyKey)
        .where(IdempotencyKey.caller == caller, IdempotencyKey.key == key)
        .with_for_update()
    )
    if row is None:
        row = IdempotencyKey(caller=caller, key=key, fingerprint=fingerprint, created_at=now)
        session.add(row)
    elif row.fingerprint != fingerprint:
        raise KeyReused
    elif row.status is not None:
        return StoredAnswer(row.status, row.headers or {}, row.body or b"")
    elif row.claimed_until > now:
        raise KeyInFlight
    row.token, row.claimed_until = uuid.uuid4().hex, now + CLAIM
    try:
        session.commit()
    except IntegrityError:  # another request has inserted it meanwhile
        raise KeyInFlight from None
    return Claim(row.id, row.token)


def store_answer(session: Session, claim: Claim, answer: StoredAnswer) -> None:
    """Store an answer in the session's current transaction; the caller commits.

    Raises KeyInFlight where the claim expired and another process has taken over.
    """
    values = {"status": answer.status, "headers": answer.headers, "body": answer.body}
    stored = session.execute(sa.update(IdempotencyKey).where(_is_held(claim)).values(values))
    if stored.rowcount != 1:  # type: ignore[attr-defined] # the result of an UPDATE has it
        raise KeyInFlight


@contextmanager
def claim_held(session: Session, engine: Engine, claim: Claim) -> Iterator[None]:
    """Renew a claim, in a thread, while the block works; release it where the block fails."""
    done = threading.Event()
    arguments = (engine, claim, done)
    threading.Thread(target=_renew, args=arguments, name="claim-renewal", daemon=True).start()
    try:
        yield
    except BaseException:
        with suppress(Unavailable), outages_translated():
            begin_write(session)
            session.execute(sa.delete(IdempotencyKey).where(_is_held(claim)))
            session.commit()
        raise
    finally:
        done.set()


def _renew(engine: Engine, claim: Claim, done: threading.Event) -> None:
    while not done.wait(CLAIM.total_seconds() / 3):
        values = {"claimed_until": utc_now() + CLAIM}
        with suppress(Unavailable), outages_translated(), Session(engine) as session:
            begin_write(session)
            session.execute(sa.update(IdempotencyKey).where(_is_held(claim)).values(values))
            session.commit()


def _is_held(claim: Claim) -> sa.ColumnElement[bool]:
    return sa.and_(
        IdempotencyKey.id == claim.id,
        IdempotencyKey.token == claim.token,
        IdempotencyKey.status.is_(None),
    )


def _delete_expired(session: Session, caller: str, key: str, now: datetime) -> None:
    """Delete this key if it has expired, and some others that have."""
    expired = sa.and_(IdempotencyKey.created_at < now - KEPT, IdempotencyKey.claimed_until < now)
    this = sa.and_(IdempotencyKey.caller == caller, IdempotencyKey.key == key, expired)
    oldest = (
        sa.select(IdempotencyKey.id)
        .where(expired)
        .order_by(IdempotencyKey.created_at)
        .limit(MOST_DELETED)
        .with_for_update(skip_locked=True)
    )
    for chosen in (this, IdempotencyKey.id.in_(oldest)):
        session.execute(sa.delete(IdempotencyKey).where(chosen))
