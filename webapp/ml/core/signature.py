"""What the columns of a table are: the kind of each, what its values are, and what looks wrong.

A kind follows from a column's type, and from its values where the type is text, as all of CSV is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from webapp.ml.core.datasets import DataWarning
from webapp.ml.core.tables.reading import BOOLEANS, Columns, kind_of

Kind: TypeAlias = Literal["number", "boolean", "category", "datetime", "text"]
Task: TypeAlias = Literal["regression", "classification"]

MOST_CATEGORIES = 1000
LEAST_ID_ROWS = 20  # among fewer rows, values may all differ by chance
ID_SHARE = 0.9  # of different values, from which on text names the rows
TEXT_LENGTH, TEXT_WORDS = 30, 5  # of free text, in the mean
FEW_NUMBERS = 10  # whole numbers of a target that may be the codes of classes
N_EXAMPLES, LONGEST_EXAMPLE = 3, 60


@dataclass(frozen=True)
class Column:
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
    columns: tuple[Column, ...]
    warnings: tuple[DataWarning, ...]
    task: Task | None = None


def inspect_columns(found: Columns, *, target: str | None = None) -> Inspection:
    """Return the kind of each column, what its values are, and warnings.

    ``target`` names the column to predict.
    """
    columns, warnings = [], list(found.warnings)
    for name in found.rows.column_names:
        values, kind = _find_kind(found.rows[name], found)
        column = _describe(name, values, kind)
        columns.append(column)
        if name != target:
            warnings += [DataWarning(name, message) for message in _find_faults(column, values)]
    inspection = Inspection(found.rows.num_rows, tuple(columns), tuple(warnings))
    return inspection if target is None else _judge_target(inspection, target)


def _find_kind(values: Any, found: Columns) -> tuple[Any, Kind | None]:
    """Return the values in the type of their kind, missing ones as null, and the kind."""
    import pyarrow as pa
    import pyarrow.compute as pc

    is_dictionary = pa.types.is_dictionary(values.type)
    if is_dictionary:
        values = values.cast(values.type.value_type)
    kind = kind_of(values.type)
    if kind == "string":
        return _find_kind_of_text(values, found)
    if is_dictionary and kind == "integer":  # what pandas calls a categorical
        return values, "category"
    if kind in ("integer", "decimal"):
        return values.cast(pa.float64(), safe=False), "number"
    if kind == "floating":
        values = values.cast(pa.float64())
        return pc.if_else(pc.is_finite(values), values, pa.scalar(None, pa.float64())), "number"
    if kind == "boolean":
        return values, "boolean"
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        zone = getattr(values.type, "tz", None) and "UTC"  # that of the type may be any text
        return values.cast(pa.timestamp("us", zone), safe=False), "datetime"
    return values, None


def _find_kind_of_text(values: Any, found: Columns) -> tuple[Any, Kind | None]:
    import pyarrow as pa
    import pyarrow.compute as pc

    values = pc.utf8_trim_whitespace(values.cast(pa.large_string()))
    values = pc.if_else(pc.equal(values, ""), pa.scalar(None, values.type), values)
    present = values.drop_null()
    if not len(present):
        return values, None
    if found.untyped:
        written = (
            pc.replace_substring(values, found.decimal, ".") if found.decimal != "." else values
        )
        if (numbers := _try_cast(written, pa.float64())) is not None:
            return _find_kind(numbers, found)
    distinct = pc.unique(present)
    if len(distinct) <= 4 and set(pc.utf8_lower(distinct).to_pylist()) <= BOOLEANS.keys():
        return pc.equal(pc.utf8_lower(values), "true"), "boolean"
    # Spreadsheets write 2026/01/31, which pyarrow does not read.
    dated = pc.replace_substring_regex(values, r"^(\d{4})/(\d{2})/(\d{2})", r"\1-\2-\3")
    for zone in (None, "UTC"):
        if (moments := _try_cast(dated, pa.timestamp("us", zone))) is not None:
            return moments, "datetime"
    if _is_free_text(distinct):
        return values, "text"
    is_id = len(present) >= LEAST_ID_ROWS and len(distinct) > ID_SHARE * len(present)
    return values, None if is_id or len(distinct) > MOST_CATEGORIES else "category"


def _try_cast(values: Any, to: Any) -> Any:
    """Return text as another type; None where some value is none of it."""
    import pyarrow as pa

    try:
        return values.cast(to)
    except pa.ArrowInvalid:
        return None


def _is_free_text(distinct: Any) -> bool:
    import pyarrow.compute as pc

    length = pc.mean(pc.utf8_length(distinct)).as_py()
    words = pc.mean(pc.count_substring(distinct, " ")).as_py() + 1
    return bool(length >= TEXT_LENGTH and words >= TEXT_WORDS)


def _describe(name: str, values: Any, kind: Kind | None) -> Column:
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
    return Column(name, kind, values.null_count, distinct, examples, minimum, maximum)


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


def _find_faults(column: Column, values: Any) -> Iterator[str]:
    """Yield why a column is no use as a feature, or should be looked at."""
    n_rows = len(values)
    if column.missing == n_rows:
        yield "has no values"
    elif column.kind is None and not column.distinct:
        yield f"holds {kind_of(values.type)} values, which no model takes; write them as numbers"
    elif column.kind is None and column.distinct > ID_SHARE * (n_rows - column.missing):
        yield "has another value in nearly every row, as names and ids have"
    elif column.kind is None:
        yield f"has {column.distinct} different values; a category has at most {MOST_CATEGORIES}"
    elif column.distinct == 1 and not column.missing:
        yield "has the same value in every row"
    elif column.kind == "number" and _numbers_the_rows(column, n_rows):
        yield "numbers the rows"


def _numbers_the_rows(column: Column, n_rows: int) -> bool:
    low, high = column.minimum, column.maximum
    return (
        n_rows >= LEAST_ID_ROWS
        and column.distinct == n_rows
        and isinstance(low, float)
        and isinstance(high, float)
        and low.is_integer()
        and high - low == n_rows - 1
    )


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
        messages.append("has few whole numbers, which may be the codes of classes")
    warnings = tuple(DataWarning(target, message) for message in messages)
    return Inspection(found.n_rows, found.columns, found.warnings + warnings, task)
