"""Arrow streams and files (Feather) and Parquet as tables; decompression bombs are refused.

pyarrow allocates what the header of a buffer or of a page says it decompresses to, without limit:
820 MB for a file of 13 kB. So headers are read here first, and so is the footer of Parquet: asked
for the metadata of a malformed column (``RowGroupMetaData.column``), pyarrow 26 ends the process.

https://github.com/apache/arrow/blob/main/format/Message.fbs
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import BytesIO
from typing import Any, BinaryIO, TypeAlias

from webapp.errors import InvalidInput
from webapp.ml.core.tables.shapes import UNLIMITED, IsText, Limits, Source, Table

NUMBER_BYTES = 34  # a decimal of 256 bits, and what says beside it that it is there
TEXT_BYTES = 2**13  # in the mean of a column: pages of text, such as reviews, are not refused

FILE_MAGIC = b"ARROW1\0\0"
LONGEST_METADATA = 4 * 2**20  # of a message; a schema of 10,000 columns takes 2 MB
MOST_COLUMNS = 100_000  # of all record batches: 22 MB in batches of a row took 21 s
BATCH_COLUMNS = 4  # the work for a record batch, in columns
# Fields of the tables Message, DictionaryBatch and RecordBatch, by their order in the schema.
_HEADER = 2
_ID, _DATA, _IS_DELTA = 0, 1, 2
_LENGTH, _NODES, _BUFFERS, _COMPRESSION = 0, 1, 2, 3

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
_TEXT_ENCODINGS = {0: "PLAIN", 2: "PLAIN_DICTIONARY", 6: "DELTA_LENGTH", 8: "RLE_DICTIONARY"}


def open_arrow(source: Source, _is_text: IsText) -> Table:
    """Return an Arrow stream or file as a table; raises InvalidInput."""
    from pyarrow import ipc

    file = _to_arrow_file(source.file)
    # A file is a stream between a magic word and an index that is of no use here.
    start = len(FILE_MAGIC) if file.read(len(FILE_MAGIC)) == FILE_MAGIC else 0
    file.seek(start)
    if source.limits is not UNLIMITED:
        _check_messages(ipc.MessageReader.open_stream(file), source.limits)
        file.seek(start)
    reader = ipc.open_stream(file, options=ipc.IpcReadOptions(use_threads=False))
    return Table(reader.schema, reader)


def _check_messages(messages: Any, limits: Limits) -> None:
    """Raise InvalidInput where the messages are too many, too long or decompress to too much."""
    dictionaries: dict[int, int] = {}  # lengths by id
    n_rows = n_columns = n_validated = 0
    for message in messages:
        if message.metadata.size > LONGEST_METADATA:
            raise InvalidInput(["has a schema that is too long"])
        if message.type not in ("dictionary", "record batch"):
            continue
        flat = memoryview(message.metadata)
        batch = _follow(flat, _find(flat, _follow(flat, 0), _HEADER))
        if message.type == "dictionary":
            key = _read_number(flat, batch, _ID)
            before = dictionaries.get(key, 0) if _find(flat, batch, _IS_DELTA) else 0
            batch = _follow(flat, _find(flat, batch, _DATA))
            length = _read_number(flat, batch, _LENGTH)
            dictionaries[key] = before + length
            n_validated += dictionaries[key]
            limits.check(rows=length, columns=1)
        nodes = len(_read_pairs(flat, batch, _NODES))
        if message.type == "record batch":
            length = _read_number(flat, batch, _LENGTH)
            n_rows += length
            n_validated += sum(dictionaries.values())
            limits.check(rows=n_rows, columns=nodes)
        n_columns += BATCH_COLUMNS + nodes
        if n_columns > MOST_COLUMNS or n_validated > limits.cells:
            raise InvalidInput(["has too many record batches; write longer ones"])
        if not _find(flat, batch, _COMPRESSION):
            continue  # the bytes of the body have come
        starts = [start for start, size in _read_pairs(flat, batch, _BUFFERS) if size]
        # -1 stands for a buffer that is left as it was.
        uncompressed = sum(max(0, struct.unpack_from("<q", message.body, at)[0]) for at in starts)
        if uncompressed > _most_bytes(length, nodes * NUMBER_BYTES + TEXT_BYTES):
            raise InvalidInput(["decompresses to more than its rows can need"])


def _find(flat: memoryview, table: int, field: int) -> int:
    """Return the position of a field of a table in FlatBuffers, 0 where it has its default.

    A table begins with its distance from a list of 16-bit offsets of its fields.
    """
    offsets = table - struct.unpack_from("<i", flat, table)[0]
    slot = 4 + 2 * field
    if slot >= struct.unpack_from("<H", flat, offsets)[0]:
        return 0
    (offset,) = struct.unpack_from("<H", flat, offsets + slot)
    return table + int(offset) if offset else 0


def _follow(flat: memoryview, position: int) -> int:
    return position + int(struct.unpack_from("<I", flat, position)[0])


def _read_number(flat: memoryview, table: int, field: int) -> int:
    """Return a whole number of 64 bits; what is negative makes no sense, and counts as 0."""
    position = _find(flat, table, field)
    return max(0, int(struct.unpack_from("<q", flat, position)[0])) if position else 0


def _read_pairs(flat: memoryview, table: int, field: int) -> list[tuple[int, int]]:
    """Return a list of pairs of whole numbers of 64 bits."""
    position = _find(flat, table, field)
    if not position:
        return []
    start = _follow(flat, position) + 4
    (count,) = struct.unpack_from("<I", flat, start - 4)
    return list(struct.iter_unpack("<qq", flat[start : start + 16 * count]))


def open_parquet(source: Source, _is_text: IsText) -> Table:
    """Return a Parquet file as a table; raises InvalidInput."""
    from pyarrow import parquet

    file = _to_arrow_file(source.file)
    footer = _read_footer(file)
    metadata = parquet.read_metadata(file)
    source.limits.check(rows=metadata.num_rows, columns=metadata.num_columns)
    bounded = source.limits is not UNLIMITED
    encoded = _check_pages(file, metadata, footer) if bounded else None
    schema = metadata.schema.to_arrow_schema().with_metadata(metadata.metadata)
    opened = parquet.ParquetFile(
        file,
        metadata=metadata,
        # Text that the file holds once is decoded once, not once for each row: a long label
        # would decompress to gigabytes.
        read_dictionary=encoded,
        # Nothing is read ahead: a column is read as it is decoded, by threads that have ended
        # when a batch is there, or an error.
        buffer_size=BUFFER_BYTES,
        pre_buffer=False,
    )
    n_rows = max(1, BATCH_CELLS // max(1, metadata.num_columns))
    groups = None if source.groups is None else range(*source.groups)
    return Table(schema, opened.iter_batches(n_rows, row_groups=groups))


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
        for group in _read_struct(BytesIO(footer))[_ROW_GROUPS]:
            length = max(0, group[_NUM_ROWS])
            n_rows += length
            for column, chunk in zip(columns, group[_COLUMNS], strict=True):
                kind = column.physical_type
                left = _most_bytes(length, _WIDTHS.get(kind, NUMBER_BYTES))
                for page in _read_page_headers(file, chunk[_META_DATA]):
                    n_pages += 1
                    left -= page[_UNCOMPRESSED_BYTES]
                    if left < 0 or n_pages > MOST_PAGES or column.length > TEXT_BYTES:
                        raise InvalidInput(["decompresses to more than its rows can need"])
                    if kind != _TEXT:
                        continue
                    if page[_PAGE_TYPE] == _DICTIONARY_PAGE:
                        encoded.add(column.path)
                    header, encoding = _ENCODING[page[_PAGE_TYPE]]
                    if page[header][encoding] not in _TEXT_ENCODINGS:
                        message = "holds text in an encoding that is not read; write it as PLAIN"
                        raise InvalidInput([message])
        if n_rows != metadata.num_rows:
            raise ValueError(n_rows)
    except (LookupError, OverflowError, RecursionError, TypeError, ValueError):
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
        header = BytesIO(file.read_at(LONGEST_PAGE_HEADER, position))
        page = _read_struct(header)
        position += header.tell() + page[_COMPRESSED_BYTES]
        if min(page[_UNCOMPRESSED_BYTES], page[_COMPRESSED_BYTES]) < 0 or position > end:
            raise ValueError(end)
        yield page


def _read_struct(data: BytesIO) -> Struct:
    """Read a struct in Thrift's compact protocol.

    Raises LookupError, OverflowError, RecursionError or ValueError for anything else, and for a
    field that comes twice, of which pyarrow would take the other one.
    """
    fields: Struct = {}
    field = 0
    while header := data.read(1)[0]:
        delta, kind = header >> 4, header & 15
        field = field + delta if delta else _read_integer(data)
        if field in fields or not 0 < field < 2**15:
            raise ValueError(field)
        fields[field] = kind == 1 if kind in (1, 2) else _read_value(data, kind)
    return fields


def _read_value(data: BytesIO, kind: int) -> Any:
    if kind in (1, 2, 3):  # a byte, or in a list a boolean
        return data.read(1)[0]
    if kind in (4, 5, 6):
        return _read_integer(data)
    if kind in (7, 8):  # a decimal, or text
        length = 8 if kind == 7 else _read_varint(data)
        if len(data.read(length)) < length:
            raise ValueError(length)
        return None
    if kind in (9, 10):  # a list, or a set
        header = data.read(1)[0]
        count = header >> 4 if header >> 4 < 15 else _read_varint(data)
        return [_read_value(data, header & 15) for _ in range(count)]
    if kind == 12:
        return _read_struct(data)
    raise ValueError(kind)


def _read_varint(data: BytesIO) -> int:
    value = 0
    for shift in range(0, 70, 7):  # at most ten bytes, as Thrift itself
        byte = data.read(1)[0]
        value |= (byte & 127) << shift
        if byte < 128:
            return value
    raise ValueError(value)


def _read_integer(data: BytesIO) -> int:
    value = _read_varint(data)
    return value >> 1 ^ -(value & 1)


def _to_arrow_file(source: BinaryIO) -> Any:
    """Return a source as a file of pyarrow's, held in memory where it cannot be sought."""
    import pyarrow as pa

    if hasattr(source, "seekable") and source.seekable():
        return pa.PythonFile(source, mode="r")
    return pa.BufferReader(source.read())


def _most_bytes(n_rows: int, width: int) -> int:
    """Return how many bytes rows of ``width`` bytes may decompress to, at most 512 MB.

    Twice their size, as a dictionary may repeat the values, and 64 kB for what else few rows take.
    """
    return min(2 * n_rows * width, 2**29) + 2**16
