"""How long the parts of a file say they will be, read before any of them is unpacked.

Parquet and Arrow compress every part by itself and write beside it how long it was. Their
library believes that number, and a few kilobytes of a hostile file unpack to gigabytes. Here
the numbers are compared with what the rows of the file can need at most; the library then
refuses a part that is longer than its number.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, BinaryIO

from webapp.errors import InvalidInput

NUMBER_BYTES = 32  # the longest number, a decimal of 256 bits
TEXT_BYTES = 1100  # the longest label: 255 characters of 4 bytes
LEVEL_BYTES = 2  # what says beside a value that it is there
SLACK_BYTES = 64 * 2**10  # for headers and padding where there are few rows
MOST_BYTES = 2**29  # of a column in a row group, or of a record batch: 64 million numbers
MOST_PAGES = 100_000  # a page has a thousand rows or more when a program means well
CHUNK_PAGES = 3  # what a column of a row group takes beside its pages, in pages
MOST_BATCH_COLUMNS = 100_000  # of all record batches: 22 MB in batches of a row took 21 s
BATCH_COLUMNS = 4  # what a record batch takes beside its columns, in columns
LONGEST_PAGE_HEADER = 2**14
LONGEST_FOOTER = 4 * 2**20  # of some 30,000 columns, counted in every row group

_TEXT = "BYTE_ARRAY"
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, _TEXT: TEXT_BYTES}
_DELTA_BYTE_ARRAY = 7  # unpacks to the square of its length, which nothing declares
_SCHEMA, _DICTIONARY, _RECORD_BATCH = "schema", "dictionary", "record batch"


def check_footer_length(file: BinaryIO) -> None:
    """Raise InvalidInput where the footer of a Parquet file is longer than 4 MiB."""
    size = file.seek(0, io.SEEK_END)
    if size >= 8 and _footer_length(file, size) > LONGEST_FOOTER:
        raise InvalidInput(["has a footer that is too long"])


class ColumnCheck:
    """Validates the columns of record batches in full.

    A dictionary is validated once, however many batches share it: 24 MB of one dictionary and
    many short batches took 19 seconds.
    """

    def __init__(self) -> None:
        self._dictionaries: dict[int, tuple[Any, ...]] = {}

    def __call__(self, place: int, column: Any) -> None:
        """Raise pyarrow's ArrowInvalid where an offset, an index or a text is not valid."""
        import pyarrow as pa
        from pyarrow import compute

        if not pa.types.is_dictionary(column.type):
            column.validate(full=True)
            return
        dictionary = column.dictionary
        buffers = [buffer and buffer.address for buffer in dictionary.buffers()]
        identity = (len(dictionary), dictionary.offset, *buffers)
        known = self._dictionaries.get(place)
        if known is None or known[1] != identity:
            dictionary.validate(full=True)
            # Kept, so that no other dictionary comes to lie at the same address.
            self._dictionaries[place] = dictionary, identity
        column.indices.validate(full=True)
        bounds = compute.min_max(column.indices).as_py()
        if bounds["min"] is not None and not 0 <= bounds["min"] <= bounds["max"] < len(dictionary):
            raise pa.ArrowInvalid("index out of range")


def check_pages(file: BinaryIO, metadata: Any) -> bool:
    """Check the pages of a Parquet file; return whether text stands in dictionaries.

    ``metadata`` is pyarrow's. It is not asked for the columns: where one is malformed, it ends
    the process instead of raising (pyarrow 26, ``RowGroupMetaData.column``). Raises
    InvalidInput where a file declares pages that its rows cannot need.
    """
    # Before the footer is looked through: it takes half a second for each megabyte.
    if metadata.num_row_groups * metadata.num_columns * (CHUNK_PAGES + 1) > MOST_PAGES:
        raise InvalidInput(["has too many row groups; write longer ones"])
    columns = [metadata.schema.column(index) for index in range(metadata.num_columns)]
    kinds = [column.physical_type for column in columns]
    widths = [_WIDTHS.get(kind, NUMBER_BYTES) + LEVEL_BYTES for kind in kinds]
    n_pages = n_rows = n_packed = 0
    has_dictionary = False
    size = file.seek(0, io.SEEK_END)
    try:
        for group in _row_groups(file, size):
            n_rows += group[_GROUP_ROWS]
            for kind, width, chunk in zip(kinds, widths, group[_GROUP_CHUNKS], strict=True):
                is_text = kind == _TEXT
                left = _most_bytes(group[_GROUP_ROWS] * width)
                n_pages += CHUNK_PAGES  # even without a page, the chunk is work
                n_packed += chunk[_CHUNK_METADATA][_PACKED_LENGTH]
                if n_packed > size:
                    raise InvalidInput(["names the same pages more than once"])
                for header in _page_headers(file, chunk[_CHUNK_METADATA], size):
                    n_pages += 1
                    left -= header[_UNPACKED_BYTES]
                    if left < 0 or n_pages > MOST_PAGES:
                        raise InvalidInput(["unpacks to more than its rows can need"])
                    has_dictionary |= is_text and header[_PAGE_TYPE] == _DICTIONARY_PAGE
                    if is_text and _encoding(header) == _DELTA_BYTE_ARRAY:
                        raise InvalidInput(
                            ["uses the encoding DELTA_BYTE_ARRAY, which is not read"]
                        )
        if n_rows != metadata.num_rows:
            raise ValueError(n_rows)
    except (IndexError, KeyError, TypeError, ValueError, struct.error):
        raise InvalidInput(["is not a Parquet table: it cannot be parsed"]) from None
    return has_dictionary


