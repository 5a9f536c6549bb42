"""From a table to the matrix of its features and the values of its target.

Every format opens as a ``Table``: named, typed columns that come in batches of rows.
"""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np
import orjson
from numpy.typing import NDArray

from webapp.errors import MOST_FAULTS, InvalidInput
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

BLANKS = " \t"  # not part of a column's name at its ends
DELIMITERS = (",", ";", "\t", "|")
BATCH_ROWS = 2**14
MOST_INDEX_COLUMNS = 10
CELL_BYTES = 20  # decoded: a decimal of 128 bits
MOST_TEXT_BYTES = 2**27  # of the distinct labels in each batch
_MISSING = "is missing or not finite; fill it in, or leave the row out"
# A label that is a whole number in JSON, or what pandas makes of one beside a gap.
_WHOLE_NUMBER = re.compile(r"(-?(?:0|[1-9][0-9]*))(?:\.0)?")
BOOLEANS = {"false": 0, "true": 1}
_NUMERIC = {"integer", "floating", "decimal", "null"}
# Kinds of columns, in the words of pyarrow.types, and in those of error messages.
_KINDS = {
    **{kind: kind for kind in (*_NUMERIC, "boolean", "string", "binary", "nested")},
    **{"large_string": "string", "string_view": "string", "large_binary": "binary"},
    "temporal": "date or time",
}


@dataclass(frozen=True)
class Limits:
    """The size that a table may have: ``columns`` are features, ``cells`` has the target too."""

    rows: int
    columns: int
    cells: int

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Limits:
        """Return the limits in the settings of the application."""
        return cls(settings["MAX_ROWS"], settings["MAX_COLUMNS"], settings["MAX_CELLS"])

    def check(self, *, rows: int, columns: int) -> None:
        """Raise InvalidInput for too many rows or cells; ``columns`` counts the target too."""
        if rows > self.rows:
            raise InvalidInput([f"has more than {self.rows} rows"])
        if rows * columns > self.cells:
            message = f"has {rows} rows of {columns} values, more than {self.cells} values in all"
            raise InvalidInput([message])

    def check_features(self, count: int) -> None:
        """Raise InvalidInput for too many features."""
        if count > self.columns:
            raise InvalidInput([f"has {count} columns, more than the {self.columns} allowed"])


# At the command line, where memory is the user's own, predictions may be of any length.
UNLIMITED = Limits(sys.maxsize, sys.maxsize, sys.maxsize)


@dataclass(frozen=True)
class CsvDialect:
    """How a CSV file separates columns, and how it writes the decimal point."""

    delimiter: str = ","
    decimal: str = "."


@dataclass(frozen=True)
class Table:
    """A table whose header has been read.

    schema: pyarrow's, with the names and types of the columns; batches: pyarrow's record
    batches, read on demand; untyped: whole numbers and booleans may come as text (CSV).
    """

    schema: Any
    batches: Iterable[Any]
    untyped: bool = False
    warnings: tuple[DataWarning, ...] = ()


@dataclass(frozen=True)
class Format:
    """A format of tables; ``title`` names it in error messages.

    ``open`` takes a source and the name of the column of labels (None for a regression or a
    prediction). It may raise what pyarrow raises for malformed bytes.
    """

    name: str
    title: str
    media_types: tuple[str, ...]
    suffixes: tuple[str, ...]
    open: Callable[[Source, str | None], Table]


@dataclass(frozen=True)
class Source:
    """The bytes of a table, and how to read them; ``as_text`` leaves all columns of CSV text."""

    file: BinaryIO
    format: Format
    dialect: CsvDialect
    limits: Limits = UNLIMITED
    as_text: bool = False


@dataclass(frozen=True)
class Columns:
    """All columns of a table, in types of their own.

    rows: a table of pyarrow's; untyped: numbers, booleans and dates may come as text (CSV), with
    this ``decimal`` point.
    """

    rows: Any
    untyped: bool = False
    decimal: str = "."
    warnings: tuple[DataWarning, ...] = ()

    def check_target(self, target: str | None) -> None:
        """Raise InvalidInput for a target that is none of the columns."""
        if target is not None:
            _check_target(self.rows.column_names, target)


def read_columns(source: Source, *, target: str | None = None) -> Columns:
    """Return all columns of a table but the index of a pandas data frame.

    Raises InvalidInput, where there is no column ``target`` too.
    """
    with _parse_errors(source.format):
        table = _open(replace(source, as_text=True), ())
        names = table.schema.names
        source.limits.check_features(len(names) - 1)  # one may be the target
        check_feature_names(names)
        if hint := _suggest_delimiter(names):
            raise InvalidInput([f"has one column, {_list_names(names)}; {hint}"])
        rows = _collect(table, source.limits, None)
        columns = Columns(rows, table.untyped, source.dialect.decimal, table.warnings)
        columns.check_target(target)
    return columns


