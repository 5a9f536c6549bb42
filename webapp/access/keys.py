"""What an API key looks like, and how one is told from another."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass

PREFIX = "webapp"  # by which people, and scanners for leaked secrets, know a key
LENGTH = len(f"{PREFIX}_{'':12}_{'':43}")


@dataclass(frozen=True)
class NewKey:
    """A key as its holder gets it, once; and what the service keeps of it."""

    text: str
    key_id: str
    digest: str


def make_key() -> NewKey:
    """Return a new key of 256 random bits."""
    key_id = secrets.token_hex(6)
    text = f"{PREFIX}_{key_id}_{secrets.token_urlsafe(32)}"
    return NewKey(text, key_id, digest_key(text))


def looks_like_key(text: str) -> bool:
    """Say whether a text may be a key: nothing else is worth a question to the database."""
    return len(text) == LENGTH and text.startswith(PREFIX) and text.isascii()


def digest_key(text: str) -> str:
    """Return the SHA-256 of a key in hexadecimal.

    No slow hash is needed: nobody can try out 256 random bits.
    """
    return hashlib.sha256(text.encode()).hexdigest()


def is_same(digest: str, stored: str) -> bool:
    """Compare two digests in a time that does not tell how near they are."""
    return hmac.compare_digest(digest, stored)
