"""The table of API keys, and their use cases: each function commits once, at its end."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from webapp.audit.service import NAME_LENGTH, record
from webapp.db.base import Base, BigIntPrimaryKey, begin_read, begin_write, utc_now
from webapp.errors import Conflict, Forbidden, NotFound, Unauthenticated
from webapp.scopes import Scope

KEY_FORM = "webapp_[0-9a-f]{12}_[0-9A-Za-z_-]{43}"
"""How a key looks: prefix, id, secret. By the prefix scanners for leaked secrets find it."""


class KeyNotFound(NotFound):
    """No valid API key has this name or id."""

    def __init__(self, name_or_id: str) -> None:
        super().__init__(f"There is no valid API key {name_or_id!r}.")


class KeyNameTaken(Conflict):
    """The holder already has a valid API key."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name!r} already has a valid API key: rotate or revoke that one.")


class KeyMissing(Unauthenticated):
    """The request carries no API key."""

    message = "An API key is needed: send it as `Authorization: Bearer KEY`."


class KeyRefused(Unauthenticated):
    """The API key of the request is invalid, expired or revoked."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.challenge = {"error": "invalid_token", "error_description": reason}


class ScopeMissing(Forbidden):
    """The API key has none of the scopes that the route allows."""

    def __init__(self, scopes: Sequence[str]) -> None:
        super().__init__(f"The API key lacks the scope {' or '.join(scopes)}.")
        self.challenge = {"error": "insufficient_scope", "scope": " ".join(scopes)}


class ApiKey(Base):
    """A key of a holder, as a hash. A holder has two keys while one replaces the other.

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


def create_key(
    session: Session, *, name: str, scopes: Iterable[Scope], expires_in: timedelta | None = None
) -> tuple[ApiKey, str]:
    """Create the first key of a holder; return it and its text, which is stored nowhere.

    Raises KeyNameTaken where the holder has a valid key.
    """
    begin_write(session)
    if _find_valid_keys(session, name):
        raise KeyNameTaken(name)
    key, text = _add_key(session, name, sorted(scopes), expires_in)
    key.holder_id = key.key_id
    record(session, "key.create", f"key {key.key_id}", {"name": name, "scopes": key.scopes})
    session.commit()
    return key, text


def rotate_key(
    session: Session, name_or_id: str, *, overlap: timedelta, expires_in: timedelta | None
) -> tuple[ApiKey, str]:
    """Give a holder a new key with the same scopes; the old keys end after ``overlap``.

    The new key lives as long as the old one was to live, unless ``expires_in`` is given. Raises
    KeyNotFound.
    """
    begin_write(session)
    old_keys = _find_valid_keys(session, name_or_id)
    if not old_keys:
        raise KeyNotFound(name_or_id)
    newest = old_keys[-1]
    if expires_in is None and newest.expires_at is not None:
        expires_in = newest.expires_at - newest.created_at
    key, text = _add_key(session, newest.name, newest.scopes, expires_in)
    key.holder_id = newest.holder_id
    ends = utc_now() + overlap
    for old in old_keys:
        old.expires_at = min(ends, old.expires_at or ends)
    details = {"name": key.name, "replaces": [old.key_id for old in old_keys]}
    record(session, "key.rotate", f"key {key.key_id}", details)
    session.commit()
    return key, text


def revoke_keys(session: Session, name_or_id: str) -> Sequence[ApiKey]:
    """Revoke the key of an id, or all keys of a holder; return those that were valid.

    Workers refuse them one lease later: the caller waits for it. Raises KeyNotFound.
    """
    begin_write(session)
    keys = _find_valid_keys(session, name_or_id)
    if not keys:
        raise KeyNotFound(name_or_id)
    for key in keys:
        key.revoked_at = utc_now()
        record(session, "key.revoke", f"key {key.key_id}", {"name": key.name})
    session.commit()
    return keys


def list_keys(session: Session) -> Sequence[ApiKey]:
    """Return all keys that were ever created, the oldest first."""
    begin_read(session)
    return session.scalars(sa.select(ApiKey).order_by(ApiKey.id)).all()


def list_recent_keys(session: Session, *, most: int) -> Sequence[ApiKey]:
    """Return the keys that were used or created last, revoked ones too."""
    begin_read(session)
    latest = sa.func.coalesce(ApiKey.last_used_at, ApiKey.created_at).desc()
    return session.scalars(sa.select(ApiKey).order_by(latest, ApiKey.id.desc()).limit(most)).all()


def find_keys(session: Session, digest: str) -> Sequence[ApiKey]:
    """Return the key that has this digest, or none."""
    begin_read(session)
    return session.scalars(sa.select(ApiKey).where(ApiKey.digest == digest)).all()


def note_uses(session: Session, uses: Mapping[str, datetime]) -> None:
    """Store when keys were last used: times by ``key_id``."""
    begin_write(session)
    for key_id, used_at in sorted(uses.items()):
        later = sa.or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < used_at)
        session.execute(
            sa.update(ApiKey).where(ApiKey.key_id == key_id, later).values(last_used_at=used_at)
        )
    session.commit()


def digest_key(text: str) -> str:
    """Return the SHA-256 of a key in hexadecimal: nobody can guess 256 random bits."""
    return hashlib.sha256(text.encode()).hexdigest()


def _add_key(
    session: Session, name: str, scopes: Sequence[str], expires_in: timedelta | None
) -> tuple[ApiKey, str]:
    key_id, now = secrets.token_hex(6), utc_now()
    text = f"webapp_{key_id}_{secrets.token_urlsafe(32)}"
    key = ApiKey(
        key_id=key_id,
        digest=digest_key(text),
        name=name,
        scopes=list(scopes),
        created_at=now,
        expires_at=None if expires_in is None else now + expires_in,
    )
    session.add(key)
    return key, text


def _find_valid_keys(session: Session, name_or_id: str) -> Sequence[ApiKey]:
    """Return the valid keys of a holder, or the one of an id, the oldest first; lock them."""
    asked = sa.or_(ApiKey.name == name_or_id, ApiKey.key_id == name_or_id)
    unexpired = sa.or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > utc_now())
    query = sa.select(ApiKey).where(asked, ApiKey.revoked_at.is_(None), unexpired)
    return session.scalars(query.order_by(ApiKey.id).with_for_update()).all()
