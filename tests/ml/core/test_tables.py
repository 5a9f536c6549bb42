"""From CSV, Parquet and Arrow to datasets and matrices, or to faults with their places."""

from __future__ import annotations

import contextlib
import errno
import io
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pytest
from sklearn.datasets import load_diabetes, load_iris, load_wine

from tests.tables import WRITERS, to_arrow, to_csv, to_parquet
from webapp.errors import Faults, InvalidInput
from webapp.ml.core import tables, unpacking
from webapp.ml.core.datasets import (
    Dataset,
    Matrix,
    labels_from_values,
    matrix_from_rows,
    vector_from_values,
)
from webapp.ml.core.tables import (
    BATCH_ROWS,
    FORMATS,
    Limits,
    format_of_media_type,
    format_of_suffix,
    iterate_features,
    read_dataset,
    read_features,
    write_arrow,
    write_csv,
)

LIMITS = Limits(rows=1_000_000, columns=10_000, cells=50_000_000)
MISSING = ["is missing or not finite"]
UNPARSED = {
    "csv": ["is not a CSV table: it cannot be parsed"],
    "parquet": ["is not a Parquet table: it cannot be parsed"],
    "arrow": ["is not an Arrow table: it cannot be parsed"],
}
BINARY = ("parquet", "arrow")


def parse(
    data: bytes | BinaryIO,
    name: str = "csv",
    *,
    target: str = "y",
    task: str = "regression",
    limits: Limits = LIMITS,
) -> Dataset:
    return read_dataset(data, format=FORMATS[name], target=target, task=task, limits=limits)


def parse_features(data: bytes, *names: str, name: str = "csv") -> Matrix:
    return read_features(data, format=FORMATS[name], names=names, limits=LIMITS).X


def faults_of(data: bytes | BinaryIO, name: str = "csv", **options: Any) -> Faults:
    with pytest.raises(InvalidInput) as raised:
        parse(data, name, **options)
    return raised.value.faults


