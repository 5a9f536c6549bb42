"""Bad tables, forms and uploads."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pyarrow as pa
import pytest

from tests.bad_input import catalogue
from tests.bad_input.census import (
    ARROW,
    CSV,
    FORM,
    PARQUET,
    WRITERS,
    Census,
    form,
    make_table,
    part,
)
from tests.faults import on_sqlite
from tests.tables import to_csv

pytestmark = on_sqlite

NOISE = np.random.default_rng(1).bytes(5000)


def test_csv(fruitless: Census) -> None:
    for operation in fruitless.with_tables:
        good = to_csv(make_table(operation.columns))
        for note, spoil in catalogue.NO_CSV.items():
            fruitless.send_file(operation, CSV, note, spoil(good))
            file = part("file", spoil(good), "rows.csv")
            fruitless.send_file(operation, FORM, note, form(file))
        *rows, last = good.splitlines()
        for cell in catalogue.NO_CSV_CELLS if operation.takes_numbers else ():
            row = last.split(b",")
            row[1] = cell.encode()
            data = b"\n".join([*rows, b",".join(row)])
            place = ("csv", "x2", "3")
            fruitless.send_file(operation, CSV, f"cell {cell}", data, place=place)
        for row in (b"1,2", b"1,2,3,4,5"):
            fruitless.send_file(operation, CSV, row, good + row, place=("csv", "4"))


def odd_tables(columns: tuple[str, ...]) -> Iterator[pa.Table]:
    """Yield tables that are well-formed, and not those that are asked for."""
    good = make_table(columns)
    place = good.column_names.index("x2")
    for values in ([True] * 4, ["a"] * 4, [[1.0]] * 4, [None] * 4, [1.0, None, 2.0, 3.0]):
        yield good.set_column(place, "x2", pa.array(values))
    yield good.slice(0, 0)
    yield good.append_column("x1", good["x1"])
    for name in ("", "x\x002\n"):
        yield good.rename_columns([name if known == "x2" else known for known in columns])


@pytest.mark.parametrize(
    ("media_type", "filename"), [(PARQUET, "rows.parquet"), (ARROW, "rows.arrow")]
)
def test_binary_tables(fruitless: Census, media_type: str, filename: str) -> None:
    write = WRITERS[media_type]
    for operation in fruitless.with_tables:
        table = make_table(operation.columns)
        good = write(table)
        bad = [b"", NOISE, to_csv(table), good[: len(good) // 2], good[:-1], good[40:]]
        bad.append(WRITERS[ARROW if media_type == PARQUET else PARQUET](table))
        if operation.takes_numbers:
            bad += [write(odd) for odd in odd_tables(operation.columns)]
        for number, data in enumerate(bad):
            fruitless.send_file(operation, media_type, number, data)
            fruitless.send_file(operation, FORM, number, form(part("file", data, filename)))


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
def test_forms(fruitless: Census) -> None:
    for operation in fruitless.with_forms:
        name, good, filename = operation.good_file(fruitless.artifact)
        for note, data, status in bad_forms(name, good, filename):
            fruitless.send_file(operation, FORM, note, data, status)
        for boundary in catalogue.BOUNDARIES:
            data = form(part(name, good, filename))
            fruitless.send_file(operation, boundary, "boundary", data, {400, 415, 422})
    for operation in fruitless.with_tables:
        name, good, _ = operation.good_file(b"")
        for filename in catalogue.FILENAMES:
            data = form(part(name, good, filename))
            expected = {400} if filename.endswith(".gz") else {415, 422}
            fruitless.send_file(operation, FORM, filename, data, expected)
        for kind in (*catalogue.TABLE_PARAMETERS, "application/pickle", "text/plain", "*/*"):
            data = form(part(name, good, "rows", f"Content-Type: {kind}"))
            fruitless.send_file(operation, FORM, kind, data, 415)
        # A compressed file is known by its name alone.
        for line in ("X: y", "Content-Encoding: gzip", "Content-Transfer-Encoding: base64"):
            data = form(part(name, gzip.compress(good), "rows.csv", line))
            fruitless.send_file(operation, FORM, line, data)


def zipped(files: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with ZipFile(sink, "w", ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return sink.getvalue()


def test_uploads(fruitless: Census) -> None:
    good = fruitless.artifact
    with ZipFile(io.BytesIO(good)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    schema = parts["schema.json"]
    files = {
        "a pickle": b"\x80\x04\x95\x1a" + bytes(7) + b"\x8c\x05posix\x8c\x06system\x93.",
        "half": good[: len(good) // 2],
        "a bomb": zipped({"schema.json": b" " * 10**7}),
        "names that climb": zipped({"../../etc/passwd": b"x", "schema.json": schema}),
        "another module": zipped(
            {**parts, "schema.json": schema.replace(b"sklearn.linear_model", b"os")}
        ),
        "noise": NOISE,
    }
    for operation in fruitless.with_uploads:
        for note, data in files.items():
            fruitless.send_file(operation, FORM, note, form(part("artifact", data, "m.skops")))
        for name, values in catalogue.REFUSED_UPLOAD_FIELDS.items():
            for value in values:
                data = form(part("artifact", good, "m.skops"), part(name, value.encode()))
                place = ("form", name)
                fruitless.send_file(operation, FORM, f"{name}={value}", data, place=place)
        options = {"activate": "if_better", "metric": "rmse", "target": "y"}
        given = [part("artifact", good, "m.skops")]
        given += [part(name, value.encode()) for name, value in options.items()]
        for status, filename in ((422, "rows.csv"), (422, "rows.parquet"), (415, "rows.txt")):
            data = form(*given, part("table", NOISE, filename))
            fruitless.send_file(operation, FORM, filename, data, status)


def test_odd_metrics_are_kept(census: Census) -> None:
    for operation in census.with_uploads:
        for value in (r'{"a": "\u0000"}', '{"": null}', '{"r2": 1e308, "n": [1, [2]], "☃": -0.0}'):
            file = part("artifact", census.artifact, "m.skops")
            data = form(file, part("metrics", value.encode()))
            census.send_file(operation, FORM, value, data, 201)
