"""What readers of tables pass on: sources, formats, limits, tables in batches and in columns."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias

from webapp.errors import MOST_FAULTS, InvalidInput
from webapp.ml.core.datasets import DataWarning

BLANKS = " \t"  # not part of a column's name at its ends
DELIMITERS = (",", ";", "\t", "|")
BOOLEANS = {"false": 0, "true": 1}
NUMERIC = {"integer", "floating", "decimal", "null"}
# Kinds of columns, in the words of pyarrow.types, and in those of error messages.
_KINDS = {
    **{kind: kind for kind in (*NUMERIC, "boolean", "string", "binary", "nested")},
    **{"large_string": "string", "string_view": "string", "large_binary": "binary"},
    **{"duration": "duration", "temporal": "date or time"},
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


IsText: TypeAlias = Callable[[str], bool]
"""Whether a column of CSV, by its name, is to be read as text."""


@dataclass(frozen=True)
class Format:
    """A format of tables; ``title`` names it in error messages.

    ``open`` takes a source and, for CSV, which columns to leave text; the others must be numbers.
    It may raise what pyarrow raises for malformed bytes.
    """

    name: str
    title: str
    media_types: tuple[str, ...]
    suffixes: tuple[str, ...]
    open: Callable[[Source, IsText], Table]


@dataclass(frozen=True)
class Source:
    """The bytes of a table, and how to read them; ``name`` is that of its file, if it had one.

    ``groups`` are the row groups of Parquet to read, from the first to before the last.
    """

    file: BinaryIO
    format: Format
    dialect: CsvDialect
    limits: Limits = UNLIMITED
    name: str | None = None
    groups: tuple[int, int] | None = None


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
            check_target(self.rows.column_names, target)


def kind_of(arrow_type: Any) -> str:
    """Return the kind of an Arrow type, or of what a dictionary encodes, in a word.

    The type's own name may hold text of the client: names of fields, a time zone.
    """
    from pyarrow import types

    if types.is_dictionary(arrow_type):
        return kind_of(arrow_type.value_type)
    fits = (word for kind, word in _KINDS.items() if getattr(types, f"is_{kind}")(arrow_type))
    return next(fits, "other")


def check_target(names: Sequence[str], target: str) -> None:
    """Raise InvalidInput for a target that is none of the columns."""
    if target not in names:
        known = suggest_delimiter(names) or f"its columns are {list_names(names)}"
        raise InvalidInput([f"has no column {target!r}; {known}"])


def suggest_delimiter(names: Sequence[str]) -> str:
    """Return what to do about a header that another delimiter seems to separate, or nothing."""
    found = [d for d in DELIMITERS if len(names) == 1 and d in names[0]]
    shown = "".join("a tab" if d == "\t" else repr(d) for d in found[:1])
    return shown and f"if {shown} separates its columns, give the options delimiter and decimal"


def list_names(names: Sequence[str]) -> str:
    """Return the first few names, each cut at 40 characters, as a list in a sentence."""
    shown = ", ".join(name[:40] for name in names[:MOST_FAULTS])
    return f"{shown}, …" if len(names) > MOST_FAULTS else shown
