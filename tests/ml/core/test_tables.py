"""From CSV, Parquet and Arrow to datasets and matrices, or to faults with their places."""

from __future__ import annotations

import contextlib
import datetime
import errno
import io
import tracemalloc
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pytest
from sklearn.datasets import load_diabetes, load_iris, load_wine

from tests.tables import WRITERS, to_arrow, to_csv, to_parquet
from webapp.errors import Faults, InvalidInput
from webapp.ml.core.datasets import (
    Dataset,
    DataWarning,
    labels_from_values,
    matrix_from_rows,
    vector_from_values,
)
from webapp.ml.core.tables import (
    FORMATS,
    Limits,
    format_of_media_type,
    format_of_suffix,
    iterate_features,
    parquet,
    read_dataset,
    read_features,
    reading,
    write_arrow,
    write_csv,
    writing,
)
from webapp.ml.core.tables.csv import LONGEST_LINE

LIMITS = Limits(rows=1_000_000, columns=10_000, cells=50_000_000)
BINARY = ("parquet", "arrow")
MISSING = ["is missing or not finite; fill it in, or leave the row out"]
UNFIT_LABEL = ["must be 1 to 255 printable characters"]
NOT_UTF_8 = "is not UTF-8, but perhaps Windows-1252; save the table as UTF-8"
BOMB = ["decompresses to more than its rows can need"]
OUT_OF_RANGE = "is outside the range of 64-bit integers"


def parse(
    data: bytes | BinaryIO,
    name: str = "csv",
    *,
    target: str = "y",
    task: str = "regression",
    limits: Limits = LIMITS,
) -> Dataset:
    return read_dataset(data, format=FORMATS[name], target=target, task=task, limits=limits)


def faults_of(data: bytes | BinaryIO, name: str = "csv", **options: Any) -> Faults:
    with pytest.raises(InvalidInput) as raised:
        parse(data, name, **options)
    return raised.value.faults


def parse_features(data: bytes, *names: str, name: str, limits: Limits = LIMITS) -> Any:
    return read_features(data, format=FORMATS[name], names=names, limits=limits).X


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


def test_media_types_and_suffixes_name_their_formats() -> None:
    kinds = {"Text/CSV; charset=utf-8": "csv", "application/vnd.apache.parquet": "parquet"}
    for kind, name in {**kinds, "application/vnd.apache.arrow.file": "arrow"}.items():
        assert format_of_media_type(kind) is FORMATS[name]
    for file, name in {"rows.2024.CSV": "csv", "a/b.pq": "parquet", "b.feather": "arrow"}.items():
        assert format_of_suffix(file) is FORMATS[name]
    for other in ("application/json", "", "rows.xlsx", "csv"):
        assert format_of_media_type(other) is format_of_suffix(other) is None


# --- what is read ---------------------------------------------------------------------------

IRIS, WINE, DIABETES = load_iris(), load_wine(), load_diabetes()
FLOATS = (np.random.RandomState(42).randn(500) * 10.0 ** np.arange(-250, 250)).tolist()
FLOATS += [10.0**22, 0.1, -0.0, 5e-324, 1.7976931348623157e308]
WHOLE = [2**53 + 1, 2**62, 10**18, -(2**63)]
ROWS: dict[str, tuple[Any, list[Any], str]] = {
    "numbers": (DIABETES.data, DIABETES.target.tolist(), "regression"),
    "extreme floats": (np.array([FLOATS]).T, FLOATS, "regression"),
    "whole numbers": (np.array([WHOLE]).T, WHOLE, "regression"),
    "text labels": (IRIS.data, IRIS.target_names[IRIS.target].tolist(), "classification"),
    "whole labels": (WINE.data, WINE.target.tolist(), "classification"),
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
    "dictionary": pa.array([7, 8]).dictionary_encode(),
}
TEXTS = pa.array(["b", "a", "b"])
LABELS = {
    "string": TEXTS,
    "large string": TEXTS.cast(pa.large_string()),
    "string view": TEXTS.cast(pa.string_view()),
    "dictionary": TEXTS.dictionary_encode(),
    "dictionary, not all used": pa.DictionaryArray.from_arrays([1, 0, 1], ["a", "b", ""]),
    "int8": pa.array([7, -1], pa.int8()),
    "float": pa.array([7, -1], pa.float64()),
    "decimal": pa.array([Decimal("7.00"), Decimal(-1)], pa.decimal128(5, 2)),
    "dictionary of numbers": pa.array([7, -1]).dictionary_encode(),
}


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("kind", NUMBERS)
def test_any_type_of_number_is_read_as_the_nearest_float(name: str, kind: str) -> None:
    numbers = NUMBERS[kind]

    dataset = parse(WRITERS[name](pa.table({"x": numbers, "y": [1] * len(numbers)})), name)

    assert dataset.X[:, 0].tolist() == [float(value) for value in numbers.to_pylist()]


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("kind", LABELS)
def test_any_type_of_label_is_read(name: str, kind: str) -> None:
    table = pa.table({"x": range(len(LABELS[kind])), "y": LABELS[kind]})

    dataset = parse(WRITERS[name](table), name, task="classification")

    assert dataset.y.tolist() == LABELS[kind].to_pylist()
    assert dataset.y.dtype == (np.object_ if dataset.y[0] == "b" else np.int64)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("encoded", [False, True], ids=["plain", "dictionary"])
