"""Files and streams of rows (CSV, Parquet, Arrow) → a dataset or matrices, by pyarrow.

Rows come in bounded batches and go straight into a matrix that grows in place, so that the
file, its decoded form and the matrix never all stand in memory. The same rows give the very
same bits whichever way they come, JSON included.
"""

from __future__ import annotations

import csv as text
import io
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePath
from typing import Any, BinaryIO, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from webapp.errors import MOST_FAULTS, Faults, InvalidInput
from webapp.ml.core.datasets import (
    Dataset,
    Labels,
    Matrix,
    check_feature_names,
    describe_label,
    describe_names,
    find_repeated,
    make_dataset,
)
from webapp.ml.core.unpacking import CheckedMessages, check_pages

BATCH_ROWS = 2**14
CSV_BLOCK_BYTES = 2**20
CSV_CELL_BYTES = 64  # makes room for long rows: a block must hold one
LONGEST_CSV_HEADER = 16 * 2**20
READ_BYTES = 2**20
PARQUET_BUFFER_BYTES = 2**16
GROWTH = 1.125

_Scalar = TypeVar("_Scalar", bound=np.generic)
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # OWASP: "CSV injection"
_BOM = b"\xef\xbb\xbf"
_ARROW_FILE_MAGIC = b"ARROW1\0\0"
_LINE_ENDS = b"\r\n"
_CSV_LINE_END = re.compile(rb"[\r\n]")
_CSV_QUOTED = re.compile(rb'"[^"]*"')
_CSV_CONVERSION = re.compile(r"In CSV column #(\d+): Row #(\d+): ")
_CSV_RAGGED = re.compile(r"CSV parse error: Row #(\d+): Expected (\d+) columns, got (\d+)")
# A label that is a whole number in JSON, or what pandas makes of one beside a gap.
_WHOLE_NUMBER = re.compile(r"(-?(?:0|[1-9][0-9]*))(?:\.0)?")


@dataclass(frozen=True)
class Limits:
    """How many rows, and columns beside the target, a table may have."""

    rows: int
    columns: int


@dataclass(frozen=True)
class _Table:
    """A table that is being read: ``schema`` is pyarrow's, ``batches`` its record batches.

    ``n_rows`` is known where the file declares it. ``untyped``: labels are text, even numbers.
    """

    schema: Any
    batches: Iterator[Any]
    n_rows: int | None = None
    untyped: bool = False


@dataclass(frozen=True)
class Format:
    """One row of the table of formats; ``title`` is its tables' name in a sentence.

    ``open`` takes the bytes, the name of the column that holds labels, if one does, and the
    limits, if there are any, so that it can refuse a table before it decodes it.
    """

    name: str
    title: str
    media_types: tuple[str, ...]
    suffixes: tuple[str, ...]
    open: Callable[[BinaryIO, str | None, Limits | None], _Table]


def format_of_media_type(media_type: str) -> Format | None:
    """Return the format of a media type, whose case and parameters do not matter."""
    bare = media_type.partition(";")[0].strip().lower()
    return next((row for row in FORMATS.values() if bare in row.media_types), None)


def format_of_suffix(name: str) -> Format | None:
    """Return the format that the end of a file's name stands for."""
    suffix = PurePath(name).suffix.lower()
    return next((row for row in FORMATS.values() if suffix in row.suffixes), None)


