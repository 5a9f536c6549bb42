"""From a table to the matrix of its features and the values of its target."""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray

from webapp.errors import InvalidInput
from webapp.ml.core.datasets import (
    Dataset,
    DataWarning,
    Features,
    Labels,
    Matrix,
    Vector,
    check_feature_names,
    describe_label,
    describe_names,
    find_repeated,
    make_dataset,
    warn_of_missing,
)
from webapp.ml.core.tables.table import (
    BLANKS,
    DEFAULT_DIALECT,
    DELIMITERS,
    NUMERIC,
    CsvDialect,
    Format,
    Limits,
    Table,
    kind_of,
    list_names,
    parse_errors,
)

Present: TypeAlias = NDArray[np.bool_]
"""(n_rows,): which rows have a value."""

BATCH_ROWS = 2**14
MOST_INDEX_COLUMNS = 10
CELL_BYTES = 20  # decoded: a decimal of 128 bits
MOST_TEXT_BYTES = 2**27  # of the distinct labels in each batch
_MISSING = "is missing or not finite; fill it in, or leave the row out"
# A label that is a whole number in JSON, or what pandas makes of one beside a gap.
_WHOLE_NUMBER = re.compile(r"(-?(?:0|[1-9][0-9]*))(?:\.0)?")
_BOOLEANS = {"false": 0, "true": 1}


def read_dataset(
    source: bytes | BinaryIO,
    *,
    format: Format,  # noqa: A002 - the callers' word; nothing here formats
    target: str,
    task: str,
    limits: Limits,
    dialect: CsvDialect = DEFAULT_DIALECT,
) -> Dataset:
    """Return the rows of a table: column ``target`` is y, the others are X, in their order.

    ``task`` is "regression" (y is float64) or "classification" (y is int64 for whole numbers and
    for booleans, str objects for strings; the text of a CSV file is whole numbers or booleans
    when every row is). Rows without a target are left out, and so are the columns that pandas
    calls an index; the dataset's warnings say so.

    Raises InvalidInput when the bytes are no such table, by column and row where they are known.
    """
    target = target.strip(BLANKS)
    label = target if task == "classification" else None
    with parse_errors(format.title):
        table = _open(source, format, dialect, {target}, label, limits)
        names: list[str] = table.schema.names
        features = [name for name in names if name != target]
        if target not in names:
            raise InvalidInput([f"has no column {target!r}; {_describe_columns(names)}"])
        if not features:
            raise InvalidInput([f"has no column beside the target {target!r}"])
        limits.check_features(len(features))
        check_feature_names(features)
        _check_numeric(table.schema, features if label else names)
        kind = kind_of(table.schema.field(target).type)
        if kind not in (*NUMERIC, "boolean", "string"):
            message = f"holds {kind} values, expected strings, booleans or whole numbers"
            raise InvalidInput({target: [message]})

        text = label if kind == "string" else None
        rows = _collect(table, limits, text)
        y: Vector | Labels
        if not label:
            y, present = _take_numbers(rows[target], target)
        elif text:
            y, present = _take_strings(rows[target], target, untyped=table.untyped)
        else:
            y, present = _take_whole_numbers(rows[target], target)
        X = _make_matrix(rows, features, np.flatnonzero(present))
    warnings = table.warnings
    if n_missing := len(rows) - len(y):
        warnings += (warn_of_missing(target, n_missing, len(rows)),)
    return make_dataset(X, y, features, warnings)


def read_features(
    source: bytes | BinaryIO,
    *,
    format: Format,  # noqa: A002
    names: Sequence[str],
    limits: Limits,
    dialect: CsvDialect = DEFAULT_DIALECT,
) -> Features:
    """Return the columns ``names`` of a table, in that order: X is (n_rows, len(names)).

    Further columns are refused by name, like missing ones: a table with the target still in
    it is more likely a mistake than a wish. Columns that pandas calls an index are left out.
    Raises InvalidInput.
    """
    with parse_errors(format.title):
        table, names = _open_features(source, format, names, limits, dialect)
        rows = _collect(table, limits)
        return Features(_make_matrix(rows, names, np.arange(len(rows))), table.warnings)


