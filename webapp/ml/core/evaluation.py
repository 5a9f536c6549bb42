"""Rows with their target, to judge a fitted model on: as its signature has them.

They come from a table or from JSON, or they are those that a training has held out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from webapp.errors import InvalidInput, faults_in
from webapp.ml.core.datasets import (
    Dataset,
    DataWarning,
    Features,
    Labels,
    Vector,
    drop_missing_targets,
    labels_from_values,
    vector_from_values,
    warn_of_missing,
)
from webapp.ml.core.encoding import recode
from webapp.ml.core.features import check_names, names_in_tables, read_rows, take_features
from webapp.ml.core.metrics import METRICS, SMALLER_IS_BETTER, measure_scores
from webapp.ml.core.scoring import Scorer, score
from webapp.ml.core.signature import Signature
from webapp.ml.core.tables.reading import read_columns
from webapp.ml.core.tables.shapes import BLANKS, Columns, Source
from webapp.ml.core.targets import take_target

NAMED_LABELS = 3  # in a warning


@dataclass(frozen=True)
class Task:
    """What the rows are for: a signature, the ``classes`` that it predicts, and options.

    ``target`` is None where the signature knows it.
    """

    signature: Signature
    classes: Sequence[Any] | None
    target: str | None = None
    ignore_extra: bool = False

    def __post_init__(self) -> None:
        """Raise InvalidInput for a task without a target."""
        if self.signature.task not in ("regression", "classification"):
            task = self.signature.task
            raise InvalidInput([f"cannot be compared: a version for {task} has no target"])

    def find_target(self) -> str:
        """Return the name of the target; raises InvalidInput where it is unknown, or a feature."""
        target = self.signature.target if self.target is None else self.target.strip(BLANKS)
        if target is None:
            raise InvalidInput({"target": ["is needed: the version does not know its name"]})
        if target in self.signature.name_set:
            raise InvalidInput({"target": [f"is {target!r}, a feature of the model"]})
        return target


def read_table(source: Source, task: Task) -> Dataset:
    """Return the rows of a table; raises InvalidInput, by column and row."""
    target = task.find_target()
    names, numbers = names_in_tables(task.signature)
    found = read_columns(
        source, target=target, wanted=names, is_text=lambda name: name not in numbers
    )
    return take_rows(found, task)


def take_rows(found: Columns, task: Task) -> Dataset:
    """Return the rows of columns that have the target; raises InvalidInput, by column and row."""
    signature, target = task.signature, task.find_target()
    given = [name for name in found.rows.column_names if name != target]
    names = names_in_tables(signature)[0]
    warnings = found.warnings + check_names(given, names, ignore_extra=task.ignore_extra)
    # Where the model knows text, the label 1 of CSV is no number.
    of_text = task.classes is not None and isinstance(task.classes[0], str)
    typed = replace(found, untyped=False) if of_text else found
    y, present = take_target(typed, target, signature.task)
    rows = found.rows
    if len(y) < len(present):
        warnings += (warn_of_missing(target, len(present) - len(y), len(present)),)
        rows = rows.filter(present)
    features = take_features(replace(found, rows=rows), signature)
    return _make_dataset(features, y, task, target, warnings)


def take_arrays(X: Any, y: Any, task: Task) -> Dataset:
    """Return JSON rows, as predictions take them, and their targets; raises InvalidInput."""
    if not isinstance(X, list) or not X:
        raise InvalidInput({"X": ["must be an array of at least one row"]})
    X, y, warnings = drop_missing_targets(X, y)
    with faults_in("y"):
        read = vector_from_values if task.classes is None else labels_from_values
        target: Vector | Labels = read(y)
    with faults_in("X"):
        features = read_rows(X, task.signature)
    if len(target) != len(features.X):
        raise InvalidInput({"y": [f"has {len(target)} values for {len(features.X)} rows of X"]})
    return _make_dataset(features, target, task, "y", warnings)


def _make_dataset(
    features: Features,
    y: Vector | Labels,
    task: Task,
    target: str,
    warnings: tuple[DataWarning, ...],
) -> Dataset:
    """Return the dataset that a training would make of the same rows: it has the same digest."""
    signature = task.signature
    if task.classes is not None:
        warnings += tuple(_check_labels(y, task.classes, target))
    for name, found in features.unseen.items():
        message = f"has a value not seen in training in {len(found.values)} of {len(y)} rows"
        warnings += (DataWarning(name, message),)
    columns = tuple(replace(c, minimum=None, maximum=None) for c in signature.columns)
    plain = None if signature.is_matrix else replace(signature, columns=columns)
    return Dataset(features.X, y, signature.names, warnings, plain, features.texts, target)


def _check_labels(y: Any, classes: Sequence[Any], target: str) -> Iterator[DataWarning]:
    """Yield a warning where there are labels that the model does not know.

    Raises InvalidInput where they are of another kind than those that it knows.
    """
    kinds = {False: "whole numbers", True: "text"}
    of_text = isinstance(classes[0], str)
    if of_text != (y.dtype.kind == "O"):
        message = f"holds {kinds[not of_text]}, but the labels of the model are {kinds[of_text]}"
        raise InvalidInput({target: [message]})
    if unknown := set(y.tolist()) - set(classes):
        count = sum(label in unknown for label in y.tolist())
        named = ", ".join(map(repr, sorted(unknown)[:NAMED_LABELS]))
        more = ", …" if len(unknown) > NAMED_LABELS else ""
        message = (
            f"has labels that the model does not know, {named}{more}: the predictions for "
            f"{count} of {len(y)} rows count as wrong"
        )
        yield DataWarning(target, message)


def recode_rows(
    rows: Dataset, source: Signature, task: Task, labels: Sequence[Any] | None
) -> Dataset:
    """Return rows that are encoded by a signature as the signature of a task has them.

    ``labels`` are those that the rows may have, None for a regression. Raises InvalidInput where
    a model of that signature cannot be judged on them.
    """
    signature = task.signature
    if difference := source.find_difference(signature):
        raise InvalidInput([f"it {difference}"])
    for ours, theirs in zip(source.columns, signature.columns, strict=True):
        if ours.parts != theirs.parts:
            raise InvalidInput([f"it has other parts of the dates in {ours.name}"])
        if _are_texts(ours.categories) != _are_texts(theirs.categories):
            raise InvalidInput([f"its categories of {ours.name} are of another type"])
    if labels is not None and _are_texts(labels) != _are_texts(task.classes or ()):
        raise InvalidInput(["its labels are of another type"])
    if signature.is_matrix and np.isnan(rows.X).any():
        raise InvalidInput(["values are missing in the rows that were held out"])
    return replace(rows, X=recode(rows.X, source, signature))


def _are_texts(values: Sequence[Any]) -> bool:
    return bool(values) and isinstance(values[0], str)


def check_metric(metric: str, task: str) -> None:
    """Raise InvalidInput for a metric that models for a task are not judged by."""
    known = METRICS.get(task, ())
    if metric not in known:
        which = f"which are {', '.join(known)}" if known else "which has none"
        raise InvalidInput({"metric": [f"is none of a {task}, {which}"]})


def is_better(metric: str, value: float | None, other: float | None) -> bool:
    """Return whether a value of a metric is better than another one; None is undefined."""
    if value is None or other is None:
        return False
    return value < other if metric in SMALLER_IS_BETTER else value > other


def evaluate(scorer: Scorer, classes: Sequence[Any] | None, rows: Dataset) -> dict[str, Any]:
    """Return the metrics of a model on rows; the ``baseline`` is that of the rows themselves.

    Raises InvalidInput where it predicts several values for a row, and, by row, where a
    prediction is beyond the range of float64.
    """
    scores = score(scorer, rows.X, rows.texts)
    if scores.values.ndim > 1:
        raise InvalidInput(["cannot be compared: the version predicts several values for a row"])
    if classes is not None and list(classes) != sorted(classes):  # of a file from elsewhere
        order = sorted(range(len(classes)), key=classes.__getitem__)
        classes = [classes[place] for place in order]
        if scores.probabilities is not None:
            scores = replace(scores, probabilities=scores.probabilities[:, order])
    return measure_scores(scores, rows.y, classes, rows.y)
