"""From JSON values to float64 matrices and labels, or to a fault with its place."""

from __future__ import annotations

import sys
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, compress, islice
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from webapp.errors import MOST_FAULTS, Faults, InvalidInput
from webapp.ml.core.signature import Signature, Task

Matrix: TypeAlias = NDArray[np.float64]
"""(n_rows, n_features), C-contiguous."""
Vector: TypeAlias = NDArray[np.float64]
"""(n_rows,)."""
Labels: TypeAlias = NDArray[np.int64] | NDArray[np.object_]
"""(n_rows,), whole numbers or `str` objects; rows of one label share one object."""

Texts: TypeAlias = NDArray[np.object_]
"""(n_rows, n_text_columns) of str; missing text is None."""

LONGEST_FEATURE_NAME = 255
LONGEST_LABEL = 255
KINDS_OF_JSON = {
    bool: "a boolean",
    int: "a whole number",
    float: "a decimal number",
    str: "a string",
    type(None): "null",
    list: "an array",
    dict: "an object",
}


@dataclass(frozen=True)
class DataWarning:
    """What was left out of the data, or converted: the column's name, and what was done."""

    column: str
    message: str


@dataclass(frozen=True)
class Dataset:
    """Rows to learn from.

    y: (n_rows,), finite float64 to learn numbers from, or labels to learn classes from.
    X: (n_rows, n_features) float64, finite, its columns called ``feature_names``. Where there is
    a ``signature``, the features have kinds, and X holds them as ``encoding`` has them.
    """

    X: Matrix
    y: Vector | Labels
    feature_names: tuple[str, ...]
    warnings: tuple[DataWarning, ...] = ()
    signature: Signature | None = None
    texts: Texts | None = None
    target: str = "y"

    @property
    def task(self) -> Task:
        """Return what the target is for."""
        return "regression" if self.y.dtype.kind == "f" else "classification"

    def take_first(self) -> Dataset:
        """Return the first row as a dataset of its own."""
        texts = None if self.texts is None else self.texts[:1]
        return replace(self, X=self.X[:1], y=self.y[:1], texts=texts)


@dataclass(frozen=True)
class Unseen:
    """Values of a category that training did not have: their rows, and the values."""

    rows: NDArray[np.intp]
    values: list[Any]


@dataclass(frozen=True)
class Features:
    """Rows to predict for.

    X: (n_rows, n_inputs) float64; of a matrix finite, else as this module encodes them.
    ``unseen`` is by column. ``passed`` are columns to echo beside the predictions.
    """

    X: Matrix
    texts: Texts | None = None
    warnings: tuple[DataWarning, ...] = ()
    unseen: Mapping[str, Unseen] = field(default_factory=dict)
    passed: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Subset:
    """Some rows of a dataset: those of ``index``, in its order; all where there is none."""

    dataset: Dataset
    index: NDArray[np.intp] | None = None

    def __len__(self) -> int:
        return len(self.dataset.y) if self.index is None else len(self.index)

    def take(self) -> Dataset:
        """Return the rows as a dataset of their own."""
        rows, index = self.dataset, self.index
        if index is None:
            return rows
        texts = None if rows.texts is None else rows.texts.take(index, axis=0)
        return replace(rows, X=rows.X.take(index, axis=0), y=rows.y.take(index), texts=texts)

    def mask(self) -> NDArray[np.bool_] | None:
        """Return which rows they are: (all rows,); None for all of them."""
        if self.index is None:
            return None
        mask = np.zeros(len(self.dataset.y), dtype=np.bool_)
        mask[self.index] = True
        return mask


def default_feature_names(count: int) -> tuple[str, ...]:
    """Return ``x1``, ``x2``, … for columns that came without names."""
    return tuple(f"x{number}" for number in range(1, count + 1))


def make_dataset(
    X: Matrix,
    y: Vector | Labels,
    feature_names: Sequence[str] | None = None,
    warnings: tuple[DataWarning, ...] = (),
    *,
    target: str = "y",
) -> Dataset:
    """Return a dataset of parts that fit together; raises InvalidInput where they do not."""
    names = default_feature_names(X.shape[1]) if feature_names is None else feature_names
    check_parts(X.shape[0], X.shape[1], y, names)
    return Dataset(X, y, tuple(names), warnings, target=target)


