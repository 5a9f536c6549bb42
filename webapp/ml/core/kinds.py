"""The kinds of columns: which one the values of a column have, and values as those of a kind.

A kind follows from a column's type, and from its values where the type is text, as all of CSV is.
Values are pyarrow's: numbers as float64, dates as timestamps (naive, or in UTC), text without the
blanks around it, and what is missing as null.
"""

from __future__ import annotations

from typing import Any

from webapp.errors import InvalidInput
from webapp.ml.core.signature import Kind
from webapp.ml.core.tables.shapes import BOOLEANS, Columns, kind_of

MOST_CATEGORIES = 1000
LEAST_ID_ROWS = 20  # among fewer rows, values may all differ, or be the same, by chance
ID_SHARE = 0.9  # of different values, from which on text names the rows
TEXT_LENGTH, TEXT_WORDS = 30, 5  # of free text, in the mean
FEW_ROWS = 100
FEW_NUMBERS = 10  # whole numbers of a target that may be the codes of classes
FEW_WHOLE_NUMBERS = (
    "has few whole numbers, which may be the codes of classes: task=classification takes them so"
)

_EXPECTED = {
    "number": "a number",
    "boolean": "true or false",
    "category": "text",
    "datetime": "a date or time in ISO 8601, such as 2026-01-31 or 2026-01-31T10:30:00Z",
    "text": "text",
}


def find_kind(values: Any, found: Columns) -> tuple[Any, Kind | None]:
    """Return a column's values in the type of their kind, and the kind.

    The kind is None where a model could learn nothing from the values.
    """
    import pyarrow as pa

    is_dictionary = pa.types.is_dictionary(values.type)
    values = _decode(values)
    kind = kind_of(values.type)
    if kind == "string":
        return _find_kind_of_text(values, found)
    if kind in ("integer", "decimal", "floating"):
        numbers = _as_numbers(values)
        # What pandas calls a categorical.
        return numbers, "category" if is_dictionary and kind == "integer" else "number"
    if kind == "boolean":
        return values, "boolean"
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        return _as_moments(values), "datetime"
    return values, None


def take_as(values: Any, kind: Kind, found: Columns) -> Any:
    """Return a column's values as those of a kind that was asked for, or that a model takes.

    A category is text, but numbers stay numbers. Raises InvalidInput, by row where the values are
    text, for those that are none.
    """
    import pyarrow as pa

    values = _decode(values)
    given = kind_of(values.type)
    if given == "null":
        return values.cast(pa.float64())
    if given == "string":
        values = clean_text(values)
        if kind == "text":
            return values
        if kind == "category":
            return _read_codes(values, found)
        if kind == "boolean":
            return _read_booleans(values)
        if kind == "datetime":
            return _read_moments(values)
        if found.untyped:
            return _as_numbers(read_numbers(values, found))
    elif given in ("integer", "decimal", "floating"):
        if kind in ("number", "category"):
            return _as_numbers(values)
        if kind == "boolean":
            return _check_bits(_as_numbers(values))
    elif given == "boolean":
        if kind == "boolean":
            return values
    elif kind == "datetime" and (
        pa.types.is_timestamp(values.type) or pa.types.is_date(values.type)
    ):
        return _as_moments(values)
    raise InvalidInput([f"holds {given} values, expected {_EXPECTED[kind]}"])


def read_numbers(values: Any, found: Columns) -> Any:
    """Return the text of CSV as float64; raises InvalidInput by row for what is no number."""
    import pyarrow as pa

    return _cast_text(_with_point(clean_text(_decode(values)), found), [pa.float64()], "number")


