"""From what people send (JSON values, CSV) to float64 matrices, or to a fault with its place."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from webapp.errors import MOST_FAULTS, Faults, InvalidInput

Matrix: TypeAlias = NDArray[np.float64]
"""(n_rows, n_features), C-contiguous."""
Vector: TypeAlias = NDArray[np.float64]
"""(n_rows,)."""

LONGEST_FEATURE_NAME = 255
CSV_BLOCK_BYTES = 16 * 2**20  # also the longest header or row
_CSV_CONVERSION = re.compile(r"In CSV column #(\d+): ")
_CSV_SHAPE = re.compile(r"(Row #\d+: )?Expected \d+ columns, got \d+|Empty CSV file")
_KINDS = {
    bool: "a boolean",
    str: "a string",
    type(None): "null",
    list: "an array",
    dict: "an object",
}


@dataclass(frozen=True)
class Dataset:
    """Rows to learn from.

    X: (n_rows, n_features) float64, finite; y: (n_rows,) float64, finite; ``feature_names``
    names the columns of X.
    """

    X: Matrix
    y: Vector
    feature_names: tuple[str, ...]


def default_feature_names(count: int) -> tuple[str, ...]:
    """Return ``x1``, ``x2``, … for columns that came without names."""
    return tuple(f"x{number}" for number in range(1, count + 1))


def make_dataset(X: Matrix, y: Vector, feature_names: Sequence[str] | None = None) -> Dataset:
    """Return a dataset of parts that fit together; raises InvalidInput where they do not."""
    if len(y) != len(X):
        raise InvalidInput({"y": [f"has {len(y)} values for {len(X)} rows of X"]})
    if feature_names is None:
        return Dataset(X, y, default_feature_names(X.shape[1]))
    if len(feature_names) != X.shape[1]:
        message = f"has {len(feature_names)} names for {X.shape[1]} features"
        raise InvalidInput({"feature_names": [message]})
    repeated = _repeated(feature_names)
    if repeated:
        raise InvalidInput({"feature_names": [f"repeats {', '.join(repeated)}"]})
    unfit = [name for name in feature_names if not _is_name(name)]
    if unfit:
        message = f"must be 1 to {LONGEST_FEATURE_NAME} printable characters: {unfit[0][:40]!r}"
        raise InvalidInput({"feature_names": [message]})
    return Dataset(X, y, tuple(feature_names))


def matrix_from_rows(rows: Any) -> Matrix:
    """Return JSON rows (a list of equally long lists of finite numbers) as a matrix.

    The checks are a few passes at C speed; only when one fails are cells looked at one by
    one, to name the place. Raises InvalidInput with faults by row and column.
    """
    if not isinstance(rows, list) or not rows:
        raise InvalidInput(["must be an array of at least one row"])
    if set(map(type, rows)) != {list}:
        raise InvalidInput(_faults_by_place(rows, _describe_row_type))
    width = len(rows[0])
    if width == 0 or set(map(len, rows)) != {width}:
        raise InvalidInput(_faults_by_place(rows, lambda row: _describe_width(row, width)))
    cells = list(chain.from_iterable(rows))
    flat = _finite_numbers(cells)
    if flat is None:
        raise InvalidInput(_faults_by_place(rows, _describe_row))
    return flat.reshape(len(rows), width)


def vector_from_values(values: Any) -> Vector:
    """Return a JSON list of finite numbers as a vector; raises InvalidInput by index."""
    if not isinstance(values, list) or not values:
        raise InvalidInput(["must be an array of at least one number"])
    flat = _finite_numbers(values)
    if flat is None:
        raise InvalidInput(_faults_by_place(values, _describe_number))
    return flat


def matrix_from_records(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Matrix:
    """Return JSON objects, feature name → finite number, as a matrix with columns ``names``.

    The order of the keys does not matter. Raises InvalidInput, naming missing and unknown
    features by row.
    """
    known = set(names)
    if any(record.keys() != known for record in records):
        faults = _faults_by_place(records, lambda record: _describe_names(list(record), names))
        raise InvalidInput(faults)
    rows = [[record[name] for name in names] for record in records]
    flat = _finite_numbers(list(chain.from_iterable(rows)))
    if flat is None:
        raise InvalidInput(_faults_by_place(records, _describe_record))
    return flat.reshape(len(rows), len(names))


def check_width(X: Matrix, n_features: int) -> None:
    """Raise InvalidInput, by row, unless the rows have the model's number of features."""
    if X.shape[1] != n_features:
        raise InvalidInput(_faults_by_place(list(X), lambda row: _describe_width(row, n_features)))


def read_csv(source: IO[bytes], *, target: str) -> Dataset:
    """Return the rows of a CSV file with a header; column ``target`` is y, the others are X.

    Raises InvalidInput when the file is no such table, by column and row where they are known.
    """
    data = source.read()
    names = _read_csv_header(data)
    features = [name for name in names if name != target]
    if len(features) == len(names):
        raise InvalidInput([f"has no column {target!r}; its columns are {', '.join(names)}"])
    if not features:
        raise InvalidInput([f"has no column beside {target!r}"])
    table = _read_csv_rows(data, names)
    X = _matrix_from_table(table.select(features))
    y = _matrix_from_table(table.select([target]))[:, 0]
    return make_dataset(X, y, features)