def check_parts(n_rows: int, n_features: int, y: Vector | Labels, names: Sequence[str]) -> None:
    """Raise InvalidInput unless a target and names of features fit to the rows."""
    if len(y) != n_rows:
        raise InvalidInput({"y": [f"has {len(y)} values for {n_rows} rows of X"]})
    if len(names) != n_features:
        message = f"has {len(names)} names for {n_features} features"
        raise InvalidInput({"feature_names": [message]})
    check_feature_names(names)


def is_numeric(rows: list[list[Any]]) -> bool:
    """Return whether JSON rows hold numbers alone."""
    return set(map(type, chain.from_iterable(rows))) <= {int, float}


def drop_missing_targets(X: Any, y: Any) -> tuple[Any, Any, tuple[DataWarning, ...]]:
    """Return the rows of X (a list or a matrix) and y, a JSON value, whose y is not null.

    A warning comes with them where some are.
    """
    if not isinstance(y, list) or len(y) != len(X) or None not in y:
        return X, y, ()
    warning = warn_of_missing("y", y.count(None), len(y))
    present = [value is not None for value in y]
    rows = list(compress(X, present)) if isinstance(X, list) else X[present]
    return rows, list(compress(y, present)), (warning,)


def warn_of_missing(target: str, n_missing: int, n_rows: int) -> DataWarning:
    """Return the warning of rows without a target; raises InvalidInput where there is no other."""
    if n_missing == n_rows:
        raise InvalidInput({target: ["has no values"]})
    message = f"has no value in {n_missing} of {n_rows} rows, which were left out"
    return DataWarning(target, message)


def check_feature_names(names: Sequence[str]) -> None:
    """Raise InvalidInput unless the names are fit to be shown, each used once."""
    if repeated := find_repeated(names):
        raise InvalidInput({"feature_names": [f"repeats {', '.join(repeated)}"]})
    unfit = [name for name in names if not _is_printable(name, LONGEST_FEATURE_NAME)]
    if unfit:
        message = f"must be 1 to {LONGEST_FEATURE_NAME} printable characters: {unfit[0][:40]!r}"
        raise InvalidInput({"feature_names": [message]})


def matrix_from_rows(rows: Any) -> Matrix:
    """Return JSON rows (a list of equally long lists of finite numbers) as a matrix.

    Raises InvalidInput by row and column.
    """
    if not isinstance(rows, list) or not rows:
        raise InvalidInput(["must be an array of at least one row"])
    width = len(rows[0]) if isinstance(rows[0], list) else 0
    if width and set(map(type, rows)) == {list} and set(map(len, rows)) == {width}:
        flat = _finite_numbers(list(chain.from_iterable(rows)))
        if flat is not None:
            return flat.reshape(len(rows), width)
    raise InvalidInput(_faults_by_place(rows, lambda row: _describe_row(row, width)))


def vector_from_values(values: Any) -> Vector:
    """Return a JSON list of finite numbers as a vector; raises InvalidInput by index."""
    if not isinstance(values, list) or not values:
        raise InvalidInput(["must be an array of at least one number"])
    if (flat := _finite_numbers(values)) is not None:
        return flat
    raise InvalidInput(_faults_by_place(values, _describe_number))


def labels_from_values(values: Any) -> Labels:
    """Return a JSON list of strings, whole numbers or booleans as labels: object or int64.

    A whole number may be written with a fraction of zero; false is 0, and true is 1. Raises
    InvalidInput, by index, for any other value, and for another kind than the first.
    """
    if not isinstance(values, list) or not values:
        raise InvalidInput(["must be an array of at least one label"])
    if float in set(map(type, values)):
        values = [_as_whole_number(value) for value in values]
    kinds = set(map(type, values))
    if kinds in ({int}, {bool}):
        try:
            return np.array(values, dtype=np.int64)
        except OverflowError:
            pass  # the faults are named below
    elif kinds == {str}:
        shared = {label: label for label in values}
        if not any(map(describe_label, shared)):
            return np.array([shared[label] for label in values], dtype=np.object_)
    first = type(values[0])
    raise InvalidInput(_faults_by_place(values, lambda value: _describe_label_of(first, value)))