def test_rows_without_a_label_are_left_out_and_counted(name: str, encoded: bool) -> None:
    labels = pa.array(["a", None, "b", "", "a"])
    y = labels.dictionary_encode() if encoded else labels
    data = WRITERS[name](pa.table({"x": [1.0, None, 3.0, None, 5.0], "y": y}))

    dataset = parse(data, name, task="classification")

    assert (dataset.X[:, 0].tolist(), dataset.y.tolist()) == ([1.0, 3.0, 5.0], ["a", "b", "a"])
    message = "has no value in 2 of 5 rows, which were left out"
    assert dataset.warnings == (DataWarning("y", message),)


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
def test_labels_in_csv_are_whole_numbers_or_booleans_when_every_row_is(
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
def test_a_csv_table_is_read_wherever_its_pieces_end(
    text: bytes, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.ml.core.tables.csv.READ_BYTES", step)

    dataset = parse(text)

    assert dataset.X.tolist() == [[1.0, 2.5], [-4.0, 0.5]]
    assert dataset.y.tolist() == [3.0, 6.0]
    assert dataset.feature_names == ("a", "b")


def test_a_column_that_turns_to_fractions_late_is_read() -> None:
    dataset = parse(b"x,y\n" + b"1,2\n" * 400_000 + b"0.5,2\n")

    assert len(dataset.y) == 400_001
    assert dataset.X[-1, 0] == 0.5


def test_a_header_longer_than_a_block_is_read() -> None:
    names = [f"{number:0250}" for number in range(5000)]
    text = ",".join([*names, "y"]) + "\n" + ",".join(["1"] * 5001) + "\n"

    assert parse(text.encode()).X.shape == (1, 5000)


LABELLED = pa.table(
    {
        "a": np.random.RandomState(0).randn(300),
        "b": np.arange(300, dtype=np.int16),
        "y": [f"label {number % 7}" for number in range(300)],
    }
)
ENCODED = LABELLED.set_column(2, "y", LABELLED["y"].dictionary_encode())
LENGTHS_FIRST = {"y": "DELTA_LENGTH_BYTE_ARRAY"}
WRITTEN: list[tuple[str, dict[str, Any]]] = [
    *(("parquet", {"compression": codec}) for codec in ("none", "gzip", "brotli", "zstd", "lz4")),
    ("parquet", {"data_page_version": "2.0"}),
    ("parquet", {"use_dictionary": False}),
    (
        "parquet",
        {"use_dictionary": False, "column_encoding": LENGTHS_FIRST, "store_schema": False},
    ),
    ("parquet", {"row_group_size": 50, "store_schema": False}),
    ("parquet", {"data_page_size": 64, "write_page_index": True}),
    ("arrow", {"compression": "lz4"}),
    ("arrow", {"compression": "zstd", "file": True}),
    ("arrow", {"file": True}),
]


@pytest.mark.parametrize(("name", "options"), WRITTEN, ids=str)
@pytest.mark.parametrize("table", [LABELLED, ENCODED], ids=["plain", "dictionary"])
def test_a_table_is_read_however_it_was_written(
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
    n_rows = 2 * reading.BATCH_ROWS + 5
    expected = np.stack([np.arange(n_rows) / 8, np.arange(n_rows)], axis=1)
    data = WRITERS[name](pa.table({"b": expected[:, 1], "a": expected[:, 0]}))

    X = parse_features(data, "a", "b", name=name)
    source: Any = Trickle(data)
    read = list(iterate_features(source, format=FORMATS[name], names=["a", "b"]))

    assert X.tobytes() == expected.tobytes()
    assert np.vstack([block.X for block in read]).tobytes() == expected.tobytes()
    assert max(len(block.X) for block in read) <= reading.BATCH_ROWS


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("columns", "faults"),
    [
        ({"a": [1]}, {"b": ["is missing"]}),
        ({"a": [1], "b": [2], "y": [3]}, {"y": ["is not a feature of the model"]}),
        ({"a": [1], "B": [2]}, {"b": ["is missing"], "B": ["is not a feature of the model"]}),
        ({"a": [1, 3], "b": [2.0, None]}, {"b": {"1": MISSING}}),
        ({"a": [1] * 40_000, "b": [*[2.0] * 39_999, None]}, {"b": {"39999": MISSING}}),
        ({"a": [1], "b": ["red"]}, None),
        ({"a": pa.nulls(0, pa.float64()), "b": pa.nulls(0, pa.float64())}, ["has no rows"]),
    ],
)
def test_columns_that_the_model_cannot_take_are_refused_by_name(
    name: str, columns: dict[str, Any], faults: Faults | None
) -> None:
    data = WRITERS[name](pa.table(columns))
    if faults is None:
        text = {"b": {"0": ["is not a number"]}}
        faults = text if name == "csv" else {"b": ["holds string values, expected numbers"]}

    with pytest.raises(InvalidInput) as whole:
        parse_features(data, "a", "b", name=name)
    with pytest.raises(InvalidInput) as in_blocks:
        list(iterate_features(io.BytesIO(data), format=FORMATS[name], names=["a", "b"]))

    assert whole.value.faults == in_blocks.value.faults == faults


# --- what is refused, by place --------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("columns", "faults"),
    [
        ({"a": [1], "b": [2]}, ["has no column 'y'; its columns are a, b"]),
        ({"y": [1]}, ["has no column beside the target 'y'"]),
        ({"a": [1.0, None], "y": [1, 2]}, {"a": {"1": MISSING}}),
        ({"a": [1.0, np.nan], "y": [1, 2]}, {"a": {"1": MISSING}}),
        ({"a": [1, 2], "y": [1.0, -np.inf]}, {"y": {"1": MISSING}}),
        ({"a": [*[1.0] * 20_000, None], "y": [1] * 20_001}, {"a": {"20000": MISSING}}),
        ({"a": pa.nulls(0, pa.float64()), "y": pa.nulls(0, pa.float64())}, ["has no rows"]),
        (
            {f"column {number} {'x' * 100}": [1] for number in range(5000)},
            ["has no column 'y'; its columns are "
             + "".join(f"column {n} {'x' * 31}, " for n in range(10)) + "…"],
        ),
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
def test_a_table_that_cannot_be_used_is_refused_by_column_and_row(
    name: str, columns: dict[str, Any], faults: Faults
) -> None:
    assert faults_of(WRITERS[name](pa.table(columns)), name) == faults


DAY = datetime.date(2026, 1, 1)
NOON = datetime.datetime(2026, 1, 1, 12)
OTHERS: list[tuple[str, pa.DataType, Any]] = [
    ("boolean", pa.bool_(), True),
    *(("string", kind, "a") for kind in (pa.string(), pa.large_string(), pa.string_view())),
    *(("binary", kind, b"ab") for kind in (pa.binary(), pa.large_binary())),
    *(("other", kind, b"ab") for kind in (pa.binary(2), pa.binary_view())),
    *(("date or time", kind, DAY) for kind in (pa.date32(), pa.date64())),
    *(("date or time", pa.timestamp("us", zone), NOON) for zone in (None, "Europe/Berlin")),
    ("date or time", pa.time64("us"), NOON.time()),
    ("date or time", pa.duration("s"), datetime.timedelta(1)),
    ("date or time", pa.month_day_nano_interval(), None),
    *(("nested", kind, [1.0]) for kind in (pa.list_(pa.float64()), pa.list_(pa.float64(), 1))),
    ("nested", pa.struct({"secret": pa.float64()}), {"secret": 1.0}),
    ("nested", pa.map_(pa.string(), pa.float64()), [("secret", 1.0)]),
    ("string", pa.dictionary(pa.int8(), pa.string()), "a"),
    ("nested", pa.run_end_encoded(pa.int32(), pa.string()), "a"),
]
"""Every type that holds no numbers, with a value."""
NOT_WHOLE = ["holds values that are not whole numbers of 64 bits, expected labels"]
NO_LABELS: list[tuple[pa.Array, Faults]] = [
    (pa.array([b"a", b"b"]), ["holds binary values, expected strings, booleans or whole numbers"]),
    (pa.array([1.0, 2.5]), NOT_WHOLE),
    (pa.array([1.0, 1e300]), NOT_WHOLE),
    (pa.array([1, 2**63], pa.uint64()), NOT_WHOLE),
    (pa.nulls(2), ["has no values"]),
    (pa.array(["", None]), ["has no values"]),
    (pa.array(["a", "b" * 256]), {"1": UNFIT_LABEL}),
    (pa.array(["a", "b\x00"]), {"1": UNFIT_LABEL}),
]


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize(("kind", "arrow_type", "value"), OTHERS)
def test_what_is_no_number_is_refused_by_column(
    name: str, kind: str, arrow_type: pa.DataType, value: Any
) -> None:
    table = pa.table({"x": pa.array([value] * 2, arrow_type), "y": [1, 2]})
    try:
        data = WRITERS[name](table)
    except pa.ArrowNotImplementedError:
        pytest.skip("there is no such file")

    assert faults_of(data, name) == {"x": [f"holds {kind} values, expected numbers"]}


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize(("labels", "faults"), NO_LABELS)
def test_what_is_no_label_is_refused(name: str, labels: pa.Array, faults: Faults) -> None:
    data = WRITERS[name](pa.table({"x": [1, 2], "y": labels}))

    assert faults_of(data, name, task="classification") == {"y": faults}


@pytest.mark.parametrize("name", BINARY)
def test_a_repeated_column_is_refused_by_name(name: str) -> None:
    data = WRITERS[name](pa.table([[1], [2], [3]], names=["a", "a ", "y"]))

    assert faults_of(data, name) == ["has more than one column named a"]


REFUSED_CSV: list[tuple[bytes, Faults]] = [
    (b"a;y\n1;2\n",
     ["has no column 'y'; if ';' separates its columns, give the options delimiter and decimal"]),
    (b"a,y", ["has no rows"]),
    (b"a,y\n\n\r\n\n", ["has no rows"]),
    (b"a,a,y\n1,2,3\n", ["has more than one column named a"]),
    (b"a,y\n1,2\nred,3\n", {"a": {"1": ["is not a number"]}}),
    (b"a,y\n1,1_0\n", {"y": {"0": ["is not a number"]}}),
    (b"a,y\n1,2\n1e400,3\n", {"a": {"1": MISSING}}),
    (b"a,y\n1,2\n" + b"9" * 5000 + b",3\n", {"a": {"1": MISSING}}),
    (b"a,y\n1,2\n1,2,3\n",
     {"1": ["has 3 values, expected 2; a first column of row names must have a name"]}),
    (b"a,y\n\n1,2\n\n3,4\n5\n", {"2": ["has 1 values, expected 2"]}),
    (b"a,y\n" + b"1,2\n" * 600_000 + b"1\n", {"600000": ["has 1 values, expected 2"]}),
    (b"\n\n", ["is not a CSV table: it is empty"]),
    (b"\xff,y\n1,2\n", [NOT_UTF_8]),
    (b"a\x00,y\n1,2\n", ["is UTF-16, or not text; save the table as UTF-8"]),
    (b'a,y\n1,"2\n', {"y": {"0": ["is not a number"]}}),
    (b"x" * (LONGEST_LINE + 1), [f"has a line of more than {LONGEST_LINE} bytes"]),
]  # fmt: skip
REFUSED_LABELS: list[tuple[bytes, Faults]] = [
    (b"x,y\n1,a\n2,\xff\n", {"y": {"1": [NOT_UTF_8]}}),
    (b"x,y\n1,2\n2,9223372036854775808\n", {"y": {"1": [OUT_OF_RANGE]}}),
    (b'x,y\n1,a\n2,"b\nc"\n', {"y": {"1": UNFIT_LABEL}}),
]


@pytest.mark.parametrize(
    ("text", "faults", "task"),
    [
        *((*case, "regression") for case in REFUSED_CSV),
        *((*case, "classification") for case in REFUSED_LABELS),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_csv_table_that_cannot_be_used_is_refused_by_place(
    text: bytes, faults: Faults, task: str
) -> None:
    assert faults_of(text, task=task) == faults


@pytest.mark.parametrize("task", ["regression", "classification"])
@pytest.mark.parametrize("row", [b"1,2,hunter2", b"hunter2,3", b'"hunter2,3', b"1,hunter2\xff"])
def test_a_complaint_does_not_repeat_the_rows(row: bytes, task: str) -> None:
    assert "hunter2" not in str(faults_of(b"a,y\n1,2\n" + row + b"\n", task=task))


@pytest.mark.parametrize("name", FORMATS)
def test_a_fault_of_the_machine_is_not_laid_on_the_file(name: str) -> None:
    class Broken(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, _buffer: Any) -> int:
            raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        parse(Broken(), name)  # type: ignore[arg-type]


# --- limits ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("task", ["regression", "classification"])
def test_a_table_is_read_up_to_the_limits_and_refused_beyond(name: str, task: str) -> None:
    data = WRITERS[name](pa.table({"a": range(5), "b": range(5), "y": range(5)}))
    train = partial(faults_of, data, name, task=task)

    assert len(parse(data, name, task=task, limits=Limits(rows=5, columns=2, cells=15)).X) == 5
    assert train(limits=Limits(4, 2, 15)) == ["has more than 4 rows"]
    assert train(limits=Limits(5, 1, 15)) == ["has 2 columns, more than the 1 allowed"]
    assert train(limits=Limits(5, 2, 14)) == ["has 5 rows of 3 values, more than 14 values in all"]
    with pytest.raises(InvalidInput, match="has 5 rows of 3 values, more than 14 values"):
        parse_features(data, "y", "b", "a", name=name, limits=Limits(5, 3, 14))


@pytest.mark.parametrize(
    ("name", "write"),
    [("parquet", to_parquet), ("arrow", partial(to_arrow, compression="zstd", chunk=400_000))],
)
def test_few_bytes_of_many_equal_values_are_refused_before_the_values_are_made(
    name: str, write: Callable[[pa.Table], bytes]
) -> None:
    ones = pa.array(np.ones(400_000))
    data = write(pa.table({**{f"x{number}": ones for number in range(10)}, "y": ones}))
    usual = pa.default_memory_pool()  # once another is set, it is that one
    arrow = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(arrow)
    tracemalloc.start()

    faults = faults_of(data, name, limits=Limits(400_000, 10, 4_000_000))

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    pa.set_memory_pool(usual)
    assert "more than 4000000 values" in faults[0]
    assert len(data) < 100_000
    assert peak + arrow.max_memory() < 4_000_000  # the table's numbers take 35 MB


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


@pytest.mark.parametrize("name", FORMATS)
def test_bytes_of_another_kind_are_refused(name: str) -> None:
    others = (seeds[0] for other, seeds in SEEDS.items() if other != name)
    for data in (b"", b"PAR1", b"PAR1PAR1", b"\x00" * 100, b"PK\x03\x04\x14\x00", *others):
        faults_of(data, name)


def test_an_index_beyond_its_dictionary_is_refused() -> None:
    indices = pa.array([0, 5], pa.int32())
    labels = pa.DictionaryArray.from_arrays(indices, pa.array(["a", "b"]), safe=False)

    faults = faults_of(to_arrow(pa.table({"x": [1, 2], "y": labels})), "arrow")

    assert faults == {"y": ["holds string values, expected numbers"]}
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
def test_bytes_that_unpack_to_more_than_their_rows_need_are_not_unpacked(
    name: str, options: dict[str, Any], index: bool
) -> None:
    data = long_text(name, index=index, **options)
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()

    faults = faults_of(data, name, task="regression" if index else "classification")

    assert len(data) < 100_000
    assert faults == BOMB
    assert pool.bytes_allocated() - before < 10_000_000


def test_pages_and_buffers_that_say_they_are_longer_than_the_footer_says_are_refused() -> None:
    table = pa.table({"x": np.arange(10_000.0), "y": np.arange(10_000.0)})
    page = to_parquet(table, use_dictionary=False, compression="none")
    buffer = to_arrow(table, chunk=10_000, compression="zstd")
    honest = b"\x15\x00\x15\x90\xe2\x09"  # a data page of 80,008 bytes
    size = (80_000).to_bytes(8, "little")
    assert honest in page
    assert size in buffer
    page = page.replace(honest, b"\x15\x00\x15\xfe\xff\x7f", 1)  # a megabyte
    buffer = buffer.replace(size, (2**31).to_bytes(8, "little"), 1)

    assert faults_of(page, "parquet") == faults_of(buffer, "arrow") == BOMB


@pytest.mark.parametrize("name", FORMATS)
def test_decoded_rows_that_take_more_than_their_cells_can_need_are_refused(
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


@pytest.mark.parametrize("column", ["y", "y ", "z"])
def test_a_long_text_is_decoded_once_and_not_once_per_row(column: str) -> None:
    texts = pa.DictionaryArray.from_arrays(np.zeros(100_000, np.int32), ["a" * 500_000])
    table = pa.table({"x": range(100_000), column: texts})
    if column == "z":
        table = table.append_column("y", table["x"])
        table = table.replace_schema_metadata({b"pandas": b'{"index_columns": ["z"]}'})
    data = to_parquet(table, store_schema=column == "z")
    pool = pa.default_memory_pool()

    if column == "z":
        assert len(parse(data, "parquet").y) == 100_000
    else:
        faults = faults_of(data, "parquet", task="classification")
        assert faults == {"y": {"0": UNFIT_LABEL}}
    assert pool.max_memory() < 2_000_000_000  # as text, 50 GB


@pytest.mark.parametrize(
    ("limit", "complaint"),
    [
        ("LONGEST_FOOTER", "has a footer that is too long"),
        ("MOST_CHUNKS", "has too many row groups; write longer ones"),
        ("MOST_PAGES", *BOMB),
    ],
)
def test_a_parquet_file_that_takes_long_to_look_through_is_refused(
    limit: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, limit, 2)

    assert faults_of(SEEDS["parquet"][0], "parquet", task="classification") == [complaint]


# --- tables as answers ----------------------------------------------------------------------

ANSWER = {
    "prediction": np.array([0.1, -0.0, 1e300, 5e-324, 11.0]),
    "class": np.array(["a", "b,c", 'd"e', "é", "1"], dtype=object),
    "fixed": np.array(["red", "green", "a", "b", "c"]),
    "row": np.array([1, -(2**63), 2**63 - 1, 0, 7]),
}


def test_an_answer_in_csv_is_plain_text() -> None:
    assert b"".join(write_csv(ANSWER)).decode().splitlines() == [
        "prediction,class,fixed,row",
        "0.1,a,red,1",
        '-0.0,"b,c",green,-9223372036854775808',
        '1e+300,"d""e",a,9223372036854775807',
        "5e-324,é,b,0",
        "11.0,1,c,7",
    ]


def test_an_answer_in_arrow_reads_back_with_its_types() -> None:
    table = pa.ipc.open_stream(b"".join(write_arrow(ANSWER))).read_all()

    assert [str(field.type) for field in table.schema] == ["double", "string", "string", "int64"]
    for name, column in ANSWER.items():
        assert table[name].to_pylist() == column.tolist()


@pytest.mark.parametrize("n_columns", [1, 7, 1025])
@pytest.mark.parametrize(("write", "name"), [(write_csv, "csv"), (write_arrow, "arrow")])
def test_a_long_answer_is_whole_and_made_in_short_pieces(
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Any], Iterator[bytes]],
    name: str,
    n_columns: int,
) -> None:
    monkeypatch.setattr(writing, "WRITTEN_CELLS", 1024)
    values = np.random.RandomState(1).randn(max(2, 2051 // n_columns), n_columns)
    names = [f"x{number}" for number in range(n_columns)]

    pieces = list(write(dict(zip(names, values.T, strict=True))))

    assert parse_features(b"".join(pieces), *names, name=name).tobytes() == values.tobytes()
    assert len(pieces) > 1
    head = 200 * n_columns  # bytes, of the names and what Arrow says of each column
    assert max(map(len, pieces)) < 25 * 1025 + head + 10_000


def test_columns_of_unequal_length_are_not_written() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        list(write_csv({"a": np.zeros(2), "b": np.zeros(3)}))
