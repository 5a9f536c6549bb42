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

Rows: TypeAlias = NDArray[np.intp]
"""Numbers of rows, counted from 0 over the whole table."""

BATCH_ROWS = 2**14
MOST_INDEX_COLUMNS = 10
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
            raise InvalidInput([f"has no column beside {target!r}"])
        limits.check_features(len(features))
        check_feature_names(features)
        _check_numeric(table.schema, features if label else names)

        y = _find_target(table, target) if label else _Numbers(target)
        blocks = []
        n_rows = 0
        for rows, batch in _number_rows(table, limits):
            n_rows += len(rows)
            present = y.take(batch.column(target), rows)
            if not present.all():
                batch, rows = batch.filter(present), rows[present]
            blocks.append(_make_block(batch, features, rows))
    values, warnings = y.finish(), table.warnings
    if n_missing := n_rows - len(values):
        warnings += (warn_of_missing(target, n_missing, n_rows),)
    return make_dataset(_join(blocks), values, features, warnings)


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
    read = list(_read_blocks(source, format, names, limits, dialect))
    return Features(_join([features.X for features in read]), read[0].warnings)


def iterate_features(
    source: BinaryIO,
    *,
    format: Format,  # noqa: A002
    names: Sequence[str],
    dialect: CsvDialect = DEFAULT_DIALECT,
) -> Iterator[Features]:
    """Yield the columns ``names`` of a table, in that order, at most 16,384 rows at a time.

    Memory stays bounded whatever the length of a file; an Arrow file is decoded by its own record
    batches. Nothing limits what the file unpacks to: it is the user's own. Raises InvalidInput
    like ``read_features``, from the first step on.
    """
    for read in _read_blocks(source, format, names, None, dialect):
        for start in range(0, len(read.X), BATCH_ROWS):
            yield Features(read.X[start : start + BATCH_ROWS], read.warnings)


def _read_blocks(
    source: bytes | BinaryIO,
    row: Format,
    names: Sequence[str],
    limits: Limits | None,
    dialect: CsvDialect,
) -> Iterator[Features]:
    """Yield the columns ``names`` of a table, batch by batch."""
    # A model that was trained while blanks were kept may have them in its names.
    bare = [name.strip(BLANKS) for name in names]
    with parse_errors(row.title):
        table = _open(source, row, dialect, bare, None, limits)
        if faults := describe_names(table.schema.names, bare):
            raise InvalidInput(faults)
        _check_numeric(table.schema, bare)
        for rows, batch in _number_rows(table, limits):
            yield Features(_make_block(batch, bare, rows), table.warnings)


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


def _number_rows(table: Table, limits: Limits | None) -> Iterator[tuple[Rows, Any]]:
    """Yield the batches, each after the numbers of its rows; raises where there is no row."""
    n_rows = 0
    for batch in table.batches:
        first, n_rows = n_rows, n_rows + batch.num_rows
        if limits:
            limits.check(rows=n_rows, columns=len(table.schema))
        if batch.num_rows:
            yield np.arange(first, n_rows), batch
    if n_rows == 0:
        raise InvalidInput(["has no rows"])


def _make_block(batch: Any, names: Sequence[str], rows: Rows) -> Matrix:
    """Return columns of a batch as a matrix: (len(rows), len(names))."""
    columns = [_to_numbers(batch.column(name)) for name in names]
    block: Matrix = np.stack(columns, axis=1, dtype=np.float64)
    if not np.isfinite(block).all():
        for name, column in zip(names, columns, strict=True):
            _check_finite(column, name, rows)
    return block


def _join(blocks: list[Matrix]) -> Matrix:
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def _check_finite(values: NDArray[Any], name: str, rows: Rows) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        raise InvalidInput({name: {str(rows[np.argmin(finite)]): ["is missing or not finite"]}})


def _to_numbers(column: Any) -> NDArray[Any]:
    """Return an Arrow column of numbers; what is missing is NaN."""
    import pyarrow as pa

    kind = kind_of(column.type)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if kind == "null":
        return np.full(len(column), np.nan)
    if kind == "decimal":
        # Straight to float64, every third decimal comes out one bit off the nearest float.
        column = column.cast(pa.string()).cast(pa.float64())
    # Whole numbers are left to numpy, which rounds those beyond 2^53 as Python does; pyarrow
    # refuses them.
    return _to_numpy(column)


