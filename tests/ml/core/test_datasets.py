"""From JSON values and CSV to matrices, or to faults with their places."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Mapping

import numpy as np
import pytest

from webapp.errors import Faults, InvalidInput
from webapp.ml.core.datasets import (
    MOST_FAULTS,
    Dataset,
    Matrix,
    check_width,
    make_dataset,
    matrix_from_records,
    matrix_from_rows,
    read_csv,
    read_csv_features,
    vector_from_values,
)

HUGE = 10**400
NOT_FINITE = ["is not a finite number"]


def parse(text: bytes, target: str = "y") -> Dataset:
    return read_csv(io.BytesIO(text), target=target)


def parse_features(text: bytes, *names: str) -> Matrix:
    return read_csv_features(io.BytesIO(text), names)


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


def test_a_wide_record_is_compared_with_the_model_name_by_name_in_one_pass() -> None:
    names = [f"x{number}" for number in range(20_000)]
    record = {f"unknown {number}": 1 for number in range(20_000)}

    started = time.perf_counter()
    with pytest.raises(InvalidInput):
        matrix_from_records([record], names)

    # Comparing each name with each takes ten seconds.
    assert time.perf_counter() - started < 2


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


@pytest.mark.parametrize(
    ("n_targets", "names", "faults"),
    [
        (3, None, {"y": ["has 3 values for 2 rows of X"]}),
        (2, ["a"], {"feature_names": ["has 1 names for 2 features"]}),
        (2, [], {"feature_names": ["has 0 names for 2 features"]}),
        (2, ["a", "a"], {"feature_names": ["repeats a"]}),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(
    n_targets: int, names: list[str] | None, faults: Faults
) -> None:
    with pytest.raises(InvalidInput) as raised:
        make_dataset(np.zeros((2, 2)), np.zeros(n_targets), names)

    assert raised.value.faults == faults


@pytest.mark.parametrize(
    "text",
    [
        b"a,b,y\n1,2.5,3\n-4,5e-1,6\n",
        b"a,b,y\r\n1,2.5,3\r\n-4,0.5,6\r\n",
        b"a,b,y\n1,2.5,3\n-4,.5,6",
        b"\xef\xbb\xbfa,b,y\n1,2.5,3\n-4,0.5,6\n",
        b'"a","b","y"\n"1","2.5","3"\n-4,0.5,6\n',
        b"a,b,y\n1,2.5,3\n\n-4,0.5,6\n\n",
    ],
)
def test_a_csv_table_is_read(text: bytes) -> None:
    dataset = parse(text)

    assert dataset.X.tolist() == [[1.0, 2.5], [-4.0, 0.5]]
    assert dataset.y.tolist() == [3.0, 6.0]
    assert dataset.feature_names == ("a", "b")
    assert dataset.X.dtype == dataset.y.dtype == np.float64
    assert dataset.X.flags.c_contiguous


def test_the_target_may_be_any_column() -> None:
    dataset = parse(b"a,y,b\n1,2,3\n", target="y")

    assert (dataset.X.tolist(), dataset.y.tolist()) == ([[1.0, 3.0]], [2.0])
    assert dataset.feature_names == ("a", "b")


def test_csv_gives_the_very_numbers_that_json_gives() -> None:
    values = (np.random.RandomState(42).randn(500) * 10.0 ** np.arange(-250, 250)).tolist()
    values += [2**53 + 1, 2**62, -(2**63), 2**64 + 1, 10**22, 0.1, 5e-324, 1.7976931348623157e308]
    text = "x,y\n" + "".join(f"{value!r},0\n" for value in values)

    dataset = parse(text.encode())

    assert np.array_equal(dataset.X[:, 0], matrix_from_rows([[value] for value in values])[:, 0])


def test_a_column_that_turns_to_fractions_late_is_read() -> None:
    dataset = parse(b"x,y\n" + b"1,2\n" * 400_000 + b"0.5,2\n")

    assert len(dataset.y) == 400_001
    assert dataset.X[-1, 0] == 0.5


def test_a_header_longer_than_a_megabyte_is_read() -> None:
    names = [f"{number:0250}" for number in range(5000)]
    text = ",".join([*names, "y"]) + "\n" + ",".join(["1"] * 5001) + "\n"

    dataset = parse(text.encode())

    assert dataset.X.shape == (1, 5000)


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        (b"a,b\n1,2\n", ["has no column 'y'; its columns are a, b"]),
        (b"a;y\n1;2\n", ["has no column 'y'; its columns are a;y"]),
        (b"y\n1\n", ["has no column beside 'y'"]),
        (b"a,y\n", ["has no rows"]),
        (b"a,a,y\n1,2,3\n", ["has more than one column named a"]),
        (b"a,y\n1,2\nred,3\n", {"a": ["holds values that are not numbers"]}),
        (b"a,y\n1,true\n", {"y": ["holds values that are not numbers"]}),
        (b"a,y\n1,2\n,3\n", {"a": {"1": ["is missing or not finite"]}}),
        (b"a,y\n1,2\nNaN,3\n", {"a": {"1": ["is missing or not finite"]}}),
        (b"a,y\n1,2\n3,-inf\n", {"y": {"1": ["is missing or not finite"]}}),
        (b"a,y\n1,2\n1e400,3\n", {"a": {"1": ["is missing or not finite"]}}),
        (b"a,y\n1,2\n" + b"9" * 5000 + b",3\n", {"a": {"1": ["is missing or not finite"]}}),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_table_that_cannot_be_used_is_refused_by_column(text: bytes, faults: Faults) -> None:
    with pytest.raises(InvalidInput) as raised:
        parse(text)

    assert raised.value.faults == faults


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n\n",
        b"a,y\n1,2,3\n",
        b"a,y\n1\n",
        b"a,y\n1,2020-01-01\n",
        b"a,y\n1,12:30\n",
        b"a,y\n1,\n",
        b"a,y\n1,1_0\n",
        b'a,y\n1,"2\n',
        b"a,y\n1,\xff\n",
        b"a\x00,y\n1,2\n",
        b"\xff,y\n1,2\n",
        "a,y\n1,2\n".encode("utf-16"),
        b"PK\x03\x04\x14\x00\x00\x00\x08\x00",
        b"\x00" * 100,
    ],
)
def test_bytes_that_are_no_table_of_numbers_are_refused(text: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse(text)


@pytest.mark.parametrize("text", [b"a,y\n1,2\n1,2,hunter2\n", b"a,y\n1,2\nhunter2,3\n"])
def test_a_complaint_does_not_repeat_the_rows(text: bytes) -> None:
    with pytest.raises(InvalidInput) as raised:
        parse(text)

    assert "hunter2" not in str(raised.value)


def test_columns_are_read_in_the_order_of_the_model() -> None:
    X = parse_features(b"c,a,b\n3,1,2\n6,4,5\n", "a", "b", "c")

    assert X.tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    assert X.flags.c_contiguous


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        (b"a\n1\n", {"b": ["is missing"]}),
        (b"a,b,y\n1,2,3\n", {"y": ["is not a feature of the model"]}),
        (b"a,b\n1,red\n", {"b": ["holds values that are not numbers"]}),
        (b"a,b\n1,2\n3,\n", {"b": {"1": ["is missing or not finite"]}}),
        (b"a,b\n", ["has no rows"]),
    ],
)
def test_columns_that_are_not_the_models_are_refused_by_name(text: bytes, faults: Faults) -> None:
    with pytest.raises(InvalidInput) as raised:
        parse_features(text, "a", "b")

    assert raised.value.faults == faults
