"""Models as files: a row for each format that can be stored and served."""

from __future__ import annotations

from collections.abc import Mapping

from webapp.ml.core.formats import skops
from webapp.ml.core.formats.shapes import ModelFormat
from webapp.ml.errors import ArtifactUnusable

FORMATS: Mapping[str, ModelFormat] = {
    row.name: row
    for row in (
        ModelFormat(
            "skops",
            "a skops file",
            ".skops",
            skops.recognises,
            skops.load,
            skops.describe,
            skops.list_coefficients,
        ),
    )
}


def find_format(data: bytes) -> ModelFormat:
    """Return the format of a file by its bytes; raises ArtifactUnusable."""
    found = next((row for row in FORMATS.values() if row.recognises(data)), None)
    if found is None:
        known = " or ".join(row.title.removeprefix("a ") for row in FORMATS.values())
        raise ArtifactUnusable(f"it is not a {known}")
    return found