def read_dataset(source: Source, *, target: str, task: str) -> Dataset:
    """Return the rows of a table: column ``target`` is y, the others are X, in their order.

    ``task`` is "regression" (y is float64) or "classification" (y is int64 for whole numbers and
    for booleans, str objects for strings; the text of a CSV file is whole numbers or booleans
    when every row is). Rows without a target are left out, and so are the columns that pandas
    calls an index; the dataset's warnings say so. Raises InvalidInput when the bytes are no such
    table, by column and row where they are known.
    """
    target = target.strip(BLANKS)
    label = target if task == "classification" else None
    with _parse_errors(source.format):
        table = _open(source, {target}, label)
        names: list[str] = table.schema.names
        features = [name for name in names if name != target]
        _check_target(names, target)
        if not features:
            raise InvalidInput([f"has no column beside the target {target!r}"])
        source.limits.check_features(len(features))
        check_feature_names(features)
        _check_numeric(table.schema, features if label else names)
        kind = kind_of(table.schema.field(target).type)
        rows = _collect(table, source.limits, target if kind == "string" else None)
        y: Vector | Labels
        if not label:
            y, present = _take_numbers(rows[target], target)
        elif kind == "string":
            y, present = _take_strings(rows[target], target, untyped=table.untyped)
        elif kind == "boolean" or kind in _NUMERIC:
            y, present = _take_whole_numbers(rows[target], target)
        else:
            message = f"holds {kind} values, expected strings, booleans or whole numbers"
            raise InvalidInput({target: [message]})
        X = _make_matrix(rows, features, np.flatnonzero(present))
    n_missing = len(rows) - len(y)
    missing = (warn_of_missing(target, n_missing, len(rows)),) if n_missing else ()
    return make_dataset(X, y, features, table.warnings + missing)


def read_features(source: Source, *, names: Sequence[str]) -> Features:
    """Return the columns ``names`` of a table, in that order: X is (n_rows, len(names)).

    Further columns are refused by name, like missing ones: a table with the target still in
    it is more likely a mistake than a wish. Columns that pandas calls an index are left out.
    Raises InvalidInput.
    """
    blocks = list(iterate_features(source, names=names))
    return Features(np.concatenate([block.X for block in blocks]), blocks[0].warnings)


def iterate_features(source: Source, *, names: Sequence[str]) -> Iterator[Features]:
    """Yield what ``read_features`` returns, at most 16,384 rows at a time.

    Memory stays bounded whatever the length of a file; an Arrow file is decoded by its own record
    batches. Raises InvalidInput from the first step on.
    """
    # A model that was trained while blanks were kept may have them in its names.
    names = [name.strip(BLANKS) for name in names]
    n_rows = 0
    with _parse_errors(source.format):
        table = _open(source, names)
        if faults := describe_names(table.schema.names, names):
            raise InvalidInput(faults)
        _check_numeric(table.schema, names)
        for batch in table.batches:
            source.limits.check(rows=n_rows + len(batch), columns=len(names))
            for start in range(0, len(batch), BATCH_ROWS):
                part = batch.slice(start, BATCH_ROWS)
                X = _make_matrix(part, names, np.arange(len(part)), first_row=n_rows)
                yield Features(X, table.warnings)
                n_rows += len(part)
    if n_rows == 0:
        raise InvalidInput(["has no rows"])


def kind_of(arrow_type: Any) -> str:
    """Return the kind of an Arrow type, or of what a dictionary encodes, in a word.

    The type's own name may hold text of the client: names of fields, a time zone.
    """
    from pyarrow import types

    if types.is_dictionary(arrow_type):
        return kind_of(arrow_type.value_type)
    fits = (word for kind, word in _KINDS.items() if getattr(types, f"is_{kind}")(arrow_type))
    return next(fits, "other")


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


def _open(source: Source, wanted: Collection[str], label: str | None = None) -> Table:
    """Return a table whose columns are called by their names without the blanks around them.

    Columns that pandas calls an index are left out unless they are ``wanted`` by name.
    """
    import pyarrow as pa

    table = source.format.open(source, label)
    names = [name.strip(BLANKS) for name in table.schema.names]
    if "" in names:
        message = f"column {names.index('') + 1} has no name; write the table without row names"
        raise InvalidInput([message])
    if repeated := find_repeated(names):
        raise InvalidInput([f"has more than one column named {_list_names(repeated)}"])
    index = _find_index_columns(table.schema.metadata).difference(wanted)
    kept = [place for place, name in enumerate(names) if name not in index]
    if len(names) - len(kept) > MOST_INDEX_COLUMNS:
        raise InvalidInput([f"has more than {MOST_INDEX_COLUMNS} columns of a pandas index"])
    message = "is the index of a pandas data frame; it was left out"
    left_out = (DataWarning(name, message) for name in names if name in index)
    schema = pa.schema([table.schema.field(place).with_name(names[place]) for place in kept])
    batches = _read_batches(table.batches, kept, schema.names)
    return replace(table, schema=schema, batches=batches, warnings=(*table.warnings, *left_out))


