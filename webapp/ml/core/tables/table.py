"""A table between its bytes and a matrix: named, typed columns that come in batches of rows.

Every format opens as a ``Table``; what reads one starts from its schema and batches, so typed
columns (text, categories, dates, missing values) need no second way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

from webapp.errors import MOST_FAULTS, InvalidInput
from webapp.ml.core.datasets import DataWarning

BLANKS = " \t"  # not part of a column's name at its ends
READ_BYTES = 2**20
NUMBER_BYTES = 34  # a decimal of 256 bits, and what says beside it that it is there
TEXT_BYTES = 1100  # a label: 255 characters of 4 bytes
DELIMITERS = (",", ";", "\t", "|")
DECIMALS = (".", ",")
# Kinds of columns, in the words of pyarrow.types, and in those of error messages.
NUMERIC = frozenset({"integer", "floating", "decimal", "null"})
_KINDS = {
    **{kind: kind for kind in ("integer", "floating", "decimal", "null", "boolean", "string")},
    **{"large_string": "string", "string_view": "string", "binary": "binary"},
    **{"large_binary": "binary", "temporal": "date or time", "nested": "nested"},
}


@dataclass(frozen=True)
class Limits:
    """The size that a table may have.

    ``columns`` counts the features; ``cells`` is rows times columns, with the target.
    """

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


@dataclass(frozen=True)
class CsvDialect:
    """How a CSV file separates columns, and how it writes the decimal point."""

    delimiter: str = ","
    decimal: str = "."


DEFAULT_DIALECT = CsvDialect()


@dataclass(frozen=True)
class Table:
    """A table whose header has been read.

    schema: pyarrow's, with the names and types of the columns; batches: pyarrow's record
    batches, read on demand; untyped: whole numbers and booleans may come as text (CSV).
    """

    schema: Any
    batches: Iterator[Any]
    untyped: bool = False
    warnings: tuple[DataWarning, ...] = ()


@dataclass(frozen=True)
class Format:
    """A format of tables; ``title`` names it in error messages.

    ``open`` takes the bytes, the name of the column of labels (None for a regression or a
    prediction), the limits (None at the command line, where memory is the user's own), and the
    dialect. It may raise what ``parse_errors`` turns into InvalidInput.
    """

    name: str
    title: str
    media_types: tuple[str, ...]
    suffixes: tuple[str, ...]
    open: Callable[[BinaryIO, str | None, Limits | None, CsvDialect], Table]


@contextmanager
def parse_errors(title: str) -> Iterator[None]:
    """Turn what pyarrow raises for malformed bytes into InvalidInput."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        # pyarrow's own OSErrors have no number; one with a number comes from the machine.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        # The message is not passed on: it may quote the client's rows.
        raise InvalidInput([f"is not {title}: it cannot be parsed"]) from None


def to_arrow_file(source: BinaryIO) -> Any:
    """Return a source as a file of pyarrow's, held in memory where it cannot be sought."""
    import pyarrow as pa

    if hasattr(source, "seekable") and source.seekable():
        return pa.PythonFile(source, mode="r")
    return pa.BufferReader(b"".join(iter(lambda: source.read(READ_BYTES), b"")))


def most_bytes(n_rows: int, width: int) -> int:
    """Return how many bytes rows of ``width`` bytes may decompress to, at most 512 MB.

    Twice their size, since values may stand in a dictionary and beside it, and 64 kB for what
    few rows take beside their values.
    """
    return min(2 * n_rows * width, 2**29) + 2**16


def kind_of(arrow_type: Any) -> str:
    """Return the kind of an Arrow type, or of what a dictionary encodes, in a word.

    The type's own name may hold text of the client: names of fields, a time zone.
    """
    from pyarrow import types

    if types.is_dictionary(arrow_type):
        return kind_of(arrow_type.value_type)
    fits = (word for kind, word in _KINDS.items() if getattr(types, f"is_{kind}")(arrow_type))
    return next(fits, "other")


def list_names(names: Sequence[str]) -> str:
    """Return the first few names, each cut at 40 characters, as a list in a sentence."""
    shown = ", ".join(name[:40] for name in islice(names, MOST_FAULTS))
    return f"{shown}, …" if len(names) > MOST_FAULTS else shown
