"""JSON records as a table: a column for each name, typed by its values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from webapp.errors import Faults, InvalidInput
from webapp.ml.core.tables.reading import Columns

_NUMBERS = {int, float}
_WORDS = {bool: "a boolean", int: "a number", float: "a number", str: "text"}


def read_records(records: Any) -> Columns:
    """Return JSON objects as columns; a name that an object does not have is a missing value.

    Raises InvalidInput, by row and name, for values that are no single ones, or of another kind
    than those before.
    """
    import pyarrow as pa

    if not isinstance(records, list) or not records:
        raise InvalidInput(["must be an array of at least one object"])
    if (
        row := next((n for n, r in enumerate(records) if not isinstance(r, dict)), None)
    ) is not None:
        raise InvalidInput({str(row): ["must be an object: values by the name of their column"]})
    names = list(dict.fromkeys(name for record in records for name in record))
    if not names:
        raise InvalidInput({"0": ["has no values"]})
    columns = [_make_column([record.get(name) for record in records], name) for name in names]
    return Columns(pa.Table.from_arrays(columns, names=names))


def _make_column(values: Sequence[Any], name: str) -> Any:
    import pyarrow as pa

    kinds = set(map(type, values)) - {type(None)}
    if not kinds <= _NUMBERS and (len(kinds) > 1 or not kinds <= _WORDS.keys()):
        raise InvalidInput(_find_odd_one(values, name))
    if not kinds:
        return pa.nulls(len(values))
    if kinds <= _NUMBERS:
        return pa.array(
            [None if value is None else float(value) for value in values], pa.float64()
        )
    return pa.array(values, pa.string() if kinds == {str} else pa.bool_())


def _find_odd_one(values: Sequence[Any], name: str) -> Faults:
    first: Mapping[type, str] | str = ""
    for row, value in enumerate(values):
        if value is None:
            continue
        word = _WORDS.get(type(value))
        if word is None:
            fault = "must be a number, text, a boolean or null"
        elif first and word != first:
            fault = f"is {word}, but the values before are {first}"
        else:
            first = word
            continue
        return {str(row): {name: [fault]}}
    raise AssertionError(name)
