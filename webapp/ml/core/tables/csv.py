"""CSV (RFC 4180 with a header) as a table: its columns are read as numbers, or as text."""

from __future__ import annotations

import csv
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from itertools import chain
from typing import Any, BinaryIO

from webapp.errors import Faults, InvalidInput
from webapp.ml.core.datasets import DataWarning
from webapp.ml.core.tables.shapes import BLANKS, CsvDialect, IsText, Source, Table, kind_of

READ_BYTES = 2**20
LONGEST_LINE = 8 * 2**20
_NOT_UTF_8 = "is not UTF-8, but perhaps Windows-1252; save the table as UTF-8"
# What pyarrow says is wrong; its messages go on with the cell or the row itself.
_RAGGED = re.compile(r"CSV parse error: Row #(\d+): Expected (\d+) columns, got (\d+)")
_CONVERSION = re.compile(r"In CSV column #(\d+): Row #(\d+): ")
_DECIMAL_COMMA = re.compile(r"invalid value '[+-]?\d+,\d+'")


def open_csv(source: Source, is_text: IsText) -> Table:
    """Return a CSV file as a table: some columns stay text, the rest are numbers.

    Raises InvalidInput.
    """
    import pyarrow as pa

    header, blocks = _split_header(source.file)
    names = [name.strip(BLANKS) for name in _parse_header(header, source.dialect)]
    source.limits.check_features(len(names) - 1)  # one may be the target
    n_named = max((place for place, name in enumerate(names, 1) if name), default=0)
    warnings: tuple[DataWarning, ...] = ()
    if n_named < len(names):  # every line ends with delimiters
        message = f"columns from {n_named + 1} on have no name and no values; they were left out"
        warnings = (DataWarning("", message),)
    # Left to itself, pyarrow takes a column's type from the first block: one that starts with
    # whole numbers would refuse the fractions further down.
    types = {True: pa.string(), False: pa.float64()}
    schema = pa.schema([(name, types[is_text(name)]) for name in names[:n_named]])
    batches = _read_batches(blocks, schema, len(names), source.dialect)
    return Table(schema, batches, untyped=True, warnings=warnings)


def _split_header(source: BinaryIO) -> tuple[bytes, Iterator[bytes]]:
    """Return the first line that is not blank, and the lines after it in blocks."""
    blocks = _read_blocks(source)
    for block in blocks:
        block = block.removeprefix(BOM_UTF8).lstrip(b"\r\n")
        if block:
            header = re.split(rb"[\r\n]", block, maxsplit=1)[0]
            return header, chain([block[len(header) :]], blocks)
    raise InvalidInput(["is not a CSV table: it is empty"])


def _read_blocks(source: BinaryIO) -> Iterator[bytes]:
    """Yield a file in blocks of whole lines, of a megabyte or the length of a line."""
    rest = bytearray()
    while piece := source.read(READ_BYTES):
        rest += piece
        if len(rest) < READ_BYTES:
            continue  # a socket gives what has come
        end = _find_end(rest, len(rest))
        if rest.count(b'"', 0, end) % 2:  # within quotes, where a line end is text
            end = _find_end(rest, rest.rfind(b'"', 0, end)) or end
        if end:
            yield bytes(rest[:end])
            del rest[:end]
        elif len(rest) > LONGEST_LINE:
            raise InvalidInput([f"has a line of more than {LONGEST_LINE} bytes"])
    if rest:
        yield bytes(rest)


def _find_end(block: bytearray, before: int) -> int:
    """Return the place after the last line end before a place, 0 where there is none."""
    return max(block.rfind(b"\n", 0, before), block.rfind(b"\r", 0, before)) + 1


def _parse_header(header: bytes, dialect: CsvDialect) -> list[str]:
    if header.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) or b"\0" in header:
        raise InvalidInput(["is UTF-16, or not text; save the table as UTF-8"])
    try:
        line = header.decode()
    except UnicodeDecodeError:
        raise InvalidInput([_NOT_UTF_8]) from None
    reader = csv.reader([line], delimiter=dialect.delimiter, skipinitialspace=True, strict=True)
    try:
        return next(reader, [])
    except csv.Error:
        message = "is not a CSV table: its header cannot be parsed; check the option delimiter"
        raise InvalidInput([message]) from None


def _read_batches(
    blocks: Iterator[bytes], schema: Any, n_columns: int, dialect: CsvDialect
) -> Iterator[Any]:
    """Yield the rows of blocks; columns beyond the schema must be empty."""
    import pyarrow as pa
    from pyarrow.csv import ConvertOptions, ParseOptions, ReadOptions, read_csv

    names = [*schema.names, *[""] * (n_columns - len(schema))]
    parsing = ParseOptions(delimiter=dialect.delimiter)
    converting = ConvertOptions(
        column_types={"": pa.null(), **dict(zip(schema.names, schema.types, strict=True))},
        decimal_point=dialect.decimal,
        strings_can_be_null=True,
    )
    n_rows = 0
    for block in blocks:
        # A copy in pyarrow's own memory: after an error its reader goes on in a thread, which
        # would abort the process if it released an object of Python's as the process ends.
        memory = pa.BufferOutputStream()
        memory.write(block)
        # With one thread, errors name the row. It is as fast: rows are copied in between.
        reading = ReadOptions(block_size=len(block) + 1, column_names=names, use_threads=False)
        try:
            table = read_csv(pa.BufferReader(memory.getvalue()), reading, parsing, converting)
        except pa.ArrowInvalid as error:
            if "Empty CSV file" in str(error):  # a block of blank lines
                continue
            raise InvalidInput(_describe_error(str(error), schema, n_rows)) from None
        if block.count(b'"') % 2 and _ends_with_line_end(table):
            raise InvalidInput({str(n_rows + len(table) - 1): ["has a quote that is not closed"]})
        yield from table.select(schema.names).to_batches()
        n_rows += len(table)


def _ends_with_line_end(table: Any) -> bool:
    """Return whether the last value holds the end of its line, as after an open quote."""
    last = table.column(table.num_columns - 1)[-1].as_py() if len(table) else None
    return isinstance(last, str) and last.endswith(("\n", "\r"))


def _describe_error(message: str, schema: Any, first_row: int) -> Faults:
    """Return the place of a fault in a block, whose rows count from 1, and what is wrong."""
    if found := _RAGGED.match(message):
        row, expected, got = first_row + int(found[1]) - 1, int(found[2]), int(found[3])
        hint = "; a first column of row names must have a name" if got == expected + 1 else ""
        return {str(row): [f"has {got} values, expected {expected}{hint}"]}
    if not (found := _CONVERSION.match(message)):
        return ["is not a CSV table: it cannot be parsed"]
    column, row = int(found[1]), first_row + int(found[2]) - 1
    if column >= len(schema):
        return [f"column {column + 1} has no name, but a value in row {row}"]
    fault = "is not a number"
    if kind_of(schema.field(column).type) == "string":
        fault = _NOT_UTF_8
    elif _DECIMAL_COMMA.search(message):
        fault += "; for decimal commas, give the option decimal=,"
    return {schema.names[column]: {str(row): [fault]}}
