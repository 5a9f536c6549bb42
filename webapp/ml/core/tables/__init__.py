"""Rows in files and streams (CSV, Parquet, Arrow) → a dataset or matrices, by pyarrow.

bytes → ``reading.Table`` (csv.py, columnar.py) → matrix and target (reading.py). The same
rows give the same bits in every format, JSON included.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

from webapp.ml.core.tables.columnar import open_arrow, open_parquet
from webapp.ml.core.tables.csv import open_csv
from webapp.ml.core.tables.shapes import Format

FORMATS: Mapping[str, Format] = {
    row.name: row
    for row in (
        Format("csv", "a CSV table", ("text/csv",), (".csv",), open_csv),
        Format(
            "parquet",
            "a Parquet table",
            ("application/vnd.apache.parquet", "application/x-parquet"),
            (".parquet", ".pq"),
            open_parquet,
        ),
        Format(
            "arrow",
            "an Arrow table",
            ("application/vnd.apache.arrow.stream", "application/vnd.apache.arrow.file"),
            (".arrow", ".arrows", ".ipc", ".feather"),
            open_arrow,
        ),
    )
}


def format_of_media_type(media_type: str) -> Format | None:
    """Return the format of a media type, whose case and parameters do not matter."""
    bare = media_type.partition(";")[0].strip().lower()
    return next((row for row in FORMATS.values() if bare in row.media_types), None)


def format_of_suffix(name: str) -> Format | None:
    """Return the format that the end of a file's name stands for."""
    suffix = PurePath(name).suffix.lower()
    return next((row for row in FORMATS.values() if suffix in row.suffixes), None)
