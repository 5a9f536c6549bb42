"""From the bytes of a table to a dataset, to its columns, or to rows to predict for.

Every format opens as a ``Table``: named, typed columns that come in batches of rows.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import orjson

from webapp.errors import InvalidInput
from webapp.ml.core.datasets import (
    Dataset,
    DataWarning,
    Features,
    Unseen,
    check_feature_names,
    describe_names,
    find_repeated,
)
from webapp.ml.core.encoding import encode_table
from webapp.ml.core.learning import Choices, make_dataset_from
from webapp.ml.core.signature import Signature
from webapp.ml.core.tables.numbers import make_matrix
from webapp.ml.core.tables.shapes import (
    BLANKS,
    Columns,
    Format,
    IsText,
    Limits,
    Source,
    Table,
    check_target,
    kind_of,
    list_names,
    suggest_delimiter,
)

BATCH_ROWS = 2**14
MOST_INDEX_COLUMNS = 10
CELL_BYTES = 20  # decoded: a decimal of 128 bits
MOST_TEXT_BYTES = 2**27  # of the distinct labels in each batch
_LEADING_ZEROS = re.compile(rb"[,;|\t\n\"]0\d+[,;|\t\r\n\"]")


@dataclass(frozen=True)
class BatchOptions:
    """What to do with columns that a model does not take: leave them out, or pass them on."""

    ignore_extra: bool = False
    passthrough: tuple[str, ...] = ()


def read_columns(source: Source, *, target: str | None = None) -> Columns:
    """Return all columns of a table but the index of a pandas data frame; those of CSV as text.

    Raises InvalidInput, where there is no column ``target`` too.
    """
    return _read(source, _all_text, target)


def read_dataset(source: Source, choices: Choices) -> Dataset:
    """Return the rows of a table to learn from: the target is y, the others are X, in their order.

    Rows without a target are left out, and so are the columns that pandas calls an index; the
    dataset's warnings say so. Raises InvalidInput when the bytes are no such table, by column and
    row where they are known.
    """
    target = choices.target.strip(BLANKS)
    choices = replace(choices, target=target)
    if source.format.name != "csv":
        return make_dataset_from(_read(source, _all_text, target), choices)
    if not source.file.seekable():
        source = replace(source, file=io.BytesIO(source.file.read()))
    if not choices.kinds and not _has_leading_zeros(source):
        # Most tables hold numbers alone, which are read 3 times as fast so.
        labels = [target] if choices.task == "classification" else []
        start = source.file.tell()
        try:
            found = _read(source, lambda name: name in labels, target)
            return make_dataset_from(found, choices)
        except InvalidInput:
            source.file.seek(start)
    return make_dataset_from(_read(source, _all_text, target), choices)


def _has_leading_zeros(source: Source) -> bool:
    """Return whether a CSV file seems to hold codes such as 007 among its first rows."""
    start = source.file.tell()
    found = _LEADING_ZEROS.search(source.file.read(BATCH_ROWS))
    source.file.seek(start)
    return found is not None


def _all_text(_name: str) -> bool:
    return True


def _read(source: Source, is_text: IsText, target: str | None) -> Columns:
    with _parse_errors(source.format):
        table = _open(source, () if target is None else {target}, is_text)
        names = table.schema.names
        source.limits.check_features(len(names) - 1)  # one may be the target
        if target is not None:
            check_target(names, target)
        check_feature_names(names)
        if hint := suggest_delimiter(names):
            raise InvalidInput([f"has one column, {list_names(names)}; {hint}"])
        rows = _collect(table, source.limits, target)
        rows = _encode_categoricals(rows, table.schema.metadata)
    return Columns(rows, table.untyped, source.dialect.decimal, table.warnings)


def read_features(source: Source, signature: Signature, options: BatchOptions) -> Features:
    """Return all rows that ``iterate_features`` yields."""
    blocks = list(iterate_features(source, signature, options))
    first = blocks[0]
    if len(blocks) == 1:
        return first
    texts = None if first.texts is None else np.concatenate([b.texts for b in blocks])
    unseen = {}
    for name in {name for block in blocks for name in block.unseen}:
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
    with _parse_errors(source.format):
        table = _open(source, {*names, *passthrough}, lambda name: name not in numbers)
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


@contextmanager
def _parse_errors(row: Format) -> Iterator[None]:
    """Turn what pyarrow raises for malformed bytes into InvalidInput."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, struct.error, UnicodeDecodeError, OSError) as error:
        # pyarrow's own OSErrors have no number; one with a number comes from the machine.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        # The message is not passed on: it may quote the client's rows.
        raise InvalidInput([f"is not {row.title}: it cannot be parsed"]) from None