def iterate_features(
    source: BinaryIO,
    *,
    format: Format,  # noqa: A002
    names: Sequence[str],
    dialect: CsvDialect = DEFAULT_DIALECT,
) -> Iterator[Features]:
    """Yield the columns ``names`` of a table, in that order, at most 16,384 rows at a time.

    Memory stays bounded whatever the length of a file; an Arrow file is decoded by its own record
    batches. Nothing limits what they decompress to: the file is the user's own. Raises
    InvalidInput like ``read_features``, from the first step on.
    """
    n_rows = 0
    with parse_errors(format.title):
        table, names = _open_features(source, format, names, None, dialect)
        for batch in table.batches:
            for start in range(0, len(batch), BATCH_ROWS):
                part = batch.slice(start, BATCH_ROWS)
                X = _make_matrix(part, names, np.arange(len(part)), first_row=n_rows)
                yield Features(X, table.warnings)
                n_rows += len(part)
    if n_rows == 0:
        raise InvalidInput(["has no rows"])


def _open_features(
    source: bytes | BinaryIO,
    row: Format,
    names: Sequence[str],
    limits: Limits | None,
    dialect: CsvDialect,
) -> tuple[Table, list[str]]:
    """Return a table whose columns are ``names``, and the names as they are called there."""
    # A model that was trained while blanks were kept may have them in its names.
    bare = [name.strip(BLANKS) for name in names]
    table = _open(source, row, dialect, bare, None, limits)
    if faults := describe_names(table.schema.names, bare):
        raise InvalidInput(faults)
    _check_numeric(table.schema, bare)
    return table, bare


def _open(
    source: bytes | BinaryIO,
    row: Format,
    dialect: CsvDialect,
    wanted: Collection[str],
    label: str | None,
    limits: Limits | None,
) -> Table:
    """Return a table whose columns are called by their names without the blanks around them.

    Columns that pandas calls an index are left out unless they are ``wanted`` by name.
    """
    import pyarrow as pa

    file = io.BytesIO(source) if isinstance(source, bytes) else source
    table = row.open(file, label, limits, dialect)
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
    fields = [table.schema.field(place).with_name(names[place]) for place in kept]
    return replace(
        table,
        schema=pa.schema(fields),
        batches=(
            batch.select(kept).rename_columns([names[place] for place in kept])
            for batch in table.batches
        ),
        warnings=(*table.warnings, *left_out),
    )


def _find_index_columns(metadata: Mapping[bytes, bytes] | None) -> set[str]:
    """Return the columns that pandas' metadata, if there are any, call an index of the rows.

    An index of consecutive numbers is described there, and no column. What is not as pandas
    writes it (https://pandas.pydata.org/docs/development/developer.html) names no column.
    """
    try:
        described = orjson.loads((metadata or {}).get(b"pandas", b""))
    except orjson.JSONDecodeError:
        return set()
    columns = described.get("index_columns") if isinstance(described, dict) else None
    found = columns if isinstance(columns, list) else []
    return {name.strip(BLANKS) for name in found if isinstance(name, str)}


def _check_numeric(schema: Any, names: Iterable[str]) -> None:
    kinds = {name: kind_of(schema.field(name).type) for name in names}
    faults = {
        name: [f"holds {kind} values, expected numbers"]
        for name, kind in kinds.items()
        if kind not in NUMERIC
    }
    if faults:
        raise InvalidInput(faults)


def _describe_columns(names: Sequence[str]) -> str:
    if len(names) == 1:
        for delimiter in DELIMITERS:
            if delimiter in names[0]:
                shown = {"\t": "a tab"}.get(delimiter, repr(delimiter))
                return f"if {shown} separates its columns, give the options delimiter and decimal"
    return f"its columns are {list_names(names)}"


def _collect(table: Table, limits: Limits, text: str | None = None) -> Any:
    """Return all rows as a table of pyarrow's; the column ``text`` becomes a dictionary."""
    import pyarrow as pa

    n_columns = len(table.schema)
    batches = []
    n_rows = n_bytes = 0
    for batch in table.batches:
        n_rows += len(batch)
        limits.check(rows=n_rows, columns=n_columns)
        if text is not None:
            place = table.schema.get_field_index(text)
            batch = batch.set_column(place, text, batch[text].dictionary_encode())
        n_bytes += batch.get_total_buffer_size()
        if n_bytes > CELL_BYTES * n_rows * n_columns + MOST_TEXT_BYTES:
            raise InvalidInput(["decompresses to more than its rows can need"])
        batches.append(batch)
    if n_rows == 0:
        raise InvalidInput(["has no rows"])
    return pa.Table.from_batches(batches)