class CheckedMessages:
    """The bytes of an Arrow stream, passed on message by message once its numbers are checked.

    ``check`` is told the rows and columns of each message before it is decoded, and raises
    InvalidInput where they are too many; so does ``read``.
    """

    closed = False

    def __init__(self, source: Any, check: Callable[..., None] | None) -> None:
        import pyarrow as pa

        self._check_size = check
        self._left = MOST_BATCH_COLUMNS
        self._parts = chain.from_iterable(
            map(self._frame, pa.ipc.MessageReader.open_stream(source))
        )
        self._part = memoryview(b"")

    def read(self, size: int) -> memoryview | bytes:
        """Return the next ``size`` bytes, fewer at the end; a whole part is not copied."""
        pieces = []
        while size > 0:
            self._part = self._part or memoryview(next(self._parts, b""))
            if not self._part:
                break
            pieces.append(self._part[:size])
            self._part = self._part[size:]
            size -= len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _frame(self, message: Any) -> Sequence[Any]:
        if message.type == _SCHEMA and message.metadata.size > LONGEST_FOOTER:
            raise InvalidInput(["has a schema that is too long"])
        if message.type in (_DICTIONARY, _RECORD_BATCH):
            try:
                self._check(message)
            except struct.error:
                raise InvalidInput(["is not an Arrow table: it cannot be parsed"]) from None
        continuation_and_length = struct.pack("<Ii", 0xFFFFFFFF, message.metadata.size)
        return [part for part in (continuation_and_length, message.metadata, message.body) if part]

    def _check(self, message: Any) -> None:
        flat = memoryview(message.metadata)
        header = _follow(flat, _field(flat, _follow(flat, 0), _HEADER))
        if message.type == _DICTIONARY:
            is_delta = _field(flat, header, _DICTIONARY_IS_DELTA)
            if is_delta and flat[is_delta]:
                # Each would be joined to all of the dictionary before.
                raise InvalidInput(["has a dictionary in pieces; write each dictionary whole"])
            header = _follow(flat, _field(flat, header, _DICTIONARY_DATA))
        n_rows = _whole(flat, _field(flat, header, _LENGTH))
        n_columns = struct.unpack_from("<I", flat, _follow(flat, _field(flat, header, _NODES)))[0]
        self._left -= BATCH_COLUMNS + n_columns
        if self._left < 0:
            raise InvalidInput(["has too many record batches; write longer ones"])
        if self._check_size:
            self._check_size(rows=n_rows, columns=n_columns)
        if not _field(flat, header, _COMPRESSION):
            return  # every buffer is a part of the body, whose bytes have come
        declared = sum(_unpacked_lengths(flat, header, memoryview(message.body)))
        width = n_columns * (NUMBER_BYTES + LEVEL_BYTES) + TEXT_BYTES
        if declared > _most_bytes(n_rows * width):
            raise InvalidInput(["unpacks to more than its rows can need"])


def _most_bytes(n_bytes: int) -> int:
    # Twice: the values may stand in a dictionary and in the pages.
    return min(2 * n_bytes, MOST_BYTES) + SLACK_BYTES


# The footer of a Parquet file and the headers of its pages are structs of Thrift's compact
# protocol: fields of (id, type, value), whole numbers as zigzag varints.
# https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
_PARQUET_MAGIC = b"PAR1"
_GROUPS = 4
_GROUP_CHUNKS, _GROUP_ROWS = 1, 3
_CHUNK_METADATA = 3
_PACKED_LENGTH, _DATA_OFFSET, _DICTIONARY_OFFSET = 7, 9, 11
_PAGE_TYPE, _UNPACKED_BYTES, _PACKED_BYTES = 1, 2, 3
_DICTIONARY_PAGE = 2
_ENCODING_FIELDS = ((5, 2), (8, 4))  # of a data page and of its second version
_STOP, _TRUE, _FALSE, _BYTE, _BINARY, _LIST, _STRUCT = 0, 1, 2, 3, 8, 9, 12
_BITS = {4: 16, 5: 32, 6: 64}
_DEEPEST = 16


def _row_groups(file: BinaryIO, size: int) -> Any:
    length = _footer_length(file, size)
    file.seek(size - 8 - length)
    footer, _ = _read_struct(file.read(length), 0)
    return footer[_GROUPS]


