"""Claims on idempotency keys: a request under a key does its work once.

A claim is committed before the work begins, so that a repeat that comes meanwhile is told so.
The answer is stored in the transaction of the work itself, and only by whoever holds the claim:
work and answer are there together or not at all, and never twice. A process that dies leaves
its claim to run out.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from webapp.db.base import begin_write, insert_if_absent, utc_now
from webapp.db.outages import outages_translated
from webapp.errors import Unavailable
from webapp.idempotency.errors import KeyInFlight, KeyReused
from webapp.idempotency.models import IdempotencyKey

KEPT = timedelta(hours=24)
CLAIM = timedelta(seconds=15)
FORGOTTEN_AT_ONCE = 100  # old keys that a new claim removes


@dataclass(frozen=True)
class Claim:
    """The right to do the work of a key, as long as the row still has this token."""

    id: int
    token: str


@dataclass(frozen=True)
class KeptAnswer:
    """What was answered when the work was done."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def claim_key(
    session: Session, *, caller: str, key: str, fingerprint: str, now: datetime | None = None
) -> Claim | KeptAnswer:
    """Claim a key for work that ``fingerprint`` tells from any other, or return its answer.

    Raises KeyReused where the key stands for other work, and KeyInFlight where somebody is at it.
    """
    now = now or utc_now()
    begin_write(session)
    _forget_old_keys(session, caller, key, now)
    token = uuid.uuid4().hex
    insert_if_absent(
        session,
        IdempotencyKey,
        {
            "caller": caller,
            "key": key,
            "fingerprint": fingerprint,
            "token": token,
            "claimed_until": now + CLAIM,
            "created_at": now,
        },
    )
    row = session.scalar(
        sa.select(IdempotencyKey)
        .where(IdempotencyKey.caller == caller, IdempotencyKey.key == key)
        .with_for_update()
    )
    if row is None:  # whoever had it has just given it back
        raise KeyInFlight
    if row.fingerprint != fingerprint:
        raise KeyReused
    if row.status is not None:
        return KeptAnswer(row.status, row.headers or {}, row.body or b"")
    if row.token != token and row.claimed_until > now:
        raise KeyInFlight
    row.token, row.claimed_until = token, now + CLAIM
    session.commit()
    return Claim(row.id, token)


def keep_answer(session: Session, claim: Claim, answer: KeptAnswer) -> None:
    """Store an answer in the session's present transaction; the caller commits.

    Raises KeyInFlight where the claim ran out and another took it: the work must not be done.
    """
    kept = session.execute(
        _row_of(claim).values(status=answer.status, headers=answer.headers, body=answer.body)
    )
    if kept.rowcount != 1:  # type: ignore[attr-defined] # an UPDATE's result has it
        raise KeyInFlight


@contextmanager
def claim_held(session: Session, engine: Engine, claim: Claim) -> Iterator[None]:
    """Hold a claim while the block works in ``session``; give it back where the block fails.

    A thread beside this one renews the claim, over a connection of its own.
    """
    done = threading.Event()
    arguments = (engine, claim, done)
    threading.Thread(target=_renew, args=arguments, name="claim-renewal", daemon=True).start()
    try:
        yield
    except BaseException:
        with suppress(Unavailable), outages_translated():
            _release(session, claim)
        raise
    finally:
        done.set()


def _renew(engine: Engine, claim: Claim, done: threading.Event) -> None:
    while not done.wait(CLAIM.total_seconds() / 3):
        with suppress(Unavailable), outages_translated(), Session(engine) as session:
            begin_write(session)
            session.execute(_row_of(claim).values(claimed_until=utc_now() + CLAIM))
            session.commit()


def _release(session: Session, claim: Claim) -> None:
    begin_write(session)
    under_way = IdempotencyKey.status.is_(None)
    session.execute(
        sa.delete(IdempotencyKey).where(
            IdempotencyKey.id == claim.id, IdempotencyKey.token == claim.token, under_way
        )
    )
    session.commit()


def _row_of(claim: Claim) -> sa.Update:
    return sa.update(IdempotencyKey).where(
        IdempotencyKey.id == claim.id,
        IdempotencyKey.token == claim.token,
        IdempotencyKey.status.is_(None),
    )


def _forget_old_keys(session: Session, caller: str, key: str, now: datetime) -> None:
    """Remove this key where it is old, and some of the others that are."""
    is_old = sa.and_(IdempotencyKey.created_at < now - KEPT, IdempotencyKey.claimed_until < now)
    some = (
        sa.select(IdempotencyKey.id)
        .where(is_old)
        .order_by(IdempotencyKey.created_at)
        .limit(FORGOTTEN_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    this = sa.and_(IdempotencyKey.caller == caller, IdempotencyKey.key == key, is_old)
    for chosen in (this, IdempotencyKey.id.in_(some)):
        session.execute(sa.delete(IdempotencyKey).where(chosen))