def _open(source: Source, wanted: Collection[str], is_text: IsText) -> Table:
    """Return a table whose columns are called by their names without the blanks around them.

    Columns that pandas calls an index are left out unless they are ``wanted`` by name.
    """
    import pyarrow as pa

    table = source.format.open(source, is_text)
    names = [name.strip(BLANKS) for name in table.schema.names]
    if "" in names:
        message = f"column {names.index('') + 1} has no name; write the table without row names"
        raise InvalidInput([message])
    if repeated := find_repeated(names):
        raise InvalidInput([f"has more than one column named {list_names(repeated)}"])
    index = _find_index_columns(table.schema.metadata).difference(wanted)
    kept = [place for place, name in enumerate(names) if name not in index]
    if len(names) - len(kept) > MOST_INDEX_COLUMNS:
        raise InvalidInput([f"has more than {MOST_INDEX_COLUMNS} columns of a pandas index"])
    message = "is the index of a pandas data frame; it was left out"
    left_out = (DataWarning(name, message) for name in names if name in index)
    schema = pa.schema(
        [table.schema.field(place).with_name(names[place]) for place in kept],
        table.schema.metadata,
    )
    batches = _read_batches(table.batches, kept, schema.names)
    return replace(table, schema=schema, batches=batches, warnings=(*table.warnings, *left_out))


def _read_batches(batches: Iterable[Any], kept: Sequence[int], names: list[str]) -> Iterator[Any]:
    for batch in batches:
        batch.validate(full=True)  # before anything trusts an offset, an index or UTF-8 in it
        yield batch.select(kept).rename_columns(names)


def _read_pandas(metadata: Mapping[bytes, bytes] | None, key: str) -> list[Any]:
    """Return a list in pandas' metadata; an empty one where there are none.

    They are as https://pandas.pydata.org/docs/development/developer.html says.
    """
    try:
        found = orjson.loads((metadata or {})[b"pandas"])[key]
    except (LookupError, TypeError, orjson.JSONDecodeError):
        return []
    return found if isinstance(found, list) else []


def _find_index_columns(metadata: Mapping[bytes, bytes] | None) -> set[str]:
    """Return the columns that pandas calls an index of the rows.

    An index of consecutive numbers is described there, and no column.
    """
    names = _read_pandas(metadata, "index_columns")
    return {name.strip(BLANKS) for name in names if isinstance(name, str)}


def _encode_categoricals(rows: Any, metadata: Mapping[bytes, bytes] | None) -> Any:
    """Return rows with what pandas calls a categorical as a dictionary, which Parquet loses."""
    for column in _read_pandas(metadata, "columns"):
        name = column.get("name") if isinstance(column, dict) else None
        if name in rows.column_names and column.get("pandas_type") == "categorical":
            place = rows.column_names.index(name)
            if kind_of(rows[name].type) == "integer":
                rows = rows.set_column(place, name, rows[name].dictionary_encode())
    return rows


def _collect(table: Table, limits: Limits, target: str | None) -> Any:
    """Return all rows as a table of pyarrow's; a target of text becomes a dictionary."""
    import pyarrow as pa

    batches = []
    n_rows = n_bytes = 0
    is_text = target is not None and kind_of(table.schema.field(target).type) == "string"
    for batch in table.batches:
        n_rows += len(batch)
        limits.check(rows=n_rows, columns=len(table.schema))
        if is_text:
            place = table.schema.get_field_index(target)
            batch = batch.set_column(place, target, batch[target].dictionary_encode())
        n_bytes += batch.get_total_buffer_size()
        if n_bytes > CELL_BYTES * n_rows * len(table.schema) + MOST_TEXT_BYTES:
            raise InvalidInput(["decompresses to more than its rows can need"])
        batches.append(batch)
    if n_rows == 0:
        raise InvalidInput(["has no rows"])
    return pa.Table.from_batches(batches)
