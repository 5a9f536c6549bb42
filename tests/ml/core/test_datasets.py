"""From JSON values to matrices and labels, or to faults with their places."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest

from webapp.errors import Faults, InvalidInput
from webapp.ml.core.datasets import (
    MOST_FAULTS,
    check_width,
    labels_from_values,
    make_dataset,
    matrix_from_records,
    matrix_from_rows,
    vector_from_values,
)

HUGE = 10**400
NOT_FINITE = ["is not a finite number"]


def count_places(faults: Faults) -> int:
    if isinstance(faults, Mapping):
        return sum(count_places(inner) for inner in faults.values())
    return 1


def test_rows_become_a_matrix_of_float64() -> None:
    X = matrix_from_rows([[1, 2.5], [-0.0, 2**63], [5e-324, -(10**300)]])

    assert X.tolist() == [[1.0, 2.5], [-0.0, 2.0**63], [5e-324, -1e300]]
    assert math.copysign(1, X[1, 0]) == -1
    assert X.dtype == np.float64
    assert X.flags.c_contiguous


def test_a_whole_number_becomes_the_nearest_float() -> None:
    X = matrix_from_rows([[2**53 + 1, 2**64 + 1, 10**22]])

    assert X.tolist() == [[float(2**53 + 1), float(2**64 + 1), 1e22]]


@pytest.mark.parametrize(
    ("rows", "faults"),
    [
        ([], ["must be an array of at least one row"]),
        (None, ["must be an array of at least one row"]),
        ("[[1]]", ["must be an array of at least one row"]),
        ({"0": [1]}, ["must be an array of at least one row"]),
        (1, ["must be an array of at least one row"]),
        ([[]], {"0": ["has no values"]}),
        ([[], [1]], {"0": ["has no values"]}),
        ([[1], []], {"1": ["has no values"]}),
        ([[1, 2], [3], [4, 5, 6], [7, 8]], {"1": ["has 1 values, expected 2"],
                                            "2": ["has 3 values, expected 2"]}),
        ([1, 2], {"0": ["is a number, expected an array of numbers"],
                  "1": ["is a number, expected an array of numbers"]}),
        ([[1], "1", None, {}, True], {"1": ["is a string, expected an array of numbers"],
                                      "2": ["is null, expected an array of numbers"],
                                      "3": ["is an object, expected an array of numbers"],
                                      "4": ["is a boolean, expected an array of numbers"]}),
        ([["1", 2]], {"0": {"0": ["is a string, expected a number"]}}),
        ([[1, True], [False, 2]], {"0": {"1": ["is a boolean, expected a number"]},
                                   "1": {"0": ["is a boolean, expected a number"]}}),
        ([[1, None]], {"0": {"1": ["is null, expected a number"]}}),
        ([[1, [2]]], {"0": {"1": ["is an array, expected a number"]}}),
        ([[1, {}]], {"0": {"1": ["is an object, expected a number"]}}),
        ([[1, math.nan]], {"0": {"1": NOT_FINITE}}),
        ([[math.inf, -math.inf]], {"0": {"0": NOT_FINITE, "1": NOT_FINITE}}),
        ([[1, 2], [HUGE, -HUGE]], {"1": {"0": NOT_FINITE, "1": NOT_FINITE}}),
    ],
)  # fmt: skip
def test_rows_that_are_no_matrix_are_refused_by_place(rows: object, faults: Faults) -> None:
    with pytest.raises(InvalidInput) as raised:
        matrix_from_rows(rows)

    assert raised.value.faults == faults


def test_values_become_a_vector_of_float64() -> None:
    y = vector_from_values([1, 2.5, 2**64])

    assert y.tolist() == [1.0, 2.5, 2.0**64]
    assert y.dtype == np.float64


@pytest.mark.parametrize(
    ("values", "faults"),
    [
        ([], ["must be an array of at least one number"]),
        (None, ["must be an array of at least one number"]),
        ("12", ["must be an array of at least one number"]),
        ({}, ["must be an array of at least one number"]),
        ([1, "2", True], {"1": ["is a string, expected a number"],
                          "2": ["is a boolean, expected a number"]}),
        ([None, [1]], {"0": ["is null, expected a number"],
                       "1": ["is an array, expected a number"]}),
        ([1, math.nan, HUGE], {"1": NOT_FINITE, "2": NOT_FINITE}),
    ],
)  # fmt: skip
def test_values_that_are_no_vector_are_refused_by_place(values: object, faults: Faults) -> None:
    with pytest.raises(InvalidInput) as raised:
        vector_from_values(values)

    assert raised.value.faults == faults


def test_strings_become_labels() -> None:
    y = labels_from_values(["setosa", "virginica", "1", "setosa"])

    assert y.tolist() == ["setosa", "virginica", "1", "setosa"]
    assert y.dtype == np.object_


def test_whole_numbers_become_labels_of_64_bits() -> None:
    y = labels_from_values([0, -(2**63), 2**63 - 1])

    assert y.tolist() == [0, -(2**63), 2**63 - 1]
    assert y.dtype == np.int64


def test_rows_of_one_label_share_one_string() -> None:
    first = "".join(["set", "osa"])
    second = "".join(["seto", "sa"])

    y = labels_from_values([first, second])

    assert first is not second
    assert y[0] is y[1]


NO_LABEL = "expected a string or a whole number"
UNFIT_LABEL = ["must be 1 to 255 printable characters"]


@pytest.mark.parametrize(
    ("values", "faults"),
    [
        ([], ["must be an array of at least one label"]),
        (None, ["must be an array of at least one label"]),
        ("red", ["must be an array of at least one label"]),
        (["a", True], {"1": [f"is a boolean, {NO_LABEL}"]}),
        ([True, 1], {"0": [f"is a boolean, {NO_LABEL}"]}),
        ([1, 2.5], {"1": [f"is a decimal number, {NO_LABEL}"]}),
        ([1, 2.0**53], {"1": ["is too large a number: write a whole number of at most 64 bits"]}),
        (["a", 2.0], {"1": ["is a whole number, but the first label is a string"]}),
        ([1.5, 2], {"0": [f"is a decimal number, {NO_LABEL}"]}),
        ([None, "a"], {"0": [f"is null, {NO_LABEL}"]}),
        ([["a"], {}], {"0": [f"is an array, {NO_LABEL}"], "1": [f"is an object, {NO_LABEL}"]}),
        (["a", 1], {"1": ["is a whole number, but the first label is a string"]}),
        ([1, "1", 2], {"1": ["is a string, but the first label is a whole number"]}),
        ([1, 2**63], {"1": ["is beyond the whole numbers of 64 bits"]}),
        ([-(2**63) - 1, HUGE], {"0": ["is beyond the whole numbers of 64 bits"],
                                "1": ["is beyond the whole numbers of 64 bits"]}),
        (["a", ""], {"1": UNFIT_LABEL}),
        (["a" * 255, "a" * 256], {"1": UNFIT_LABEL}),
        (["a\x00", "a\nb", "\ud800"], {"0": UNFIT_LABEL, "1": UNFIT_LABEL, "2": UNFIT_LABEL}),
    ],
)  # fmt: skip
def test_values_that_are_no_labels_are_refused_by_place(values: object, faults: Faults) -> None:
    with pytest.raises(InvalidInput) as raised:
        labels_from_values(values)

    assert raised.value.faults == faults


def test_records_become_a_matrix_whatever_the_order_of_their_names() -> None:
    records = [{"b": 2, "a": 1, "c": 3}, {"c": 6.5, "b": 5, "a": 4}]

    X = matrix_from_records(records, ["a", "b", "c"])

    assert X.tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.5]]
    assert X.flags.c_contiguous


@pytest.mark.parametrize(
    ("record", "faults"),
    [
        ({}, {"a": ["is missing"], "b": ["is missing"]}),
        ({"a": 1}, {"b": ["is missing"]}),
        ({"a": 1, "b": 2, "c": 3}, {"c": ["is not a feature of the model"]}),
        ({"a": 1, "B": 2}, {"b": ["is missing"], "B": ["is not a feature of the model"]}),
        ({"a": "1", "b": 2}, {"a": ["is a string, expected a number"]}),
        ({"a": 1, "b": None}, {"b": ["is null, expected a number"]}),
        ({"a": True, "b": [2]}, {"a": ["is a boolean, expected a number"],
                                 "b": ["is an array, expected a number"]}),
        ({"a": math.nan, "b": HUGE}, {"a": NOT_FINITE, "b": NOT_FINITE}),
    ],
)  # fmt: skip
def test_a_record_that_does_not_fit_is_refused_by_name(
    record: dict[str, object], faults: Faults
) -> None:
    with pytest.raises(InvalidInput) as raised:
        matrix_from_records([{"a": 1, "b": 2}, record], ["a", "b"])

    assert raised.value.faults == {"1": faults}


@pytest.mark.parametrize(
    "rows",
    [
        [[1]] + [[1, 2]] * 1000,
        [[1]] + ["1"] * 1000,
        [[math.nan]] * 1000,
        [["1"] * 1000],
        [["1"] * 1000] * 1000,
    ],
    ids=["ragged", "no arrays", "a column", "a row", "all"],
)
def test_no_more_faulty_cells_are_named_than_help(rows: object) -> None:
    with pytest.raises(InvalidInput) as raised:
        matrix_from_rows(rows)

    assert count_places(raised.value.faults) == MOST_FAULTS


def test_no_more_faulty_values_are_named_than_help() -> None:
    with pytest.raises(InvalidInput) as raised:
        vector_from_values([None] * 1000)

    assert list(raised.value.faults) == [str(index) for index in range(MOST_FAULTS)]


@pytest.mark.parametrize(
    "record",
    [
        {f"unknown {number}": 1 for number in range(1000)},
        {f"x{number}": None for number in range(1000)},
        {},
    ],
    ids=["unknown", "null", "missing"],
)
def test_no_more_faulty_features_are_named_than_help(record: dict[str, object]) -> None:
    names = [f"x{number}" for number in range(1000)]

    with pytest.raises(InvalidInput) as raised:
        matrix_from_records([record] * 20, names)

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
    names = [Name(f"x{number}") for number in range(1000)]
    record = {Name(f"unknown {number}"): 1 for number in range(1000)}

    Name.compared = 0
    with pytest.raises(InvalidInput):
        matrix_from_records([record], names)

    assert Name.compared < 10 * len(names)  # comparing each name with each takes a million


def test_rows_as_wide_as_the_model_pass() -> None:
    check_width(np.zeros((2, 3)), 3)


def test_rows_of_another_width_are_refused_by_row() -> None:
    with pytest.raises(InvalidInput) as raised:
        check_width(np.zeros((2, 3)), 4)

    fault = ["has 3 values, expected 4"]
    assert raised.value.faults == {"0": fault, "1": fault}


def test_columns_without_names_get_numbers() -> None:
    dataset = make_dataset(np.zeros((2, 3)), np.zeros(2))

    assert dataset.feature_names == ("x1", "x2", "x3")


def test_columns_keep_the_names_they_are_given() -> None:
    dataset = make_dataset(np.zeros((2, 2)), np.zeros(2), ["height", "weight"])

    assert dataset.feature_names == ("height", "weight")


@pytest.mark.parametrize("values", [["a", "b"], [0, 1]])
def test_a_dataset_keeps_its_labels(values: list[object]) -> None:
    labels = labels_from_values(values)

    dataset = make_dataset(np.zeros((2, 1)), labels)

    assert dataset.y is labels


@pytest.mark.parametrize(
    ("n_targets", "names", "faults"),
    [
        (3, None, {"y": ["has 3 values for 2 rows of X"]}),
        (2, ["a"], {"feature_names": ["has 1 names for 2 features"]}),
        (2, [], {"feature_names": ["has 0 names for 2 features"]}),
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
