"""From CSV, Parquet and Arrow to datasets and matrices, or to faults with their places."""

from __future__ import annotations

import contextlib
import datetime
import errno
import io
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tests.tables import WRITERS, to_arrow, to_csv, to_parquet
from webapp.errors import Faults, InvalidInput
from webapp.ml.core.datasets import (
    Dataset,
    labels_from_values,
    matrix_from_rows,
    vector_from_values,
)
from webapp.ml.core.features import BATCH_ROWS, BatchOptions, iterate_features, read_features
from webapp.ml.core.learning import Choices, read_dataset
from webapp.ml.core.signature import Signature, Task, matrix_signature
from webapp.ml.core.tables import FORMATS, reading
from webapp.ml.core.tables.csv import LONGEST_LINE
from webapp.ml.core.tables.shapes import UNLIMITED, CsvDialect, Limits, Source
from webapp.ml.core.tables.writing import write_arrow, write_csv

LIMITS = Limits(rows=1_000_000, columns=10_000, cells=50_000_000)
COMMA = CsvDialect()
BINARY = ("parquet", "arrow")
MISSING = ["is missing or not finite; fill it in, or leave the row out"]
UNFIT_LABEL = ["must be 1 to 255 printable characters"]
NOT_UTF_8 = "is not UTF-8, but perhaps Windows-1252; save the table as UTF-8"
BOMB = ["decompresses to more than its rows can need"]
OUT_OF_RANGE = "is outside the range of 64-bit integers"


def source_of(data: bytes | BinaryIO, name: str, limits: Limits = LIMITS) -> Source:
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    return Source(file, FORMATS[name], COMMA, limits)


def parse(
    data: bytes | BinaryIO,
    name: str = "csv",
    *,
    task: Task = "regression",
    limits: Limits = LIMITS,
) -> Dataset:
    return read_dataset(source_of(data, name, limits), Choices("y", task))


def faults_of(data: bytes | BinaryIO, name: str = "csv", **options: Any) -> Faults:
    with pytest.raises(InvalidInput) as raised:
        parse(data, name, **options)
    return raised.value.faults


def parse_features(data: bytes, *names: str, name: str) -> Any:
    return read_features(source_of(data, name), numbers(*names), BatchOptions()).X


def numbers(*names: str) -> Signature:
    return matrix_signature(names, "regression")


POOLS: list[pa.MemoryPool] = []  # kept: what was allocated in one may be freed at any later time


@contextlib.contextmanager
def bounded_memory(most: int) -> Iterator[None]:
    """Hold what pyarrow takes during the block, in bytes."""
    usual = pa.default_memory_pool()  # once another is set, it is that one
    counted = pa.proxy_memory_pool(usual)
    POOLS.append(counted)
    pa.set_memory_pool(counted)
    try:
        yield
    finally:
        pa.set_memory_pool(usual)
    assert counted.max_memory() < most


class Trickle(io.BytesIO):
    """A stream like a socket's: it cannot be sought, and gives less than it is asked for."""

    def seekable(self) -> bool:
        """Return that it cannot."""
        return False

    def read(self, size: int | None = -1) -> bytes:
        """Return at most seven bytes, or all."""
        return super().read(min(size or -1, 7))


# --- what is read ---------------------------------------------------------------------------

