"""Columns of numbers as a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webapp.errors import InvalidInput
from webapp.ml.core.datasets import Matrix
from webapp.ml.core.tables.shapes import NUMERIC, kind_of

MISSING = "is missing or not finite; fill it in, or leave the row out"


def to_numbers(column: Any) -> NDArray[Any]:
    """Return an Arrow column of numbers; what is missing is NaN."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan)
    if pa.types.is_decimal(column.type):
        # Straight to float64, every third decimal comes out one bit off the nearest float.
        column = column.cast(pa.string()).cast(pa.float64())
    # Whole numbers are left to numpy, which rounds those beyond 2^53 as Python does; pyarrow
    # refuses them.
    return np.asarray(column)


def make_matrix(rows: Any, names: Sequence[str], *, first_row: int = 0) -> Matrix:
    """Return columns of numbers as a matrix: (n_rows, len(names)).

    ``first_row``: how many rows of the file came before. Raises InvalidInput, by column and row.
    """
    kinds = {name: kind_of(rows.schema.field(name).type) for name in names}
    others = {name: kind for name, kind in kinds.items() if kind not in NUMERIC}
    if others:
        raise InvalidInput(
            {name: [f"holds {kind} values, expected numbers"] for name, kind in others.items()}
        )
    X = np.empty((rows.num_rows, len(names)))
    for place, name in enumerate(names):
        X[:, place] = to_numbers(rows[name])
    finite = np.isfinite(X)
    if not finite.all():
        place = int(np.argmin(finite.all(axis=0)))
        row = first_row + int(np.argmin(finite[:, place]))
        raise InvalidInput({names[place]: {str(row): [MISSING]}})
    return X
