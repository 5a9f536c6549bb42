"""Rows of a table as numbers: (n_rows, len(signature.inputs)), and columns of text beside them.

A number is itself, a boolean 0 or 1, a category the place of its value among the categories of
the signature (-1 for a value that training did not have), and a date its parts. NaN is missing.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from webapp.errors import MOST_FAULTS, InvalidInput
from webapp.ml.core import datasets
from webapp.ml.core.datasets import Features, Matrix, Unseen, Vector
from webapp.ml.core.kinds import take_as
from webapp.ml.core.signature import DATE_PARTS, Column, Signature
from webapp.ml.core.tables.shapes import BOOLEANS, Columns

UNSEEN = -1.0
DAY_US = 86_400_000_000
_PLAIN_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?)?")


def encode_table(found: Columns, signature: Signature, *, first_row: int = 0) -> Features:
    """Return the columns of a signature, which a table has, as numbers.

    Raises InvalidInput, by column and row (counted from ``first_row``), for values that a column
    cannot have.
    """
    X = np.empty((found.rows.num_rows, len(signature.inputs)))
    texts, unseen = [], {}
    for column, place in zip(signature.columns, signature.places, strict=True):
        try:
            # Where a model knows text, the text 123 of CSV is no number.
            is_text = bool(column.categories) and isinstance(column.categories[0], str)
            read = replace(found, untyped=False) if is_text else found
            values = take_as(found.rows[column.name], column.kind, read)
            if column.kind == "text":
                texts.append(np.array(values.to_pylist(), dtype=np.object_))
                continue
            X[:, place], foreign = encode_column(values, column)
            if not column.missing:
                _check_present(X[:, place])
        except InvalidInput as error:
            raise InvalidInput({column.name: shift_rows(error.faults, first_row)}) from None
        if foreign is not None:
            unseen[column.name] = Unseen(foreign.rows + first_row, foreign.values)
    return Features(X, np.stack(texts, axis=1) if texts else None, unseen=unseen)


def encode_column(values: Any, column: Column) -> tuple[Matrix, Unseen | None]:
    """Return values of the kind of a column as numbers: (n_rows, len(column.inputs))."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if column.kind == "datetime":
        return _expand(_as_moments(values), column), None
    if column.kind != "category":
        return np.asarray(values.cast(pa.float64()), dtype=np.float64).reshape(-1, 1), None
    known = column.categories
    of_text = bool(known) and isinstance(known[0], str)
    if of_text != (not pa.types.is_floating(values.type)):
        if of_text and values.null_count == len(values):
            values = values.cast(pa.large_string())
        else:
            message = "holds numbers, expected text" if of_text else "holds text, expected numbers"
            raise InvalidInput([message])
    value_set = pa.array(known, pa.large_string() if of_text else pa.float64())
    codes = pc.index_in(values, value_set=value_set)
    encoded = np.array(codes.cast(pa.float64()), dtype=np.float64)  # NaN where there is none
    foreign = np.flatnonzero(np.isnan(encoded) & ~np.asarray(values.is_null()))
    if not len(foreign):
        return encoded.reshape(-1, 1), None
    encoded[foreign] = UNSEEN
    return encoded.reshape(-1, 1), Unseen(foreign, values.take(pa.array(foreign)).to_pylist())


def recode(X: Matrix, source: Signature, target: Signature) -> Matrix:
    """Return rows that are encoded by a signature as another one encodes them.

    Both have the same columns, of the same kinds and parts; only categories may differ.
    """
    if source == target or source.is_matrix:
        return X
    recoded = X.copy()
    each = zip(source.columns, source.places, target.lookups, strict=True)
    for column, place, lookup in each:
        if column.kind == "category":
            codes = np.array([lookup.get(value, UNSEEN) for value in column.categories])
            present = np.flatnonzero(X[:, place.start] >= 0)
            recoded[present, place.start] = codes[X[present, place.start].astype(np.intp)]
    return recoded


