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
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import PurePath
from typing import Any, BinaryIO, Generic, TypeAlias, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray

from webapp.errors import MOST_FAULTS, Faults, InvalidInput
from webapp.ml.core.datasets import (
    Dataset,
    DataWarning,
    Features,
    Labels,
    Matrix,
    check_feature_names,
    describe_label,
    describe_names,
    find_repeated,
    make_dataset,
    warn_of_missing,
)
from webapp.ml.core.unpacking import CheckedMessages, ColumnCheck, check_footer_length, check_pages

BATCH_ROWS = 2**14
CSV_BLOCK_BYTES = 2**20
CSV_CELL_BYTES = 64  # makes room for long rows: a block must hold one
LONGEST_CSV_HEADER = 16 * 2**20
READ_BYTES = 2**20
PARQUET_BUFFER_BYTES = 2**16
WRITTEN_CELLS = 2**16  # at a time: about 1.3 MB of CSV
GROWTH = 1.125

_Scalar = TypeVar("_Scalar", bound=np.generic)
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # OWASP: "CSV injection"
_Rows: TypeAlias = NDArray[np.intp]  # numbers of rows, counted from 0 over the whole table
_BOM = b"\xef\xbb\xbf"
_UTF_16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_BLANKS = " \t"
MOST_INDEX_COLUMNS = 10
_ARROW_FILE_MAGIC = b"ARROW1\0\0"
_LINE_ENDS = b"\r\n"
_CSV_LINE_END = re.compile(rb"[\r\n]")
_CSV_QUOTED = re.compile(rb'"[^"]*"')
_CSV_CONVERSION = re.compile(r"In CSV column #(\d+): Row #(\d+): ")
_CSV_RAGGED = re.compile(r"CSV parse error: Row #(\d+): Expected (\d+) columns, got (\d+)")
_CSV_DECIMAL_COMMA = re.compile(r"invalid value '[+-]?\d+,\d+'")
# A label that is a whole number in JSON, or what pandas makes of one beside a gap.
_WHOLE_NUMBER = re.compile(r"(-?(?:0|[1-9][0-9]*))(?:\.0)?")
_BOOLEANS = {"false": 0, "true": 1}


@dataclass(frozen=True)
class Limits:
    """The size that a table may have.

    ``columns`` counts the features; ``cells`` is rows times columns, the target among them.
    """

    rows: int
    columns: int
    cells: int

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Limits:
        """Return the limits that the settings of the application give."""
        return cls(settings["MAX_ROWS"], settings["MAX_COLUMNS"], settings["MAX_CELLS"])

    def check(self, *, rows: int, columns: int) -> None:
        """Raise InvalidInput where a table has more rows or cells; ``columns`` counts them all."""
        if rows > self.rows:
            raise InvalidInput([f"has more than {self.rows} rows"])
        if rows * columns > self.cells:
            message = f"has {rows} rows of {columns} values, more than {self.cells} values in all"
            raise InvalidInput([message])


@dataclass(frozen=True)
class CsvDialect:
    """How a CSV file separates its columns, and what it writes for the decimal point."""

    delimiter: str = ","
    decimal: str = "."


DELIMITERS = (",", ";", "\t", "|")
DECIMALS = (".", ",")
DEFAULT_DIALECT = CsvDialect()


@dataclass(frozen=True)
class _Table:
    """A table that is being read: ``schema`` is pyarrow's, ``batches`` its record batches.

    ``n_rows`` is known where the file declares it. ``untyped``: labels are text, even numbers.
    ``metadata`` is what the writer of the file added to it.
    """

    schema: Any
    batches: Generator[Any]
    n_rows: int | None = None
    untyped: bool = False
    metadata: Mapping[bytes, bytes] | None = None
    warnings: tuple[DataWarning, ...] = ()


