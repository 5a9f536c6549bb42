"""The arithmetic of a training and of a batch, and reading and writing their data; no service.

A training is floored by reading its body and solving for the four fifths of the rows that a
training fits, with the first of them instead of drawn ones.
"""

from __future__ import annotations

import io
from itertools import chain
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from pyarrow import ipc, parquet
from scipy.linalg.lapack import dgeqrf


def read_json_rows(rows: list[list[float]]) -> Any:
    """Return lists of numbers as a matrix; `fromiter` takes them faster than `array` does."""
    cells = np.fromiter(chain.from_iterable(rows), np.float64, len(rows) * len(rows[0]))
    return cells.reshape(len(rows), -1)


def make_system(n_rows: int, n_features: int) -> Any:
    """Return a matrix to be filled with the rows to fit: features, a column of ones, target.

    (n_rows * 0.8, n_features + 2), column by column, as LAPACK takes it without a copy.
    """
    system = np.empty((int(n_rows * 0.8), n_features + 2), order="F")
    system[:, n_features] = 1
    return system


def solve(system: Any) -> Any:
    """Return the coefficients and then the intercept of the least squares.

    By QR: half the time of `lstsq`, which looks for singular values; and sound, which the normal
    equations are not, as they square the condition. The system is used up.
    """
    width = system.shape[1]
    factored, *_ = dgeqrf(system, overwrite_a=1)
    triangle = np.triu(factored[: width - 1])
    return np.linalg.solve(triangle[:, :-1], triangle[:, -1])


def train_json(body: bytes) -> Any:
    """Return the coefficients of a training that comes as JSON."""
    data = orjson.loads(body)
    X = read_json_rows(data["X"])
    system = make_system(*X.shape)
    system[:, :-2] = X[: len(system)]
    system[:, -1] = np.array(data["y"])[: len(system)]
    return solve(system)


def train_table(table: pa.Table) -> Any:
    """Return the coefficients of a training that comes as a table, its target the last column."""
    system = make_system(table.num_rows, table.num_columns - 1)
    *features, target = (column.to_numpy()[: len(system)] for column in table.columns)
    for index, column in enumerate(features):
        system[:, index] = column
    system[:, -1] = target
    return solve(system)


def train_parquet(body: bytes) -> Any:
    """Return the coefficients of a training that comes as Parquet."""
    return train_table(parquet.read_table(io.BytesIO(body)))


def train_arrow(body: bytes) -> Any:
    """Return the coefficients of a training that comes as an Arrow stream."""
    return train_table(ipc.open_stream(body).read_all())


def predict_json(body: bytes, coefficients: Any, intercept: float) -> bytes:
    """Return the predictions for a batch that comes as JSON."""
    X = read_json_rows(orjson.loads(body)["instances"])
    predictions = X @ coefficients
    predictions += intercept
    return orjson.dumps({"predictions": predictions}, option=orjson.OPT_SERIALIZE_NUMPY)
