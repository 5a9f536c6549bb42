"""The values of a target: numbers to learn, or labels of classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webapp.errors import InvalidInput
from webapp.ml.core.datasets import Labels, Vector, describe_label
from webapp.ml.core.kinds import clean_text, find_unlike_numbers, holds_dates, read_numbers
from webapp.ml.core.signature import Task
from webapp.ml.core.tables.numbers import MISSING, to_numbers
from webapp.ml.core.tables.shapes import BOOLEANS, NUMERIC, Columns, kind_of

# A label that is a whole number in JSON, or what pandas makes of one beside a gap.
_WHOLE_NUMBER = re.compile(r"(-?(?:0|[1-9][0-9]*))(?:\.0)?")


def take_target(
    found: Columns, target: str, task: Task | None
) -> tuple[Vector | Labels, NDArray[np.bool_]]:
    """Return the values of a column to predict, and which rows have one: (n_rows,).

    For a regression they are float64. For a classification they are int64 where they are whole
    numbers or booleans (the text of CSV is, when every row is), else str objects. Without a task,
    text and booleans are labels, and numbers are numbers. Raises InvalidInput.
    """
    column = found.rows[target]
    kind = kind_of(column.type)
    if kind == "string" and found.untyped and task != "classification":
        try:
            numbers = read_numbers(column, found)
        except InvalidInput as error:
            if task == "regression" and _holds_numbers(column, found):
                raise InvalidInput({target: error.faults}) from None
        else:
            return _take_numbers(numbers, target)
    if kind in NUMERIC and task != "classification":
        return _take_numbers(column, target)
    if task == "regression":
        words = {"string": "text", "boolean": "booleans"}.get(kind, f"{kind} values")
        advice = "to predict classes, choose a classifier, such as random_forest_classifier"
        raise InvalidInput({target: [f"holds {words}, expected numbers; {advice}"]})
    if kind == "string":
        if task is None:
            _check_no_dates(column, target)
        return _take_strings(column, target, untyped=found.untyped)
    if kind == "boolean" or kind in NUMERIC:
        return _take_whole_numbers(column, target)
    message = f"holds {kind} values, expected numbers, text or booleans"
    raise InvalidInput({target: [message]})


def _holds_numbers(column: Any, found: Columns) -> bool:
    """Return whether any text is a number: the others are then faults, and not classes."""
    import pyarrow.compute as pc

    texts = clean_text(pc.unique(column)).drop_null()
    return len(find_unlike_numbers(texts, found)) < len(texts)


def _check_no_dates(column: Any, name: str) -> None:
    """Raise InvalidInput where text is dates, which no estimator predicts."""
    import pyarrow.compute as pc

    texts = clean_text(pc.unique(column)).drop_null()
    if len(texts) and holds_dates(texts):
        message = "holds dates, expected numbers, text or booleans"
        raise InvalidInput({name: [f"{message}: task=classification takes each for a class"]})


def _take_numbers(column: Any, name: str) -> tuple[Vector, NDArray[np.bool_]]:
    """Return the numbers of a target, and which rows have one: (n_rows,)."""
    values = to_numbers(column)
    if np.isinf(values).any():
        raise InvalidInput({name: {str(np.argmax(np.isinf(values))): [MISSING]}})
    present = ~np.isnan(values)
    return values[present].astype(np.float64, copy=False), present


def _take_whole_numbers(column: Any, name: str) -> tuple[Labels, NDArray[np.bool_]]:
    """Return labels that are whole numbers or booleans, in any type, and which rows have one."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    # Not a number is what pandas writes where a whole number is missing.
    present = ~np.asarray(column.is_null(nan_is_null=True))
    try:
        return np.asarray(column.filter(pa.array(present)).cast(pa.int64())), present
    except pa.ArrowInvalid:
        message = "holds values that are not whole numbers of 64 bits, expected labels"
        raise InvalidInput({name: [message]}) from None


def _take_strings(column: Any, name: str, *, untyped: bool) -> tuple[Labels, NDArray[np.bool_]]:
    """Return the labels in a column of text, and which rows have one."""
    import pyarrow as pa

    # Files are read with dictionaries, batch by batch; the text of JSON has none.
    encoded = column.dictionary_encode().unify_dictionaries().combine_chunks()
    codes = np.asarray(encoded.indices.cast(pa.int64()).fill_null(-1))
    texts = {}  # by code: those that are used
    for code in (np.flatnonzero(np.bincount(codes + 1)) - 1).tolist():
        if code >= 0 and (text := encoded.dictionary[code].as_py()):
            texts[code] = text
    numbers = to_whole_numbers(list(texts.values())) if untyped else None
    labels: list[Any] = numbers or list(texts.values())
    for code, label in zip(texts, labels, strict=True):
        if fault := describe_label(label):
            raise InvalidInput({name: {str(np.argmax(codes == code)): fault}})
    places = np.full(len(encoded.dictionary) + 1, -1)  # the last one is for code -1
    places[list(texts)] = range(len(texts))
    found = places[codes]
    present = found >= 0
    values: Labels = np.array(labels, np.int64 if numbers else np.object_)[found[present]]
    return values, present


def to_whole_numbers(labels: Sequence[str]) -> list[int] | None:
    """Return the labels of a CSV file as numbers where all are whole, or all are booleans."""
    whole = [_WHOLE_NUMBER.fullmatch(label) for label in labels]
    if all(whole):
        return [int(found[1]) for found in whole if found]
    if all(label.lower() in BOOLEANS for label in labels):
        return [BOOLEANS[label.lower()] for label in labels]
    return None
