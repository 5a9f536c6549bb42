"""JSON rows of any values as a table: its columns are typed by their values."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from webapp.errors import InvalidInput
from webapp.ml.core.datasets import check_feature_names
from webapp.ml.core.tables.shapes import Columns

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
    check_feature_names(names)
    columns = [_make_column([record.get(name) for record in records], name) for name in names]
    return Columns(pa.Table.from_arrays(columns, names=names))


def are_rows_of_values(rows: Any) -> bool:
    """Return whether a JSON value is a list of equally long lists of single values."""
    if not isinstance(rows, list) or not rows or set(map(type, rows)) != {list}:
        return False
    if len(set(map(len, rows))) != 1 or not rows[0]:
        return False
    return all(value is None or type(value) in _WORDS for row in rows for value in row)


def read_rows(rows: list[list[Any]], names: Sequence[str]) -> Columns:
    """Return JSON arrays, which are rows of values, as columns with these names.

    Raises InvalidInput, by row and place, for values of another kind than those before.
    """
    import pyarrow as pa

    columns = [
        _make_column(list(values), str(place))
        for place, values in enumerate(zip(*rows, strict=True))
    ]
    return Columns(pa.Table.from_arrays(columns, names=list(names)))


def _make_column(values: Sequence[Any], name: str) -> Any:
    import pyarrow as pa

    kind = ""
    for row, value in enumerate(values):
        if value is None:
            continue
        found = _WORDS.get(type(value))
        if found is None:
            fault = "must be a number, text, a boolean or null"
        elif kind and found != kind:
            fault = f"is {found}, but the values before are {kind}"
        elif found == "a number" and not abs(value) <= sys.float_info.max:
            fault = "is not a finite number"
        else:
            kind = found
            continue
        raise InvalidInput({str(row): {name: [fault]}})
    if kind == "a number":
        values = [None if value is None else float(value) for value in values]
    types = {"": pa.null(), "a number": pa.float64(), "text": pa.string(), "a boolean": pa.bool_()}
    return pa.array(values, types[kind])