def encode_rows(rows: Sequence[Any], signature: Signature) -> Features:
    """Return JSON rows as numbers: arrays in the order of the columns, or objects by their names.

    Raises InvalidInput by row and column.
    """
    if not isinstance(rows, list) or not rows:
        raise InvalidInput(["must be an array of at least one row"])
    names = signature.names
    if all(type(row) is dict for row in rows):
        faults = {
            str(number): found
            for number, row in enumerate(rows)
            if row.keys() != signature.name_set and (found := datasets.describe_names(row, names))
        }
        if faults:
            raise InvalidInput(dict(list(faults.items())[:MOST_FAULTS]))
        columns = [[row[name] for row in rows] for name in names]
        place_of: Callable[[int], str] = lambda number: names[number]  # noqa: E731
    else:
        for number, row in enumerate(rows):
            if type(row) is not list:
                kind = datasets.KINDS_OF_JSON[type(row)]
                raise InvalidInput({str(number): [f"is {kind}, expected an array of values"]})
            if len(row) != len(names):
                message = f"has {len(row)} values, expected {len(names)}"
                raise InvalidInput({str(number): [message]})
        columns = list(map(list, zip(*rows, strict=True)))
        place_of = str
    X = np.empty((len(rows), len(signature.inputs)))
    texts, unseen = [], {}
    each = zip(signature.columns, signature.places, signature.lookups, columns, strict=True)
    for number, (column, place, lookup, values) in enumerate(each):
        try:
            if column.kind == "text":
                read = [_read_text(value, row) for row, value in enumerate(values)]
                texts.append(np.array(read, dtype=np.object_))
                continue
            X[:, place], foreign = _encode_json(values, column, lookup)
            if not column.missing:
                _check_present(X[:, place])
        except InvalidInput as error:
            by_row = cast(Mapping[str, Any], error.faults).items()
            faults = {row: {place_of(number): fault} for row, fault in by_row}
            raise InvalidInput(faults) from None
        if foreign is not None:
            unseen[column.name] = foreign
    return Features(X, np.stack(texts, axis=1) if texts else None, unseen=unseen)


def _encode_json(
    values: list[Any], column: Column, lookup: Mapping[Any, float]
) -> tuple[Any, Unseen | None]:
    """Return JSON values of a column as numbers; raises InvalidInput by row."""
    if column.kind == "number":
        return _encode_numbers(values)[:, np.newaxis], None
    if column.kind == "boolean":
        return np.array([_read_boolean(v, r) for r, v in enumerate(values)])[:, np.newaxis], None
    if column.kind == "datetime":
        return _expand(_read_dates(values), column), None
    if set(map(type, values)) <= {str, int, float, type(None)}:
        codes: list[float | None] = list(map(lookup.get, values))
    else:
        codes = [None] * len(values)
    foreign = []
    for row, code in enumerate(codes):
        if code is None:
            codes[row] = _read_category(row, values[row], column, lookup)
            if codes[row] == UNSEEN:
                foreign.append(row)
    encoded = np.array(codes, dtype=np.float64)
    if not foreign:
        return encoded[:, np.newaxis], None
    named = [values[row] for row in foreign]
    named = [value.strip() if isinstance(value, str) else value for value in named]
    return encoded[:, np.newaxis], Unseen(np.array(foreign), named)


def _encode_numbers(values: list[Any]) -> Vector:
    if set(map(type, values)) <= {int, float, type(None)}:
        try:
            return np.array(values, dtype=np.float64)  # None becomes NaN
        except OverflowError:  # a whole number beyond float64, which is named below
            pass
    return np.array([_read_number(value, row) for row, value in enumerate(values)])


def _read_category(row: int, value: Any, column: Column, lookup: Mapping[Any, float]) -> float:
    of_text = bool(column.categories) and isinstance(column.categories[0], str)
    if value is None:
        return np.nan
    if of_text != isinstance(value, str) or isinstance(value, bool | list | dict):
        raise _unfit(row, value, "a string" if of_text else "a number")
    if not of_text:
        return lookup.get(_read_number(value, row), UNSEEN)
    return lookup.get(value.strip(), UNSEEN) if value.strip() else np.nan