def read_dataset(
    source: bytes | BinaryIO,
    *,
    format: Format,  # noqa: A002 - the callers' word; nothing here formats
    target: str,
    task: str,
    limits: Limits,
) -> Dataset:
    """Return the rows of a table: column ``target`` is y, the others are X, in their order.

    ``task`` is "regression" (y is float64) or "classification" (y is int64 for whole numbers,
    str objects for strings; the text of a CSV file is whole numbers when every row is).

    Raises InvalidInput when the bytes are no such table, by column and row where they are known.
    """
    label = target if task == "classification" else None
    table = _open(source, format, label, limits)
    names: list[str] = table.schema.names
    features = [name for name in names if name != target]
    if len(features) == len(names):
        raise InvalidInput([f"has no column {target!r}; its columns are {_list_names(names)}"])
    if not features:
        raise InvalidInput([f"has no column beside {target!r}"])
    _check_size(table, len(features), limits)
    check_feature_names(features)
    _check_numeric(table.schema, features if label else names)

    X = _Growing((len(features),), np.float64)
    y = _label_column(table, target) if label else _NumberColumn(target)
    y_index = names.index(target)
    x_indices = [index for index in range(len(names)) if index != y_index]
    for first_row, batch in _numbered(table, limits):
        _fill(X.extend(batch.num_rows), features, map(batch.column, x_indices), first_row)
        y.add(batch.column(y_index), first_row)
    return make_dataset(X.finish(), y.finish(), features)


def read_features(
    source: bytes | BinaryIO,
    *,
    format: Format,  # noqa: A002
    names: Sequence[str],
    limits: Limits,
) -> Matrix:
    """Return the columns ``names`` of a table, in that order: (n_rows, len(names)).

    Further columns are refused by name, like missing ones: a table with the target still in
    it is more likely a mistake than a wish. Raises InvalidInput.
    """
    table = _open(source, format, None, limits)
    _check_present(table, names)
    _check_size(table, len(names), limits)
    X = _Growing((len(names),), np.float64)
    for first_row, batch in _numbered(table, limits):
        _fill(X.extend(batch.num_rows), names, _pick(batch, names), first_row)
    return X.finish()


def iterate_features(
    source: str | os.PathLike[str] | BinaryIO,
    *,
    format: Format,  # noqa: A002
    names: Sequence[str],
) -> Iterator[Matrix]:
    """Yield the columns ``names`` of a table, in that order, at most 16,384 rows at a time.

    Memory stays bounded whatever the length of a file that can be sought (a path can); an
    Arrow file is decoded by its own record batches. Raises InvalidInput like ``read_features``,
    from the first step on.
    """
    if isinstance(source, str | os.PathLike):
        with open(source, "rb") as file:
            yield from iterate_features(file, format=format, names=names)
        return
    table = _open(source, format, None, None)
    _check_present(table, names)
    for first_row, batch in _numbered(table, None):
        block = np.empty((batch.num_rows, len(names)))
        _fill(block, names, _pick(batch, names), first_row)
        yield block


def write_csv(columns: Mapping[str, NDArray[Any]], *, for_spreadsheet: bool = False) -> bytes:
    """Return equally long columns as a CSV file with a header.

    columns: name → (n_rows,) of float64, int64 or str. Floats are written as the shortest
    text that reads back as the same bits. ``for_spreadsheet`` puts an apostrophe before text
    that a spreadsheet would run as a formula, such as ``=1+1``.
    """
    if for_spreadsheet:
        columns = {name: _quote_formulas(column) for name, column in columns.items()}
    lines = io.StringIO(newline="")
    writer = text.writer(lines, lineterminator="\n")
    writer.writerow(columns)
    n_rows = max(map(len, columns.values()), default=0)
    for start in range(0, n_rows, BATCH_ROWS):
        block = (column[start : start + BATCH_ROWS].tolist() for column in columns.values())
        writer.writerows(zip(*block, strict=True))
    return lines.getvalue().encode()


def _quote_formulas(column: NDArray[Any]) -> NDArray[Any]:
    if column.dtype.kind not in "OU":
        return column
    return np.array(
        [f"'{v}" if str(v)[:1] in _FORMULA_STARTS else v for v in column.tolist()], object
    )


