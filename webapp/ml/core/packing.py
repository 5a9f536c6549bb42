"""What the database or another process is given, as bytes: rows, files to read, uploads."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import orjson

from webapp.ml.core.datasets import Dataset, DataWarning
from webapp.ml.core.learning import Choices
from webapp.ml.core.signature import Signature
from webapp.ml.core.streaming import Reduced, Triangle
from webapp.ml.core.tables import FORMATS
from webapp.ml.core.tables.shapes import CsvDialect, Limits, Source


def pack_dataset(dataset: Dataset, **further: Any) -> bytes:
    """Return a dataset as arrays in NumPy's format; what comes with it is JSON."""
    y, labels = dataset.y, None
    if y.dtype == object:
        import pandas as pd

        y, found = pd.factorize(y)
        labels = found.tolist()
    described = {
        "feature_names": dataset.feature_names,
        "warnings": [asdict(warning) for warning in dataset.warnings],
        "signature": None if dataset.signature is None else dataset.signature.to_json(),
        "texts": None if dataset.texts is None else dataset.texts.tolist(),
        "target": dataset.target,
        "labels": labels,
        "further": further,
    }
    return _write(described, dataset.X, y)


def unpack_dataset(data: bytes) -> tuple[Dataset, Mapping[str, Any]]:
    """Return the dataset that ``pack_dataset`` wrote, and what came with it."""
    described, X, y = _read(data, 2)
    labels, texts = described["labels"], described["texts"]
    if labels is not None:
        y = np.array(labels, dtype=np.object_).take(y)  # rows of one label share one object
    dataset = Dataset(
        X=X,
        y=y,
        feature_names=tuple(described["feature_names"]),
        warnings=tuple(DataWarning(**warning) for warning in described["warnings"]),
        signature=described["signature"] and Signature.from_json(described["signature"]),
        texts=None if texts is None else np.array(texts, dtype=np.object_).reshape(len(X), -1),
        target=described["target"],
    )
    return dataset, described["further"]


@dataclass(frozen=True)
class SourceFiles:
    """Which files to train on, and how to read them; the pattern is ``sources.open_source``'s."""

    pattern: str
    choices: Choices
    dialect: CsvDialect


def pack_files(files: SourceFiles, **further: Any) -> bytes:
    """Return what files to train on as JSON, and what comes with them."""
    return orjson.dumps({"files": asdict(files), "further": further})


def unpack_files(data: bytes) -> tuple[SourceFiles, Mapping[str, Any]]:
    """Return what ``pack_files`` wrote, and what came with it."""
    found = orjson.loads(data)
    files = found["files"]
    choices, dialect = Choices(**files["choices"]), CsvDialect(**files["dialect"])
    return SourceFiles(files["pattern"], choices, dialect), found["further"]


def pack_upload(data: bytes, table: Source | None, **further: Any) -> bytes:
    """Return a file and a table that came with it as arrays of bytes; what else came is JSON."""
    described, rows = None, b""
    if table is not None:
        described = {
            "format": table.format.name,
            "dialect": asdict(table.dialect),
            "limits": asdict(table.limits),
            "name": table.name,
        }
        table.file.seek(0)
        rows = table.file.read()
    files = (np.frombuffer(part, np.uint8) for part in (data, rows))
    return _write({"table": described, "further": further}, *files)


def unpack_upload(data: bytes) -> tuple[bytes, Source | None, Mapping[str, Any]]:
    """Return what ``pack_upload`` wrote: the file, the table, and what else came with it."""
    found, file, rows = _read(data, 2)
    described = found["table"]
    table = described and Source(
        io.BytesIO(rows.tobytes()),
        FORMATS[described["format"]],
        CsvDialect(**described["dialect"]),
        Limits(**described["limits"]),
        described["name"],
    )
    return file.tobytes(), table, found["further"]


def pack_reduced(reduced: Reduced) -> bytes:
    """Return what parts of a source have been reduced to, as arrays and JSON."""
    fitted = reduced.fitted
    described = {
        "fitted_rows": fitted.n_rows,
        "digests": reduced.digests.hex(),
        "n_rows": reduced.n_rows,
        "n_missing": reduced.n_missing,
        "warnings": [asdict(warning) for warning in reduced.warnings],
    }
    arrays = fitted.mean, fitted.low, fitted.high, fitted.factor, reduced.kept, reduced.draws
    return _write(described, *arrays)


def unpack_reduced(data: bytes) -> Reduced:
    """Return what ``pack_reduced`` wrote."""
    described, *fitted, kept, draws = _read(data, 6)
    return Reduced(
        fitted=Triangle(described["fitted_rows"], *fitted),
        kept=kept,
        draws=draws,
        digests=bytes.fromhex(described["digests"]),
        n_rows=described["n_rows"],
        n_missing=described["n_missing"],
        warnings=tuple(DataWarning(**warning) for warning in described["warnings"]),
    )


def _write(described: Mapping[str, Any], *arrays: np.ndarray[Any, Any]) -> bytes:
    """Return JSON and arrays in NumPy's format."""
    file = io.BytesIO()
    for array in (np.frombuffer(orjson.dumps(described), np.uint8), *arrays):
        np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _read(data: bytes, count: int) -> Iterator[Any]:
    """Yield the JSON that ``_write`` wrote, and so many arrays."""
    file = io.BytesIO(data)
    yield orjson.loads(np.load(file, allow_pickle=False).tobytes())
    for _ in range(count):
        yield np.load(file, allow_pickle=False)