def clean_text(values: Any) -> Any:
    """Return text without the blanks around it, and empty text as null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = pc.utf8_trim_whitespace(values.cast(pa.large_string()))
    return pc.if_else(pc.equal(values, ""), pa.scalar(None, values.type), values)


def is_id_like(n_distinct: int, n_present: int) -> bool:
    """Return whether text has another value in nearly every row, as names and ids have."""
    return n_present >= LEAST_ID_ROWS and n_distinct > ID_SHARE * n_present


def _find_kind_of_text(values: Any, found: Columns) -> tuple[Any, Kind | None]:
    import pyarrow as pa
    import pyarrow.compute as pc

    values = clean_text(values)
    present = values.drop_null()
    if not len(present):
        return values, None
    if found.untyped and not has_leading_zeros(present):
        numbers = _try_cast(_with_point(values, found), pa.float64())
        if numbers is not None:
            return _as_numbers(numbers), "number"
    distinct = pc.unique(present)
    if len(distinct) <= 4 and set(pc.utf8_lower(distinct).to_pylist()) <= BOOLEANS.keys():
        return pc.equal(pc.utf8_lower(values), "true"), "boolean"
    # The first value tells most columns: dates or not takes 0.1 ms, not 30 for 300,000 rows.
    if holds_dates(present[:1]):
        dated = _with_hyphens(values)
        for moment in _moment_types():
            if (moments := _try_cast(dated, moment)) is not None:
                return _as_moments(moments), "datetime"
    many = len(distinct) > min(len(present) / 2, MOST_CATEGORIES)
    if many and _is_free_text(distinct):
        return values, "text"
    useless = is_id_like(len(distinct), len(present)) or len(distinct) > MOST_CATEGORIES
    return values, None if useless else "category"


def has_leading_zeros(texts: Any) -> bool:
    """Return whether text holds whole numbers such as 007, which are codes and no numbers."""
    import pyarrow.compute as pc

    return bool(pc.any(pc.match_substring_regex(texts, r"^-?0\d+$")).as_py())


def holds_dates(texts: Any) -> bool:
    """Return whether all text is a date or time in ISO 8601, without or all with a zone."""
    dated = _with_hyphens(texts)
    return any(_try_cast(dated, moment) is not None for moment in _moment_types())


def find_unlike_numbers(texts: Any, found: Columns) -> Any:
    """Return the rows whose text is no number: (n,); missing ones are none of them."""
    import numpy as np
    import pyarrow.compute as pc

    pattern = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
    matched = pc.match_substring_regex(_with_point(texts, found), pattern)
    return np.flatnonzero(~np.asarray(matched.fill_null(True)))


def holds_local_dates(texts: Any) -> bool:
    """Return whether text holds dates as countries write them: 1/31/2026 or 31.01.26."""
    import pyarrow.compute as pc

    pattern = r"^\d{1,2}([./-])\d{1,2}[./-](\d{4}|\d{2})\b"
    return bool(pc.all(pc.match_substring_regex(texts, pattern)).as_py())


def find_comma(texts: Any, found: Columns) -> int | None:
    """Return the first row with a comma of a column of numbers but for commas, or None."""
    import numpy as np
    import pyarrow.compute as pc

    if found.decimal == ",":
        return None
    commas = pc.match_substring_regex(texts, r"^[+-]?\d+(,\d+)+").fill_null(False)
    numbers = pc.match_substring_regex(texts, r"^[+-]?\d+(,\d+)*(\.\d+)?$").fill_null(True)
    if not pc.all(numbers).as_py() or not pc.any(commas).as_py():
        return None
    return int(np.argmax(np.asarray(commas)))


def _decode(values: Any) -> Any:
    import pyarrow as pa

    return values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values


def _as_numbers(values: Any) -> Any:
    """Return numbers as float64; those that are not finite are missing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if kind_of(values.type) == "decimal":
        # Straight to float64, every third decimal comes out one bit off the nearest float.
        values = values.cast(pa.string())
    values = values.cast(pa.float64(), safe=False)
    return pc.if_else(pc.is_finite(values), values, pa.scalar(None, pa.float64()))


def _moment_types() -> list[Any]:
    import pyarrow as pa

    units = ("us", "ns")  # text with more than six decimals is of nanoseconds alone
    return [pa.timestamp(unit, zone) for unit in units for zone in (None, "UTC")]


def _as_moments(values: Any) -> Any:
    import pyarrow as pa

    zone = getattr(values.type, "tz", None) and "UTC"  # that of the type may be any text
    return values.cast(pa.timestamp("us", zone), safe=False)


def _with_hyphens(values: Any) -> Any:
    # Spreadsheets write 2026/01/31, which pyarrow does not read.
    import pyarrow.compute as pc

    return pc.replace_substring_regex(values, r"^(\d{4})/(\d{2})/(\d{2})", r"\1-\2-\3")


def _with_point(values: Any, found: Columns) -> Any:
    import pyarrow.compute as pc

    same = found.decimal == "."
    return values if same else pc.replace_substring(values, found.decimal, ".")


def _read_codes(values: Any, found: Columns) -> Any:
    """Return the values of a category: of CSV as numbers where all are."""
    import pyarrow as pa

    if found.untyped and not has_leading_zeros(values):
        numbers = _try_cast(_with_point(values, found), pa.float64())
        return values if numbers is None else _as_numbers(numbers)
    return values


def _check_bits(values: Any) -> Any:
    """Return numbers that are 0 or 1; raises InvalidInput by row for others."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    others = pc.invert(pc.is_in(values, value_set=pa.array([0.0, 1.0, None])))
    if pc.any(others).as_py():
        raise InvalidInput({str(np.argmax(np.asarray(others))): ["is neither 0 nor 1"]})
    return values


def _read_booleans(values: Any) -> Any:
    import pyarrow.compute as pc

    lower = pc.utf8_lower(values)
    return _cast_text(lower, [_boolean_type()], "boolean")


def _boolean_type() -> Any:
    import pyarrow as pa

    return pa.bool_()


def _read_moments(values: Any) -> Any:
    return _as_moments(_cast_text(_with_hyphens(values), _moment_types(), "datetime"))


def _cast_text(values: Any, types: list[Any], kind: Kind) -> Any:
    """Return text as the first type that all of it is; raises InvalidInput by row."""
    for one in types:
        if (found := _try_cast(values, one)) is not None:
            return found
    first, last = 0, len(values)  # the first unfit value is among these
    while last - first > 1:
        middle = (first + last) // 2
        part = values[first:middle]
        if all(_try_cast(part, one) is None for one in types):
            last = middle
        else:
            first = middle
    raise InvalidInput({str(first): [f"is not {_EXPECTED[kind]}"]})


def _try_cast(values: Any, to: Any) -> Any:
    """Return text as another type; None where some value is none of it."""
    import pyarrow as pa

    try:
        values[:FEW_ROWS].cast(to)  # mostly enough to tell, and in 0.1 instead of 100 ms
        return values.cast(to)
    except pa.ArrowInvalid:
        return None


def _is_free_text(distinct: Any) -> bool:
    import pyarrow.compute as pc

    length = pc.mean(pc.utf8_length(distinct)).as_py()
    words = pc.mean(pc.count_substring(distinct, " ")).as_py() + 1
    return bool(length >= TEXT_LENGTH and words >= TEXT_WORDS)
