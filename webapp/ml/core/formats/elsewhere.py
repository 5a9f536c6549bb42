"""What the formats of other libraries share: the library, the columns, a try, a description."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from webapp.errors import InvalidInput
from webapp.ml.core.datasets import (
    LONGEST_LABEL,
    Matrix,
    Texts,
    Vector,
    check_feature_names,
    default_feature_names,
    describe_label,
)
from webapp.ml.core.explaining import Explanation, Of, check_finite, check_seconds, refuse
from webapp.ml.core.formats.fitted import compare_sample, try_model
from webapp.ml.core.formats.shapes import LoadedModel
from webapp.ml.core.importances import Importances, list_importances
from webapp.ml.core.scoring import Scores
from webapp.ml.core.signature import Column, Signature, Task, parse_signature
from webapp.ml.errors import ArtifactUnusable

REQUIREMENTS = "requirements/boosting.txt"
MOST_CATEGORIES = 100_000  # of a model: they stand in its signature
LONGEST_MESSAGE = 300  # characters
DEEPEST_EXPLAINED = 256  # levels: both libraries explain by calls nested as deeply
SECONDS_BY_STEP = 1e-8  # of explaining: leaves times the square of the depth


def import_library(name: str) -> Any:
    """Return a library that need not be installed; raises ArtifactUnusable where it is not."""
    try:
        return importlib.import_module(name)
    except ImportError:
        message = f"it needs {name}, which is not installed: pip install -r {REQUIREMENTS}"
        raise ArtifactUnusable(message) from None


@dataclass(frozen=True)
class Upload:
    """What came with a file: see ``fitted.describe``."""

    max_features: int
    feature_names: Sequence[str] | None = None
    signature: Mapping[str, Any] | None = None
    sample: Any = None
    expected: Sequence[Any] | None = None

    def make_signature(
        self, columns: Sequence[Column], learnt: Sequence[str], task: Task
    ) -> Signature:
        """Return columns by the names that were given, else those learnt, else x1, x2, ….

        A signature that was given replaces them; it has as many columns, and text where they have
        it. Raises ArtifactUnusable for too many, and InvalidInput for what does not fit.
        """
        count = len(columns)
        if count > self.max_features:
            message = f"it has {count} features, at most {self.max_features} are allowed"
            raise ArtifactUnusable(message)
        if self.signature is not None:
            given = parse_signature(self.signature)
            kinds = [(column.kind == "text", len(column.inputs)) for column in given.columns]
            if kinds != [(column.kind == "text", len(column.inputs)) for column in columns]:
                message = "does not fit: the model takes " + ", ".join(c.kind for c in columns)
                raise InvalidInput({"signature": [message[:LONGEST_MESSAGE]]})
            return replace(given, task=task)
        names = self.feature_names or learnt or default_feature_names(count)
        if len(names) != count:
            raise InvalidInput({"feature_names": [f"has {len(names)} names for {count} features"]})
        check_feature_names(names)
        named = (replace(column, name=name) for column, name in zip(columns, names, strict=True))
        return Signature(tuple(named), task)

    def describe(
        self,
        loaded: LoadedModel,
        *,
        estimator: str,
        params: Mapping[str, Any],
        gains: Vector | None = None,
    ) -> dict[str, Any]:
        """Return what a version of a model has, as JSON.

        ``gains`` are those of the splits by each column, (n_columns,), None where it has no trees.
        Raises ArtifactUnusable where it does not predict, and InvalidInput where it predicts
        something else than what is expected.
        """
        rows = try_model(loaded, self.sample)
        return {
            "task": loaded.signature.task,
            "estimator": estimator,
            "model_type": type(loaded.model).__name__,
            "params": dict(params),
            "scale": False,
            "feature_names": list(loaded.signature.names),
            "signature": loaded.signature.to_json(),
            "classes": None if loaded.classes is None else list(loaded.classes),
            "coefficients": None,
            "importances": _describe_gains(gains, loaded.signature),
            "metrics": compare_sample(loaded, rows, self.expected),
        }


def _describe_gains(gains: Vector | None, signature: Signature) -> Importances | None:
    """Return the share of each column in the gains of all trees."""
    if gains is None or len(gains) != len(signature.columns):
        return None
    with np.errstate(all="ignore"):
        return list_importances("gain", signature.names, gains / gains.sum())


def make_category(values: Sequence[Any]) -> Column:
    """Return the column of the categories of a pandas frame, whose places are their codes.

    Blanks around text are left out, as they are of what is sent. Raises ArtifactUnusable.
    """
    if set(map(type, values)) == {bool} and list(values) == [False, True]:
        return Column("", "boolean", missing=True)
    if all(type(value) in (int, float) for value in values):
        categories: tuple[Any, ...] = tuple(map(float, values))
    elif all(type(value) is str and describe_label(value) is None for value in values):
        categories = tuple(value.strip() for value in values)
    else:
        raise ArtifactUnusable(
            f"its categories are neither numbers nor text of 1 to {LONGEST_LABEL} characters"
        )
    if not categories or len(set(categories)) != len(categories):
        raise ArtifactUnusable("its categories are not different values")
    return Column("", "category", missing=True, categories=categories)


def score_classes(probabilities: Matrix, labels: Any = None) -> Scores:
    """Return the most probable of the classes 0, 1, … with the probabilities, (n, n_classes)."""
    if labels is None:
        labels = probabilities.argmax(axis=1)
    return Scores(labels, probabilities.astype(np.float64), are_labels=True)


def hide_unseen(X: Matrix, coded: Sequence[int]) -> Matrix:
    """Return rows whose new categories, at the places ``coded``, are missing values."""
    if not coded:
        return X
    X = X.copy()
    codes = X[:, coded]
    X[:, coded] = np.where(codes < 0, np.nan, codes)
    return X


@dataclass(frozen=True)
class LibraryExplainer:
    """Explains rows by the library of their model; see ``explaining.Explainer``.

    ``contribute(X)`` returns (n_rows, n_functions, n_features + 1), whose last is the base.
    ``children`` are those of each tree, left and right: (n_nodes,), negative where there is none.
    """

    contribute: Callable[[Matrix], Any]
    coded: Sequence[int]
    of: Of | None
    children: Sequence[tuple[Any, Any]]

    def __call__(self, X: Matrix, texts: Texts | None = None, means: Any = None) -> Explanation:
        """Return the explanation of encoded rows. Trees have means of their own."""
        if self.of is None:
            raise refuse("is not possible for models of several outputs")
        check_seconds(len(X), self._seconds_by_row)
        found = self.contribute(hide_unseen(X, self.coded)).astype(np.float64)
        added = found[:, :, :-1].transpose(0, 2, 1)
        against: Any = "training mean" if self.children else "zero"
        return check_finite(Explanation(found[0, :, -1], added, self.of, against))

    @cached_property
    def _seconds_by_row(self) -> float:
        steps = 1
        for left, right in self.children:
            level, depth = np.zeros(min(1, len(left)), dtype=np.intp), 0
            while len(level):
                level = np.concatenate([left[level], right[level]])
                level = level[level >= 0]
                depth += 1
                if depth > DEEPEST_EXPLAINED:
                    raise refuse(f"is not possible for trees of more than {depth - 1} levels")
            steps += depth * depth * (1 + int(np.count_nonzero(left < 0)))
        return SECONDS_BY_STEP * steps
