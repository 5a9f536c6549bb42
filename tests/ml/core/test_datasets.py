"""From JSON values to matrices and labels, or to faults with their places."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest

from webapp.errors import MOST_FAULTS, Faults, InvalidInput
from webapp.ml.core.datasets import (
    check_width,
    labels_from_values,
    matrix_from_records,
    matrix_from_rows,
    vector_from_values,
)

HUGE = 10**400
NOT_FINITE = ["is not a finite number"]
NO_LABEL = "expected a string or a whole number"
NOT_WHOLE = [f"is a decimal number, {NO_LABEL}"]
UNFIT_LABEL = ["must be 1 to 255 printable characters"]
OUT_OF_RANGE = ["is outside the range of 64-bit integers"]


def count_places(faults: Faults) -> int:
    if isinstance(faults, Mapping):
        return sum(count_places(inner) for inner in faults.values())
    return 1


def test_rows_and_values_become_the_nearest_floats() -> None:
    X = matrix_from_rows([[1, 2.5], [-0.0, 2**63], [2**53 + 1, 10**22], [5e-324, -(10**300)]])

    assert X.tolist() == [[1, 2.5], [-0.0, 2.0**63], [float(2**53 + 1), 1e22], [5e-324, -1e300]]
    assert math.copysign(1, X[1, 0]) == -1
    assert X.dtype == np.float64
    assert X.flags.c_contiguous
    y = vector_from_values([1, 2.5, 2**64])
    assert (y.tolist(), y.dtype) == ([1.0, 2.5, 2.0**64], np.float64)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (["setosa", "virginica", "1", "setosa"], np.object_),
        ([0, -(2**63), 2**63 - 1], np.int64),
        ([True, False], np.int64),
        ([1.0, 2], np.int64),
    ],
)
def test_values_become_labels(values: list[object], dtype: type) -> None:
    y = labels_from_values(values)

    assert y.tolist() == values
    assert y.dtype == dtype


def test_rows_of_one_label_share_one_string() -> None:
    y = labels_from_values(["".join(["set", "osa"]), "".join(["seto", "sa"])])

    assert y[0] is y[1]


def read_record(record: dict[str, Any]) -> object:
    """Read an object, behind one that is right, of a model with the features a and b."""
    return matrix_from_records([{"b": 1, "a": 2}, record], ["a", "b"])


NOT_A_ROW = "expected an array of numbers"
REFUSED: dict[Callable[[Any], object], list[tuple[object, Faults]]] = {
    matrix_from_rows: [
        *((value, ["must be an array of at least one row"]) for value in ([], None, {"0": [1]})),
        ([[], [1]], {"0": ["has no values"]}),
        ([[1], []], {"1": ["has no values"]}),
        ([[1, 2], [3], [7, 8]], {"1": ["has 1 values, expected 2"]}),
        ([[1], "1", {}, 2.5], {"1": [f"is a string, {NOT_A_ROW}"],
                               "2": [f"is an object, {NOT_A_ROW}"],
                               "3": [f"is a decimal number, {NOT_A_ROW}"]}),
        ([[1, True], [None, 2]], {"0": {"1": ["is a boolean, expected a number"]},
                                  "1": {"0": ["is null, expected a number"]}}),
        ([["1", {}, [2]]], {"0": {"0": ["is a string, expected a number"],
                                  "1": ["is an object, expected a number"],
                                  "2": ["is an array, expected a number"]}}),
        ([[math.inf, math.nan], [HUGE, -HUGE]], {"0": {"0": NOT_FINITE, "1": NOT_FINITE},
                                                 "1": {"0": NOT_FINITE, "1": NOT_FINITE}}),
    ],
    vector_from_values: [
        *((value, ["must be an array of at least one number"]) for value in ([], None, "12")),
        ([1, "2", math.nan, HUGE], {"1": ["is a string, expected a number"],
                                    "2": NOT_FINITE, "3": NOT_FINITE}),
    ],
    labels_from_values: [
        *((value, ["must be an array of at least one label"]) for value in ([], None, "red")),
        (["a", True], {"1": [f"is a boolean, {NO_LABEL}"]}),
        ([1, 2.5, 2.0**53], dict.fromkeys("12", NOT_WHOLE)),
        (["a", 2.0], {"1": ["is a whole number, but the first label is a string"]}),
        ([["a"], {}, None], {"0": [f"is an array, {NO_LABEL}"], "1": [f"is an object, {NO_LABEL}"],
                             "2": [f"is null, {NO_LABEL}"]}),
        ([1, "1", 2], {"1": ["is a string, but the first label is a whole number"]}),
        ([1, 2**63, -(2**63) - 1, HUGE], dict.fromkeys("123", OUT_OF_RANGE)),
        (["a" * 255, "a" * 256], {"1": UNFIT_LABEL}),
        (["", "a\x00", "a\nb", "\ud800"], dict.fromkeys("0123", UNFIT_LABEL)),
    ],
    read_record: [
        ({}, {"1": {"a": ["is missing"], "b": ["is missing"]}}),
        ({"a": 1, "B": 2}, {"1": {"b": ["is missing"], "B": ["is not a feature of the model"]}}),
        ({"a": "1", "b": HUGE}, {"1": {"a": ["is a string, expected a number"], "b": NOT_FINITE}}),
    ],
    partial(check_width, n_features=4): [(np.zeros((1, 3)), {"0": ["has 3 values, expected 4"]})],
}  # fmt: skip


@pytest.mark.parametrize(
    ("convert", "value", "faults"),
    [(convert, *case) for convert, cases in REFUSED.items() for case in cases],
    ids=lambda value: repr(value)[:40] if not callable(value) else "",
)
def test_what_cannot_be_converted_is_refused_by_place(
    convert: Callable[[Any], object], value: object, faults: Faults
) -> None:
    with pytest.raises(InvalidInput) as raised:
        convert(value)

    assert raised.value.faults == faults


NAMES = [f"x{number}" for number in range(1000)]


@pytest.mark.parametrize(
    ("convert", "value"),
    [
        (matrix_from_rows, [[1]] + [[1, 2]] * 1000),
        (matrix_from_rows, [["1"] * 1000] * 1000),
        (labels_from_values, [None] * 1000),
        (partial(matrix_from_records, names=NAMES), [{f"{n}": 1 for n in NAMES[::-1]}, {}] * 20),
        (partial(matrix_from_records, names=NAMES), [dict.fromkeys(NAMES)] * 20),
        (partial(matrix_from_records, names=NAMES), [{f"no {n}": 1 for n in NAMES}] * 20),
        (partial(check_width, n_features=4), np.zeros((1000, 3))),
    ],
)
def test_no_more_faults_are_named_than_help(convert: Callable[[Any], object], value: Any) -> None:
    with pytest.raises(InvalidInput) as raised:
        convert(value)

    assert count_places(raised.value.faults) == MOST_FAULTS


class NotSearched(list[str]):
    """Names of a model, one after the other: each search takes as long as there are names."""

    def __contains__(self, name: object) -> bool:
        pytest.fail("the list was searched")


def test_the_names_of_a_wide_record_are_compared_in_one_pass() -> None:
    with pytest.raises(InvalidInput):
        matrix_from_records([{f"unknown {n}": 1 for n in NAMES}], NotSearched(NAMES))
