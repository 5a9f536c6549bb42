"""The use cases of API keys: functions over a session; each commits once, at its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from webapp.access.errors import KeyNameTaken, KeyNotFound
from webapp.access.keys import make_key
from webapp.access.models import ApiKey
from webapp.audit.service import record
from webapp.db.base import begin_read, begin_write, utc_now
from webapp.scopes import Scope


def create_key(
    session: Session, *, name: str, scopes: Iterable[Scope], expires_in: timedelta | None = None
) -> tuple[ApiKey, str]:
    """Make a key for a holder; return it, and its text, which nothing keeps.

    Raises KeyNameTaken where the holder has a key that works.
    """
    begin_write(session)
    if _find_good(session, name):
        raise KeyNameTaken(name)
    key, text = _add_key(session, name, sorted(scopes), expires_in)
    key.holder_id = key.key_id
    record(session, "key.create", f"key {key.key_id}", {"name": name, "scopes": key.scopes})
    session.commit()
    return key, text


def list_keys(session: Session) -> Sequence[ApiKey]:
    """Return all keys that were ever made, the oldest first."""
    begin_read(session)
    return session.scalars(sa.select(ApiKey).order_by(ApiKey.id)).all()


def revoke_keys(session: Session, name_or_id: str) -> Sequence[ApiKey]:
    """End a key, or all keys of a holder; return those that worked until now.

    Whoever calls waits for a lease: then no worker accepts them. Raises KeyNotFound.
    """
    begin_write(session)
    keys = _find_good(session, name_or_id)
    if not keys:
        raise KeyNotFound(name_or_id)
    for key in keys:
        key.revoked_at = utc_now()
        record(session, "key.revoke", f"key {key.key_id}", {"name": key.name})
    session.commit()
    return keys


def rotate_key(
    session: Session, name_or_id: str, *, overlap: timedelta, expires_in: timedelta | None
) -> tuple[ApiKey, str]:
    """Make a key for the same holder and scopes; the ones before end after ``overlap``.

    It lives as long as the one before was to live, unless ``expires_in`` is given. Raises
    KeyNotFound.
    """
    begin_write(session)
    before = _find_good(session, name_or_id)
    if not before:
        raise KeyNotFound(name_or_id)
    newest = before[-1]
    if expires_in is None and newest.expires_at is not None:
        expires_in = newest.expires_at - newest.created_at
    key, text = _add_key(session, newest.name, newest.scopes, expires_in)
    key.holder_id = newest.holder_id
    ends = utc_now() + overlap
    for old in before:
        old.expires_at = min(ends, old.expires_at or ends)
    details = {"name": key.name, "replaces": [old.key_id for old in before]}
    record(session, "key.rotate", f"key {key.key_id}", details)
    session.commit()
    return key, text


def list_recent_keys(session: Session, *, most: int) -> Sequence[ApiKey]:
    """Return the keys that were used last, or made and not used yet; revoked ones too."""
    begin_read(session)
    latest = sa.func.coalesce(ApiKey.last_used_at, ApiKey.created_at).desc()
    return session.scalars(sa.select(ApiKey).order_by(latest, ApiKey.id.desc()).limit(most)).all()


def find_key(session: Session, digest: str) -> ApiKey | None:
    """Return the key of a digest."""
    begin_read(session)
    return session.scalar(sa.select(ApiKey).where(ApiKey.digest == digest))


def note_uses(session: Session, uses: Mapping[str, datetime]) -> None:
    """Store when keys, by id, were used last."""
    begin_write(session)
    for key_id, used_at in sorted(uses.items()):
        later = sa.or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < used_at)
        session.execute(
            sa.update(ApiKey).where(ApiKey.key_id == key_id, later).values(last_used_at=used_at)
        )
    session.commit()


def _add_key(
    session: Session, name: str, scopes: Sequence[str], expires_in: timedelta | None
) -> tuple[ApiKey, str]:
    new, now = make_key(), utc_now()
    key = ApiKey(
        key_id=new.key_id,
        digest=new.digest,
        name=name,
        scopes=list(scopes),
        created_at=now,
        expires_at=None if expires_in is None else now + expires_in,
    )
    session.add(key)
    return key, new.text


def _find_good(session: Session, name_or_id: str) -> Sequence[ApiKey]:
    """Return a holder's keys, or the key of an id, that work at present, the oldest first."""
    asked = sa.or_(ApiKey.name == name_or_id, ApiKey.key_id == name_or_id)
    unexpired = sa.or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > utc_now())
    query = sa.select(ApiKey).where(asked, ApiKey.revoked_at.is_(None), unexpired)
    return session.scalars(query.order_by(ApiKey.id).with_for_update()).all()
