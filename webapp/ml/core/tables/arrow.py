"""Arrow streams and files (Feather) as a table; decompression bombs are refused.

pyarrow allocates the uncompressed size that stands before each buffer, and has no limit for it:
400 MB for a file of 13 kB. So the messages of a stream are looked through before any is decoded.
Their metadata are FlatBuffers, which pyarrow verifies but does not show.

https://github.com/apache/arrow/blob/main/format/Message.fbs
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

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

FILE_MAGIC = b"ARROW1\0\0"
LONGEST_METADATA = 4 * 2**20  # of a message; a schema of 10,000 columns takes 2 MB
MOST_COLUMNS = 100_000  # of all record batches: 22 MB in batches of a row took 21 s
BATCH_COLUMNS = 4  # the work for a record batch, in columns

# Fields of the tables Message, DictionaryBatch and RecordBatch, by their order in the schema.
_HEADER = 2
_ID, _DATA, _IS_DELTA = 0, 1, 2
_LENGTH, _NODES, _BUFFERS, _COMPRESSION = 0, 1, 2, 3


def open_arrow(source: BinaryIO, label: str | None, limits: Limits | None, _: CsvDialect) -> Table:
    """Return an Arrow stream or file as a table; raises InvalidInput."""
    from pyarrow import ipc

    file = to_arrow_file(source)
    # A file is a stream between a magic word and an index that is of no use here.
    start = len(FILE_MAGIC) if file.read(len(FILE_MAGIC)) == FILE_MAGIC else 0
    file.seek(start)
    if limits:
        try:
            _check_messages(ipc.MessageReader.open_stream(file), limits)
        except struct.error:
            raise InvalidInput(["is not an Arrow table: it cannot be parsed"]) from None
        file.seek(start)
    reader = ipc.open_stream(file, options=ipc.IpcReadOptions(use_threads=False))
    return Table(reader.schema, _read_batches(reader))


def _read_batches(reader: Any) -> Iterator[Any]:
    for batch in reader:
        batch.validate(full=True)  # before anything trusts an offset or an index in it
        yield batch


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
        if uncompressed > most_bytes(length, nodes * NUMBER_BYTES + TEXT_BYTES):
            raise InvalidInput(["decompresses to more than its rows can need"])


# A table of FlatBuffers begins with its distance from a list of 16-bit offsets, which say where
# its fields stand.


def _find(flat: memoryview, table: int, field: int) -> int:
    """Return the position of a field of a table, 0 where it has its default."""
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