@dataclass(frozen=True)
class Format:
    """One row of the table of formats; ``title`` is its tables' name in a sentence.

    ``open`` takes the bytes, the name of the column that holds labels, if one does, the limits,
    if there are any, so that it can refuse a table before it decodes it, and the dialect.
    """

    name: str
    title: str
    media_types: tuple[str, ...]
    suffixes: tuple[str, ...]
    open: Callable[[BinaryIO, str | None, Limits | None, CsvDialect], _Table]


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
    dialect: CsvDialect = DEFAULT_DIALECT,
) -> Dataset:
    """Return the rows of a table: column ``target`` is y, the others are X, in their order.

    ``task`` is "regression" (y is float64) or "classification" (y is int64 for whole numbers and
    for booleans, str objects for strings; the text of a CSV file is whole numbers or booleans
    when every row is). Rows without a target are left out, and so are the columns that pandas
    calls an index; the dataset's warnings say so.

    Raises InvalidInput when the bytes are no such table, by column and row where they are known.
    """
    target = target.strip(_BLANKS)
    label = target if task == "classification" else None
    with _open(source, format, dialect, [target], label, limits) as table:
        names: list[str] = table.schema.names
        features = [name for name in names if name != target]
        if len(features) == len(names):
            raise InvalidInput([f"has no column {target!r}; {_describe_columns(names)}"])
        if not features:
            raise InvalidInput([f"has no column beside {target!r}"])
        _check_columns(len(features), limits.columns)
        check_feature_names(features)
        _check_numeric(table.schema, features if label else names)

        X = _Growing((len(features),), np.float64)
        y = _label_column(table, target) if label else _NumberColumn(target)
        n_rows = 0
        for rows, batch in _numbered(table, limits):
            n_rows += len(rows)
            present = y.add(batch.column(target), rows)
            batch = batch.select(features)
            if not present.all():
                batch, rows = batch.filter(present), rows[present]
            _fill(X.extend(len(rows)), features, batch.columns, rows)
    warnings = table.warnings
    if n_missing := n_rows - len(y):
        warnings += (warn_of_missing(target, n_missing, n_rows),)
    return make_dataset(X.finish(), y.finish(), features, warnings)


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
    X = _Growing((len(names),), np.float64)
    with _open(source, format, dialect, names, None, limits) as table:
        for rows, batch in _feature_batches(table, names, limits):
            _fill(X.extend(len(rows)), names, batch.columns, rows)
    return Features(X.finish(), table.warnings)


def iterate_features(
    source: str | os.PathLike[str] | BinaryIO,
    *,
    format: Format,  # noqa: A002
    names: Sequence[str],
    dialect: CsvDialect = DEFAULT_DIALECT,
) -> Iterator[Features]:
    """Yield the columns ``names`` of a table, in that order, at most 16,384 rows at a time.

    Memory stays bounded whatever the length of a file that can be sought (a path can); an
    Arrow file is decoded by its own record batches. Raises InvalidInput like ``read_features``,
    from the first step on.
    """
    if isinstance(source, str | os.PathLike):
        with open(source, "rb") as file:
            yield from iterate_features(file, format=format, names=names, dialect=dialect)
        return
    with _open(source, format, dialect, names, None, None) as table:
        for rows, batch in _feature_batches(table, names, None):
            block = np.empty((len(rows), len(names)))
            _fill(block, names, batch.columns, rows)
            yield Features(block, table.warnings)


def write_csv(
    columns: Mapping[str, NDArray[Any]], *, header: bool = True, for_spreadsheet: bool = False
) -> Iterator[bytes]:
    """Yield the pieces of a CSV file, with or without its header, made one at a time.

    columns: name → (n_rows,) of float64, int64 or str, all equally long. Floats are written as
    the shortest text that reads back as the same bits. ``for_spreadsheet`` puts an apostrophe
    before text that a spreadsheet would run as a formula, such as ``=1+1``.
    """
    lines = io.StringIO(newline="")
    writer = text.writer(lines, lineterminator="\n")
    if header:
        writer.writerow(columns)
    for block in _iterate_blocks(columns):
        if for_spreadsheet:
            block = {name: _quote_formulas(column) for name, column in block.items()}
        writer.writerows(zip(*(column.tolist() for column in block.values()), strict=True))
        yield lines.getvalue().encode()
        lines.seek(0)
        lines.truncate()


def _quote_formulas(column: NDArray[Any]) -> NDArray[Any]:
    if column.dtype.kind not in "OU":
        return column
    return np.array(
        [f"'{v}" if str(v)[:1] in _FORMULA_STARTS else v for v in column.tolist()], object
    )


def write_arrow(columns: Mapping[str, NDArray[Any]]) -> Iterator[bytes]:
    """Yield the pieces of an Arrow stream, a record batch at a time.

    columns: name → (n_rows,) of float64, int64 or str, all equally long.
    """
    import pyarrow as pa

    types = {"O": pa.string(), "U": pa.string(), "i": pa.int64(), "f": pa.float64()}
    schema = pa.schema([(name, types[column.dtype.kind]) for name, column in columns.items()])
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema) as stream:
        for block in _iterate_blocks(columns):
            stream.write_batch(pa.record_batch(list(block.values()), schema))
            yield sink.getvalue()
            sink.seek(0)
            sink.truncate()
    yield sink.getvalue()