def _read_number(value: Any, row: int) -> float:
    if value is None:
        return np.nan
    if type(value) is float:
        return value
    if type(value) is not int:
        raise _unfit(row, value, "a number or null")
    if abs(value) > sys.float_info.max:
        raise InvalidInput({str(row): ["is not a finite number"]})
    return float(value)


def _read_boolean(value: Any, row: int) -> float:
    if value is None:
        return np.nan
    if type(value) is str:
        code = BOOLEANS.get(value.strip().lower())
    else:
        code = value if value in (0, 1) else None  # true and false are 1 and 0 to Python
    if code is None:
        raise _unfit(row, value, "true, false or null")
    return float(code)


def _read_text(value: Any, row: int) -> str | None:
    if value is not None and type(value) is not str:
        raise _unfit(row, value, "a string or null")
    return (value or "").strip() or None


def _unfit(row: int, value: Any, expected: str) -> InvalidInput:
    kind = datasets.KINDS_OF_JSON[type(value)]
    return InvalidInput({str(row): [f"is {kind}, expected {expected}"]})


def _check_present(block: Matrix) -> None:
    missing = np.isnan(block).any(axis=1)
    if missing.any():
        row = str(np.argmax(missing))
        raise InvalidInput({row: ["is missing; training had no missing values"]})


def shift_rows(faults: Any, first_row: int) -> Any:
    """Return faults by row, counted from ``first_row``; faults of no row as they are."""
    if not first_row or not isinstance(faults, Mapping):
        return faults
    return {str(int(row) + first_row): fault for row, fault in faults.items()}


def find_date_parts(moments: Any) -> tuple[str, ...]:
    """Return the parts that dates are expanded to: the hour where one is not midnight."""
    import pyarrow.compute as pc

    us = pc.cast(moments.drop_null(), "int64")
    has_times = bool(np.any(np.asarray(us) % DAY_US))
    return DATE_PARTS if has_times else DATE_PARTS[:-1]


def _read_dates(values: list[Any]) -> NDArray[np.datetime64]:
    """Return JSON values as moments in UTC; raises InvalidInput by row."""
    import pyarrow as pa

    for row, value in enumerate(values):
        if value is not None and type(value) is not str:
            raise _unfit(row, value, "a date in ISO 8601, such as 2026-01-31")
    if all(value is None or _PLAIN_DATE.fullmatch(value) for value in values):
        try:  # in 10 us for a row, and 80 by pyarrow
            return np.array([value or "NaT" for value in values], dtype="datetime64[us]")
        except ValueError:  # which is none, is named below
            pass
    texts = pa.chunked_array([pa.array(values, pa.string())])
    return _as_moments(take_as(texts, "datetime", Columns(None)))


def _as_moments(values: Any) -> NDArray[np.datetime64]:
    """Return pyarrow's timestamps in microseconds as NumPy's."""
    import pyarrow.compute as pc

    us = np.asarray(pc.cast(values, "int64").fill_null(0)).astype("datetime64[us]")
    us[np.asarray(values.is_null())] = np.datetime64("NaT")
    return us


def _expand(moments: NDArray[np.datetime64], column: Column) -> Matrix:
    """Return the parts of moments: (n_rows, n_parts), missing ones as NaN."""
    us = moments.astype(np.int64)
    days, months = moments.astype("datetime64[D]"), moments.astype("datetime64[M]")
    parts = {
        "days": us / DAY_US,
        "year": moments.astype("datetime64[Y]").astype(np.int64) + 1970,
        "month": months.astype(np.int64) % 12 + 1,
        "day": (days - months.astype("datetime64[D]")).astype(np.int64) + 1,
        "weekday": (days.astype(np.int64) + 3) % 7,
        "hour": us % DAY_US // (DAY_US // 24),
    }
    expanded = np.stack([parts[part] for part in column.parts], axis=1).astype(np.float64)
    expanded[np.isnat(moments)] = np.nan
    return expanded
