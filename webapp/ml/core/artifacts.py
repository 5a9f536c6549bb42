"""Fitted estimators as bytes and back: skops files, checked by digest and part by part.

A skops file is a zip archive whose `schema.json` is a tree of nodes; each names a loader of
skops and the type that it builds. skops trusts hundreds of types by itself. Here only those
below count, and they are checked before anything is built.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

from webapp.errors import ArtifactUnusable

ESTIMATOR_TYPES = frozenset({"sklearn.linear_model._base.LinearRegression"})
"""What a file may be: the types of the catalogue."""

_ESTIMATORS = frozenset(("ObjectNode", name) for name in ESTIMATOR_TYPES)
_PART_TYPES = frozenset(
    {
        ("DictNode", "builtins.dict"),
        ("ListNode", "builtins.list"),
        ("TupleNode", "builtins.tuple"),
        ("JsonNode", "builtins.str"),
        ("TypeNode", "builtins.str"),
        ("NdArrayNode", "numpy.ndarray"),
        ("NdArrayNode", "numpy.float64"),
        ("NdArrayNode", "numpy.int64"),
    }
)
"""What its parts may be: (loader of skops, type)."""

# What the parsers of zip, JSON and skops raise for bytes that make no sense to them.
_MALFORMED = (
    *(zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RecursionError),
    *(AttributeError, KeyError, IndexError, TypeError, ValueError),
)


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
    from sklearn.utils.validation import check_is_fitted

    if digest(data) != expected_digest:
        raise ArtifactUnusable("its bytes do not have the recorded digest")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            schema = json.loads(archive.read("schema.json"))
        _audit(schema)
        estimator = skops.io.loads(data, trusted=sorted(ESTIMATOR_TYPES))
        check_is_fitted(estimator)
        return estimator
    except _MALFORMED:
        raise ArtifactUnusable("it is not a skops file") from None


def _audit(schema: Any) -> None:
    if _part(schema) not in _ESTIMATORS:
        raise ArtifactUnusable("it is not an estimator of the catalogue")
    for node in _nodes(schema):
        if _part(node) not in _PART_TYPES | _ESTIMATORS:
            raise ArtifactUnusable("it contains a type that is not allowed")


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield every node of a schema: every object that has a loader."""
    pending = [tree]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            if "__loader__" in part:
                yield part
            pending.extend(part.values())
        elif isinstance(part, list):
            pending.extend(part)


def _part(node: Any) -> tuple[str, str]:
    return node["__loader__"], f"{node['__module__']}.{node['__class__']}"