def _iterate_blocks(
    columns: Mapping[str, NDArray[Any]],
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the rows of columns in blocks of at most ``WRITTEN_CELLS``; at least one block."""
    n_rows = max(map(len, columns.values()), default=0)
    step = max(1, WRITTEN_CELLS // max(1, len(columns)))
    for start in range(0, max(1, n_rows), step):
        yield {name: column[start : start + step] for name, column in columns.items()}


# --- from bytes to record batches, one function per format --------------------------------


@contextmanager
def _open(
    source: bytes | BinaryIO,
    row: Format,
    dialect: CsvDialect,
    wanted: Collection[str],
    label: str | None,
    limits: Limits | None,
) -> Iterator[_Table]:
    """Open a table, with its columns by their names without blanks around them.

    Columns that pandas calls an index are left out unless they are ``wanted`` by name.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    with _parsing(row.title):
        table = row.open(file, label, limits, dialect)
        names = [name.strip(_BLANKS) for name in table.schema.names]
    with closing(table.batches):
        if "" in names:
            message = (
                f"column {names.index('') + 1} has no name; write the table without row names"
            )
            raise InvalidInput([message])
        if repeated := find_repeated(names):
            raise InvalidInput([f"has more than one column named {_list_names(repeated)}"])
        index = _find_index_columns(table.metadata) - set(wanted)
        left_out = [name for name in names if name in index]
        if len(left_out) > MOST_INDEX_COLUMNS:
            raise InvalidInput([f"has more than {MOST_INDEX_COLUMNS} columns of a pandas index"])
        kept = [place for place, name in enumerate(names) if name not in index]
        fields = [table.schema.field(place).with_name(names[place]) for place in kept]
        message = "is the index of a pandas data frame; it was left out"
        warnings = tuple(DataWarning(name, message) for name in left_out)
        yield _select(row.title, table, kept, fields, warnings)


def _select(
    title: str,
    table: _Table,
    kept: Sequence[int],
    fields: Sequence[Any],
    warnings: tuple[DataWarning, ...],
) -> _Table:
    import pyarrow as pa

    schema = pa.schema(fields)

    def batches() -> Generator[Any]:
        check = ColumnCheck()
        with _parsing(title):
            for batch in table.batches:
                columns = [batch.column(place) for place in kept]
                for place, column in enumerate(columns):
                    check(place, column)  # before anything trusts an offset or an index in it
                # By name: a reader may choose another type of text than the schema says.
                yield pa.RecordBatch.from_arrays(columns, names=schema.names)

    return replace(table, schema=schema, batches=batches(), warnings=(*table.warnings, *warnings))


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
    return {name.strip(_BLANKS) for name in found if isinstance(name, str)}


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


def _open_csv(
    source: BinaryIO, label: str | None, limits: Limits | None, dialect: CsvDialect
) -> _Table:
    import pyarrow as pa

    header, rest = _split_csv_header(_Input(source))
    if not header:
        raise InvalidInput(["is not a CSV table: it is empty"])
    if limits:
        # Before there is an object per column; one may be the target.
        delimiter = dialect.delimiter.encode()
        bare = _CSV_QUOTED.sub(b"", header)
        n_named = bare.rstrip(delimiter).count(delimiter)
        _check_columns(max(n_named, bare.count(delimiter) - n_named), limits.columns)
    names = [name.strip(_BLANKS) for name in _parse_csv_header(header, dialect)]
    n_named = len(names)
    while n_named and not names[n_named - 1]:  # delimiters at the end of every line
        n_named -= 1
    # Left to itself, the parser takes a column's type from the first block: one that starts
    # with whole numbers would refuse the fractions further down.
    types = [pa.string() if name == label else pa.float64() for name in names[:n_named]]
    schema = pa.schema(list(zip(names[:n_named], types, strict=True)))
    batches = _read_csv_batches(_Input(source, rest), schema, len(names), dialect)
    message = f"has no name and no values from column {n_named + 1} on; it was left out"
    warnings = (DataWarning("", message),) if n_named < len(names) else ()
    return _Table(schema, batches, untyped=True, warnings=warnings)


def _parse_csv_header(header: bytes, dialect: CsvDialect) -> list[str]:
    if header.startswith(_UTF_16_BOMS) or b"\0" in header:
        raise InvalidInput(["is UTF-16, or not text; save the table as UTF-8"])
    try:
        line = header.decode()
    except UnicodeDecodeError:
        raise InvalidInput([f"is {_NOT_UTF_8}"]) from None
    reader = text.reader([line], delimiter=dialect.delimiter, skipinitialspace=True, strict=True)
    try:
        return next(reader, [])
    except text.Error:
        message = "is not a CSV table: its header cannot be parsed; check the option delimiter"
        raise InvalidInput([message]) from None


def _split_csv_header(file: _Input) -> tuple[bytes, bytes]:
    """Return the first line that is not blank, without byte order mark, and what follows."""
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


def _read_csv_batches(
    file: _Input, schema: Any, n_columns: int, dialect: CsvDialect
) -> Generator[Any]:
    """Yield the rows of a CSV file block by block; columns beyond the schema must be empty.

    Each block is handed over in memory of pyarrow's own. Its readers go on in threads after an
    error: one that called back into Python while the process ends would abort it.
    """
    import pyarrow as pa
    from pyarrow import csv

    names = [*schema.names, *[""] * (n_columns - len(schema))]
    size = max(CSV_BLOCK_BYTES, CSV_CELL_BYTES * n_columns)
    parsing = csv.ParseOptions(delimiter=dialect.delimiter)
    converting = csv.ConvertOptions(
        column_types={"": pa.null(), **dict(zip(schema.names, schema.types, strict=True))},
        decimal_point=dialect.decimal,
        strings_can_be_null=True,
    )
    first_row = 0
    for block in _split_csv_blocks(file, size):
        memory = pa.BufferOutputStream()
        memory.write(block)
        # One thread: it is as fast, since the rows are copied in between, and it knows the
        # rows' numbers.
        reading = csv.ReadOptions(block_size=len(block) + 1, column_names=names, use_threads=False)
        try:
            table = csv.read_csv(pa.BufferReader(memory.getvalue()), reading, parsing, converting)
        except pa.ArrowInvalid as error:
            if "Empty CSV file" in str(error):
                continue
            raise InvalidInput(_describe_csv_error(error, schema, first_row)) from None
        for batch in table.to_batches():
            yield batch.select(range(len(schema)))
        first_row += len(table)


def _split_csv_blocks(file: _Input, size: int) -> Iterator[bytes]:
    """Yield a CSV file in blocks of whole lines, each of twice ``size`` bytes at most."""
    rest = b""
    while piece := file.read(size):
        block = rest + piece
        end = max(map(block.rfind, (b"\n", b"\r"))) + 1
        if len(piece) < size:
            end = len(block)
        elif end == 0:
            raise InvalidInput([f"has a row of more than {size} bytes"])
        yield block[:end]
        rest = block[end:]
    if rest:
        yield rest


def _describe_csv_error(error: Exception, schema: Any, first_row: int) -> Faults:
    # The parser's message ends with the cell or row itself, which may hold anything: only
    # what stands before is passed on.
    message = str(error)
    if found := _CSV_RAGGED.match(message):
        row, expected, got = first_row + int(found[1]) - 1, int(found[2]), int(found[3])
        hint = "; a first column of row names must have a name" if got == expected + 1 else ""
        return {str(row): [f"has {got} values, expected {expected}{hint}"]}
    if found := _CSV_CONVERSION.match(message):
        column, row = int(found[1]), first_row + int(found[2]) - 1
        if column >= len(schema):
            return [f"column {column + 1} has no name, but a value in row {row}"]
        field = schema.field(column)
        fault = "is not a number"
        if _type_name(field.type) == "string":
            fault = f"is {_NOT_UTF_8}"
        elif _CSV_DECIMAL_COMMA.search(message):
            fault += "; for decimal commas, give the option decimal=,"
        return {field.name: {str(row): [fault]}}
    return ["is not a CSV table: it cannot be parsed"]


_NOT_UTF_8 = "not UTF-8, but perhaps Windows-1252; save the table as UTF-8"


def _open_parquet(
    source: BinaryIO, label: str | None, limits: Limits | None, _: CsvDialect
) -> _Table:
    from pyarrow import parquet

    file = _make_seekable(source)
    check_footer_length(file)
    metadata = parquet.read_metadata(file)
    return _Table(
        metadata.schema.to_arrow_schema(),
        _read_parquet_batches(file, metadata, label),
        n_rows=metadata.num_rows,
        metadata=metadata.metadata,
    )


def _read_parquet_batches(file: BinaryIO, metadata: Any, label: str | None) -> Generator[Any]:
    from pyarrow import parquet

    # A label that the file holds once is decoded once, not once per row: a long one would
    # unpack to gigabytes.
    has_dictionary = check_pages(file, metadata)
    with parquet.ParquetFile(
        file,
        metadata=metadata,
        read_dictionary=[label] if label and has_dictionary else None,
        # A small buffer, and nothing fetched ahead: a column is read as it is decoded, by
        # threads that have all ended when a batch is there, or an error.
        buffer_size=PARQUET_BUFFER_BYTES,
        pre_buffer=False,
    ) as opened:
        yield from opened.iter_batches(batch_size=BATCH_ROWS)


def _make_seekable(source: BinaryIO) -> BinaryIO:
    # A WSGI server's own input has fewer methods than a file.
    if hasattr(source, "seekable") and source.seekable():
        return source
    spool = io.BytesIO()
    shutil.copyfileobj(source, spool, READ_BYTES)
    spool.seek(0)
    return spool


def _open_arrow(
    source: BinaryIO, label: str | None, limits: Limits | None, _: CsvDialect
) -> _Table:
    import pyarrow as pa

    # A file is a stream between a magic word and an index that is of no use here.
    head = bytes(_Input(source).read(len(_ARROW_FILE_MAGIC)))
    raw = pa.PythonFile(_Input(source, head.removeprefix(_ARROW_FILE_MAGIC)), mode="r")
    checked = CheckedMessages(raw, limits.check if limits else None)
    options = pa.ipc.IpcReadOptions(use_threads=False)
    reader = pa.ipc.open_stream(pa.PythonFile(checked, mode="r"), options=options)
    return _Table(reader.schema, _read_arrow_batches(reader), metadata=reader.schema.metadata)


def _read_arrow_batches(reader: Any) -> Generator[Any]:
    with reader:
        yield from reader


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
            ("application/vnd.apache.arrow.stream", "application/vnd.apache.arrow.file"),
            (".arrow", ".arrows", ".ipc", ".feather"),
            _open_arrow,
        ),
    )
}


