"""Rows of a table to predict for: the columns that a model takes, whole or in blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from webapp.errors import InvalidInput
from webapp.ml.core.datasets import DataWarning, Features, Unseen, describe_names
from webapp.ml.core.encoding import encode_table
from webapp.ml.core.signature import Signature
from webapp.ml.core.tables.numbers import make_matrix
from webapp.ml.core.tables.reading import open_table, parse_errors
from webapp.ml.core.tables.shapes import BLANKS, Columns, Source, kind_of

BATCH_ROWS = 2**14


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
    # A model that was trained while blanks were kept may have them in its names.
    names = [name.strip(BLANKS) for name in signature.names]
    numbers = {
        name for name, c in zip(names, signature.columns, strict=True) if c.kind == "number"
    }
    n_rows = 0
    with parse_errors(source.format):
        table = open_table(source, {*names, *passthrough}, lambda name: name not in numbers)
        given = table.schema.names
        faults = describe_names(given, [*names, *passthrough])
        extra = [name for name in faults if name in given]
        if options.ignore_extra:
            faults = {name: fault for name, fault in faults.items() if name not in extra}
        if faults:
            raise InvalidInput(faults)
        warnings = table.warnings + warn_of_extra(extra)
        for batch in table.batches:
            width = len(names) + len(passthrough)
            source.limits.check(rows=n_rows + len(batch), columns=width)
            for start in range(0, len(batch), BATCH_ROWS):
                part = batch.slice(start, BATCH_ROWS)
                if signature.is_matrix:
                    found = Features(make_matrix(part, names, first_row=n_rows))
                else:
                    columns = Columns(part, table.untyped, source.dialect.decimal)
                    found = encode_table(columns, signature, first_row=n_rows)
                passed = {name: _as_values(part[name]) for name in passthrough}
                yield replace(found, warnings=warnings, passed=passed)
                n_rows += len(part)
    if n_rows == 0:
        raise InvalidInput(["has no rows"])


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