def _read_batches(batches: Iterable[Any], kept: Sequence[int], names: list[str]) -> Iterator[Any]:
    for batch in batches:
        batch.validate(full=True)  # before anything trusts an offset, an index or UTF-8 in it
        yield batch.select(kept).rename_columns(names)


def _find_index_columns(metadata: Mapping[bytes, bytes] | None) -> set[str]:
    """Return the columns that pandas' metadata, if there are any, call an index of the rows.

    An index of consecutive numbers is described there, and no column. What is not as pandas
    writes it (https://pandas.pydata.org/docs/development/developer.html) names no column.
    """
    try:
        found = orjson.loads((metadata or {})[b"pandas"])["index_columns"]
    except (LookupError, TypeError, orjson.JSONDecodeError):
        return set()
    names = found if isinstance(found, list) else []
    return {name.strip(BLANKS) for name in names if isinstance(name, str)}


def _check_numeric(schema: Any, names: Iterable[str]) -> None:
    kinds = {name: kind_of(schema.field(name).type) for name in names}
    others = {name: kind for name, kind in kinds.items() if kind not in _NUMERIC}
    if others:
        raise InvalidInput(
            {name: [f"holds {kind} values, expected numbers"] for name, kind in others.items()}
        )


def _check_target(names: Sequence[str], target: str) -> None:
    if target not in names:
        raise InvalidInput([f"has no column {target!r}; {_describe_columns(names)}"])


def _describe_columns(names: Sequence[str]) -> str:
    return _suggest_delimiter(names) or f"its columns are {_list_names(names)}"


def _suggest_delimiter(names: Sequence[str]) -> str:
    """Return what to do about a header that another delimiter seems to separate, or nothing."""
    found = [d for d in DELIMITERS if len(names) == 1 and d in names[0]]
    shown = "".join("a tab" if d == "\t" else repr(d) for d in found[:1])
    return shown and f"if {shown} separates its columns, give the options delimiter and decimal"


def _list_names(names: Sequence[str]) -> str:
    """Return the first few names, each cut at 40 characters, as a list in a sentence."""
    shown = ", ".join(name[:40] for name in names[:MOST_FAULTS])
    return f"{shown}, …" if len(names) > MOST_FAULTS else shown


def _collect(table: Table, limits: Limits, text: str | None) -> Any:
    """Return all rows as a table of pyarrow's; the column ``text`` becomes a dictionary."""
    import pyarrow as pa

    batches = []
    n_rows = n_bytes = 0
    for batch in table.batches:
        n_rows += len(batch)
        limits.check(rows=n_rows, columns=len(table.schema))
        if text is not None:
            place = table.schema.get_field_index(text)
            batch = batch.set_column(place, text, batch[text].dictionary_encode())
        n_bytes += batch.get_total_buffer_size()
        if n_bytes > CELL_BYTES * n_rows * len(table.schema) + MOST_TEXT_BYTES:
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
    return np.asarray(column)


def _take_numbers(column: Any, name: str) -> tuple[Vector, NDArray[np.bool_]]:
    """Return the numbers of a target, and which rows have one: (n_rows,)."""
    values = _to_numbers(column)
    if np.isinf(values).any():
        raise InvalidInput({name: {str(np.argmax(np.isinf(values))): [_MISSING]}})
    present = ~np.isnan(values)
    return values[present].astype(np.float64, copy=False), present


def _take_whole_numbers(column: Any, name: str) -> tuple[Labels, NDArray[np.bool_]]:
    """Return labels that are whole numbers or booleans, in any type, and which rows have one."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    # Not a number is what pandas writes where a whole number is missing.
    present = ~np.asarray(column.is_null(nan_is_null=True))
    try:
        return np.asarray(column.filter(pa.array(present)).cast(pa.int64())), present
    except pa.ArrowInvalid:
        message = "holds values that are not whole numbers of 64 bits, expected labels"
        raise InvalidInput({name: [message]}) from None


def _take_strings(column: Any, name: str, *, untyped: bool) -> tuple[Labels, NDArray[np.bool_]]:
    """Return the labels in a column of dictionaries, and which rows have one."""
    import pyarrow as pa

    encoded = column.unify_dictionaries().combine_chunks()
    codes = np.asarray(encoded.indices.cast(pa.int64()).fill_null(-1))
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
    present = found >= 0
    values: Labels = np.array(labels, np.int64 if numbers else np.object_)[found[present]]
    return values, present


def _to_whole_numbers(labels: Sequence[str]) -> list[int] | None:
    """Return the labels of a CSV file as numbers where all are whole, or all are booleans."""
    whole = [_WHOLE_NUMBER.fullmatch(label) for label in labels]
    if all(whole):
        return [int(found[1]) for found in whole if found]
    if all(label.lower() in BOOLEANS for label in labels):
        return [BOOLEANS[label.lower()] for label in labels]
    return None