# --- what a table must be ---------------------------------------------------------------


def _check_columns(count: int, most: int) -> None:
    if count > most:
        raise InvalidInput([f"has {count} columns, more than the {most} allowed"])


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


def _describe_columns(names: Sequence[str]) -> str:
    if len(names) == 1:
        for delimiter in DELIMITERS:
            if delimiter in names[0]:
                shown = {"\t": "a tab"}.get(delimiter, repr(delimiter))
                return f"if {shown} separates its columns, give the options delimiter and decimal"
    return f"its columns are {_list_names(names)}"


def _list_names(names: Sequence[str]) -> str:
    shown = ", ".join(name[:40] for name in islice(names, MOST_FAULTS))
    return f"{shown}, …" if len(names) > MOST_FAULTS else shown


# --- from record batches to arrays ------------------------------------------------------


def _numbered(table: _Table, limits: Limits | None) -> Iterator[tuple[_Rows, Any]]:
    """Yield bounded batches with the numbers of their rows; raises where there is no row."""
    n_rows, n_columns = 0, len(table.schema)
    if limits and table.n_rows is not None:
        limits.check(rows=table.n_rows, columns=n_columns)
    for batch in table.batches:
        if limits:
            limits.check(rows=n_rows + batch.num_rows, columns=n_columns)
        for start in range(0, batch.num_rows, BATCH_ROWS):
            part = batch.slice(start, BATCH_ROWS)
            yield np.arange(n_rows + start, n_rows + start + part.num_rows), part
        n_rows += batch.num_rows
    if n_rows == 0:
        raise InvalidInput(["has no rows"])