def describe_label(value: Any) -> list[str] | None:
    """Return what keeps a value from being a label, or None."""
    if type(value) is str:
        fits = _is_printable(value, LONGEST_LABEL)
        return None if fits else [f"must be 1 to {LONGEST_LABEL} printable characters"]
    if type(value) is int:
        return None if -(2**63) <= value < 2**63 else ["is outside the range of 64-bit integers"]
    return [f"is {KINDS_OF_JSON[type(value)]}, expected a string or a whole number"]


def matrix_from_records(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Matrix:
    """Return JSON objects, feature name → finite number, as a matrix with columns ``names``.

    Raises InvalidInput, naming missing and unknown features by row.
    """
    known = set(names)
    if all(record.keys() == known for record in records):
        flat = _finite_numbers([record[name] for record in records for name in names])
        if flat is not None:
            return flat.reshape(len(records), len(names))
    raise InvalidInput(_faults_by_place(records, lambda record: _describe_record(record, names)))


def check_width(X: Matrix, n_features: int) -> None:
    """Raise InvalidInput, by row, unless the rows have the model's number of features."""
    if X.shape[1] != n_features:
        fault = _describe_width(X.shape[1], n_features)
        raise InvalidInput({str(row): fault for row in range(min(len(X), MOST_FAULTS))})


def describe_names(given: Collection[str], expected: Collection[str]) -> dict[str, list[str]]:
    """Return the names that are missing and those that no model expects, each with its fault."""
    present, known = set(given), set(expected)
    faults = {name: ["is missing"] for name in expected if name not in present}
    unknown = (name for name in given if name not in known)
    return faults | {name: ["is not a feature of the model"] for name in unknown}


def find_repeated(names: Sequence[str]) -> list[str]:
    """Return the first few names that stand more than once, sorted."""
    return sorted(name for name, count in Counter(names).items() if count > 1)[:MOST_FAULTS]


def _as_whole_number(value: Any) -> Any:
    # From 2**53 on, a float may stand for several whole numbers.
    is_exact = type(value) is float and value.is_integer() and abs(value) < 2**53
    return int(value) if is_exact else value


def _finite_numbers(cells: list[Any]) -> Vector | None:
    # The type is compared, not isinstance: a boolean is an int to Python, not to JSON.
    if not set(map(type, cells)) <= {int, float}:
        return None
    try:
        flat = np.fromiter(cells, dtype=np.float64, count=len(cells))
    except OverflowError:  # a whole number beyond float64
        return None
    return flat if np.count_nonzero(np.isfinite(flat)) == len(flat) else None


def _faults_by_place(values: Sequence[Any], describe: Any) -> Faults:
    described = ((str(index), describe(value)) for index, value in enumerate(values))
    return dict(islice((found for found in described if found[1]), MOST_FAULTS))


def _describe_row(row: Any, width: int) -> Faults | None:
    if not isinstance(row, list):
        return [f"is {KINDS_OF_JSON[type(row)]}, expected an array of numbers"]
    if not row or (width and len(row) != width):
        return _describe_width(len(row), width)
    return _faults_by_place(row, _describe_number)


def _describe_width(found: int, expected: int) -> list[str]:
    return [f"has {found} values, expected {expected}" if found else "has no values"]


def _is_printable(text: str, longest: int) -> bool:
    """Whether a text may be shown on one line; the spaces of Unicode may, as in Excel's names."""
    others = [char for char in text if not char.isprintable()]
    return 0 < len(text) <= longest and all(unicodedata.category(char) == "Zs" for char in others)


def _describe_label_of(kind: type, value: Any) -> Faults | None:
    fault = describe_label(value)
    if fault is None and type(value) is not kind and kind in (int, str):
        return [f"is {KINDS_OF_JSON[type(value)]}, but the first label is {KINDS_OF_JSON[kind]}"]
    return fault


def _describe_record(record: Mapping[str, Any], names: Sequence[str]) -> Faults | None:
    cells = ((name, _describe_number(value)) for name, value in record.items())
    return describe_names(record, names) or {name: fault for name, fault in cells if fault}


def _describe_number(value: Any) -> list[str] | None:
    if type(value) not in (int, float):
        return [f"is {KINDS_OF_JSON[type(value)]}, expected a number"]
    return None if abs(value) <= sys.float_info.max else ["is not a finite number"]
