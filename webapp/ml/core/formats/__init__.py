"""Models as files: a row for each format that can be stored and served."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from webapp.errors import InvalidInput
from webapp.ml.core.formats import fitted, lightgbm, onnx, skops, xgboost
from webapp.ml.core.formats.elsewhere import import_library
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
            fitted.list_coefficients,
        ),
        ModelFormat(
            "xgboost",
            "an XGBoost model",
            ".xgb",  # XGBoost guesses from the content: it may be JSON or UBJSON
            xgboost.recognises,
            xgboost.load,
            xgboost.describe,
            library="xgboost",
        ),
        ModelFormat(
            "lightgbm",
            "a LightGBM model",
            ".txt",
            lightgbm.recognises,
            lightgbm.load,
            lightgbm.describe,
            library="lightgbm",
        ),
        ModelFormat(
            "onnx",
            "an ONNX model",
            ".onnx",
            onnx.recognises,
            onnx.load,
            onnx.describe,
            library="onnxruntime",
        ),
    )
}


def find_format(data: bytes) -> ModelFormat:
    """Return the format of a file by its bytes; raises ArtifactUnusable."""
    found = next((row for row in FORMATS.values() if row.recognises(data)), None)
    if found is None:
        *titles, last = [row.title for row in FORMATS.values()]
        raise ArtifactUnusable(f"it is not {', '.join(titles)} or {last}")
    return found


def inspect_file(
    _report: object, data: bytes, name: str | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what a version of a file has, as JSON, for a process of its own to find out.

    ``libraries`` has the version of the library that predicts with the file, if it need not be
    installed. The format ``name`` is found out where it is not given. Raises InvalidInput, by the
    field of the upload.
    """
    try:
        kind = find_format(data) if name is None else FORMATS[name]
        described = {"format": kind.name, **kind.describe(data, **options), "libraries": {}}
    except ArtifactUnusable as error:
        raise InvalidInput({"artifact": [str(error)]}) from None
    if kind.library is not None:
        described["libraries"][kind.library] = import_library(kind.library).__version__
    return described