def _to_numpy(array: Any) -> NDArray[Any]:
    values: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return values


class _Numbers:
    """A target of numbers."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._parts: list[NDArray[Any]] = []

    def take(self, column: Any, rows: Rows) -> NDArray[np.bool_]:
        """Keep the values of some rows; return which of the rows have one."""
        values = _to_numbers(column)
        present: NDArray[np.bool_] = ~np.isnan(values)
        _check_finite(values[present], self._name, rows[present])
        self._parts.append(values[present])
        return present

    def finish(self) -> Vector | Labels:
        """Return the values of all rows that have one."""
        return np.concatenate(self._parts, dtype=np.float64)


class _WholeNumbers(_Numbers):
    """A target of labels that are whole numbers or booleans, whatever type holds them."""

    def take(self, column: Any, rows: Rows) -> NDArray[np.bool_]:
        """Keep the labels of some rows; return which of the rows have one."""
        import pyarrow as pa

        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        # Not a number is what pandas writes where a whole number is missing.
        present: NDArray[np.bool_] = ~_to_numpy(column.is_null(nan_is_null=True))
        try:
            self._parts.append(_to_numpy(column.filter(present).cast(pa.int64())))
        except pa.ArrowInvalid:
            message = "holds values that are not whole numbers of 64 bits, expected labels"
            raise InvalidInput({self._name: [message]}) from None
        return present

    def finish(self) -> Labels:
        """Return the labels of all rows that have one."""
        return np.concatenate(self._parts, dtype=np.int64)


class _Strings(_Numbers):
    """A target of labels that are strings: a code per row, and each label once.

    ``untyped``: labels that are all the text of whole numbers, or of booleans, are those.
    """

    def __init__(self, name: str, *, untyped: bool) -> None:
        super().__init__(name)
        self._untyped = untyped
        self._codes: dict[str, int] = {}
        self._first_rows: list[int] = []  # by code

    def take(self, column: Any, rows: Rows) -> NDArray[np.bool_]:
        """Keep the labels of some rows; return which of the rows have one."""
        import pyarrow as pa

        encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        indices = _to_numpy(encoded.indices.fill_null(-1))
        used, first, places = np.unique(indices, return_index=True, return_inverse=True)
        codes = np.full(len(used), -1, dtype=np.int32)  # where there is no label
        for place in np.argsort(first):
            label = encoded.dictionary[used[place]].as_py() if used[place] >= 0 else None
            if not label:
                continue
            if label not in self._codes:
                self._codes[label] = len(self._codes)
                self._first_rows.append(int(rows[first[place]]))
                self._check(label, self._first_rows[-1])
            codes[place] = self._codes[label]
        found = codes[places]
        present: NDArray[np.bool_] = found >= 0
        self._parts.append(found[present])
        return present

    def finish(self) -> Labels:
        """Return the labels of all rows that have one."""
        codes = np.concatenate(self._parts)
        numbers = _to_whole_numbers(list(self._codes)) if self._untyped else None
        if numbers is None:
            labels: Labels = np.array(list(self._codes), dtype=np.object_)[codes]
            return labels
        for number, row in zip(numbers, self._first_rows, strict=True):
            self._check(number, row)
        whole: Labels = np.array(numbers, dtype=np.int64)[codes]
        return whole

    def _check(self, label: str | int, row: int) -> None:
        if fault := describe_label(label):
            raise InvalidInput({self._name: {str(row): fault}})


def _to_whole_numbers(labels: Sequence[str]) -> list[int] | None:
    """Return the labels of a CSV file as numbers where all are whole, or all are booleans."""
    whole = [_WHOLE_NUMBER.fullmatch(label) for label in labels]
    if all(whole):
        return [int(found[1]) for found in whole if found]
    if all(label.lower() in _BOOLEANS for label in labels):
        return [_BOOLEANS[label.lower()] for label in labels]
    return None


def _find_target(table: Table, name: str) -> _Numbers:
    """Return what collects the labels of a column; raises InvalidInput where it holds none."""
    kind = kind_of(table.schema.field(name).type)
    if kind == "string":
        return _Strings(name, untyped=table.untyped)
    if kind in NUMERIC or kind == "boolean":
        return _WholeNumbers(name)
    message = f"holds {kind} values, expected strings, booleans or whole numbers"
    raise InvalidInput({name: [message]})
