"""What the columns of a table are: the kind of each, what its values are, and what looks wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from webapp.ml.core.datasets import DataWarning
from webapp.ml.core.kinds import (
    FEW_NUMBERS,
    FEW_WHOLE_NUMBERS,
    LEAST_ID_ROWS,
    MOST_CATEGORIES,
    find_kind,
    is_id_like,
)
from webapp.ml.core.signature import Kind, Task
from webapp.ml.core.tables.shapes import Columns, kind_of

N_EXAMPLES, LONGEST_EXAMPLE = 3, 60


@dataclass(frozen=True)
class InspectedColumn:
    """A column of a table.

    ``kind`` is None where a model could learn nothing from it. ``missing`` counts the rows
    without a value, ``distinct`` the different values; ``examples`` are the first of them.
    ``minimum`` and ``maximum`` are those of numbers and of dates (as ISO 8601 text).
    """

    name: str
    kind: Kind | None
    missing: int
    distinct: int
    examples: tuple[Any, ...]
    minimum: float | str | None = None
    maximum: float | str | None = None


@dataclass(frozen=True)
class Inspection:
    """What a table holds. ``task`` follows from the target, where one is named."""

    n_rows: int
    columns: tuple[InspectedColumn, ...]
    warnings: tuple[DataWarning, ...]
    task: Task | None = None


@dataclass(frozen=True)
class Fault:
    """What is wrong with a column; ``useless``: a model could learn nothing from it."""

    message: str
    useless: bool = False


def inspect_columns(found: Columns, *, target: str | None = None) -> Inspection:
    """Return the kind of each column, what its values are, and warnings.

    ``target`` names the column to predict.
    """
    columns, warnings = [], list(found.warnings)
    for name in found.rows.column_names:
        values, kind = find_kind(found.rows[name], found)
        columns.append(_describe_column(name, values, kind))
        if name != target:
            warnings += [DataWarning(name, fault.message) for fault in find_faults(values, kind)]
    inspection = Inspection(found.rows.num_rows, tuple(columns), tuple(warnings))
    return inspection if target is None else _judge_target(inspection, target)


def find_faults(values: Any, kind: Kind | None) -> Iterator[Fault]:
    """Yield why a column, its values in the type of their kind, is no use or to be looked at."""
    import pyarrow.compute as pc

    present = values.drop_null()
    may_be_constant = len(values) >= LEAST_ID_ROWS and not values.null_count
    if not len(present):
        yield Fault("has no values", useless=True)
    elif kind is None and kind_of(values.type) != "string":
        message = f"holds {kind_of(values.type)} values, which no model takes"
        yield Fault(f"{message}; write them as numbers", useless=True)
    elif kind is None:
        n_distinct = pc.count_distinct(present).as_py()
        message = f"has {n_distinct} different values; a category has at most {MOST_CATEGORIES}"
        if is_id_like(n_distinct, len(present)):
            message = "has another value in nearly every row, as names and ids have"
        yield Fault(message, useless=True)
    elif kind in ("number", "datetime"):
        low, high = pc.min_max(present).values()
        if low == high and may_be_constant:
            yield Fault("has the same value in every row", useless=True)
        elif kind == "number" and _numbers_the_rows(values, low.as_py(), high.as_py()):
            yield Fault("numbers the rows: exclude it unless their order matters")
    elif may_be_constant and len(pc.unique(present)) == 1:
        yield Fault("has the same value in every row", useless=True)


def _numbers_the_rows(values: Any, low: float, high: float) -> bool:
    import pyarrow.compute as pc

    n_rows = len(values)
    return (
        n_rows >= LEAST_ID_ROWS
        and not values.null_count
        and high - low == n_rows - 1
        and low.is_integer()
        and pc.count_distinct(values).as_py() == n_rows
    )


def _describe_column(name: str, values: Any, kind: Kind | None) -> InspectedColumn:
    import pyarrow as pa
    import pyarrow.compute as pc

    minimum = maximum = None
    present = values.drop_null()
    distinct, examples = 0, ()
    if kind is not None or kind_of(values.type) == "string":
        distinct = pc.count_distinct(present).as_py()
        examples = tuple(_show(pc.unique(present[:1000])[:N_EXAMPLES]))
    if kind in ("number", "datetime") and len(present):
        minimum, maximum = _show(pa.array([pc.min(present), pc.max(present)]))
    return InspectedColumn(name, kind, values.null_count, distinct, examples, minimum, maximum)


def _show(values: Any) -> list[Any]:
    """Return values as JSON has them: dates in ISO 8601, and long text cut."""
    import pyarrow as pa

    if pa.types.is_timestamp(values.type):  # Python's own dates end with the year 9999
        texts = values.cast(pa.string()).to_pylist()
        texts = [text.removesuffix(" 00:00:00.000000").replace(".000000", "") for text in texts]
        return [text if text.startswith("<") else text.replace(" ", "T") for text in texts]
    return [
        f"{value[:LONGEST_EXAMPLE]}…"
        if isinstance(value, str) and len(value) > LONGEST_EXAMPLE
        else value
        for value in values.to_pylist()
    ]


def _judge_target(found: Inspection, target: str) -> Inspection:
    """Return what is found with the task, and warnings of the target."""
    column = next(column for column in found.columns if column.name == target)
    task: Task = "regression" if column.kind == "number" else "classification"
    messages = []
    if column.missing:
        messages.append(f"has no value in {column.missing} of {found.n_rows} rows")
    if column.kind in (None, "datetime", "text"):
        messages.append("is neither a number nor the name of a class: it cannot be predicted")
    if column.distinct == 1:
        messages.append("has the same value in every row")
    whole = all(isinstance(v, float) and v.is_integer() for v in column.examples)
    if task == "regression" and whole and column.distinct <= FEW_NUMBERS < found.n_rows:
        messages.append(FEW_WHOLE_NUMBERS)
    warnings = tuple(DataWarning(target, message) for message in messages)
    return Inspection(found.n_rows, found.columns, found.warnings + warnings, task)