def _feature_batches(
    table: _Table, names: Sequence[str], limits: Limits | None
) -> Iterator[tuple[_Rows, Any]]:
    """Yield numbered batches whose columns are ``names``, in that order."""
    present = table.schema.names
    # A model that was trained while blanks were kept may have them in its names.
    bare = [name.strip(_BLANKS) for name in names]
    if faults := describe_names(present, bare):
        raise InvalidInput(faults)
    _check_numeric(table.schema, bare)
    order = list(map({name: place for place, name in enumerate(present)}.get, bare))
    for rows, batch in _numbered(table, limits):
        yield rows, batch.select(order)


def _fill(block: Matrix, names: Sequence[str], columns: Iterable[Any], rows: _Rows) -> None:
    """Write Arrow columns into the columns of block: (n_rows, n_features)."""
    for index, (name, column) in enumerate(zip(names, columns, strict=True)):
        values = _to_numbers(column)
        _check_finite(values, name, rows)
        block[:, index] = values


def _check_finite(values: NDArray[Any], name: str, rows: _Rows) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        row = str(rows[np.argmin(finite)])
        raise InvalidInput({name: {row: ["is missing or not finite"]}})


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

    def __len__(self) -> int:
        return self._n_rows

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
        self._values = _Growing((), np.float64)

    def __len__(self) -> int:
        return len(self._values)

    def add(self, column: Any, rows: _Rows) -> NDArray[np.bool_]:
        """Take the values of some rows; return which of the rows have one."""
        values = _to_numbers(column)
        present: NDArray[np.bool_] = ~np.isnan(values)
        if not present.all():
            values, rows = values[present], rows[present]
        _check_finite(values, self._name, rows)
        self._values.extend(len(values))[:] = values
        return present

    def finish(self) -> NDArray[np.float64]:
        return self._values.finish()


