"""Whether a model that was built from a file predicts, and its compiled scorer is right.

The parts of a well-formed file may not fit together, and a compiled scorer computes predictions
in another way than the estimator: both are tried on probe rows before they serve.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from webapp.ml.core.datasets import LONGEST_LABEL, Matrix, describe_label
from webapp.ml.core.estimators import (
    has_probabilities,
    is_classifier,
    split_pipeline,
)
from webapp.ml.core.scoring import Scorer, Scores, compile_scorer, score_by_estimator
from webapp.ml.errors import ArtifactUnusable

log = logging.getLogger(__name__)

PROBE_ROWS = 100
MOST_CELLS = 10**6  # of the probe rows, or of their probabilities: 8 MB
SIZES = (1, 5, 20, PROBE_ROWS)
"""Numbers of rows to compare: trees are walked in another way for one row, a few, and many."""
TOLERANCE = 1e-9  # of the largest prediction
MALFORMED = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What NumPy and scikit-learn raise for parts that make no sense together."""


def make_scorer(model: Any, profile: Mapping[str, Sequence[float | None]] | None = None) -> Scorer:
    """Return the fastest scorer of a fitted model that gives the model's own predictions.

    That is the compiled one where both agree on probe rows, else one that calls the model.
    ``profile`` is that of the rows it was trained on (``metrics.profile_features``), None where
    they are not known.

    Raises ArtifactUnusable where the model's own predict fails, or gives something else than a
    finite number, or one of its labels with finite probabilities, for each row.
    """
    try:
        with np.errstate(all="ignore"):
            if is_classifier(model):
                check_classes(model.classes_)
            X = _draw_rows(model, profile)
            _predict(model, X[:1])  # of many rows, an array could be as long as these by chance
            expected = _predict(model, X)
    except MALFORMED as error:
        raise ArtifactUnusable(f"its own predict fails with {type(error).__name__}") from None
    kind = type(split_pipeline(model)[1]).__name__
    # Between the extremes of its training rows, a model that was trained here may overflow, and
    # an exponential does for all probe rows but the smallest, which come first.
    numbers = expected.numbers[:1] if kind == "PoissonRegressor" else expected.numbers
    if profile is None and not np.isfinite(numbers).all():
        raise ArtifactUnusable("it holds numbers that are not finite")
    try:
        with np.errstate(all="ignore"):
            compiled = compile_scorer(model)
            if all(agree(compiled(X[:n_rows]), expected, n_rows) for n_rows in SIZES):
                return compiled
    except MALFORMED:
        pass
    log.warning("A compiled %s differs from its own predict, which serves instead.", kind)
    return partial(score_by_estimator, model)


def _draw_rows(model: Any, profile: Mapping[str, Sequence[float | None]] | None) -> Matrix:
    """Return rows to try a model on: (100, n_features), fewer of a very wide model."""
    n_features = model.n_features_in_
    width = max(n_features, len(model.classes_) if is_classifier(model) else 1)
    n_rows = min(PROBE_ROWS, max(1, MOST_CELLS // width))
    random = np.random.RandomState(0)
    if profile is not None:
        # A bound beyond float64 is None in the profile: 0 stands for it.
        low, high = (
            np.nan_to_num(np.array(profile[name], dtype=np.float64)) for name in ("min", "max")
        )
        share = random.random_sample((n_rows, n_features))
        return low * (1 - share) + high * share
    rows = random.standard_normal((n_rows, n_features))
    rows *= np.logspace(-3, 3, n_rows)[:, np.newaxis]
    scaler = split_pipeline(model)[0]
    return rows if scaler is None else scaler.inverse_transform(rows)


def check_classes(classes: Any) -> None:
    """Raise ArtifactUnusable unless these are labels that can be shown: (n_classes,)."""
    labels = classes.tolist()
    if classes.ndim != 1 or len(labels) < 2 or len(set(labels)) != len(labels):
        raise ArtifactUnusable("its classes are not two labels or more")
    if classes.dtype.kind == "f" and not np.isfinite(classes).all():
        raise ArtifactUnusable("its classes are not finite")
    words = classes.dtype.kind in "OU"
    if words and any(type(label) is not str or describe_label(label) for label in labels):
        raise ArtifactUnusable(f"its classes are not 1 to {LONGEST_LABEL} printable characters")


def _predict(model: Any, X: Matrix) -> Scores:
    values = np.asarray(model.predict(X))
    if values.shape not in ((len(X),), (len(X), 1)):
        raise ArtifactUnusable("it predicts more than one target: fit it on a vector")
    values = values.reshape(len(X))
    if not is_classifier(model):
        if values.dtype.kind not in "fiu":
            raise ArtifactUnusable("its predictions are not numbers")
        return Scores(values)
    if not set(values.tolist()) <= set(model.classes_.tolist()):
        raise ArtifactUnusable("it predicts other labels than its classes")
    if not has_probabilities(model):
        return Scores(values, are_labels=True)
    probabilities = np.asarray(model.predict_proba(X))
    if probabilities.shape != (len(X), len(model.classes_)) or probabilities.dtype.kind != "f":
        raise ArtifactUnusable("it does not give a probability for each class")
    return Scores(values, probabilities, are_labels=True)


def agree(found: Scores, expected: Scores, n_rows: int) -> bool:
    """Return whether scores are those that are expected of the first rows."""
    if expected.are_labels and not np.array_equal(found.values, expected.values[:n_rows]):
        return False
    numbers = expected.numbers[:n_rows]
    limit = TOLERANCE * np.abs(numbers[np.isfinite(numbers)]).max(initial=0.0)
    return found.numbers.shape == numbers.shape and np.allclose(
        found.numbers, numbers, rtol=0, atol=limit, equal_nan=True
    )
