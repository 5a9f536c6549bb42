"""Parquet as a table; decompression bombs are refused.

pyarrow allocates the uncompressed size in the header of each page, and has no limit for it: a
file of 13 kB took 820 MB. So the headers are read here first. So is the footer: asked for the
metadata of a malformed column (``RowGroupMetaData.column``), pyarrow 26 ends the process.

https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, TypeAlias

from webapp.errors import InvalidInput
from webapp.ml.core.tables.table import (
    NUMBER_BYTES,
    TEXT_BYTES,
    CsvDialect,
    Limits,
    Table,
    most_bytes,
    to_arrow_file,
)

BATCH_CELLS = 2**21
BUFFER_BYTES = 2**16
LONGEST_FOOTER = 4 * 2**20  # of some 30,000 columns, counted in every row group
LONGEST_PAGE_HEADER = 2**14
MOST_CHUNKS = 25_000  # columns, counted in every row group: each is some work
MOST_PAGES = 100_000  # common writers put a thousand rows or more into a page

Struct: TypeAlias = dict[int, Any]
"""A struct of Thrift: values by the id of their field. Text and decimals are left out."""

_TEXT = "BYTE_ARRAY"
_WIDTHS = {"BOOLEAN": 3, "INT32": 6, "FLOAT": 6, "INT64": 10, "DOUBLE": 10, _TEXT: TEXT_BYTES}
# Ids of fields in FileMetaData, RowGroup, ColumnChunk, ColumnMetaData and PageHeader.
_ROW_GROUPS = 4
_COLUMNS, _NUM_ROWS = 1, 3
_META_DATA = 3
_CHUNK_BYTES, _DATA_PAGE_OFFSET, _DICTIONARY_PAGE_OFFSET = 7, 9, 11
_PAGE_TYPE, _UNCOMPRESSED_BYTES, _COMPRESSED_BYTES = 1, 2, 3
_ENCODING = {0: (5, 2), 2: (7, 2), 3: (8, 4)}  # of a page by its type: the ids that lead to it
_DICTIONARY_PAGE = 2
# Not DELTA_BYTE_ARRAY (7): it decompresses to the square of its length, which no header declares.
_PLAIN, _PLAIN_DICTIONARY, _DELTA_LENGTH_BYTE_ARRAY, _RLE_DICTIONARY = 0, 2, 6, 8
_TEXT_ENCODINGS = (_PLAIN, _PLAIN_DICTIONARY, _DELTA_LENGTH_BYTE_ARRAY, _RLE_DICTIONARY)


def open_parquet(
    source: BinaryIO, label: str | None, limits: Limits | None, _: CsvDialect
) -> Table:
    """Return a Parquet file as a table; raises InvalidInput."""
    from pyarrow import parquet

    file = to_arrow_file(source)
    footer = _read_footer(file)
    metadata = parquet.read_metadata(file)
    encoded = None
    if limits:
        limits.check(rows=metadata.num_rows, columns=metadata.num_columns)
        encoded = _check_pages(file, metadata, footer)
    schema = metadata.schema.to_arrow_schema().with_metadata(metadata.metadata)
    return Table(schema, _read_batches(file, metadata, encoded))


def _read_batches(file: Any, metadata: Any, encoded: list[str] | None) -> Iterator[Any]:
    from pyarrow import parquet

    with parquet.ParquetFile(
        file,
        metadata=metadata,
        # Text that the file holds once is decoded once, not once for each row: a long label
        # would decompress to gigabytes.
        read_dictionary=encoded,
        # Nothing is read ahead: a column is read as it is decoded, by threads that have ended
        # when a batch is there, or an error.
        buffer_size=BUFFER_BYTES,
        pre_buffer=False,
    ) as opened:
        for batch in opened.iter_batches(max(1, BATCH_CELLS // max(1, metadata.num_columns))):
            batch.validate(full=True)  # text need not be UTF-8
            yield batch


def _read_footer(file: Any) -> bytes:
    end = file.size() - 8  # before its length and the magic word
    length = int.from_bytes(file.read_at(4, end), "little") if end > 0 else 0
    if length > LONGEST_FOOTER:
        raise InvalidInput(["has a footer that is too long"])
    return bytes(file.read_at(length, max(0, end - length)))


def _check_pages(file: Any, metadata: Any, footer: bytes) -> list[str]:
    """Return the columns of text whose pages have dictionaries.

    Raises InvalidInput where the pages decompress to more than the rows can need.
    """
    # To look through a footer takes half a second for each megabyte.
    if metadata.num_row_groups * metadata.num_columns > MOST_CHUNKS:
        raise InvalidInput(["has too many row groups; write longer ones"])
    columns = [metadata.schema.column(index) for index in range(metadata.num_columns)]
    encoded = set()
    n_pages = n_rows = 0
    try:
        for group in _ThriftReader(footer).read_struct()[_ROW_GROUPS]:
            length = max(0, group[_NUM_ROWS])
            n_rows += length
            for column, chunk in zip(columns, group[_COLUMNS], strict=True):
                kind = column.physical_type
                left = most_bytes(length, _WIDTHS.get(kind, NUMBER_BYTES))
                for page in _read_page_headers(file, chunk[_META_DATA]):
                    n_pages += 1
                    left -= page[_UNCOMPRESSED_BYTES]
                    if left < 0 or n_pages > MOST_PAGES or column.length > TEXT_BYTES:
                        raise InvalidInput(["decompresses to more than its rows can need"])
                    if kind != _TEXT:
                        continue
                    if page[_PAGE_TYPE] == _DICTIONARY_PAGE:
                        encoded.add(column.path)
                    struct, encoding = _ENCODING[page[_PAGE_TYPE]]
                    if page[struct][encoding] not in _TEXT_ENCODINGS:
                        message = "holds text in an encoding that is not read; write it as PLAIN"
                        raise InvalidInput([message])
        if n_rows != metadata.num_rows:
            raise ValueError(n_rows)
    except (LookupError, RecursionError, TypeError, ValueError):
        raise InvalidInput(["is not a Parquet table: it cannot be parsed"]) from None
    return list(encoded)


def _read_page_headers(file: Any, chunk: Struct) -> Iterator[Struct]:
    position = chunk[_DATA_PAGE_OFFSET]
    if 0 < chunk.get(_DICTIONARY_PAGE_OFFSET, 0) < position:
        position = chunk[_DICTIONARY_PAGE_OFFSET]
    if position == 0 and file.read_at(4, 0) == b"PAR1":
        return  # without rows, there may be no page
    end = position + chunk[_CHUNK_BYTES]
    if not 0 <= position <= end <= file.size():
        raise ValueError(end)
    while position < end:
        reader = _ThriftReader(file.read_at(LONGEST_PAGE_HEADER, position))
        page = reader.read_struct()
        position += reader.position + page[_COMPRESSED_BYTES]
        if min(page[_UNCOMPRESSED_BYTES], page[_COMPRESSED_BYTES]) < 0 or position > end:
            raise ValueError(end)
        yield page


class _ThriftReader:
    """Reads a struct in Thrift's compact protocol, and moves ``position`` behind it.

    Raises IndexError, RecursionError or ValueError for anything else, and for a field that comes
    twice, of which pyarrow would take the other one.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def read_struct(self) -> Struct:
        fields: Struct = {}
        field = 0
        while header := self._read_byte():
            delta, kind = header >> 4, header & 15
            field = field + delta if delta else self._read_integer()
            if field in fields or not 0 < field < 2**15:
                raise ValueError(field)
            fields[field] = kind == 1 if kind in (1, 2) else self._read_value(kind)
        return fields

    def _read_value(self, kind: int) -> Any:
        if kind in (1, 2, 3):  # a byte, or in a list a boolean
            return self._read_byte()
        if kind in (4, 5, 6):
            return self._read_integer()
        if kind in (7, 8):  # a decimal, or text
            length = 8 if kind == 7 else self._read_varint()
            self.position += length
            return None
        if kind in (9, 10):  # a list, or a set
            header = self._read_byte()
            count = header >> 4 if header >> 4 < 15 else self._read_varint()
            return [self._read_value(header & 15) for _ in range(count)]
        if kind == 12:
            return self.read_struct()
        raise ValueError(kind)

    def _read_byte(self) -> int:
        self.position += 1
        return self._data[self.position - 1]

    def _read_varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):  # at most ten bytes, as Thrift itself
            byte = self._read_byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError(value)

    def _read_integer(self) -> int:
        value = self._read_varint()
        return value >> 1 ^ -(value & 1)
