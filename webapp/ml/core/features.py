"""Rows of a table to predict for: the columns that a model takes, whole or in blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from webapp.errors import InvalidInput
from webapp.ml.core.datasets import (
    DataWarning,
    Features,
    Unseen,
    check_width,
    describe_names,
    matrix_from_records,
    matrix_from_rows,
)
from webapp.ml.core.encoding import encode_rows, encode_table
from webapp.ml.core.signature import Signature
from webapp.ml.core.tables.numbers import make_matrix
from webapp.ml.core.tables.reading import open_table, parse_errors
from webapp.ml.core.tables.shapes import BLANKS, Columns, Source, kind_of

BATCH_ROWS = 2**14
NO_ROWS = ["has no rows"]


@dataclass(frozen=True)
class BatchOptions:
    """What to do with columns that a model does not take: leave them out, or pass them on."""

    ignore_extra: bool = False
    passthrough: tuple[str, ...] = ()


def read_features(source: Source, signature: Signature, options: BatchOptions) -> Features:
    """Return all rows that ``iterate_features`` yields."""
    blocks = list(iterate_features(source, signature, options))
    first = blocks[0]
    if len(blocks) == 1:
        return first
    texts = None if first.texts is None else np.concatenate([b.texts for b in blocks])
    unseen = {}
    for name in dict.fromkeys(name for block in blocks for name in block.unseen):
        found = [block.unseen[name] for block in blocks if name in block.unseen]
        rows = np.concatenate([one.rows for one in found])
        unseen[name] = Unseen(rows, [value for one in found for value in one.values])
    return Features(
        np.concatenate([block.X for block in blocks]),
        texts,
        first.warnings,
        unseen,
        {name: np.concatenate([block.passed[name] for block in blocks]) for name in first.passed},
    )


def iterate_features(
    source: Source, signature: Signature, options: BatchOptions
) -> Iterator[Features]:
    """Yield the columns of a signature, in its order, at most 16,384 rows at a time.

    Further columns are refused by name, like missing ones: a table with the target still in
    it is more likely a mistake than a wish; ``options`` may say otherwise, and the warnings then
    name what was left out. Columns that pandas calls an index are left out.

    Memory stays bounded whatever the length of a file; an Arrow file is decoded by its own record
    batches. Raises InvalidInput from the first step on.
    """
    passthrough = options.passthrough
    names, numbers = names_in_tables(signature)
    n_rows = 0
    with parse_errors(source.format):
        table = open_table(source, {*names, *passthrough}, lambda name: name not in numbers)
        expected = [*names, *passthrough]
        extra = check_names(table.schema.names, expected, ignore_extra=options.ignore_extra)
        warnings = table.warnings + extra
        for batch in table.batches:
            width = len(names) + len(passthrough)
            source.limits.check(rows=n_rows + len(batch), columns=width)
            for start in range(0, len(batch), BATCH_ROWS):
                part = batch.slice(start, BATCH_ROWS)
                columns = Columns(part, table.untyped, source.dialect.decimal)
                found = take_features(columns, signature, first_row=n_rows)
                passed = {name: _as_values(part[name]) for name in passthrough}
                yield replace(found, warnings=warnings, passed=passed)
                n_rows += len(part)
    if n_rows == 0:
        raise InvalidInput(NO_ROWS)


def names_in_tables(signature: Signature) -> tuple[list[str], set[str]]:
    """Return the names of a signature's columns in a table, and those that are numbers."""
    # A model that was trained while blanks were kept may have them in its names.
    names = [name.strip(BLANKS) for name in signature.names]
    kinds = [column.kind for column in signature.columns]
    return names, {name for name, kind in zip(names, kinds, strict=True) if kind == "number"}


def check_names(
    given: Sequence[str], expected: Sequence[str], *, ignore_extra: bool
) -> tuple[DataWarning, ...]:
    """Return a warning for each column that is left out.

    Raises InvalidInput where one is missing or, unless ``ignore_extra``, one is not expected.
    """
    faults = describe_names(given, expected)
    extra = [name for name in faults if name in given]
    for name in extra:
        if ignore_extra:
            del faults[name]
        else:
            faults[name] = ["is not a feature of the model; extra=ignore leaves it out"]
    if faults:
        raise InvalidInput(faults)
    return warn_of_extra(extra)


def take_features(found: Columns, signature: Signature, *, first_row: int = 0) -> Features:
    """Return the columns of a signature, which a table has, in its order.

    Raises InvalidInput, by column and row (counted from ``first_row``).
    """
    if not signature.is_matrix:
        return encode_table(found, signature, first_row=first_row)
    names = names_in_tables(signature)[0]
    return Features(make_matrix(found.rows, names, first_row=first_row))


def read_rows(rows: Any, signature: Signature) -> Features:
    """Return JSON rows: arrays in the order of a signature, or objects by feature name.

    Raises InvalidInput, by row.
    """
    if not signature.is_matrix:
        return encode_rows(rows, signature)
    if isinstance(rows, list) and rows and all(type(row) is dict for row in rows):
        return Features(matrix_from_records(rows, signature.names))
    X = matrix_from_rows(rows)
    check_width(X, len(signature.names))
    return Features(X)


def warn_of_extra(names: Iterable[str]) -> tuple[DataWarning, ...]:
    """Return a warning for each column that the model does not take."""
    message = "is not a feature of the model; it was left out"
    return tuple(DataWarning(name, message) for name in names)


def _as_values(column: Any) -> Any:
    """Return a column to pass on: whole numbers, numbers, or text (None where it is missing)."""
    import pyarrow as pa

    kind = kind_of(column.type)
    if kind in ("nested", "binary", "other"):
        raise InvalidInput({"passthrough": [f"holds {kind} values, which cannot be passed on"]})
    if kind == "integer" and not column.null_count:
        return np.asarray(column.cast(pa.int64()))
    if kind == "floating":
        return np.asarray(column.cast(pa.float64()))
    return np.array(column.cast(pa.string()).to_pylist(), dtype=np.object_)
