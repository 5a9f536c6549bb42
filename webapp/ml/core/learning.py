"""From the columns of a table to a dataset: kinds, what is left out, and what looks wrong."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO, cast

import numpy as np

from webapp.errors import MOST_FAULTS, InvalidInput, number_rows
from webapp.ml.core.datasets import (
    Dataset,
    DataWarning,
    Labels,
    Matrix,
    Vector,
    make_dataset,
    warn_of_missing,
)
from webapp.ml.core.encoding import encode_column, find_date_parts
from webapp.ml.core.inspection import find_faults
from webapp.ml.core.kinds import (
    FEW_NUMBERS,
    FEW_WHOLE_NUMBERS,
    LEAST_ID_ROWS,
    MOST_CATEGORIES,
    clean_text,
    find_comma,
    find_kind,
    find_unlike_numbers,
    has_leading_zeros,
    holds_local_dates,
    take_as,
)
from webapp.ml.core.signature import Column, Kind, Signature, Task
from webapp.ml.core.tables.numbers import make_matrix
from webapp.ml.core.tables.reading import read_columns
from webapp.ml.core.tables.shapes import BLANKS, NUMERIC, Columns, Source, kind_of
from webapp.ml.core.targets import take_target

MOSTLY = 0.9  # of a column's values; where they are numbers, the others are faults
EXCLUDE = "exclude"
HEAD_BYTES = 2**14
MOST_HELD_BYTES = 2**20  # of a copy in memory
_LEADING_ZEROS = re.compile(rb"[,;|\t\n\"]0\d+[,;|\t\r\n\"]")
JUDGED_ROWS, JUDGED_CELLS = 10_000, 1_000_000  # doubts are found in 10 ms


@dataclass(frozen=True)
class Choices:
    """What the caller says of a table: the rest follows from its values.

    ``kinds`` is by column; "exclude" leaves it out.
    """

    target: str
    task: Task | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)


def read_dataset(source: Source, choices: Choices) -> Dataset:
    """Return the rows of a table to learn from: the target is y, the others are X, in their order.

    Rows without a target are left out, and so are the columns that pandas calls an index; the
    dataset's warnings say so. Raises InvalidInput when the bytes are no such table, by column and
    row where they are known.
    """
    target = choices.target.strip(BLANKS)
    choices = replace(choices, target=target)
    if source.format.name != "csv":
        return make_dataset_from(read_columns(source, target=target), choices)
    if not source.file.seekable():  # it may be read twice
        with tempfile.SpooledTemporaryFile(MOST_HELD_BYTES) as copy:
            shutil.copyfileobj(source.file, copy)
            copy.seek(0)
            return read_dataset(replace(source, file=cast(BinaryIO, copy)), choices)
    if not choices.kinds and not _has_leading_zeros(source):
        # Most tables hold numbers alone, which are read 3 times as fast so.
        labels = [target] if choices.task == "classification" else []
        start = source.file.tell()
        try:
            found = read_columns(source, target=target, is_text=labels.__contains__)
            return make_dataset_from(found, choices)
        except InvalidInput:
            source.file.seek(start)
    return make_dataset_from(read_columns(source, target=target), choices)


def _has_leading_zeros(source: Source) -> bool:
    """Return whether a CSV file seems to hold codes such as 007 among its first rows."""
    start = source.file.tell()
    found = _LEADING_ZEROS.search(source.file.read(HEAD_BYTES))
    source.file.seek(start)
    return found is not None


def check_kinds(kinds: Mapping[str, str], names: Sequence[str]) -> None:
    """Raise InvalidInput for kinds of no column, and where all columns are left out."""
    unknown = [name for name in kinds if name not in names]
    if unknown:
        options = {name: "exclude" if kinds[name] == EXCLUDE else "columns" for name in unknown}
        raise InvalidInput(
            {
                option: {
                    n: ["is no feature of the table"] for n in unknown if options[n] == option
                }
                for option in set(options.values())
            }
        )
    if names and all(kinds.get(name) == EXCLUDE for name in names):
        raise InvalidInput({"exclude": ["leaves no column to learn from"]})


def make_dataset_from(found: Columns, choices: Choices) -> Dataset:
    """Return the dataset of a table that has the target among its columns.

    Rows without a target are left out. Raises InvalidInput by column, and by row where one is
    known.
    """
    target = choices.target
    if found.rows.num_columns < 2:
        raise InvalidInput([f"has no column beside the target {target!r}"])
    y, present = take_target(found, target, choices.task)
    rows = found.rows.drop_columns([target])
    warnings = found.warnings
    if len(y) < len(present):
        warnings += (warn_of_missing(target, len(present) - len(y), len(present)),)
        rows = rows.filter(present)
    found = replace(found, rows=rows, warnings=warnings)
    numbers = np.flatnonzero(present)
    return make_dataset_of(found, y, target=target, kinds=choices.kinds, numbers=numbers)


def make_dataset_of(
    found: Columns,
    y: Vector | Labels,
    *,
    target: str,
    kinds: Mapping[str, str],
    numbers: Any = None,
) -> Dataset:
    """Return the dataset of columns that are all features, and their target: (n_rows,).

    ``numbers`` are those of the rows, where others were left out. Raises InvalidInput.
    """
    import pyarrow as pa

    given = found.rows.column_names
    check_kinds(kinds, given)
    names = [name for name in given if kinds.get(name) != EXCLUDE]
    rows = found.rows
    types = [rows.schema.field(name).type for name in names]
    numeric = all(kind_of(one) in NUMERIC and not pa.types.is_dictionary(one) for one in types)
    if numeric and not set(kinds.values()) - {EXCLUDE}:
        try:
            return make_dataset(make_matrix(rows, names), y, names, found.warnings, target=target)
        except InvalidInput:
            pass  # values are missing
    columns, blocks, texts, warnings = [], [], [], []
    for name in names:
        try:
            read = _read_column(name, found, kinds.get(name))
        except InvalidInput as error:
            if numbers is None:
                raise
            raise InvalidInput(number_rows(error.faults, numbers.__getitem__)) from None
        warnings += read.warnings
        if read.column is None:
            continue
        columns.append(read.column)
        if read.column.kind == "text":
            texts.append(np.array(read.values.to_pylist(), dtype=np.object_))
        else:
            blocks.append(encode_column(read.values, read.column)[0])
    if not columns:
        why = {warning.column: [warning.message] for warning in warnings[:MOST_FAULTS]}
        raise InvalidInput(why)
    warnings = [*found.warnings, *warnings]
    _check_parts_of_dates(columns)
    X = np.concatenate(blocks, axis=1) if blocks else np.empty((len(y), 0))
    if all(column.kind == "number" for column in columns) and np.isfinite(X).all():
        kept = [column.name for column in columns]
        return make_dataset(X, y, kept, tuple(warnings), target=target)
    task: Task = "regression" if y.dtype.kind == "f" else "classification"
    signature = Signature(tuple(columns), task, target)
    text = np.stack(texts, axis=1) if texts else None
    return Dataset(X, y, signature.names, tuple(warnings), signature, text)


def _check_parts_of_dates(columns: Sequence[Column]) -> None:
    """Raise InvalidInput where a column is called as a part of a date is."""
    names = {column.name for column in columns}
    for column in columns:
        for part in names.intersection(column.inputs) - {column.name}:
            fault = f"is also the name of a part of the dates in {column.name}: rename the column"
            raise InvalidInput({part: [fault]})


@dataclass(frozen=True)
class _Read:
    """A column as a model takes it, its values, and warnings; no column where it is left out."""

    column: Column | None
    values: Any
    warnings: list[DataWarning]


def _read_column(name: str, found: Columns, chosen: str | None) -> _Read:
    given = found.rows[name]
    kind: Kind | None
    try:
        if chosen is None:
            values, kind = find_kind(given, found)
        else:
            kind = chosen  # type: ignore[assignment] # the schema allows no other
            values = take_as(given, kind, found)  # type: ignore[arg-type]
    except InvalidInput as error:
        raise InvalidInput({name: error.faults}) from None
    messages = list(_find_changes(name, given, values, kind, found, chosen))
    for fault in find_faults(values, kind):
        useless = fault.useless and (chosen is None or not len(values.drop_null()))
        messages.append(f"{fault.message}; it was left out" if useless else fault.message)
        if useless:
            return _Read(None, values, [DataWarning(name, message) for message in messages])
    assert kind is not None  # noqa: S101 (one without is useless)
    column = Column(name, kind, missing=True)
    if kind == "category":
        column = replace(column, categories=_find_categories(name, values))
    elif kind == "datetime":
        column = replace(column, parts=find_date_parts(values))
    return _Read(column, values, [DataWarning(name, message) for message in messages])


def _find_categories(name: str, values: Any) -> tuple[Any, ...]:
    import pyarrow.compute as pc

    categories = sorted(pc.unique(values.drop_null()).to_pylist())
    if len(categories) > MOST_CATEGORIES:
        message = f"has {len(categories)} different values; a category has at most"
        raise InvalidInput({name: [f"{message} {MOST_CATEGORIES}"]})
    return tuple(categories)


def _find_changes(
    name: str, given: Any, values: Any, kind: Kind | None, found: Columns, chosen: str | None
) -> Iterator[str]:
    """Yield what the values of a column became, where that is not plain to see."""
    import pyarrow as pa
    import pyarrow.compute as pc

    added = values.null_count - given.null_count
    if kind == "number" and kind_of(given.type) == "floating" and added > 0:
        n_infinite = added - int(pc.sum(pc.is_nan(given)).as_py() or 0)
        if n_infinite:
            yield f"has {n_infinite} infinite values, which count as missing"
    if kind_of(given.type) != "string":
        return
    texts = given.cast(pa.large_string())
    if kind in ("category", "text"):
        trimmed = pc.sum(pc.not_equal(texts, pc.utf8_trim_whitespace(texts))).as_py()
        if trimmed:
            yield f"has blanks around {trimmed} of its values, which were removed"
    if chosen is not None or kind not in ("category", "text", None):
        return
    texts = clean_text(given)
    distinct = pc.unique(texts.drop_null())
    if not pc.any(pc.match_substring_regex(distinct, r"^[+-]?[.\d]")).as_py():
        return  # no value begins as a number or a date does: told in 3 ms, not 40 for 300,000 rows
    if holds_local_dates(distinct[:1000]):
        yield "seems to hold dates; only those in ISO 8601 are read, such as 2026-01-31"
    if not found.untyped:
        return
    if has_leading_zeros(texts):
        yield "has numbers with leading zeros, as codes have: it is taken as a category"
        return
    if (row := find_comma(texts, found)) is not None:
        fault = [
            "is not a number; for decimal commas, give the option decimal=,; from thousands, "
            "leave the commas out"
        ]
        raise InvalidInput({name: {str(row): fault}})
    others = find_unlike_numbers(texts, found)
    n_present = len(texts) - texts.null_count
    if 0 < len(others) < (1 - MOSTLY) * n_present:
        fault = [
            "is not a number, as nearly all values of the column are; leave it empty if it "
            "is missing, or give the option columns to take the column as a category"
        ]
        raise InvalidInput({name: {str(row): fault for row in others[:10].tolist()}})
    if 0 < len(others) < n_present / 2:
        yield f"holds text in {len(others)} rows and numbers in the others: taken as text"


def find_doubts(dataset: Dataset) -> Iterator[DataWarning]:
    """Yield what looks wrong in a dataset, judged by its first rows.

    A target that looks like codes of classes, and features that determine it alone.
    """
    width = max(1, dataset.X.shape[1])
    n_rows = min(len(dataset.y), JUDGED_ROWS, max(LEAST_ID_ROWS, JUDGED_CELLS // width))
    if n_rows < LEAST_ID_ROWS:
        return
    X, y = dataset.X[:n_rows], dataset.y[:n_rows]
    values = sorted(set(y.tolist()))
    if len(values) < 2:
        return
    numeric = dataset.task == "regression"
    if numeric and len(values) <= FEW_NUMBERS and all(value.is_integer() for value in values):
        yield DataWarning(dataset.target, FEW_WHOLE_NUMBERS)
    ranks = np.searchsorted(np.array(values), y.astype(np.array(values).dtype))
    message = "determines the target alone; leave it out if it is known only afterwards"
    for name, column, kind in _list_columns(dataset, X):
        if kind == "category":
            pairs = set(zip(column.tolist(), ranks.tolist(), strict=True))
            codes = {code for code, _ in pairs}
            told = len(pairs) == len(codes) <= n_rows / 2
        elif numeric:
            told = _is_linear(column, y)
        else:
            told = _is_cut(column, ranks, len(values))
        if told:
            yield DataWarning(name, message)


def _list_columns(dataset: Dataset, X: Matrix) -> Iterator[tuple[str, Vector, str]]:
    signature = dataset.signature
    if signature is None:
        yield from ((name, X[:, n], "number") for n, name in enumerate(dataset.feature_names))
        return
    for column, place in zip(signature.columns, signature.places, strict=True):
        if column.kind == "text":
            continue
        values = X[:, place.start]
        if not np.isnan(values).any():
            kind = "category" if column.kind in ("category", "boolean") else "number"
            yield column.name, values, kind


def _is_linear(x: Vector, y: Any) -> bool:
    with np.errstate(all="ignore"):
        x, y = x - x.mean(), y - y.mean()
        return bool(abs(x @ y) >= (1 - 1e-9) * np.sqrt((x @ x) * (y @ y)) > 0)


def _is_cut(x: Vector, ranks: Any, n_classes: int) -> bool:
    """Return whether the values of each class lie apart from those of the others."""
    order = np.argsort(x, kind="stable")
    changes = np.flatnonzero(np.diff(ranks[order]))
    ties = np.diff(x[order])[changes] == 0
    return len(changes) == n_classes - 1 and not ties.any()


def infer_task(values: Sequence[Any]) -> Task:
    """Return what a JSON target is for: numbers are numbers; text and booleans are labels."""
    kinds = {type(value) for value in values if value is not None}
    return "regression" if kinds <= {int, float} else "classification"
