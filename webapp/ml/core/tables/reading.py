"""From the bytes of a table to its columns.

Every format opens as a ``Table``: named, typed columns that come in batches of rows.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import orjson

from webapp.errors import InvalidInput
from webapp.ml.core.datasets import DataWarning, check_feature_names, find_repeated
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

MOST_INDEX_COLUMNS = 10
CELL_BYTES = 20  # decoded: a decimal of 128 bits
MOST_TEXT_BYTES = 2**27  # of the distinct labels in each batch


def leave_text(_name: str) -> bool:
    """Return true: no column of CSV is read as numbers."""
    return True


def read_columns(
    source: Source,
    *,
    target: str | None = None,
    wanted: Collection[str] = (),
    is_text: IsText = leave_text,
) -> Columns:
    """Return all columns of a table but the index of a pandas data frame, unless it is ``wanted``.

    ``is_text``: which of CSV stay text; what is left must be numbers. Raises InvalidInput, where
    there is no column ``target`` too.
    """
    with parse_errors(source.format):
        wanted = {*wanted, *([] if target is None else [target])}
        table = open_table(source, wanted, is_text)
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


@contextmanager
def parse_errors(row: Format) -> Iterator[None]:
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


def open_table(source: Source, wanted: Collection[str], is_text: IsText) -> Table:
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