def read_csv_features(source: IO[bytes], names: Sequence[str]) -> Matrix:
    """Return the columns ``names`` of a CSV file with a header, in that order.

    Further columns are refused by name, like missing ones: a file with the target still in
    it is more likely a mistake than a wish. Raises InvalidInput.
    """
    data = source.read()
    present = _read_csv_header(data)
    faults = _describe_names(present, names)
    if faults:
        raise InvalidInput(faults)
    return _matrix_from_table(_read_csv_rows(data, present).select(list(names)))


def _read_csv_header(data: bytes) -> list[str]:
    import pyarrow as pa
    from pyarrow import csv

    try:
        blocks = csv.ReadOptions(block_size=CSV_BLOCK_BYTES)
        with csv.open_csv(pa.BufferReader(data), read_options=blocks) as reader:
            names: list[str] = reader.schema.names
    except pa.ArrowInvalid as error:
        raise InvalidInput(_describe_csv_error(error, [])) from None
    except UnicodeDecodeError:
        raise InvalidInput(["is not a CSV table: it is not UTF-8"]) from None
    repeated = _repeated(names)
    if repeated:
        raise InvalidInput([f"has more than one column named {', '.join(repeated)}"])
    return names


def _read_csv_rows(data: bytes, names: Sequence[str]) -> Any:
    """Return an Arrow table whose columns are all float64."""
    import pyarrow as pa
    from pyarrow import csv

    # Left to itself, the parser takes a column's type from the first block: one that starts
    # with whole numbers would refuse the fractions further down.
    types = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.float64()))
    blocks = csv.ReadOptions(block_size=CSV_BLOCK_BYTES)
    try:
        return csv.read_csv(pa.BufferReader(data), read_options=blocks, convert_options=types)
    except pa.ArrowInvalid as error:
        raise InvalidInput(_describe_csv_error(error, names)) from None


def _describe_csv_error(error: Exception, names: Sequence[str]) -> Faults:
    # The parser's message ends with the cell or row itself, which may hold anything: only
    # what stands before is passed on.
    conversion = _CSV_CONVERSION.search(str(error))
    if conversion and names:
        return {names[int(conversion[1])]: ["holds values that are not numbers"]}
    shape = _CSV_SHAPE.search(str(error))
    return [f"is not a CSV table: {shape.group() if shape else 'it cannot be parsed'}"]


def _matrix_from_table(table: Any) -> Matrix:
    matrix = np.empty((table.num_rows, table.num_columns))
    if table.num_rows == 0:
        raise InvalidInput(["has no rows"])
    for index, name in enumerate(table.column_names):
        column = table.column(name)
        values = column.to_numpy()
        finite = np.isfinite(values)
        if not finite.all():
            row = int(np.argmin(finite))
            raise InvalidInput({name: {str(row): ["is missing or not finite"]}})
        matrix[:, index] = values
    return matrix


def _finite_numbers(cells: list[Any]) -> Vector | None:
    # The type is compared, not isinstance: a boolean is an int to Python, not to JSON.
    if not set(map(type, cells)) <= {int, float}:
        return None
    try:
        flat = np.fromiter(cells, dtype=np.float64, count=len(cells))
    except OverflowError:  # a whole number beyond float64
        return None
    return flat if np.isfinite(flat).all() else None


def _faults_by_place(values: Sequence[Any], describe: Any) -> Faults:
    faults: dict[str, Faults] = {}
    for index, value in enumerate(values):
        fault = describe(value)
        if fault:
            faults[str(index)] = fault
            if len(faults) == MOST_FAULTS:
                break
    return faults


def _describe_row_type(row: Any) -> Faults | None:
    return None if isinstance(row, list) else [f"is {_kind(row)}, expected an array of numbers"]


def _describe_width(row: Sequence[Any], expected: int) -> Faults | None:
    if len(row) == 0:
        return ["has no values"]
    if expected and len(row) != expected:
        return [f"has {len(row)} values, expected {expected}"]
    return None


def _describe_names(given: Collection[str], expected: Collection[str]) -> dict[str, list[str]]:
    present, known = set(given), set(expected)
    missing = (name for name in expected if name not in present)
    unknown = (name for name in given if name not in known)
    faults = {name: ["is missing"] for name in islice(missing, MOST_FAULTS)}
    return faults | {
        name: ["is not a feature of the model"] for name in islice(unknown, MOST_FAULTS)
    }


def _is_name(name: str) -> bool:
    return 0 < len(name) <= LONGEST_FEATURE_NAME and name.isprintable()


def _repeated(names: Sequence[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)


def _describe_row(row: list[Any]) -> Faults | None:
    return _faults_by_place(row, _describe_number) or None


def _describe_record(record: Mapping[str, Any]) -> Faults | None:
    faults = {name: _describe_number(value) for name, value in record.items()}
    return {name: fault for name, fault in faults.items() if fault} or None


def _describe_number(value: Any) -> Faults | None:
    if type(value) not in (int, float):
        return [f"is {_kind(value)}, expected a number"]
    try:
        finite = math.isfinite(value)
    except OverflowError:
        finite = False
    return None if finite else ["is not a finite number"]


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "a number")