class Trickle(io.RawIOBase):
    """A stream like a socket's: it cannot be sought, and gives less than it is asked for."""

    def __init__(self, data: bytes) -> None:
        self._rest = io.BytesIO(data)

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read at most seven bytes."""
        return self._rest.readinto(memoryview(buffer)[:7])


def test_a_media_type_names_its_format() -> None:
    assert format_of_media_type("text/csv") is FORMATS["csv"]
    assert format_of_media_type("Text/CSV; charset=utf-8") is FORMATS["csv"]
    assert format_of_media_type("application/vnd.apache.parquet") is FORMATS["parquet"]
    assert format_of_media_type("application/x-parquet") is FORMATS["parquet"]
    assert format_of_media_type("application/vnd.apache.arrow.stream") is FORMATS["arrow"]
    assert format_of_media_type("application/json") is None
    assert format_of_media_type("") is None


def test_the_end_of_a_files_name_names_its_format() -> None:
    assert format_of_suffix("rows.2024.CSV") is FORMATS["csv"]
    assert {format_of_suffix(f"a/b{end}") for end in (".parquet", ".pq")} == {FORMATS["parquet"]}
    ends = (".arrow", ".arrows", ".ipc")
    assert {format_of_suffix(f"b{end}") for end in ends} == {FORMATS["arrow"]}
    assert format_of_suffix("rows.xlsx") is None
    assert format_of_suffix("csv") is None


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_rows_give_the_same_bits_as_json_does(name: str) -> None:
    data = load_diabetes()
    columns = dict(zip(data.feature_names, data.data.T, strict=True))
    table = pa.table({**columns, "progression": data.target})

    dataset = parse(WRITERS[name](table), name, target="progression")

    assert dataset.X.tobytes() == matrix_from_rows(data.data.tolist()).tobytes()
    assert dataset.y.tobytes() == vector_from_values(data.target.tolist()).tobytes()
    assert dataset.X.dtype == dataset.y.dtype == np.float64
    assert dataset.X.flags.c_contiguous
    assert dataset.feature_names == tuple(data.feature_names)


@pytest.mark.parametrize("name", FORMATS)
def test_labels_of_text_are_the_labels_that_json_gives(name: str) -> None:
    data = load_iris()
    species = [str(label) for label in data.target_names[data.target]]
    columns = dict(zip("abcd", data.data.T, strict=True))

    dataset = parse(
        WRITERS[name](pa.table({**columns, "y": species})), name, task="classification"
    )

    expected = labels_from_values(species)
    assert dataset.y.tolist() == expected.tolist()
    assert dataset.y.dtype == expected.dtype == np.object_
    assert dataset.X.tobytes() == matrix_from_rows(data.data.tolist()).tobytes()


@pytest.mark.parametrize("name", FORMATS)
def test_labels_of_whole_numbers_are_the_labels_that_json_gives(name: str) -> None:
    data = load_wine()
    table = pa.table({"x": data.data[:, 0], "y": data.target})

    dataset = parse(WRITERS[name](table), name, task="classification")

    expected = labels_from_values(data.target.tolist())
    assert dataset.y.tolist() == expected.tolist()
    assert dataset.y.dtype == expected.dtype == np.int64


@pytest.mark.parametrize("name", FORMATS)
def test_any_number_is_read_as_the_float_that_json_gives(name: str) -> None:
    values = (np.random.RandomState(42).randn(500) * 10.0 ** np.arange(-250, 250)).tolist()
    values += [10.0**22, 0.1, -0.0, 5e-324, 1.7976931348623157e308]
    table = pa.table({"x": values, "y": values})

    dataset = parse(WRITERS[name](table), name)

    expected = matrix_from_rows([[value] for value in values])
    assert dataset.X.tobytes() == dataset.y.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("task", ["regression", "classification"])
def test_a_stream_that_trickles_is_read_to_its_end(name: str, task: str) -> None:
    table = pa.table({"x": np.arange(3000.0), "y": np.arange(3000) % 7})

    dataset = parse(Trickle(WRITERS[name](table)), name, task=task)  # type: ignore[arg-type]

    assert dataset.X[:, 0].tolist() == table["x"].to_pylist()
    assert dataset.y.tolist() == table["y"].to_pylist()


@pytest.mark.parametrize("name", FORMATS)
def test_the_source_stays_open_for_whoever_opened_it(name: str) -> None:
    source = io.BytesIO(WRITERS[name](pa.table({"x": [1.0], "y": [2.0]})))

    parse(source, name)

    assert not source.closed


@pytest.mark.parametrize("name", FORMATS)
def test_the_target_may_be_any_column(name: str) -> None:
    table = pa.table({"a": [1], "y": [2], "b": [3]})

    dataset = parse(WRITERS[name](table), name)

    assert (dataset.X.tolist(), dataset.y.tolist()) == ([[1.0, 3.0]], [2.0])
    assert dataset.feature_names == ("a", "b")


@pytest.mark.parametrize("name", FORMATS)
def test_a_long_table_is_read_batch_by_batch(name: str) -> None:
    n_rows = 3 * BATCH_ROWS + 5
    labels = np.array(["red", "green", "blue"])[np.arange(n_rows) // 7 % 3]
    table = pa.table({"a": np.arange(n_rows) / 8, "b": np.arange(n_rows), "y": labels})

    dataset = parse(WRITERS[name](table), name, task="classification")

    assert np.array_equal(dataset.X[:, 0], np.arange(n_rows) / 8)
    assert np.array_equal(dataset.X[:, 1], np.arange(n_rows))
    assert np.array_equal(dataset.y, labels.astype(object))
    assert len(set(map(id, dataset.y))) == 3


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("columns", "faults"),
    [
        ({"a": [1], "b": [2]}, ["has no column 'y'; its columns are a, b"]),
        ({"y": [1]}, ["has no column beside 'y'"]),
        ({"a": [1.0, None], "y": [1, 2]}, {"a": {"1": MISSING}}),
        ({"a": [1.0, np.nan], "y": [1, 2]}, {"a": {"1": MISSING}}),
        ({"a": [1, 2], "y": [1.0, -np.inf]}, {"y": {"1": MISSING}}),
        ({"a\n": [1], "y": [1]}, None),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_by_column(
    name: str, columns: dict[str, list[Any]], faults: Faults | None
) -> None:
    found = faults_of(WRITERS[name](pa.table(columns)), name)

    assert faults is None or found == faults


@pytest.mark.parametrize("name", FORMATS)
def test_a_table_without_rows_is_refused(name: str) -> None:
    empty = pa.table({"a": pa.array([], pa.float64()), "y": pa.array([], pa.float64())})

    assert faults_of(WRITERS[name](empty), name) == ["has no rows"]


@pytest.mark.parametrize("name", BINARY)
def test_a_repeated_column_is_refused_by_name(name: str) -> None:
    table = pa.table([[1], [2], [3]], names=["a", "a", "y"])

    assert faults_of(WRITERS[name](table), name) == ["has more than one column named a"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_missing_value_far_down_is_named_by_its_row(name: str) -> None:
    values: list[float | None] = [1.0] * (2 * BATCH_ROWS)
    values[BATCH_ROWS + 3] = None
    table = pa.table({"age": values, "y": [1] * len(values)})

    assert faults_of(WRITERS[name](table), name) == {"age": {str(BATCH_ROWS + 3): MISSING}}


NUMBERS = {
    "int8": pa.array([-128, 127], pa.int8()),
    "uint8": pa.array([0, 255], pa.uint8()),
    "int64": pa.array([2**53 + 1, -(2**63)], pa.int64()),
    "uint64": pa.array([2**64 - 1, 2**53 + 1], pa.uint64()),
    "half": pa.array(np.array([0.5, 65504], np.float16)),
    "single": pa.array([0.5, 3.4e38], pa.float32()),
    "decimal32": pa.array([Decimal("0.10"), Decimal("-1.25")], pa.decimal32(5, 2)),
    "decimal128": pa.array([Decimal("0.3"), Decimal("123456789.7")], pa.decimal128(38, 1)),
    "decimal256": pa.array([Decimal("0.3"), Decimal("-1e40")], pa.decimal256(70, 2)),
    "category": pa.array([7, 8]).dictionary_encode(),
}


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("kind", NUMBERS)
def test_any_type_of_number_is_read_as_the_nearest_float(name: str, kind: str) -> None:
    table = pa.table({"x": NUMBERS[kind], "y": [1, 2]})

    dataset = parse(WRITERS[name](table), name)

    assert dataset.X[:, 0].tolist() == [float(value) for value in NUMBERS[kind].to_pylist()]


def test_decimals_are_read_as_python_reads_their_text() -> None:
    drawn = np.random.RandomState(0).randint(-(10**17), 10**17, 2000)
    values = [Decimal(number).scaleb(-9) for number in drawn.tolist()]
    table = pa.table({"x": pa.array(values, pa.decimal128(30, 9)), "y": [0] * len(values)})

    dataset = parse(to_arrow(table), "arrow")

    assert dataset.X[:, 0].tolist() == [float(value) for value in values]


OTHERS = {
    "boolean": pa.array([True, False]),
    "string": pa.array(["1", "2"]),
    "date or time": pa.array([0, 1], pa.timestamp("us", "Europe/Berlin")),
    "nested": pa.array([{"secret": 1}, {"secret": 2}]),
    "binary": pa.array([b"1", b"2"]),
}


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_number_is_refused_by_column(name: str, kind: str) -> None:
    table = pa.table({"x": OTHERS[kind], "y": [1, 2]})

    assert faults_of(WRITERS[name](table), name) == {
        "x": [f"holds {kind} values, expected numbers"]
    }


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("kind", sorted(set(OTHERS) - {"string", "boolean"}))
def test_what_is_no_label_is_refused_by_column(name: str, kind: str) -> None:
    table = pa.table({"x": [1, 2], "y": OTHERS[kind]})

    assert faults_of(WRITERS[name](table), name, task="classification") == {
        "y": [f"holds {kind} values, expected strings, booleans or whole numbers"]
    }


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize(
    "labels",
    [
        pa.array(["b", "a", "b"]),
        pa.array(["b", "a", "b"], pa.large_string()),
        pa.array(["b", "a", "b"], pa.string_view()),
        pa.array(["b", "a", "b"]).dictionary_encode(),
        pa.DictionaryArray.from_arrays([1, 0, 1], pa.array(["a", "b", ""])),
    ],
    ids=lambda array: str(array.type)[:40],
)
def test_any_type_of_string_is_a_label(name: str, labels: pa.Array) -> None:
    dataset = parse(
        WRITERS[name](pa.table({"x": [1, 2, 3], "y": labels})), name, task="classification"
    )

    assert dataset.y.tolist() == ["b", "a", "b"]
    assert dataset.y.dtype == np.object_


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize(
    "labels",
    [
        pa.array([7, -1], pa.int8()),
        pa.array([7, -1], pa.float64()),
        pa.array([7, -1], pa.float32()),
        pa.array([Decimal("7.00"), Decimal(-1)], pa.decimal128(5, 2)),
        pa.array([7, -1]).dictionary_encode(),
    ],
    ids=lambda array: str(array.type)[:20],
)
def test_whole_numbers_of_any_type_are_labels(name: str, labels: pa.Array) -> None:
    dataset = parse(
        WRITERS[name](pa.table({"x": [1, 2], "y": labels})), name, task="classification"
    )

    assert dataset.y.tolist() == [7, -1]
    assert dataset.y.dtype == np.int64


@pytest.mark.parametrize("name", BINARY)
def test_a_whole_number_of_64_bits_is_a_label_to_its_last_digit(name: str) -> None:
    table = pa.table({"x": [1, 2], "y": [2**63 - 1, -(2**63)]})

    dataset = parse(WRITERS[name](table), name, task="classification")

    assert dataset.y.tolist() == [2**63 - 1, -(2**63)]


NOT_WHOLE = {"y": ["holds values that are not whole numbers of 64 bits, expected labels"]}


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize(
    ("labels", "faults"),
    [
        (pa.array([1.0, 2.5]), NOT_WHOLE),
        (pa.array([1.0, 1e300]), NOT_WHOLE),
        (pa.array([1, 2**63], pa.uint64()), NOT_WHOLE),
        (pa.nulls(2), {"y": ["has no values"]}),
        (pa.array(["", None]), {"y": ["has no values"]}),
        (pa.array(["a", "b" * 256]), {"y": {"1": ["must be 1 to 255 printable characters"]}}),
        (pa.array(["a", "b\x00"]), {"y": {"1": ["must be 1 to 255 printable characters"]}}),
    ],
)
def test_labels_that_cannot_be_used_are_refused_by_row(
    name: str, labels: pa.Array, faults: Faults
) -> None:
    table = pa.table({"x": [1, 2], "y": labels})

    assert faults_of(WRITERS[name](table), name, task="classification") == faults


@pytest.mark.parametrize(
    ("texts", "labels"),
    [
        (["1", "-2", "0"], [1, -2, 0]),
        (["1.0", "2.0", "1.0"], [1, 2, 1]),
        (["1", "2", "x"], ["1", "2", "x"]),
        (["01", "02", "3"], ["01", "02", "3"]),
        (["1.5", "2", "3"], ["1.5", "2", "3"]),
        (["+1", "2", "3"], ["+1", "2", "3"]),
        (["true", "FALSE", "True"], [1, 0, 1]),
        (["true", "false", "perhaps"], ["true", "false", "perhaps"]),
        (["true", "0", "1"], ["true", "0", "1"]),
        (['"1"', '"a,b"', '"c""d"'], ["1", "a,b", 'c"d']),
        (["é", " a ", "Ω"], ["é", " a ", "Ω"]),
    ],
)
def test_labels_in_csv_are_whole_numbers_when_every_row_is(
    texts: list[str], labels: list[object]
) -> None:
    text = "y,x\n" + "".join(f"{text},0\n" for text in texts)

    dataset = parse(text.encode(), task="classification")

    assert dataset.y.tolist() == labels
    assert dataset.y.dtype == (np.int64 if type(labels[0]) is int else np.object_)


NOT_UTF_8 = "is not UTF-8, but perhaps Windows-1252; save the table as UTF-8"


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        (b"x,y\n1,a\n2,\xff\n", {"y": {"1": [NOT_UTF_8]}}),
        (b"x,y\n1,2\n2,9223372036854775808\n",
         {"y": {"1": ["is beyond the whole numbers of 64 bits"]}}),
        (b'x,y\n1,a\n2,"b\nc"\n', {"y": {"1": ["must be 1 to 255 printable characters"]}}),
    ],
)  # fmt: skip
def test_labels_in_csv_that_cannot_be_used_are_refused_by_row(text: bytes, faults: Faults) -> None:
    assert faults_of(text, task="classification") == faults


@pytest.mark.parametrize(
    "text",
    [
        b"a,b,y\n1,2.5,3\n-4,5e-1,6\n",
        b"a,b,y\r\n1,2.5,3\r\n-4,0.5,6\r\n",
        b"a,b,y\r1,2.5,3\r-4,0.5,6\r",
        b"a,b,y\n1,2.5,3\n-4,.5,6",
        b"\xef\xbb\xbfa,b,y\n1,2.5,3\n-4,0.5,6\n",
        b'"a","b","y"\n"1","2.5","3"\n-4,0.5,6\n',
        b"\n\r\na,b,y\n\n1,2.5,3\n\n-4,0.5,6\n\n",
    ],
)
def test_a_csv_table_is_read(text: bytes) -> None:
    dataset = parse(text)

    assert dataset.X.tolist() == [[1.0, 2.5], [-4.0, 0.5]]
    assert dataset.y.tolist() == [3.0, 6.0]
    assert dataset.feature_names == ("a", "b")


@pytest.mark.parametrize("text", ["a,y\r\n1,2\r\n", "\n\na,y\n1,2\n", "\ufeffa,y\n1,2\n"])
@pytest.mark.parametrize("size", range(3, 9))
def test_a_csv_header_is_found_wherever_the_first_piece_ends(
    text: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "READ_BYTES", size)

    dataset = parse(text.encode())

    assert dataset.feature_names == ("a",)
    assert dataset.X.tolist() == [[1.0]]


def test_whole_numbers_in_csv_are_the_numbers_that_json_gives() -> None:
    values = [2**53 + 1, 2**62, -(2**63), 2**64 + 1, 10**22]
    text = "x,y\n" + "".join(f"{value},0\n" for value in values)

    dataset = parse(text.encode())

    assert dataset.X.tolist() == matrix_from_rows([[value] for value in values]).tolist()


def test_a_column_that_turns_to_fractions_late_is_read() -> None:
    dataset = parse(b"x,y\n" + b"1,2\n" * 400_000 + b"0.5,2\n")

    assert len(dataset.y) == 400_001
    assert dataset.X[-1, 0] == 0.5


def test_a_header_longer_than_a_megabyte_is_read() -> None:
    names = [f"{number:0250}" for number in range(5000)]
    text = ",".join([*names, "y"]) + "\n" + ",".join(["1"] * 5001) + "\n"

    dataset = parse(text.encode())

    assert dataset.X.shape == (1, 5000)


def test_a_first_line_too_long_for_a_header_is_refused() -> None:
    faults = faults_of(b"x" * (tables.LONGEST_CSV_HEADER + 1))

    assert faults == ["is not a CSV table: its first line is too long for a header"]


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        (
            b"a;y\n1;2\n",
            ["has no column 'y'; if ';' separates its columns, "
             "give the options delimiter and decimal"],
        ),
        (b"a,y\n", ["has no rows"]),
        (b"a,y", ["has no rows"]),
        (b"a,y\n\n\r\n\n", ["has no rows"]),
        (b"a,a,y\n1,2,3\n", ["has more than one column named a"]),
        (b"a,y\n1,2\nred,3\n", {"a": {"1": ["is not a number"]}}),
        (b"a,y\n1,true\n", {"y": {"0": ["is not a number"]}}),
        (b"a,y\n1,2\n,3\n", {"a": {"1": MISSING}}),
        (b"a,y\n1,2\nNaN,3\n", {"a": {"1": MISSING}}),
        (b"a,y\n1,2\n1e400,3\n", {"a": {"1": MISSING}}),
        (b"a,y\n1,2\n" + b"9" * 5000 + b",3\n", {"a": {"1": MISSING}}),
        (
            b"a,y\n1,2\n1,2,3\n",
            {"1": ["has 3 values, expected 2; a first column of row names must have a name"]},
        ),
        (b"a,y\n\n1,2\n\n3,4\n5\n", {"2": ["has 1 values, expected 2"]}),
        (b"a,y\n1\n", {"0": ["has 1 values, expected 2"]}),
        (b"a,y\n" + b"1,2\n" * 600_000 + b"1\n", {"600000": ["has 1 values, expected 2"]}),
        (b"", ["is not a CSV table: it is empty"]),
        (b"\n\n", ["is not a CSV table: it is empty"]),
        (b"\xff,y\n1,2\n", [NOT_UTF_8]),
    ],
    ids=lambda value: repr(value)[:30],
)  # fmt: skip
def test_a_csv_table_that_cannot_be_used_is_refused_by_place(text: bytes, faults: Faults) -> None:
    assert faults_of(text) == faults


@pytest.mark.parametrize(
    "text",
    [
        b"a,y\n1,2020-01-01\n",
        b"a,y\n1,12:30\n",
        b"a,y\n1,\n",
        b"a,y\n1,1_0\n",
        b'a,y\n1,"2\n',
        b"a,y\n1,\xff\n",
        b"a,y\n1,2\n1\xff\n",
        b"a\x00,y\n1,2\n",
        "a,y\n1,2\n".encode("utf-16"),
        b"PK\x03\x04\x14\x00\x00\x00\x08\x00",
        b"\x00" * 100,
        b"a,y\n1," + b"2" * tables.CSV_BLOCK_BYTES * 2,
    ],
    ids=lambda value: repr(value)[:30],
)
def test_bytes_that_are_no_csv_table_of_numbers_are_refused(text: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        b"a,y\n1,2\n1,2,hunter2\n",
        b"a,y\n1,2\nhunter2,3\n",
        b'a,y\n1,2\n"hunter2,3\n',
        b"a,y\n1,hunter2\xff\n",
    ],
)
@pytest.mark.parametrize("task", ["regression", "classification"])
def test_a_complaint_does_not_repeat_the_rows(text: bytes, task: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        parse(text, task=task)

    assert "hunter2" not in str(raised.value)


def test_a_complaint_names_few_of_many_columns() -> None:
    header = ",".join(f"column {number} {'x' * 100}" for number in range(5000))

    with pytest.raises(InvalidInput) as raised:
        parse(f"{header}\n".encode())

    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize("name", FORMATS)
def test_a_table_within_the_limits_is_read(name: str) -> None:
    table = pa.table({"a": range(5), "b": range(5), "y": range(5)})

    assert (
        len(parse(WRITERS[name](table), name, limits=Limits(rows=5, columns=2, cells=9999)).X) == 5
    )


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("task", ["regression", "classification"])
def test_a_table_beyond_the_limits_is_refused(name: str, task: str) -> None:
    data = WRITERS[name](pa.table({"a": range(5), "b": range(5), "y": range(5)}))

    too_long = faults_of(data, name, task=task, limits=Limits(rows=4, columns=2, cells=9999))
    too_wide = faults_of(data, name, task=task, limits=Limits(rows=5, columns=1, cells=9999))

    assert too_long == ["has more than 4 rows"]
    assert too_wide == ["has 2 columns, more than the 1 allowed"]


@pytest.mark.parametrize("name", FORMATS)
def test_features_beyond_the_limits_are_refused(name: str) -> None:
    data = WRITERS[name](pa.table({"a": range(5)}))

    with pytest.raises(InvalidInput, match="has more than 4 rows"):
        read_features(data, format=FORMATS[name], names=["a"], limits=Limits(4, 1, 99))


def test_the_rows_of_a_parquet_file_are_counted_before_they_are_read() -> None:
    data = bytearray(to_parquet(pa.table({"a": range(1000), "y": range(1000)})))
    data[4:500] = bytes(496)

    faults = faults_of(bytes(data), "parquet", limits=Limits(rows=999, columns=9, cells=9999))

    assert faults == ["has more than 999 rows"]


def test_the_rows_of_an_arrow_batch_are_counted_before_they_are_decoded() -> None:
    data = to_arrow(pa.table({"a": range(1000), "y": range(1000)}), chunk=1000, compression="lz4")
    broken = data[:-2000] + bytes(1000)

    faults = faults_of(
        broken + bytes(1000), "arrow", limits=Limits(rows=999, columns=9, cells=9999)
    )

    assert faults == ["has more than 999 rows"]


def test_the_columns_of_a_csv_file_are_counted_before_they_are_named() -> None:
    header = b'"a,b",' * 3 + b"," * 2_000_000

    faults = faults_of(header + b"y\n1\n", limits=Limits(rows=1, columns=10, cells=9999))

    assert faults == ["has 2000003 columns, more than the 10 allowed"]


@pytest.mark.parametrize("name", FORMATS)
def test_columns_are_read_in_the_order_of_the_model(name: str) -> None:
    data = WRITERS[name](pa.table({"c": [3, 6], "a": [1, 4], "b": [2, 5]}))

    X = parse_features(data, "a", "b", "c", name=name)

    assert X.tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    assert X.flags.c_contiguous


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("columns", "faults"),
    [
        ({"a": [1]}, {"b": ["is missing"]}),
        ({"a": [1], "b": [2], "y": [3]}, {"y": ["is not a feature of the model"]}),
        ({"a": [1], "B": [2]}, {"b": ["is missing"], "B": ["is not a feature of the model"]}),
        ({"a": [1, 3], "b": [2.0, None]}, {"b": {"1": MISSING}}),
    ],
)
def test_columns_that_are_not_the_models_are_refused_by_name(
    name: str, columns: dict[str, list[Any]], faults: Faults
) -> None:
    with pytest.raises(InvalidInput) as raised:
        parse_features(WRITERS[name](pa.table(columns)), "a", "b", name=name)

    assert raised.value.faults == faults


@pytest.mark.parametrize("name", BINARY)
def test_features_that_are_no_numbers_are_refused_by_column(name: str) -> None:
    data = WRITERS[name](pa.table({"a": [1], "b": ["red"]}))

    with pytest.raises(InvalidInput) as raised:
        parse_features(data, "a", "b", name=name)

    assert raised.value.faults == {"b": ["holds string values, expected numbers"]}


@pytest.mark.parametrize("name", BINARY)
def test_a_repeated_feature_is_refused_by_name(name: str) -> None:
    data = WRITERS[name](pa.table([[1], [2]], names=["a", "a"]))

    with pytest.raises(InvalidInput, match="has more than one column named a"):
        parse_features(data, "a", name=name)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("how", ["path", "text of a path", "file", "stream"])
def test_features_are_read_in_bounded_blocks(name: str, how: str, tmp_path: Path) -> None:
    n_rows = 2 * BATCH_ROWS + 5
    table = pa.table({"b": np.arange(n_rows), "a": np.arange(n_rows) / 8})
    data = WRITERS[name](table)
    path = tmp_path / "rows"
    path.write_bytes(data)
    source: Any = {
        "path": path,
        "text of a path": str(path),
        "file": io.BytesIO(data),
        "stream": Trickle(data),
    }[how]

    batches = iterate_features(source, format=FORMATS[name], names=["a", "b"])
    blocks = [batch.X for batch in batches]

    assert max(map(len, blocks)) <= BATCH_ROWS
    assert np.vstack(blocks).tobytes() == parse_features(data, "a", "b", name=name).tobytes()
    assert {block.dtype for block in blocks} == {np.dtype(np.float64)}


@pytest.mark.parametrize("name", FORMATS)
def test_blocks_count_their_rows_from_the_start_of_the_file(name: str) -> None:
    values: list[float | None] = [1.0] * (2 * BATCH_ROWS)
    values[-1] = None
    data = WRITERS[name](pa.table({"a": values, "b": values[::-1]}))
    blocks = iterate_features(io.BytesIO(data), format=FORMATS[name], names=["a"])

    with pytest.raises(InvalidInput, match="b: is not a feature"):
        next(blocks)

    data = WRITERS[name](pa.table({"a": values}))
    with pytest.raises(InvalidInput) as raised:
        list(iterate_features(io.BytesIO(data), format=FORMATS[name], names=["a"]))
    assert raised.value.faults in ({"a": {str(len(values) - 1): MISSING}}, ["has no rows"])


@pytest.mark.parametrize("name", BINARY)
def test_blocks_of_nothing_are_refused(name: str) -> None:
    data = WRITERS[name](pa.table({"a": pa.array([], pa.float64())}))

    with pytest.raises(InvalidInput, match="has no rows"):
        list(iterate_features(io.BytesIO(data), format=FORMATS[name], names=["a"]))


LABELLED = pa.table(
    {
        "a": np.random.RandomState(0).randn(300),
        "b": np.arange(300, dtype=np.int16),
        "y": [f"label {number % 7}" for number in range(300)],
    }
)


@pytest.mark.parametrize(
    "options",
    [
        *({"compression": codec} for codec in ("none", "snappy", "gzip", "brotli", "zstd", "lz4")),
        {"data_page_version": "2.0"},
        {"use_dictionary": False},
        {"use_dictionary": False, "column_encoding": {"y": "DELTA_LENGTH_BYTE_ARRAY"}},
        {"row_group_size": 50, "store_schema": False},
        {"data_page_size": 64, "write_page_index": True},
    ],
    ids=str,
)
def test_parquet_is_read_however_it_was_written(options: dict[str, Any]) -> None:
    dataset = parse(to_parquet(LABELLED, **options), "parquet", task="classification")

    assert dataset.X[:, 0].tolist() == LABELLED["a"].to_pylist()
    assert dataset.y.tolist() == LABELLED["y"].to_pylist()


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
@pytest.mark.parametrize("file", [False, True], ids=["stream", "file"])
@pytest.mark.parametrize("encoded", [False, True], ids=["plain", "dictionary"])
def test_arrow_is_read_however_it_was_written(
    compression: str | None, file: bool, encoded: bool
) -> None:
    labels = LABELLED["y"].dictionary_encode() if encoded else LABELLED["y"]
    table = LABELLED.set_column(2, "y", labels)

    dataset = parse(
        to_arrow(table, file=file, compression=compression), "arrow", task="classification"
    )

    assert dataset.X[:, 0].tolist() == LABELLED["a"].to_pylist()
    assert dataset.y.tolist() == LABELLED["y"].to_pylist()


ENCODED = LABELLED.set_column(2, "y", LABELLED["y"].dictionary_encode())
HOSTILE_SEEDS = {
    "csv": [to_csv(LABELLED)],
    "parquet": [
        to_parquet(LABELLED, row_group_size=100),
        to_parquet(ENCODED, compression="zstd", data_page_version="2.0"),
        to_parquet(LABELLED, use_dictionary=False, compression="none"),
    ],
    "arrow": [
        to_arrow(LABELLED),
        to_arrow(ENCODED, compression="zstd"),
        to_arrow(LABELLED.set_column(2, "y", LABELLED["y"].cast(pa.string_view())), file=True),
    ],
}


def read_hostile(data: bytes, name: str) -> None:
    """Read bytes that may be anything: what is no table must be refused as such."""
    with contextlib.suppress(InvalidInput):
        parse(data, name, task="classification", limits=Limits(10_000, 100, 1_000_000))


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_bytes_are_refused_or_read_and_never_end_in_another_error(name: str) -> None:
    drawn = np.random.RandomState(len(name))
    seeds = HOSTILE_SEEDS[name]
    for number in range(400):
        data = bytearray(seeds[number % len(seeds)])
        for _ in range(drawn.randint(1, 5)):
            # Damage hurts most where lengths and offsets stand: at either end.
            near = min(len(data), drawn.choice([len(data), 1500]))
            place = drawn.randint(near) * drawn.choice([1, -1])
            data[place] = drawn.choice([0, 1, 0x7F, 0x80, 0xFF, drawn.randint(256)])
        read_hostile(bytes(data), name)


@pytest.mark.parametrize("name", FORMATS)
def test_truncated_bytes_are_refused_or_read_and_never_end_in_another_error(name: str) -> None:
    for data in HOSTILE_SEEDS[name]:
        for end in range(0, len(data), max(1, len(data) // 100)):
            read_hostile(data[:end], name)


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1PAR1", b"\x00" * 100, b"a,y\n1,2\n"])
@pytest.mark.parametrize("name", BINARY)
def test_bytes_of_another_kind_are_refused(data: bytes, name: str) -> None:
    with pytest.raises(InvalidInput):
        parse(data, name)


def test_formats_are_not_mistaken_for_each_other() -> None:
    for name, seeds in HOSTILE_SEEDS.items():
        for other in set(FORMATS) - {name}:
            with pytest.raises(InvalidInput):
                parse(seeds[0], other)


def test_a_malformed_column_of_a_parquet_file_does_not_end_the_process() -> None:
    # pyarrow's own access to the metadata of columns aborts on some of these.
    seed = to_parquet(LABELLED)
    footer = len(seed) - 8 - int.from_bytes(seed[-8:-4], "little")
    for place in range(footer, len(seed) - 8):
        data = bytearray(seed)
        data[place] ^= 2
        read_hostile(bytes(data), "parquet")


def test_an_index_beyond_its_dictionary_is_refused() -> None:
    indices = pa.array([0, 5], pa.int32())
    labels = pa.DictionaryArray.from_arrays(indices, pa.array(["a", "b"]), safe=False)

    data = to_arrow(pa.table({"x": [1, 2], "y": labels}))

    assert faults_of(data, "arrow", task="classification") == UNPARSED["arrow"]


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("parquet", lambda table: to_parquet(table, compression="zstd", use_dictionary=False)),
        ("parquet", lambda table: to_parquet(table, compression="zstd")),
        ("arrow", lambda table: to_arrow(table, compression="zstd")),
        ("arrow", lambda table: to_arrow(table.set_column(1, "y", table["y"].dictionary_encode()),
                                         compression="zstd")),
    ],
    ids=["pages", "a page of a dictionary", "a batch", "a dictionary"],
)  # fmt: skip
def test_bytes_that_unpack_to_more_than_their_rows_need_are_not_unpacked(
    name: str, write: Callable[[pa.Table], bytes]
) -> None:
    data = write(pa.table({"x": [1.0], "y": ["a" * 50_000_000]}))
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()

    faults = faults_of(data, name, task="classification")

    assert len(data) < 100_000
    assert faults == ["unpacks to more than its rows can need"]
    assert pool.bytes_allocated() - before < 10_000_000


def test_text_that_grows_with_every_row_is_refused() -> None:
    labels = ["a" * 1000 + str(number) for number in range(1000)]
    table = pa.table({"x": range(1000), "y": labels})
    data = to_parquet(table, use_dictionary=False, column_encoding={"y": "DELTA_BYTE_ARRAY"})

    faults = faults_of(data, "parquet", task="classification")

    assert faults == ["uses the encoding DELTA_BYTE_ARRAY, which is not read"]


def test_a_long_label_is_decoded_once_and_not_once_per_row() -> None:
    labels = pa.DictionaryArray.from_arrays(np.zeros(100_000, np.int32), ["a" * 500_000])
    data = to_parquet(pa.table({"x": range(100_000), "y": labels}), store_schema=False)

    faults = faults_of(data, "parquet", task="classification")

    assert faults == {"y": {"0": ["must be 1 to 255 printable characters"]}}


def test_a_footer_too_long_to_look_through_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "LONGEST_FOOTER", 100)

    assert faults_of(to_parquet(LABELLED), "parquet", task="classification") == [
        "has a footer that is too long"
    ]


def test_pages_too_many_to_mean_well_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "MOST_PAGES", 13)

    faults = faults_of(to_parquet(LABELLED), "parquet", task="classification")

    assert faults == ["unpacks to more than its rows can need"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_fault_of_the_machine_is_not_laid_on_the_file(name: str) -> None:
    class Broken(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, _buffer: Any) -> int:
            raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        parse(Broken(), name)  # type: ignore[arg-type]


ANSWER = {
    "prediction": np.array([0.1, -0.0, 1e300, 5e-324, 11.0]),
    "class": np.array(["a", "b,c", 'd"e', "é", "1"], dtype=object),
    "row": np.array([1, -(2**63), 2**63 - 1, 0, 7]),
}


def test_an_answer_in_csv_reads_back_bit_by_bit() -> None:
    text = b"".join(write_csv(ANSWER))

    assert text.decode().splitlines() == [
        "prediction,class,row",
        "0.1,a,1",
        '-0.0,"b,c",-9223372036854775808',
        '1e+300,"d""e",9223372036854775807',
        "5e-324,é,0",
        "11.0,1,7",
    ]
    dataset = parse(text, target="class", task="classification")
    assert dataset.X[:, 0].tobytes() == ANSWER["prediction"].tobytes()
    assert dataset.y.tolist() == ANSWER["class"].tolist()


@pytest.mark.parametrize("n_columns", [1, 7, 1025])
@pytest.mark.parametrize(("write", "name"), [(write_csv, "csv"), (write_arrow, "arrow")])
def test_a_long_answer_is_whole_and_made_in_short_pieces(
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Any], Iterator[bytes]],
    name: str,
    n_columns: int,
) -> None:
    monkeypatch.setattr(tables, "WRITTEN_CELLS", 1024)
    n_rows = max(2, 2051 // n_columns)
    values = np.random.RandomState(1).randn(n_rows, n_columns)
    names = [f"x{number}" for number in range(n_columns)]

    pieces = list(write(dict(zip(names, values.T, strict=True))))

    read = read_features(b"".join(pieces), format=FORMATS[name], names=names, limits=LIMITS)
    assert read.X.tobytes() == values.tobytes()
    assert len(pieces) > 1
    head = 200 * n_columns  # bytes, of the names and what Arrow says of each column
    assert max(map(len, pieces)) < 25 * 1025 + head + 10_000


def test_an_answer_in_arrow_reads_back_with_its_types() -> None:
    table = pa.ipc.open_stream(b"".join(write_arrow(ANSWER))).read_all()

    assert [str(field.type) for field in table.schema] == ["double", "string", "int64"]
    assert table["prediction"].to_numpy().tobytes() == ANSWER["prediction"].tobytes()
    assert table["class"].to_pylist() == ANSWER["class"].tolist()
    assert table["row"].to_pylist() == ANSWER["row"].tolist()


@pytest.mark.parametrize("write", [write_csv, write_arrow])
def test_strings_of_fixed_width_are_written_too(
    write: Callable[[Any], Iterator[bytes]],
) -> None:
    assert b"green" in b"".join(write({"class": np.array(["red", "green"])}))


def test_columns_of_unequal_length_are_not_written() -> None:
    columns = {"a": np.zeros(2), "b": np.zeros(3)}

    with pytest.raises(ValueError, match="argument 2"):
        list(write_csv(columns))