class _WholeColumn:
    """A target of labels that are whole numbers or booleans, whatever type holds them."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._values = _Growing((), np.int64)

    def __len__(self) -> int:
        return len(self._values)

    def add(self, column: Any, rows: _Rows) -> NDArray[np.bool_]:
        """Take the labels of some rows; return which of the rows have one."""
        import pyarrow as pa

        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        # Not a number is what pandas writes where a whole number is missing.
        present: NDArray[np.bool_] = ~_to_numpy(column.is_null(nan_is_null=True))
        try:
            whole = column.filter(present).cast(pa.int64())
        except pa.ArrowInvalid:
            message = "holds values that are not whole numbers of 64 bits, expected labels"
            raise InvalidInput({self._name: [message]}) from None
        self._values.extend(len(whole))[:] = _to_numpy(whole)
        return present

    def finish(self) -> Labels:
        return self._values.finish()


class _TextColumn:
    """A target of labels that are strings: a number per row, and each label once.

    ``untyped``: labels that are all the text of whole numbers, or of booleans, are those.
    """

    def __init__(self, name: str, *, untyped: bool) -> None:
        self._name = name
        self._untyped = untyped
        self._codes = _Growing((), np.int32)
        self._code_of: dict[str, int] = {}
        self._first_rows: list[int] = []  # by code

    def __len__(self) -> int:
        return len(self._codes)

    def add(self, column: Any, rows: _Rows) -> NDArray[np.bool_]:
        """Take the labels of some rows; return which of the rows have one."""
        import pyarrow as pa

        is_encoded = pa.types.is_dictionary(column.type)
        encoded = column if is_encoded else column.dictionary_encode()
        present: NDArray[np.bool_] = ~_to_numpy(encoded.indices.is_null())
        used, first, places = np.unique(
            _to_numpy(encoded.indices.drop_null()), return_index=True, return_inverse=True
        )
        labels = [encoded.dictionary[index].as_py() or "" for index in used]
        codes = np.full(len(used), -1, dtype=np.int32)  # where the label is missing
        for place in np.argsort(first):
            if label := labels[place]:
                if label not in self._code_of:
                    self._first_rows.append(int(rows[present][first[place]]))
                    self._check(label, self._first_rows[-1])
                codes[place] = self._code_of.setdefault(label, len(self._code_of))
        found = codes[places]
        present[present] = found >= 0
        found = found[found >= 0]
        self._codes.extend(len(found))[:] = found
        return present

    def finish(self) -> Labels:
        codes = self._codes.finish()
        labels = list(self._code_of)
        numbers = _to_whole_numbers(labels) if self._untyped else None
        if numbers is None:
            return np.array(labels, dtype=np.object_)[codes]
        for number, row in zip(numbers, self._first_rows, strict=True):
            self._check(number, row)
        return np.array(numbers, dtype=np.int64)[codes]

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


def _label_column(table: _Table, name: str) -> _WholeColumn | _TextColumn:
    kind = _type_name(table.schema.field(name).type)
    if kind == "string":
        return _TextColumn(name, untyped=table.untyped)
    if kind in _NUMERIC or kind == "boolean":
        return _WholeColumn(name)
    message = f"holds {kind} values, expected strings, booleans or whole numbers"
    raise InvalidInput({name: [message]})


def _to_numpy(array: Any) -> NDArray[Any]:
    values: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return values