def _make_matrix(
    rows: Any, names: Sequence[str], kept: NDArray[np.intp], *, first_row: int = 0
) -> Matrix:
    """Return columns of a table as a matrix: (len(kept), len(names)).

    ``kept``: which rows of the table; ``first_row``: how many rows of the file came before it.
    """
    X = np.empty((len(kept), len(names)))
    for place, name in enumerate(names):
        values = _to_numbers(rows[name])
        X[:, place] = values if len(kept) == len(values) else values[kept]
    finite = np.isfinite(X)
    if not finite.all():
        place = int(np.argmin(finite.all(axis=0)))
        row = first_row + kept[np.argmin(finite[:, place])]
        raise InvalidInput({names[place]: {str(row): [_MISSING]}})
    return X


def _to_numbers(column: Any) -> NDArray[Any]:
    """Return an Arrow column of numbers; what is missing is NaN."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan)
    if pa.types.is_decimal(column.type):
        # Straight to float64, every third decimal comes out one bit off the nearest float.
        column = column.cast(pa.string()).cast(pa.float64())
    # Whole numbers are left to numpy, which rounds those beyond 2^53 as Python does; pyarrow
    # refuses them.
    return _to_numpy(column)


def _to_numpy(column: Any) -> NDArray[Any]:
    values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return values


def _take_numbers(column: Any, name: str) -> tuple[Vector, Present]:
    """Return the numbers of a target, and which rows have one."""
    values = _to_numbers(column)
    if np.isinf(values).any():
        raise InvalidInput({name: {str(np.argmax(np.isinf(values))): [_MISSING]}})
    present = ~np.isnan(values)
    return values[present].astype(np.float64, copy=False), present


def _take_whole_numbers(column: Any, name: str) -> tuple[Labels, Present]:
    """Return labels that are whole numbers or booleans, in any type, and which rows have one."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    # Not a number is what pandas writes where a whole number is missing.
    present: Present = ~_to_numpy(column.is_null(nan_is_null=True))
    try:
        return _to_numpy(column.filter(pa.array(present)).cast(pa.int64())), present
    except pa.ArrowInvalid:
        message = "holds values that are not whole numbers of 64 bits, expected labels"
        raise InvalidInput({name: [message]}) from None


def _take_strings(column: Any, name: str, *, untyped: bool) -> tuple[Labels, Present]:
    """Return the labels in a column of dictionaries, and which rows have one.

    ``untyped``: labels that are all the text of whole numbers, or of booleans, are those.
    """
    import pyarrow as pa

    encoded = column.unify_dictionaries().combine_chunks()
    codes = _to_numpy(encoded.indices.cast(pa.int64()).fill_null(-1))
    texts = {}  # by code: those that are used
    for code in (np.flatnonzero(np.bincount(codes + 1)) - 1).tolist():
        if code >= 0 and (text := encoded.dictionary[code].as_py()):
            texts[code] = text
    numbers = _to_whole_numbers(list(texts.values())) if untyped else None
    labels: list[Any] = numbers or list(texts.values())
    for code, label in zip(texts, labels, strict=True):
        if fault := describe_label(label):
            raise InvalidInput({name: {str(np.argmax(codes == code)): fault}})
    places = np.full(len(encoded.dictionary) + 1, -1)  # the last one is for code -1
    places[list(texts)] = range(len(texts))
    found = places[codes]
    present: Present = found >= 0
    values: Labels = np.array(labels, np.int64 if numbers else np.object_)[found[present]]
    return values, present


def _to_whole_numbers(labels: Sequence[str]) -> list[int] | None:
    """Return the labels of a CSV file as numbers where all are whole, or all are booleans."""
    whole = [_WHOLE_NUMBER.fullmatch(label) for label in labels]
    if all(whole):
        return [int(found[1]) for found in whole if found]
    if all(label.lower() in _BOOLEANS for label in labels):
        return [_BOOLEANS[label.lower()] for label in labels]
    return None
