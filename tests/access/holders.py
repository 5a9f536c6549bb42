"""Holders of API keys, for tests."""

from __future__ import annotations

from datetime import timedelta

from flask import Flask

from webapp.access.service import create_key
from webapp.extensions import db
from webapp.scopes import Scope


def make_holder(app: Flask, name: str, *scopes: Scope, expires_in: timedelta | None = None) -> str:
    """Return a new key in the application's database."""
    with app.app_context():
        _, text = create_key(db.session(), name=name, scopes=scopes, expires_in=expires_in)
    return text


def bearer(key: str) -> dict[str, str]:
    """Return the header that a key is sent in."""
    return {"Authorization": f"Bearer {key}"}
