"""The bytes of models, addressed by their digest."""

from __future__ import annotations

import hashlib

from webapp.ml.errors import ArtifactUnusable


def digest(data: bytes) -> str:
    """Return the SHA-256 of an artifact in hexadecimal, its address in the database."""
    return hashlib.sha256(data).hexdigest()


def check_digest(data: bytes, expected: str) -> None:
    """Raise ArtifactUnusable where bytes are not those that were stored."""
    if digest(data) != expected:
        raise ArtifactUnusable("its bytes do not have the recorded digest")
