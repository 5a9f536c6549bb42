"""Bad tables, forms and uploads."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import ipc

from tests.bad_input import catalogue
from tests.bad_input.census import (
    ARROW,
    CSV,
    FORM,
    MULTIPART,
    PARQUET,
    Census,
    Operation,
    form,
    make_table,
    part,
)
from tests.faults import on_sqlite
from tests.tables import to_arrow, to_csv, to_parquet

pytestmark = on_sqlite

NOISE = np.random.default_rng(1).bytes(5000)


def with_tables(census: Census) -> list[Operation]:
    return [operation for operation in census.operations if operation.takes_table]


def with_uploads(census: Census) -> list[Operation]:
    return [
        operation
        for operation in census.operations
        if MULTIPART in operation.bodies and not operation.takes_table
    ]


def refuse(
    census: Census,
    operation: Operation,
    media_type: str,
    note: object,
    data: bytes,
    status: Any = 422,
    **request: Any,
) -> None:
    """Send a table or an upload that must get this status."""
    query = urlencode(operation.options)
    sent = {"data": data, "content_type": media_type, "query_string": query, **request}
    census.send(operation, f"{media_type}: {note}", status, **sent)


def test_csv(census: Census) -> None:
    census.begin()

    for operation in with_tables(census):
        good = to_csv(make_table(operation.columns))
        for note, spoil in catalogue.NO_CSV.items():
            refuse(census, operation, CSV, note, spoil(good))
            file = part("file", spoil(good), "rows.csv")
            refuse(census, operation, FORM, note, form(file))
        rows = good.splitlines()
        for cell in catalogue.NO_CSV_CELLS:
            row = rows[-1].split(b",")
            row[1] = cell.encode()
            data = b"\n".join([*rows[:-1], b",".join(row)])
            refuse(census, operation, CSV, f"cell {cell}", data, place=("csv", "x2", "3"))
        for note, row in {"short": b"1,2", "long": b"1,2,3,4,5"}.items():
            data = b"\n".join([*rows, row])
            refuse(census, operation, CSV, f"a {note} row", data, place=("csv", "4"))
    census.conclude()


def odd_tables(columns: tuple[str, ...]) -> Iterator[tuple[str, pa.Table]]:
    """Yield tables that are well-formed, and not those that are asked for."""
    good = make_table(columns)
    place = good.column_names.index("x2")
    for values in ([True] * 4, ["a"] * 4, [[1.0]] * 4, [None] * 4, [1.0, None, 2.0, 3.0]):
        yield repr(values), good.set_column(place, "x2", pa.array(values))
    yield "no rows", good.slice(0, 0)
    yield "no columns", pa.table({})
    yield "a column twice", good.append_column("x1", good["x1"])
    for note, name in {"no name": "", "a name with control characters": "x\x002\n"}.items():
        names = [name if known == "x2" else known for known in good.column_names]
        yield note, good.rename_columns(names)
    more = {f"c{number}": good["x1"] for number in range(1001)}
    yield "1,001 columns more", pa.table({**{name: good[name] for name in columns}, **more})


def no_parquet(table: pa.Table) -> dict[str, bytes]:
    """Return bytes that are no Parquet file."""
    good = to_parquet(table)
    return {
        "magic": b"PAR1",
        "twice magic": b"PAR1PAR1",
        "a footer that is too long": b"PAR1" + b"\xff\xff\xff\x7f" + b"PAR1",
        "a footer of nothing": b"PAR1" + bytes(4) + b"PAR1",
        "encrypted": b"PARE" + good[4:-4] + b"PARE",
        "half": good[: len(good) // 2],
        "no end": good[:-1],
        "no beginning": good[40:],
        "another format": to_arrow(table),
    }


def no_arrow(table: pa.Table) -> dict[str, bytes]:
    """Return bytes that are no Arrow stream or file of numbers."""
    good = to_arrow(table)
    sink = io.BytesIO()
    ipc.new_stream(sink, table.schema).close()
    return {
        "an end": b"\xff\xff\xff\xff\x00\x00\x00\x00",
        "a message that is too long": b"\xff\xff\xff\xff\xff\xff\xff\x7f" + good,
        "a negative length": b"\xff\xff\xff\xff\x00\x00\x00\x80" + good,
        "no batches": sink.getvalue(),
        "a schema alone": good[:400],
        "a schema twice": good[:200] + good,
        "half": good[: len(good) // 2],
        "the magic of a file": b"ARROW1\0\0",
        "another format": to_parquet(table),
    }


@pytest.mark.parametrize(
    ("media_type", "suffix", "write", "spoil"),
    [(PARQUET, "parquet", to_parquet, no_parquet), (ARROW, "arrow", to_arrow, no_arrow)],
    ids=["parquet", "arrow"],
)
def test_binary_tables(
    census: Census,
    media_type: str,
    suffix: str,
    write: Callable[[pa.Table], bytes],
    spoil: Callable[[pa.Table], dict[str, bytes]],
) -> None:
    census.begin()

    for operation in with_tables(census):
        for note, table in odd_tables(operation.columns):
            with suppress(pa.ArrowException):  # there is no such file
                refuse(census, operation, media_type, note, write(table))
        table = make_table(operation.columns)
        others = {"nothing": b"", "CSV": to_csv(table), "noise": NOISE}
        for note, data in {**spoil(table), **others}.items():
            refuse(census, operation, media_type, note, data)
            refuse(census, operation, FORM, note, form(part("file", data, f"rows.{suffix}")))
    census.conclude()


def bad_forms(name: str, good: bytes, filename: str) -> Iterator[tuple[object, bytes, Any]]:
    """Yield forms whose one part should have been ``good``, with the status of the answer."""
    file = part(name, good, filename)
    text = part("activate", b"true")
    unparsed = {
        "nothing": b"",
        "no end": form(file)[:-30],
        "no beginning": form(file)[30:],
        "half a head": form(file)[:60],
        "another boundary": form(file).replace(b"0123456789abcdef", b"x"),
        "a part without a head": form(b"\r\n\r\n" + good),
        "a part without a name": form(b"Content-Disposition: form-data\r\n\r\n1"),
        "an attachment": form(b"Content-Disposition: attachment\r\n\r\n" + good),
        "half a name": form(b"Content-Disposition: form-data; name\r\n\r\n" + good),
    }
    refused = {
        "no parts": [],
        "text for the file": [part(name, good)],
        "an empty file": [part(name, b"", filename)],
        "the file twice": [file, file],
        "another file": [part("other", good, filename)],
        "a further file": [file, part("other", good, filename)],
        "an unknown field": [file, part("nobody", b"1")],
        "a field without a name": [file, part("", b"1")],
        "a field twice": [file, text, text],
        "a field that is no text": [file, part("activate", b"\xff\xfe")],
        "a field with NUL": [file, part("activate", b"true\0")],
        "a field as a file": [file, part("activate", b"true", "a.txt")],
        "a name in UTF-16": [part("ａctivate", b"1"), file],
    }
    large = {
        "a long field": [file, part("activate", b"x" * 600_000)],
        "many fields": [file, *(part(f"f{i}", b"1") for i in range(1200))],
    }
    yield from ((note, data, {400, 422}) for note, data in unparsed.items())
    yield from ((note, form(*parts), 422) for note, parts in refused.items())
    yield from ((note, form(*parts), 413) for note, parts in large.items())


# Werkzeug leaves the files of a form that it gives up to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_forms(census: Census) -> None:
    census.begin()

    for operation in with_tables(census):
        good = to_csv(make_table(operation.columns))
        for note, data, status in bad_forms("file", good, "rows.csv"):
            refuse(census, operation, FORM, note, data, status)
        for boundary in catalogue.BOUNDARIES:
            data = form(part("file", good, "rows.csv"))
            refuse(census, operation, boundary, "boundary", data, {400, 415, 422})
        for filename in catalogue.FILENAMES:
            data = form(part("file", good, filename))
            expected = {400} if filename.endswith(".gz") else {415, 422}
            refuse(census, operation, FORM, filename, data, expected)
        for kind in (*catalogue.TABLE_PARAMETERS, "application/pickle", "text/plain", "*/*"):
            data = form(part("file", good, "rows", f"Content-Type: {kind}"))
            refuse(census, operation, FORM, kind, data, 415)
    for operation in with_uploads(census):
        for note, data, status in bad_forms("artifact", census.artifact, "model.skops"):
            refuse(census, operation, FORM, note, data, status)
        for boundary in catalogue.BOUNDARIES:
            data = form(part("artifact", census.artifact, "m.skops"))
            refuse(census, operation, boundary, "boundary", data, {400, 415, 422})
    census.conclude()


def zipped(**files: bytes) -> bytes:
    """Return a ZIP file."""
    sink = io.BytesIO()
    with ZipFile(sink, "w", ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return sink.getvalue()


def test_uploads(census: Census) -> None:
    census.begin()

    good = census.artifact
    with ZipFile(io.BytesIO(good)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    schema = parts["schema.json"]
    files = {
        "a pickle": b"\x80\x04\x95\x1a" + bytes(7) + b"\x8c\x05posix\x8c\x06system\x93.",
        "half": good[: len(good) // 2],
        "an empty ZIP": zipped(),
        "a bomb": zipped(**{"schema.json": b" " * 10**7}),
        "names that climb": zipped(**{"../../etc/passwd": b"x", "schema.json": schema}),
        "no numbers": zipped(**{"schema.json": schema}),
        "a schema too deep": zipped(**{**parts, "schema.json": b"[" * 10**5 + b"]" * 10**5}),
        "another module": zipped(
            **{**parts, "schema.json": schema.replace(b"sklearn.linear_model", b"os")}
        ),
        "noise": NOISE,
    }
    fields = {
        "feature_names": [
            *("", "1", "a", "{}", "[]", '["a"]', '["a", "b", "a"]', '["a", "b", 1]'),
            *('["a", "b", "c", "d"]', '["a", "b", ""]', '["a", "b", null]', '["a", "b", NaN]'),
            *(r'["a", "b", "\u0000"]', r'["a", "b", "\ud800"]', "[" * 1000, catalogue.NESTED),
        ],
        "metrics": [
            *("", "1", "[]", "null", "x", '{"a": NaN}', '{"a": 1e400}', '{"a": ', "[" * 10**5),
            *(r'{"\ud800": 1}', f'{{"a": {catalogue.DIGITS}}}', '{"a": 1} {}'),
            f'{{"a": {catalogue.NESTED}}}',
        ],
        "activate": ["", "1", "yes", "null", '"true"', "True", "[true]", "\0", "NaN"],
        "nobody": ["1"],
    }
    for operation in with_uploads(census):
        for note, data in files.items():
            data = form(part("artifact", data, "model.skops"))
            refuse(census, operation, FORM, note, data)
        for name, values in fields.items():
            for value in values:
                field = part(name, value.encode())
                data = form(part("artifact", good, "model.skops"), field)
                place = ("form", name)
                refuse(census, operation, FORM, f"{name}={value}", data, place=place)
    census.conclude()


def test_odd_metrics_are_kept(census: Census) -> None:
    for operation in with_uploads(census):
        for value in (r'{"a": "\u0000"}', '{"": null}', '{"r2": 1e308, "n": [1, [2]], "☃": -0.0}'):
            field = part("metrics", value.encode())
            sent = form(part("artifact", census.artifact, "model.skops"), field)
            refuse(census, operation, FORM, value, sent, 201)
    census.conclude()
