"""Fitted estimators as bytes and back: skops files, checked by digest and by type."""

from __future__ import annotations

import hashlib
import zipfile
from typing import Any

from webapp.errors import ArtifactUnusable

# What a file may contain besides numbers. It is a list of ours, never the file's own.
TRUSTED_TYPES: tuple[str, ...] = ("sklearn.linear_model._base.LinearRegression",)


def digest(data: bytes) -> str:
    """Return the SHA-256 of an artifact in hexadecimal, its address in the database."""
    return hashlib.sha256(data).hexdigest()


def dumps(estimator: Any) -> bytes:
    """Return a fitted estimator as the bytes of a skops file."""
    import skops.io

    data: bytes = skops.io.dumps(estimator, compression=zipfile.ZIP_DEFLATED)
    return data


def loads(data: bytes, expected_digest: str) -> Any:
    """Return the estimator of a skops file.

    Raises ArtifactUnusable when the bytes are not those that were stored, when they are no
    skops file, or when they contain a type that is not on the list.
    """
    import skops.io
    from skops.io.exceptions import UntrustedTypesFoundException

    if digest(data) != expected_digest:
        raise ArtifactUnusable("its bytes do not have the recorded digest")
    try:
        return skops.io.loads(data, trusted=list(TRUSTED_TYPES))
    except UntrustedTypesFoundException:
        raise ArtifactUnusable("it contains a type that is not allowed") from None
    except (zipfile.BadZipFile, KeyError, ValueError):
        raise ArtifactUnusable("it is not a skops file") from None