FLOATS = (np.random.RandomState(42).randn(500) * 10.0 ** np.arange(-250, 250)).tolist()
FLOATS += [10.0**22, 0.1, -0.0, 5e-324, 1.7976931348623157e308]
WHOLE = [2**53 + 1, 2**62, 10**18, -(2**63)]
ROWS: dict[str, tuple[Any, list[Any], str]] = {
    "extreme floats": (np.array([FLOATS]).T, FLOATS, "regression"),
    "whole numbers": (np.array([WHOLE]).T, WHOLE, "regression"),
    "extreme labels": (np.eye(2), [2**63 - 1, -(2**63)], "classification"),
    "boolean labels": (np.eye(2), [True, False], "classification"),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", ROWS)
def test_the_same_rows_give_the_same_bits_as_json_does(name: str, kind: str) -> None:
    X, y, task = ROWS[kind]
    names = [f"x{number}" for number in range(X.shape[1])]
    table = pa.table({**dict(zip(names, X.T, strict=True)), "y": y})

    dataset = parse(WRITERS[name](table), name, task=task)

    expected = vector_from_values(y) if task == "regression" else labels_from_values(y)
    assert dataset.X.tobytes() == matrix_from_rows(X.tolist()).tobytes()
    assert dataset.X.flags.c_contiguous
    assert dataset.y.dtype == expected.dtype
    assert dataset.y.tolist() == expected.tolist()
    assert dataset.feature_names == tuple(names)


DRAWN = np.random.RandomState(0).randint(-(10**17), 10**17, 999).tolist()
DECIMALS = [Decimal(number).scaleb(-9) for number in DRAWN]
NUMBERS = {
    "int8": pa.array([-128, 127], pa.int8()),
    "uint64": pa.array([2**64 - 1, 2**53 + 1], pa.uint64()),
    "half": pa.array(np.array([0.5, 65504], np.float16)),
    "single": pa.array([0.5, 3.4e38], pa.float32()),
    "decimal32": pa.array([Decimal("0.10"), Decimal("-1.25")], pa.decimal32(5, 2)),
    "decimal128": pa.array(DECIMALS, pa.decimal128(30, 9)),
    "decimal256": pa.array([Decimal("0.3"), Decimal("-1e40")], pa.decimal256(70, 2)),
    "dictionary": pa.array([7.0, 8.0]).dictionary_encode(),
}
TEXTS = pa.array(["b", "a", "b"])
LABELS = [
    TEXTS,
    TEXTS.cast(pa.large_string()),
    TEXTS.cast(pa.string_view()),
    pa.DictionaryArray.from_arrays([1, 0, 1], ["a", "b", ""]),  # not all used
    pa.array([7, -1], pa.int8()),
    pa.array([7, -1], pa.float64()),
    pa.array([Decimal("7.00"), Decimal(-1)], pa.decimal128(5, 2)),
    pa.array([7, -1]).dictionary_encode(),
]


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("kind", NUMBERS)
def test_any_type_of_number_is_read_as_the_nearest_float(name: str, kind: str) -> None:
    numbers = NUMBERS[kind]

    dataset = parse(WRITERS[name](pa.table({"x": numbers, "y": [1] * len(numbers)})), name)

    assert dataset.X[:, 0].tolist() == [float(value) for value in numbers.to_pylist()]


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("labels", LABELS, ids=lambda labels: str(labels.type))
def test_any_type_of_label_is_read(name: str, labels: pa.Array) -> None:
    table = pa.table({"x": range(len(labels)), "y": labels})

    dataset = parse(WRITERS[name](table), name, task="classification")

    assert dataset.y.tolist() == labels.to_pylist()
    assert dataset.y.dtype == (np.object_ if dataset.y[0] == "b" else np.int64)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("n_rows", [3000, 3 * 2**16 + 5])
def test_a_long_stream_is_read_to_its_end_and_stays_open(name: str, n_rows: int) -> None:
    labels = np.array(["red", "green", "blue"])[np.arange(n_rows) // 7 % 3]
    table = pa.table({"a": np.arange(n_rows) / 8, "y": labels, "b": np.arange(n_rows)})
    data = WRITERS[name](table)
    source: Any = Trickle(data) if n_rows == 3000 else io.BytesIO(data)

    dataset = parse(source, name, task="classification")

    assert np.array_equal(dataset.X, np.stack([table["a"], table["b"]], axis=1))
    assert np.array_equal(dataset.y, labels.astype(object))
    assert len(set(map(id, dataset.y))) == 3  # rows of one label share one string
    assert dataset.feature_names == ("a", "b")
    assert not source.closed


@pytest.mark.parametrize(
    ("texts", "labels"),
    [
        (["1.0", "-2.0", "1"], [1, -2, 1]),
        (["1", "2", "x"], ["1", "2", "x"]),
        (["01", "02", "3"], ["01", "02", "3"]),
        (["1.5", "2", "+3"], ["1.5", "2", "+3"]),
        (["true", "FALSE", "True"], [1, 0, 1]),
        (["true", "0", "1"], ["true", "0", "1"]),
        (['"1"', '"a,b"', '"c""d"'], ["1", "a,b", 'c"d']),
        (["é", " a ", "Ω"], ["é", " a ", "Ω"]),
    ],
)
def test_the_kind_of_labels_in_csv_is_that_of_every_row(
    texts: list[str], labels: list[object]
) -> None:
    text = "y,x\n" + "".join(f"{text},0\n" for text in texts)

    dataset = parse(text.encode(), task="classification")

    assert dataset.y.tolist() == labels
    assert dataset.y.dtype == (np.int64 if type(labels[0]) is int else np.object_)


@pytest.mark.parametrize(
    "text",
    [
        b"a,b,y\n1,2.5,3\n-4,5e-1,6\n",
        b"a,b,y\r1,2.5,3\r-4,0.5,6\r",
        b"a,b,y\r\n1,2.5,3\r\n-4,.5,6",
        b'\xef\xbb\xbf"a","b","y"\n"1","2.5","3"\n-4,0.5,6\n',
        b"\n\r\na,b,y\n\n1,2.5,3\n\n-4,0.5,6\n\n",
    ],
)
@pytest.mark.parametrize("step", [1, 3, 4, 5, 1000])
def test_pieces_of_a_csv_table_may_end_anywhere(
    text: bytes, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.ml.core.tables.csv.READ_BYTES", step)

    dataset = parse(text)

    assert dataset.X.tolist() == [[1.0, 2.5], [-4.0, 0.5]]
    assert dataset.y.tolist() == [3.0, 6.0]
    assert dataset.feature_names == ("a", "b")


def test_long_columns_and_headers_are_read_in_several_blocks() -> None:
    column = parse(b"x,y\n" + b"1,2\n" * 400_000 + b"0.5,2\n").X[:, 0]
    header = ",".join([*(f"{number:0250}" for number in range(5000)), "y"])
    row = ",".join(["1"] * 5001)

    assert (len(column), column[-1]) == (400_001, 0.5)  # it turns to fractions late
    assert parse(f"{header}\n{row}\n".encode()).X.shape == (1, 5000)


LABELLED = pa.table(
    {
        "a": np.random.RandomState(0).randn(300),
        "b": np.arange(300, dtype=np.int16),
        "y": [f"label {number % 7}" for number in range(300)],
    }
)
ENCODED = LABELLED.set_column(2, "y", LABELLED["y"].dictionary_encode())
LENGTHS = {"y": "DELTA_LENGTH_BYTE_ARRAY"}
WRITTEN: list[tuple[str, dict[str, Any]]] = [
    *(("parquet", {"compression": codec}) for codec in ("none", "gzip", "zstd", "lz4")),
    ("parquet", {"data_page_version": "2.0", "data_page_size": 64, "write_page_index": True}),
    ("parquet", {"use_dictionary": False, "store_schema": False, "row_group_size": 50}),
    ("parquet", {"use_dictionary": False, "store_schema": False, "column_encoding": LENGTHS}),
    ("arrow", {"compression": "lz4"}),
    ("arrow", {"compression": "zstd", "file": True}),
]


@pytest.mark.parametrize(("name", "options"), WRITTEN, ids=str)
@pytest.mark.parametrize("table", [LABELLED, ENCODED], ids=["plain", "dictionary"])
def test_every_encoding_of_a_table_is_read(
    name: str, options: dict[str, Any], table: pa.Table
) -> None:
    dataset = parse(WRITERS[name](table, **options), name, task="classification")

    assert dataset.X[:, 0].tolist() == LABELLED["a"].to_pylist()
    assert dataset.y.tolist() == LABELLED["y"].to_pylist()


def test_a_dictionary_that_grows_is_read() -> None:
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
    schema = pa.schema([("x", pa.float64()), ("y", pa.dictionary(pa.int32(), pa.string()))])
    with pa.ipc.new_stream(sink, schema, options=options) as stream:
        for labels in (["a"], ["a", "b"], ["a", "b", "c"]):
            y = pa.DictionaryArray.from_arrays(pa.array([len(labels) - 1], pa.int32()), labels)
            stream.write_batch(pa.record_batch([pa.array([1.0]), y], schema=schema))

    assert parse(sink.getvalue(), "arrow", task="classification").y.tolist() == ["a", "b", "c"]


# --- rows to predict for --------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_columns_are_read_in_the_order_of_the_model_whole_or_in_blocks(name: str) -> None:
    n_rows = 2 * BATCH_ROWS + 5
    expected = np.stack([np.arange(n_rows) / 8, np.arange(n_rows)], axis=1)
    data = WRITERS[name](pa.table({"b": expected[:, 1], "a": expected[:, 0]}))

    X = parse_features(data, "a", "b", name=name)
    source = source_of(Trickle(data), name)
    read = list(iterate_features(source, numbers("a", "b"), BatchOptions()))

    assert X.tobytes() == expected.tobytes()
    assert np.vstack([block.X for block in read]).tobytes() == expected.tobytes()
    assert max(len(block.X) for block in read) <= BATCH_ROWS


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("columns", "faults"),
    [
        ({"a": [1]}, {"b": ["is missing"]}),
        (
            {"a": [1], "B": [2]},
            {
                "b": ["is missing"],
                "B": ["is not a feature of the model; extra=ignore leaves it out"],
            },
        ),
        ({"a": [1] * 40_000, "b": [*[2.0] * 39_999, None]}, {"b": {"39999": MISSING}}),
        ({"a": pa.nulls(0, pa.float64()), "b": pa.nulls(0, pa.float64())}, ["has no rows"]),
    ],
)
def test_columns_of_no_model_are_refused_by_name(
    name: str, columns: dict[str, Any], faults: Faults
) -> None:
    data = WRITERS[name](pa.table(columns))

    with pytest.raises(InvalidInput) as whole:
        parse_features(data, "a", "b", name=name)
    with pytest.raises(InvalidInput) as in_blocks:
        list(iterate_features(source_of(data, name, UNLIMITED), numbers("a", "b"), BatchOptions()))

    assert whole.value.faults == in_blocks.value.faults == faults


# --- pandas' index --------------------------------------------------------------------------

INDEXES: dict[str, Any] = {
    "consecutive": None,  # described in the metadata, and no column
    "unnamed": pd.Index([5, 3, 1, 0]),
    "text": pd.Index(list("dcba"), name="key"),
    "two levels": pd.MultiIndex.from_arrays([list("aabb"), [2, 1, 2, 1]], names=["k", None]),
    "dates": pd.date_range("2026-01-01", periods=4, name="day"),
}


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("kind", INDEXES)
def test_any_index_of_a_data_frame_is_left_out(name: str, kind: str) -> None:
    frame = pd.DataFrame({"a": [1.0, 2, 3, 4], "y": [2.0, 4, 6, 8]}, index=INDEXES[kind])
    names = [level or f"__index_level_{i}__" for i, level in enumerate(frame.index.names)]
    names = [] if kind == "consecutive" else names
    data = WRITERS[name](pa.Table.from_pandas(frame))

    dataset = parse(data, name)
    found = read_features(source_of(data, name), numbers("y", "a"), BatchOptions())

    assert dataset.feature_names == ("a",)
    assert found.X[:, 1].tolist() == frame["a"].tolist()
    assert [warning.column for warning in dataset.warnings] == names
    assert found.warnings == dataset.warnings


def test_an_index_that_is_asked_for_by_name_is_read() -> None:
    frame = pd.DataFrame({"a": [1.0, 2, 3]}, index=pd.Index([2.0, 4, 6], name="y"))
    data = to_parquet(pa.Table.from_pandas(frame))

    assert parse(data, "parquet").y.tolist() == [2, 4, 6]
    assert parse_features(data, "y", "a", name="parquet").tolist() == [[2, 1], [4, 2], [6, 3]]


@pytest.mark.parametrize(
    "described",
    [
        b"", b"{", b"null", b"[]", b'"index_columns"', b"{}", b"[" * 100_000, b"\xff\xfe",
        b'{"index_columns": null}', b'{"index_columns": {"a": 1}}', b'{"index_columns": "a"}',
        b'{"index_columns": [1, null, [], {}, {"kind": "range", "start": "x"}, "b"]}',
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
@pytest.mark.parametrize("name", BINARY)
def test_metadata_that_pandas_did_not_write_name_no_column(name: str, described: bytes) -> None:
    table = pa.table({"a": [1.0, 2, 3], "y": [2.0, 4, 6]})

    dataset = parse(WRITERS[name](table.replace_schema_metadata({b"pandas": described})), name)

    assert (dataset.feature_names, dataset.warnings) == (("a",), ())


def test_metadata_that_call_everything_an_index_are_refused() -> None:
    names = [f"x{number}" for number in range(20)]
    table = pa.table({name: [1.0, 2.0] for name in [*names, "y"]})
    everything = json.dumps({"index_columns": [*names, "y"]}).encode()

    faults = faults_of(
        to_parquet(table.replace_schema_metadata({b"pandas": everything})), "parquet"
    )

    assert faults == ["has more than 10 columns of a pandas index"]


# --- what is refused, by place --------------------------------------------------------------


LONG_NAMES = {f"column {number} {'x' * 100}": [1] for number in range(5000)}
TOLD_NAMES = "".join(f"column {number} {'x' * 31}, " for number in range(10))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("columns", "faults"),
    [
        ({"a": [1], "b": [2]}, ["has no column 'y'; its columns are a, b"]),
        ({"y": [1]}, ["has no column beside the target 'y'"]),
        ({"a": [1, 2], "y": [1.0, -np.inf]}, {"y": {"1": MISSING}}),
        ({"a": pa.nulls(0, pa.float64()), "y": pa.nulls(0, pa.float64())}, ["has no rows"]),
        (LONG_NAMES, [f"has no column 'y'; its columns are {TOLD_NAMES}…"]),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_bad_table_is_refused_by_column_and_row(
    name: str, columns: dict[str, Any], faults: Faults
) -> None:
    assert faults_of(WRITERS[name](pa.table(columns)), name) == faults


OTHERS: list[tuple[str, pa.DataType, Any]] = [
    *(("binary", kind, b"ab") for kind in (pa.binary(), pa.large_binary())),
    ("other", pa.binary(2), b"ab"),
    ("duration", pa.duration("s"), datetime.timedelta(1)),
    ("nested", pa.list_(pa.float64()), [1.0]),
    ("nested", pa.struct({"secret": pa.float64()}), {"secret": 1.0}),
    ("nested", pa.run_end_encoded(pa.int32(), pa.string()), "a"),
]
"""Types of each kind that no model takes, with a value."""
NOT_WHOLE = ["holds values that are not whole numbers of 64 bits, expected labels"]
NO_LABELS: list[tuple[pa.Array, Faults]] = [
    (pa.array([b"a", b"b"]), ["holds binary values, expected numbers, text or booleans"]),
    (pa.array([1.0, 1e300]), NOT_WHOLE),
    (pa.array([1, 2**63], pa.uint64()), NOT_WHOLE),
    (pa.nulls(2), ["has no values"]),
    (pa.array(["", None]), ["has no values"]),
    (pa.array(["a", "b" * 256]), {"1": UNFIT_LABEL}),
    (pa.array(["a", "b\x00"]), {"1": UNFIT_LABEL}),
]


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize(("kind", "arrow_type", "value"), OTHERS)
def test_a_table_of_values_that_no_model_takes_is_refused(
    name: str, kind: str, arrow_type: pa.DataType, value: Any
) -> None:
    if name == "parquet" and pa.types.is_run_end_encoded(arrow_type):
        pytest.skip("there is no such file")
    table = pa.table({"x": pa.array([value] * 2, arrow_type), "y": [1, 2]})

    faults = faults_of(WRITERS[name](table), name)

    left_out = f"holds {kind} values, which no model takes; write them as numbers"
    assert faults == {"x": [f"{left_out}; it was left out"]}


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize(("labels", "faults"), NO_LABELS)
def test_what_is_no_label_is_refused(name: str, labels: pa.Array, faults: Faults) -> None:
    data = WRITERS[name](pa.table({"x": [1, 2], "y": labels}))

    assert faults_of(data, name, task="classification") == {"y": faults}


@pytest.mark.parametrize("name", FORMATS)
def test_a_repeated_column_is_refused_by_name(name: str) -> None:
    data = WRITERS[name](pa.table([[1], [2], [3]], names=["a", "a ", "y"]))

    assert faults_of(data, name) == ["has more than one column named a"]


ODD_ONE_OUT = (
    "is not a number, as nearly all values of the column are; leave it empty if it is missing, or "
    "give the option columns to take the column as a category"
)
REFUSED_NUMBERS: list[tuple[bytes, Faults]] = [
    (b"a,y", ["has no rows"]),
    (b"a,y\n\n\r\n\n", ["has no rows"]),
    (b"a,y\n1,1_0\n1,1\n", {"y": {"0": ["is not a number"]}}),
    (b"a,y\n1,red\n1,\n1,blue\n",
     {"y": ["holds text, expected numbers; to predict classes, choose a classifier, such as "
            "random_forest_classifier"]}),
    (b"a,y\n1,1e400\n", {"y": {"0": MISSING}}),
    (b"a,y\n" + b"1,2\n" * 20 + b"red,3\n", {"a": {"20": [ODD_ONE_OUT]}}),
    (b"a,y\n1,\n" + b"1,2\n" * 20 + b"2,\nred,3\n", {"a": {"22": [ODD_ONE_OUT]}}),
    (b"a,y\n1,2\n1,2,3\n",
     {"1": ["has 3 values, expected 2; a first column of row names must have a name"]}),
    (b"a,y\n\n1,2\n\n3,4\n5\n", {"2": ["has 1 values, expected 2"]}),
    (b"a,y\n" + b"1,2\n" * 600_000 + b"1\n", {"600000": ["has 1 values, expected 2"]}),
    (b"a,y,\n1,2,\n3,4,5\n", ["column 3 has no name, but a value in row 1"]),
    (b"\n\n", ["is not a CSV table: it is empty"]),
    (b'a,y\n1,"2\n', {"0": ["has a quote that is not closed"]}),
    (b"x" * (LONGEST_LINE + 1), [f"has a line of more than {LONGEST_LINE} bytes"]),
]  # fmt: skip
REFUSED_LABELS: list[tuple[bytes, Faults]] = [
    (b"x,y\n1,a\n2,\xff\n", {"y": {"1": [NOT_UTF_8]}}),
    (b"x,y\n1,2\n2,9223372036854775808\n", {"y": {"1": [OUT_OF_RANGE]}}),
    (b'x,y\n1,a\n2,"b\nc"\n', {"y": {"1": UNFIT_LABEL}}),
]


@pytest.mark.parametrize(
    ("text", "faults"), [*REFUSED_NUMBERS, *REFUSED_LABELS], ids=lambda value: repr(value)[:30]
)
def test_a_bad_csv_table_is_refused_by_place(text: bytes, faults: Faults) -> None:
    task = "classification" if text.startswith(b"x,y") else "regression"
    assert faults_of(text, task=task) == faults


@pytest.mark.parametrize("task", ["regression", "classification"])
@pytest.mark.parametrize("row", [b"1,2,hunter2", b'"hunter2,3', b"1,hunter2\xff"])
def test_a_complaint_does_not_repeat_the_rows(row: bytes, task: str) -> None:
    assert "hunter2" not in str(faults_of(b"a,y\n1,2\n" + row + b"\n", task=task))


@pytest.mark.parametrize("name", FORMATS)
def test_a_fault_of_the_machine_is_not_laid_on_the_file(name: str) -> None:
    class Broken(Trickle):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        parse(Broken(), name)


# --- limits ---------------------------------------------------------------------------------


def test_the_columns_of_a_csv_file_are_counted_before_there_is_an_object_for_each() -> None:
    header = b'"a,b",' * 3 + b"," * 2_000_000

    faults = faults_of(header + b"y\n1\n", limits=Limits(rows=1, columns=10, cells=9999))

    assert faults == ["has 2000003 columns, more than the 10 allowed"]


# --- hostile bytes --------------------------------------------------------------------------

SEEDS = {
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
    for number in range(400):
        data = bytearray(SEEDS[name][number % len(SEEDS[name])])
        for _ in range(drawn.randint(1, 5)):
            # Damage hurts most where lengths and offsets stand: at either end.
            near = min(len(data), drawn.choice([len(data), 1500]))
            place = drawn.randint(near) * drawn.choice([1, -1])
            data[place] = drawn.choice([0, 1, 0x7F, 0x80, 0xFF, drawn.randint(256)])
        read_hostile(bytes(data), name)
    for data in SEEDS[name]:
        for end in range(0, len(data), max(1, len(data) // 100)):
            read_hostile(data[:end], name)


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

    faults = faults_of(data, "arrow", task="classification")

    assert faults == ["is not an Arrow table: it cannot be parsed"]


def long_text(table_format: str, *, index: bool = False, **options: Any) -> bytes:
    """Return a table with a text of 50 MB, as a label or in the index of a data frame."""
    texts = pa.array(["a" * 50_000_000])
    if options.pop("encoded", False):
        texts = texts.dictionary_encode()
    table = pa.table({"x": [1.0], "y": [2.0] if index else texts})
    if index:
        metadata = {b"pandas": b'{"index_columns": ["z"]}'}
        table = table.append_column("z", texts).replace_schema_metadata(metadata)
    return WRITERS[table_format](table, **options)


@pytest.mark.parametrize("index", [False, True], ids=["label", "index"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("parquet", {"compression": "zstd", "use_dictionary": False}),
        ("parquet", {"compression": "zstd"}),
        ("arrow", {"compression": "zstd"}),
        ("arrow", {"compression": "zstd", "encoded": True}),
    ],
    ids=["pages", "a page of a dictionary", "a batch", "a dictionary"],
)
def test_a_decompression_bomb_is_not_unpacked(
    name: str, options: dict[str, Any], index: bool
) -> None:
    data = long_text(name, index=index, **options)

    with bounded_memory(10_000_000):
        faults = faults_of(data, name, task="regression" if index else "classification")

    assert len(data) < 100_000
    assert faults == BOMB


@pytest.mark.parametrize(("name", "options"), [("parquet", {}), ("arrow", {"chunk": 400_000})])
def test_many_equal_values_are_refused_before_they_are_decoded(
    name: str, options: dict[str, Any]
) -> None:
    ones = pa.array(np.ones(400_000))
    table = pa.table({**{f"x{number}": ones for number in range(10)}, "y": ones})
    data = WRITERS[name](table, compression="zstd", **options)

    with bounded_memory(4_000_000):  # the numbers take 35 MB
        faults = faults_of(data, name, limits=Limits(400_000, 10, 4_000_000))

    assert len(data) < 100_000
    assert faults == ["has 400000 rows of 11 values, more than 4000000 values in all"]


PAGE_HEADER = b"\x15\x00\x15\x90\xe2\x09"  # a data page of 80,008 bytes


def test_pages_and_buffers_that_say_they_are_longer_than_the_footer_says_are_refused() -> None:
    table = pa.table({"x": np.arange(10_000.0), "y": np.arange(10_000.0)})
    page = to_parquet(table, use_dictionary=False, compression="none")
    buffer = to_arrow(table, chunk=10_000, compression="zstd")
    size = (80_000).to_bytes(8, "little")
    assert PAGE_HEADER in page
    assert size in buffer
    megabyte = page.replace(PAGE_HEADER, b"\x15\x00\x15\xfe\xff\x7f", 1)
    buffer = buffer.replace(size, (2**31).to_bytes(8, "little"), 1)
    # A list of 2**62 decimals, which are skipped.
    endless = page.replace(PAGE_HEADER, b"\x99\xf7" + b"\xff" * 8 + b"\x3f", 1)

    assert faults_of(megabyte, "parquet") == faults_of(buffer, "arrow") == BOMB
    assert faults_of(endless, "parquet") == ["is not a Parquet table: it cannot be parsed"]


@pytest.mark.parametrize("name", FORMATS)
def test_decoded_rows_beyond_their_share_of_memory_are_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MOST_TEXT_BYTES", 0)
    monkeypatch.setattr(reading, "CELL_BYTES", 1)
    limits = Limits(rows=300, columns=2, cells=900)

    assert faults_of(WRITERS[name](LABELLED), name, task="classification", limits=limits) == BOMB


def test_text_that_grows_with_every_row_is_refused() -> None:
    labels = ["a" * 1000 + str(number) for number in range(1000)]
    table = pa.table({"x": range(1000), "y": labels})
    data = to_parquet(table, use_dictionary=False, column_encoding={"y": "DELTA_BYTE_ARRAY"})

    faults = faults_of(data, "parquet", task="classification")

    assert faults == ["holds text in an encoding that is not read; write it as PLAIN"]


@pytest.mark.parametrize("column", ["y ", "z"])
def test_a_long_text_is_decoded_once_and_not_once_per_row(column: str) -> None:
    texts = pa.DictionaryArray.from_arrays(np.zeros(100_000, np.int32), ["a" * 500_000])
    table = pa.table({"x": range(100_000), column: texts})
    if column == "z":
        metadata = {b"pandas": b'{"index_columns": ["z"]}'}
        table = table.append_column("y", table["x"]).replace_schema_metadata(metadata)
    data = to_parquet(table, store_schema=column == "z")

    with bounded_memory(100_000_000):  # as text, 50 GB
        if column == "z":
            assert len(parse(data, "parquet").y) == 100_000
        else:
            faults = faults_of(data, "parquet", task="classification")
            assert faults == {"y": {"0": UNFIT_LABEL}}


# --- tables as answers ----------------------------------------------------------------------

ANSWER = {
    "prediction": np.array([0.1, -0.0, 1e300, 5e-324, 11.0]),
    "class": np.array(["a", "b,c", 'd"e', "é", "1"], dtype=object),
    "fixed": np.array(["red", "green", "a", "b", "c"]),
    "row": np.array([1, -(2**63), 2**63 - 1, 0, 7]),
}


def test_an_answer_reads_back_as_it_was_written() -> None:
    table = pa.ipc.open_stream(b"".join(write_arrow(ANSWER))).read_all()

    assert [str(field.type) for field in table.schema] == ["double", "string", "string", "int64"]
    for name, column in ANSWER.items():
        assert table[name].to_pylist() == column.tolist()
    assert b"".join(write_csv(ANSWER)).decode().splitlines() == [
        "prediction,class,fixed,row",
        "0.1,a,red,1",
        '-0.0,"b,c",green,-9223372036854775808',
        '1e+300,"d""e",a,9223372036854775807',
        "5e-324,é,b,0",
        "11.0,1,c,7",
    ]