def _footer_length(file: BinaryIO, size: int) -> int:
    file.seek(size - 8)
    return int(struct.unpack("<I4x", file.read(8))[0])


def _page_headers(file: BinaryIO, chunk: dict[int, Any], size: int) -> Iterator[dict[int, Any]]:
    position = chunk[_DATA_OFFSET]
    if 0 < chunk.get(_DICTIONARY_OFFSET, 0) < position:
        position = chunk[_DICTIONARY_OFFSET]
    file.seek(0)
    if position == 0 and file.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC:
        return  # where there is no row, there may be no page
    end = position + chunk[_PACKED_LENGTH]
    if not 0 <= position <= end <= size:
        raise ValueError(end)
    while position < end:
        file.seek(position)
        header, length = _read_struct(file.read(LONGEST_PAGE_HEADER), 0)
        position += length + header[_PACKED_BYTES]
        least = min(header[_PAGE_TYPE], header[_UNPACKED_BYTES], header[_PACKED_BYTES])
        if least < 0 or position > end:
            raise ValueError(header)
        yield header


def _encoding(header: dict[int, Any]) -> int | None:
    for field, inner in _ENCODING_FIELDS:
        if field in header:
            return header[field].get(inner)  # type: ignore[no-any-return]
    return None


def _read_struct(data: bytes, position: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """Return a struct by field id, and the position after it.

    What Thrift itself would read in another way (a field twice, a number too long for its
    type) is refused: the library must not see other pages than those that were checked.
    """
    fields: dict[int, Any] = {}
    field = 0
    while data[position] != _STOP:
        delta, kind = data[position] >> 4, data[position] & 15
        position += 1
        if delta:
            field += delta
        else:
            field, position = _read_integer(data, position, 16)
        if field in fields:
            raise ValueError(field)
        if kind in (_TRUE, _FALSE):
            fields[field] = kind == _TRUE
        else:
            fields[field], position = _read_value(data, position, kind, depth)
    return fields, position + 1


def _read_value(data: bytes, position: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in _BITS:
        return _read_integer(data, position, _BITS[kind])
    if kind == _BINARY:
        length, position = _read_varint(data, position)
        return None, position + length
    if kind == _STRUCT and depth < _DEEPEST:
        return _read_struct(data, position, depth + 1)
    if kind == _LIST and depth < _DEEPEST:
        return _read_list(data, position, depth + 1)
    if kind in (_TRUE, _FALSE, _BYTE):  # of a list, where a boolean takes a byte
        return data[position], position + 1
    raise ValueError(kind)


def _read_list(data: bytes, position: int, depth: int) -> tuple[list[Any], int]:
    count, kind = data[position] >> 4, data[position] & 15
    position += 1
    if count == 15:
        count, position = _read_varint(data, position)
    values = []
    for _ in range(count):
        value, position = _read_value(data, position, kind, depth)
        values.append(value)
    return values, position


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while data[position] & 0x80:
        value |= (data[position] & 0x7F) << shift
        shift += 7
        position += 1
    return value | data[position] << shift, position + 1


def _read_integer(data: bytes, position: int, bits: int) -> tuple[int, int]:
    value, position = _read_varint(data, position)
    if value >> bits:
        raise ValueError(value)
    return value >> 1 ^ -(value & 1), position


# The metadata of an Arrow message is a FlatBuffers table: where its fields stand is said by a
# table of 16-bit offsets before it, in the order of the schema. pyarrow has verified it.
# https://github.com/apache/arrow/blob/main/format/Message.fbs
_HEADER = 2
_DICTIONARY_DATA, _DICTIONARY_IS_DELTA = 1, 2
_LENGTH, _NODES, _BUFFERS, _COMPRESSION = 0, 1, 2, 3


def _follow(flat: memoryview, position: int) -> int:
    return position + int(struct.unpack_from("<I", flat, position)[0])


def _field(flat: memoryview, table: int, number: int) -> int:
    """Return the position of a field of a table, 0 where it has its default."""
    offsets = table - struct.unpack_from("<i", flat, table)[0]
    slot = 4 + 2 * number
    if slot >= struct.unpack_from("<H", flat, offsets)[0]:
        return 0
    offset = int(struct.unpack_from("<H", flat, offsets + slot)[0])
    return table + offset if offset else 0


def _whole(flat: memoryview, position: int) -> int:
    return int(struct.unpack_from("<q", flat, position)[0]) if position else 0


def _unpacked_lengths(flat: memoryview, header: int, body: memoryview) -> Iterator[int]:
    """Yield the declared length of each buffer: 8 bytes at its start; -1 is not compressed."""
    vector = _follow(flat, _field(flat, header, _BUFFERS))
    (count,) = struct.unpack_from("<I", flat, vector)
    for number in range(count):
        offset, length = struct.unpack_from("<qq", flat, vector + 4 + 16 * number)
        if length:
            yield max(int(struct.unpack_from("<q", body, offset)[0]), 0)