def write_arrow(columns: Mapping[str, NDArray[Any]]) -> bytes:
    """Return equally long columns, (n_rows,) of float64, int64 or str, as an Arrow stream."""
    import pyarrow as pa

    batch = pa.record_batch(
        {
            name: pa.array(column, pa.string() if column.dtype.kind in "OU" else None)
            for name, column in columns.items()
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


# --- from bytes to record batches, one function per format --------------------------------


def _open(
    source: bytes | BinaryIO, row: Format, label: str | None, limits: Limits | None
) -> _Table:
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    with _parsing(row.title):
        table = row.open(file, label, limits)
        repeated = find_repeated(table.schema.names)
    if repeated:
        raise InvalidInput([f"has more than one column named {_list_names(repeated)}"])
    return _Table(table.schema, _parsed(row.title, table), table.n_rows, table.untyped)


def _parsed(title: str, table: _Table) -> Iterator[Any]:
    with _parsing(title):
        for batch in table.batches:
            batch.validate(full=True)  # before anything trusts an offset or an index in it
            yield batch


@contextmanager
def _parsing(title: str) -> Iterator[None]:
    """Turn whatever pyarrow raises for bytes that make no sense to it into InvalidInput."""
    import pyarrow as pa

    # Its complaints are not passed on: they may quote the bytes. Its own OSErrors have no
    # number; one that has comes from the machine.
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InvalidInput([f"is not {title}: it cannot be parsed"]) from None


class _Input:
    """Bytes already read, then the rest of a source; reads in full what it is asked for."""

    closed = False

    def __init__(self, source: BinaryIO, head: bytes = b"") -> None:
        self._source = source
        self._head = head

    def read(self, size: int) -> bytes | bytearray:
        """Return ``size`` bytes, or fewer at the end.

        No more memory is taken than bytes come, whatever a file says of its length.
        """
        piece = self._read_piece(size)
        if len(piece) == size or not piece:
            return piece
        data = bytearray(piece)
        while piece and len(data) < size:
            piece = self._read_piece(size - len(data))
            data += piece
        return data

    def _read_piece(self, size: int) -> bytes:
        if self._head:
            piece, self._head = self._head[:size], self._head[size:]
            return piece
        return self._source.read(min(size, READ_BYTES)) or b""


def _open_csv(source: BinaryIO, label: str | None, limits: Limits | None) -> _Table:
    import pyarrow as pa
    from pyarrow import csv

    header, rest = _split_csv_header(source)
    if limits:
        # Before there is an object per column; one may be the target.
        _check_columns(_CSV_QUOTED.sub(b"", header).count(b","), limits.columns)
    whole = csv.ReadOptions(block_size=len(header) + 1)
    with csv.open_csv(pa.BufferReader(header + b"\n"), read_options=whole) as reader:
        names: list[str] = reader.schema.names
    # Left to itself, the parser takes a column's type from the first block: one that starts
    # with whole numbers would refuse the fractions further down.
    schema = pa.schema([(name, pa.string() if name == label else pa.float64()) for name in names])
    return _Table(schema, _read_csv_batches(_Input(source, rest), schema), untyped=True)


def _split_csv_header(source: BinaryIO) -> tuple[bytes, bytes]:
    """Return the first line that is not blank, without byte order mark, and what follows."""
    file = _Input(source)
    head = bytearray(file.read(READ_BYTES).removeprefix(_BOM).lstrip(_LINE_ENDS))
    seen = 0
    while not (end := _CSV_LINE_END.search(head, seen)):
        if len(head) > LONGEST_CSV_HEADER:
            raise InvalidInput(["is not a CSV table: its first line is too long for a header"])
        seen = len(head)
        piece = file.read(READ_BYTES)
        if not piece:
            return bytes(head), b""
        head += piece if head else piece.lstrip(_LINE_ENDS)
    return bytes(head[: end.start()]), bytes(head[end.start() :])


def _read_csv_batches(source: _Input, schema: Any) -> Iterator[Any]:
    import pyarrow as pa
    from pyarrow import csv

    # One thread: it is as fast, since the rows are copied in between, and it knows the rows'
    # numbers.
    reading = csv.ReadOptions(
        block_size=max(CSV_BLOCK_BYTES, CSV_CELL_BYTES * len(schema)),
        column_names=schema.names,
        use_threads=False,
    )
    try:
        with csv.open_csv(
            pa.PythonFile(source, mode="r"),
            read_options=reading,
            convert_options=csv.ConvertOptions(column_types=schema),
        ) as batches:
            yield from batches
    except pa.ArrowInvalid as error:
        if "Empty CSV file" not in str(error):
            raise InvalidInput(_describe_csv_error(error, schema)) from None


def _describe_csv_error(error: Exception, schema: Any) -> Faults:
    # The parser's message ends with the cell or row itself, which may hold anything: only
    # what stands before is passed on.
    if found := _CSV_RAGGED.match(str(error)):
        fault = [f"has {found[3]} values, expected {found[2]}"]
        return {str(int(found[1]) - 1): fault}
    if found := _CSV_CONVERSION.match(str(error)):
        field = schema.field(int(found[1]))
        is_text = _type_name(field.type) == "string"
        return {
            field.name: {
                str(int(found[2]) - 1): ["is not UTF-8" if is_text else "is not a number"]
            }
        }
    return ["is not a CSV table: it cannot be parsed"]


def _open_parquet(source: BinaryIO, label: str | None, limits: Limits | None) -> _Table:
    from pyarrow import parquet

    file = _make_seekable(source)
    metadata = parquet.read_metadata(file)
    schema = metadata.schema.to_arrow_schema()
    return _Table(schema, _read_parquet_batches(file, metadata, label), metadata.num_rows)


def _read_parquet_batches(file: BinaryIO, metadata: Any, label: str | None) -> Iterator[Any]:
    from pyarrow import parquet

    # A label that the file holds once is decoded once, not once per row: a long one would
    # unpack to gigabytes.
    has_dictionary = check_pages(file, metadata)
    opened = parquet.ParquetFile(
        file,
        metadata=metadata,
        read_dictionary=[label] if label and has_dictionary else None,
        # A small buffer, and nothing fetched ahead: a column is read as it is decoded.
        buffer_size=PARQUET_BUFFER_BYTES,
        pre_buffer=False,
    )
    yield from opened.iter_batches(batch_size=BATCH_ROWS)


def _make_seekable(source: BinaryIO) -> BinaryIO:
    # A WSGI server's own input has fewer methods than a file.
    if hasattr(source, "seekable") and source.seekable():
        return source
    spool = io.BytesIO()
    shutil.copyfileobj(source, spool, READ_BYTES)
    spool.seek(0)
    return spool


def _open_arrow(source: BinaryIO, label: str | None, limits: Limits | None) -> _Table:
    import pyarrow as pa

    # A file is a stream between a magic word and an index that is of no use here.
    head = bytes(_Input(source).read(len(_ARROW_FILE_MAGIC)))
    raw = pa.PythonFile(_Input(source, head.removeprefix(_ARROW_FILE_MAGIC)), mode="r")
    checked = CheckedMessages(raw, limits.rows if limits else None)
    reader = pa.ipc.open_stream(pa.PythonFile(checked, mode="r"))
    return _Table(reader.schema, reader)


FORMATS: Mapping[str, Format] = {
    row.name: row
    for row in (
        Format("csv", "a CSV table", ("text/csv",), (".csv",), _open_csv),
        Format(
            "parquet",
            "a Parquet table",
            ("application/vnd.apache.parquet", "application/x-parquet"),
            (".parquet", ".pq"),
            _open_parquet,
        ),
        Format(
            "arrow",
            "an Arrow table",
            ("application/vnd.apache.arrow.stream",),
            (".arrow", ".arrows", ".ipc"),
            _open_arrow,
        ),
    )
}


# --- what a table must be ---------------------------------------------------------------


def _check_columns(count: int, most: int) -> None:
    if count > most:
        raise InvalidInput([f"has {count} columns, more than the {most} allowed"])


def _check_size(table: _Table, n_features: int, limits: Limits) -> None:
    _check_columns(n_features, limits.columns)
    if table.n_rows is not None:
        _check_rows(table.n_rows, limits)


def _check_rows(count: int, limits: Limits) -> None:
    if count > limits.rows:
        raise InvalidInput([f"has more than {limits.rows} rows"])


def _check_present(table: _Table, names: Sequence[str]) -> None:
    faults = describe_names(table.schema.names, names)
    if faults:
        raise InvalidInput(faults)
    _check_numeric(table.schema, names)


def _check_numeric(schema: Any, names: Iterable[str]) -> None:
    kinds = ((name, _type_name(schema.field(name).type)) for name in names)
    faults = {
        name: [f"holds {kind} values, expected numbers"]
        for name, kind in kinds
        if kind not in _NUMERIC
    }
    if faults:
        raise InvalidInput(faults)


_NUMERIC = frozenset({"whole", "float", "decimal", "null"})


def _type_name(arrow_type: Any) -> str:
    """Return the kind of an Arrow type, or of what a dictionary encodes, in a word.

    Its own name may hold what the client wrote: the names of fields, a time zone.
    """
    from pyarrow import types

    if types.is_dictionary(arrow_type):
        return _type_name(arrow_type.value_type)
    kinds = {
        "whole": types.is_integer,
        "float": types.is_floating,
        # As text, a decimal has at most as many places as its bits hold digits.
        "decimal": lambda t: (
            types.is_decimal(t) and abs(t.scale) <= (t.bit_width - 1) * math.log10(2)
        ),
        "null": types.is_null,
        "boolean": types.is_boolean,
        "string": lambda t: (
            types.is_string(t) or types.is_large_string(t) or types.is_string_view(t)
        ),
        "binary": lambda t: types.is_binary(t) or types.is_large_binary(t),
        "date or time": types.is_temporal,
        "nested": types.is_nested,
    }
    return next((kind for kind, fits in kinds.items() if fits(arrow_type)), "other")


def _list_names(names: Sequence[str]) -> str:
    shown = ", ".join(name[:40] for name in islice(names, MOST_FAULTS))
    return f"{shown}, …" if len(names) > MOST_FAULTS else shown


# --- from record batches to arrays ------------------------------------------------------


def _numbered(table: _Table, limits: Limits | None) -> Iterator[tuple[int, Any]]:
    """Yield bounded batches with the number of their first row; raises where there is no row."""
    n_rows = 0
    for batch in table.batches:
        if limits:
            _check_rows(n_rows + batch.num_rows, limits)
        for start in range(0, batch.num_rows, BATCH_ROWS):
            yield n_rows + start, batch.slice(start, BATCH_ROWS)
        n_rows += batch.num_rows
    if n_rows == 0:
        raise InvalidInput(["has no rows"])


def _pick(batch: Any, names: Sequence[str]) -> Iterator[Any]:
    places = {name: index for index, name in enumerate(batch.schema.names)}
    return (batch.column(places[name]) for name in names)


def _fill(block: Matrix, names: Sequence[str], columns: Iterable[Any], first_row: int) -> None:
    """Write Arrow columns into the columns of block: (n_rows, n_features)."""
    for index, (name, column) in enumerate(zip(names, columns, strict=True)):
        values = _to_numbers(column)
        finite = np.isfinite(values)
        if not finite.all():
            row = str(first_row + int(np.argmin(finite)))
            raise InvalidInput({name: {row: ["is missing or not finite"]}})
        block[:, index] = values


def _to_numbers(column: Any) -> NDArray[Any]:
    """Return an Arrow column of numbers; what is missing is NaN."""
    import pyarrow as pa

    kind = _type_name(column.type)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if kind == "null":
        return np.full(len(column), np.nan)
    if kind == "decimal":
        # Straight to float64, every third decimal comes out one bit off the nearest float.
        column = column.cast(pa.string()).cast(pa.float64())
    # Whole numbers are left to numpy, which rounds those beyond 2^53 as Python does; pyarrow
    # refuses them.
    values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return values


class _Growing(Generic[_Scalar]):
    """An array that grows in place: the system moves its pages instead of copying its rows."""

    def __init__(self, row_shape: tuple[int, ...], dtype: type[_Scalar]) -> None:
        self._array: NDArray[_Scalar] = np.empty((0, *row_shape), dtype)
        self._n_rows = 0

    def extend(self, count: int) -> NDArray[_Scalar]:
        """Return the next rows, to be filled before the next call: it moves them."""
        start, self._n_rows = self._n_rows, self._n_rows + count
        if self._n_rows > len(self._array):
            self._resize(max(self._n_rows, int(len(self._array) * GROWTH)))
        return self._array[start : self._n_rows]

    def finish(self) -> NDArray[_Scalar]:
        """Return all rows, contiguous."""
        self._resize(self._n_rows)
        return self._array

    def _resize(self, n_rows: int) -> None:
        self._array.resize((n_rows, *self._array.shape[1:]), refcheck=False)


class _NumberColumn:
    """A target of numbers."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._values = _Growing((1,), np.float64)

    def add(self, column: Any, first_row: int) -> None:
        _fill(self._values.extend(len(column)), [self._name], [column], first_row)

    def finish(self) -> NDArray[np.float64]:
        return self._values.finish().reshape(-1)


class _WholeColumn:
    """A target of labels that are whole numbers, whatever type holds them."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._values = _Growing((), np.int64)

    def add(self, column: Any, first_row: int) -> None:
        import pyarrow as pa

        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        _refuse_missing(column, self._name, first_row)
        try:
            whole = column.cast(pa.int64())
        except pa.ArrowInvalid:
            message = "holds values that are not whole numbers of 64 bits, expected labels"
            raise InvalidInput({self._name: [message]}) from None
        self._values.extend(len(column))[:] = whole.to_numpy(zero_copy_only=False)

    def finish(self) -> Labels:
        return self._values.finish()


class _TextColumn:
    """A target of labels that are strings: a number per row, and each label once.

    ``untyped``: labels that are all the text of whole numbers are those numbers.
    """

    def __init__(self, name: str, *, untyped: bool) -> None:
        self._name = name
        self._untyped = untyped
        self._codes = _Growing((), np.int32)
        self._code_of: dict[str, int] = {}

    def add(self, column: Any, first_row: int) -> None:
        import pyarrow as pa

        is_encoded = pa.types.is_dictionary(column.type)
        encoded = column if is_encoded else column.dictionary_encode()
        _refuse_missing(encoded, self._name, first_row)
        indices = encoded.indices.to_numpy(zero_copy_only=False)
        used, first_rows = np.unique(indices, return_index=True)
        codes = np.empty(len(encoded.dictionary), dtype=np.int32)
        for place in np.argsort(first_rows):
            label = encoded.dictionary[used[place]].as_py() or ""
            if label not in self._code_of:
                self._check(label, first_row + int(first_rows[place]))
            codes[used[place]] = self._code_of.setdefault(label, len(self._code_of))
        self._codes.extend(len(column))[:] = codes[indices]

    def finish(self) -> Labels:
        codes = self._codes.finish()
        whole = [_WHOLE_NUMBER.fullmatch(label) for label in self._code_of]
        if not (self._untyped and all(whole)):
            return np.array(list(self._code_of), dtype=np.object_)[codes]
        numbers = [int(found[1]) for found in whole if found]
        for code, number in enumerate(numbers):
            if fault := describe_label(number):
                row = str(np.argmax(codes == code))
                raise InvalidInput({self._name: {row: fault}})
        return np.array(numbers, dtype=np.int64)[codes]

    def _check(self, label: str, row: int) -> None:
        fault = describe_label(label) if label else ["is missing"]
        if fault:
            raise InvalidInput({self._name: {str(row): fault}})


def _label_column(table: _Table, name: str) -> _WholeColumn | _TextColumn:
    kind = _type_name(table.schema.field(name).type)
    if kind == "string":
        return _TextColumn(name, untyped=table.untyped)
    if kind in _NUMERIC:
        return _WholeColumn(name)
    raise InvalidInput({name: [f"holds {kind} values, expected strings or whole numbers"]})


def _refuse_missing(column: Any, name: str, first_row: int) -> None:
    # Not a number is what pandas writes where a whole number is missing.
    missing = column.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
    if missing.any():
        row = first_row + int(np.argmax(missing))
        raise InvalidInput({name: {str(row): ["is missing"]}})
