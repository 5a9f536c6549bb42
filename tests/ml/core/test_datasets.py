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
    make_dataset,
    matrix_from_records,
    matrix_from_rows,
    vector_from_values,
)

HUGE = 10**400
NOT_FINITE = ["is not a finite number"]
NO_LABEL = "expected a string or a whole number"
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


def test_records_become_a_matrix_whatever_the_order_of_their_names() -> None:
    records = [{"b": 2, "a": 1, "c": 3}, {"c": 6.5, "b": 5, "a": 4}]

    X = matrix_from_records(records, ["a", "b", "c"])

    assert X.tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.5]]
    assert X.flags.c_contiguous


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


ROWS = "must be an array of at least one row"
REFUSED_ROWS: list[tuple[object, Faults]] = [
    *((value, [ROWS]) for value in ([], None, "[[1]]", {"0": [1]}, 1)),
    ([[], [1]], {"0": ["has no values"]}),
    ([[1], []], {"1": ["has no values"]}),
    ([[1, 2], [3], [4, 5, 6], [7, 8]],
     {"1": ["has 1 values, expected 2"], "2": ["has 3 values, expected 2"]}),
    ([[1], "1", None, {}, 2.5], {"1": ["is a string, expected an array of numbers"],
                                 "2": ["is null, expected an array of numbers"],
                                 "3": ["is an object, expected an array of numbers"],
                                 "4": ["is a decimal number, expected an array of numbers"]}),
    ([[1, True], [None, 2]], {"0": {"1": ["is a boolean, expected a number"]},
                              "1": {"0": ["is null, expected a number"]}}),
    ([["1", {}, [2]]], {"0": {"0": ["is a string, expected a number"],
                              "1": ["is an object, expected a number"],
                              "2": ["is an array, expected a number"]}}),
    ([[math.inf, math.nan], [HUGE, -HUGE]], {"0": {"0": NOT_FINITE, "1": NOT_FINITE},
                                             "1": {"0": NOT_FINITE, "1": NOT_FINITE}}),
]  # fmt: skip
REFUSED_VALUES: list[tuple[object, Faults]] = [
    *((value, ["must be an array of at least one number"]) for value in ([], None, "12", {})),
    ([1, "2", math.nan, HUGE], {"1": ["is a string, expected a number"],
                                "2": NOT_FINITE, "3": NOT_FINITE}),
]  # fmt: skip
REFUSED_LABELS: list[tuple[object, Faults]] = [
    *((value, ["must be an array of at least one label"]) for value in ([], None, "red")),
    (["a", True], {"1": [f"is a boolean, {NO_LABEL}"]}),
    ([True, 1], {"0": [f"is a boolean, {NO_LABEL}"]}),
    ([1, 2.5, 2.0**53], {"1": [f"is a decimal number, {NO_LABEL}"],
                         "2": [f"is a decimal number, {NO_LABEL}"]}),
    (["a", 2.0], {"1": ["is a whole number, but the first label is a string"]}),
    ([None, "a"], {"0": [f"is null, {NO_LABEL}"]}),
    ([["a"], {}], {"0": [f"is an array, {NO_LABEL}"], "1": [f"is an object, {NO_LABEL}"]}),
    ([1, "1", 2], {"1": ["is a string, but the first label is a whole number"]}),
    ([1, 2**63, -(2**63) - 1, HUGE], dict.fromkeys("123", OUT_OF_RANGE)),
    (["a" * 255, "a" * 256], {"1": UNFIT_LABEL}),
    (["", "a\x00", "a\nb", "\ud800"], dict.fromkeys("0123", UNFIT_LABEL)),
]  # fmt: skip
REFUSED_RECORDS: list[tuple[object, Faults]] = [
    ({}, {"a": ["is missing"], "b": ["is missing"]}),
    ({"a": 1, "b": 2, "c": 3}, {"c": ["is not a feature of the model"]}),
    ({"a": 1, "B": 2}, {"b": ["is missing"], "B": ["is not a feature of the model"]}),
    ({"a": "1", "b": 2}, {"a": ["is a string, expected a number"]}),
    ({"a": True, "b": [2]}, {"a": ["is a boolean, expected a number"],
                             "b": ["is an array, expected a number"]}),
    ({"a": math.nan, "b": HUGE}, {"a": NOT_FINITE, "b": NOT_FINITE}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("convert", "value", "faults"),
    [
        *((matrix_from_rows, *case) for case in REFUSED_ROWS),
        *((vector_from_values, *case) for case in REFUSED_VALUES),
        *((labels_from_values, *case) for case in REFUSED_LABELS),
        (
            partial(check_width, n_features=4),
            np.zeros((1, 3)),
            {"0": ["has 3 values, expected 4"]},
        ),
        *(
            (partial(matrix_from_records, names=["a", "b"]), [{"b": 1, "a": 2}, record], {"1": f})
            for record, f in REFUSED_RECORDS
        ),
    ],
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


class Name(str):
    """A name that counts how often names are compared."""

    __slots__ = ()
    compared = 0

    def __eq__(self, other: object) -> bool:
        Name.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_a_wide_record_is_compared_with_the_model_name_by_name_in_one_pass() -> None:
    names = [Name(name) for name in NAMES]
    record = {Name(f"unknown {number}"): 1 for number in range(1000)}

    Name.compared = 0
    with pytest.raises(InvalidInput):
        matrix_from_records([record], names)

    assert Name.compared < 10 * len(names)  # comparing each name with each takes a million


@pytest.mark.parametrize("values", [["a", "b"], [0, 1]])
def test_a_dataset_keeps_its_labels_and_names_or_numbers_its_columns(values: list[object]) -> None:
    labels = labels_from_values(values)

    numbered = make_dataset(np.zeros((2, 2)), labels)
    named = make_dataset(np.zeros((2, 2)), labels, ["height", "weight"])

    assert numbered.y is named.y is labels
    assert (numbered.feature_names, named.feature_names) == (("x1", "x2"), ("height", "weight"))


@pytest.mark.parametrize(
    ("n_targets", "names", "faults"),
    [
        (3, None, {"y": ["has 3 values for 2 rows of X"]}),
        (2, ["a"], {"feature_names": ["has 1 names for 2 features"]}),
        (2, ["a", "a"], {"feature_names": ["repeats a"]}),
        (2, ["a", "b\n"], {"feature_names": ["must be 1 to 255 printable characters: 'b\\n'"]}),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(
    n_targets: int, names: list[str] | None, faults: Faults
) -> None:
    with pytest.raises(InvalidInput) as raised:
        make_dataset(np.zeros((2, 2)), np.zeros(n_targets), names)

    assert raised.value.faults == faults
