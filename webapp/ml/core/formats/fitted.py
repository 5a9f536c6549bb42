"""From any fitted scikit-learn model to its description, and to the scorer that serves it.

What this service trains itself, alone or standardised, has compiled scorers; so have its own
pipelines. Every other model is called as it was fitted: with a data frame, a matrix, or texts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from webapp.errors import InvalidInput
from webapp.ml.core import training
from webapp.ml.core.datasets import (
    Features,
    Matrix,
    Texts,
    check_feature_names,
    check_width,
    matrix_from_records,
    matrix_from_rows,
)
from webapp.ml.core.encoding import encode_rows
from webapp.ml.core.estimators import (
    Estimator,
    find_by_type,
    read_params,
    split_pipeline,
    to_json,
)
from webapp.ml.core.explaining import ModelExplainer
from webapp.ml.core.formats.checks import MALFORMED
from webapp.ml.core.formats.columns import infer_columns
from webapp.ml.core.formats.shapes import Coefficients, LoadedModel
from webapp.ml.core.importances import Importances, read_importances
from webapp.ml.core.pipelines import make_checked_scorer, score_in_blocks
from webapp.ml.core.preprocessing import ESTIMATOR, is_typed, make_frame
from webapp.ml.core.scoring import Scorer, Scores
from webapp.ml.core.signature import Signature, Task, parse_signature
from webapp.ml.core.training import describe_coefficients
from webapp.ml.core.validation import (
    MOST_CELLS,
    PROBE_ROWS,
    TOLERANCE,
    check_classes,
    make_scorer,
)
from webapp.ml.errors import ArtifactUnusable

TASKS: Mapping[str | None, Task] = {
    "regressor": "regression",
    "classifier": "classification",
    "clusterer": "clustering",
    "density_estimator": "clustering",  # mixtures, whose components are clusters
    "outlier_detector": "outliers",
}
MISSING_SHARE = 0.1  # of the values that a model is tried with, where it takes missing ones
_OWN_STEPS = {
    "categories": ("OneHotEncoder", "OrdinalEncoder"),
    "target": ("TargetEncoder",),
    "numbers": ("FunctionTransformer", "SimpleImputer", "Pipeline"),
    "text": ("Pipeline",),
}
_OWN_PARTS = {
    "numbers": ([], ["impute", "scale"]),
    "text": (["impute", "words", "weigh"], ["impute", "words", "weigh", "reduce"]),
}
_OWN_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "OneHotEncoder": {"drop": None, "min_frequency": None, "max_categories": None},
    "SimpleImputer": {"add_indicator": True, "keep_empty_features": True},
}
_SCALER = "sklearn.preprocessing._data.StandardScaler"


def prepare(
    model: Any, signature: Signature, profile: Mapping[str, Any] | None = None
) -> LoadedModel:
    """Return a fitted model with the fastest scorer that gives its own predictions.

    ``profile`` is that of the rows it was trained on. Raises ArtifactUnusable where a model of the
    catalogue does not predict; of others, `describe` has found out when they were uploaded.
    """
    if is_own_pipeline(model):
        with suppress(ArtifactUnusable):  # somebody else's may refuse unseen values, say
            return _assemble(model, signature, profile, make_checked_scorer(model, signature))
    entry = find_entry(model)
    if entry is not None and _is_matrix(signature):
        for part in split_pipeline(model):
            vars(part or model).pop("feature_names_in_", None)  # it would warn of every matrix
        if _has_one_output(model):
            scorer = make_scorer(model, profile)
            if not signature.is_matrix:
                scorer = partial(_score_gaps, scorer, _Caller.make(model, signature))
            return _assemble(model, signature, profile, scorer)
    caller = _Caller.make(model, signature)
    return _assemble(model, signature, profile, partial(score_in_blocks, caller.score))


def _assemble(
    model: Any, signature: Signature, profile: Mapping[str, Any] | None, scorer: Scorer
) -> LoadedModel:
    caller = _Caller.make(model, signature)
    explain = ModelExplainer(model, signature, caller.to_rows, profile)
    return LoadedModel(model, signature, caller.classes, scorer, explain)


def describe(
    model: Any,
    *,
    max_features: int,
    feature_names: Sequence[str] | None = None,
    signature: Mapping[str, Any] | None = None,
    sample: Any = None,
    expected: Sequence[Any] | None = None,
) -> dict[str, Any]:
    """Return what a version of an uploaded model has, as JSON.

    Without a ``signature``, the columns are those that the model was fitted on, called
    ``feature_names`` where it has learnt no names. The predictions for the rows of ``sample``
    must be those that are ``expected``.

    Raises ArtifactUnusable, and InvalidInput where something that came with the file is wrong.
    """
    task = find_task(model)
    if signature is None:
        found = Signature(infer_columns(model, feature_names), task)
    else:
        found = replace(parse_signature(signature), task=task)
    try:
        _check_categories(found)
        check_feature_names(found.names)
    except InvalidInput as error:
        field = "feature_names" if signature is None else "signature"
        faults = error.faults
        faults = faults["feature_names"] if isinstance(faults, Mapping) else faults
        raise InvalidInput({field: faults}) from None
    if len(found.columns) > max_features:
        n_features = len(found.columns)
        raise ArtifactUnusable(f"it has {n_features} features, at most {max_features} are allowed")
    try:
        loaded, rows = _load(model, found, sample)
    except (ArtifactUnusable, InvalidInput):
        if signature is not None or not any(column.missing for column in found.columns):
            raise
        # What its parts say of missing values need not hold of the whole.
        complete = tuple(replace(column, missing=False) for column in found.columns)
        loaded, rows = _load(model, replace(found, columns=complete), sample)
    metrics = compare_sample(loaded, rows, expected)
    final, entry = find_final(model), find_entry(model)
    own = (entry is not None and _has_one_output(model)) or is_own_pipeline(model)
    row = find_by_type(_name_type(final)) if own else None
    return {
        "task": task,
        "estimator": type(final).__name__ if row is None else row.name,
        "model_type": type(final).__name__,
        "params": _list_params(final) if row is None else read_params(row, final),
        "scale": own and entry is not None and final is not model,
        "feature_names": list(found.names),
        "signature": loaded.signature.to_json(),
        "classes": None if loaded.classes is None else list(loaded.classes),
        "coefficients": describe_coefficients(model, loaded.signature) if own else None,
        "importances": _read_importances(model, loaded.signature),
        "metrics": metrics,
    }


def _read_importances(model: Any, signature: Signature) -> Importances | None:
    if is_typed(model) and not is_own_pipeline(model):
        return None
    try:
        with np.errstate(all="ignore"):
            return read_importances(model, signature)
    except MALFORMED:  # parts that its predict does not use need not fit together
        return None


def list_coefficients(loaded: LoadedModel) -> Coefficients | None:
    """Return the coefficients of a linear model, in units of the unscaled features."""
    model = loaded.model
    if is_own_pipeline(model) or (find_entry(model) is not None and _has_one_output(model)):
        return training.list_coefficients(model, loaded.signature)
    return None


def _load(model: Any, signature: Signature, sample: Any) -> tuple[LoadedModel, Features | None]:
    """Return a model that predicts, and the rows of a sample."""
    try:
        if signature.task == "classification" and _list_classes(model, signature.task):
            check_classes(np.asarray(model.classes_))
        loaded = prepare(model, signature)
    except MALFORMED as error:
        raise ArtifactUnusable(f"its own predict fails with {type(error).__name__}") from None
    return loaded, try_model(loaded, sample)


def try_model(loaded: LoadedModel, sample: Any) -> Features | None:
    """Return the rows of a sample; raises ArtifactUnusable unless a model predicts for them.

    Where there is none (None), it must predict for drawn rows. Raises InvalidInput for rows that
    are not as its signature has them.
    """
    try:
        rows = None if sample is None else _read_rows(sample, loaded.signature)
    except InvalidInput as error:
        raise InvalidInput({"sample": error.faults}) from None
    _check(loaded, rows)
    return rows


def _check_categories(signature: Signature) -> None:
    """Raise ArtifactUnusable for categories that no database and no JSON can hold."""
    for column in signature.columns:
        for value in column.categories:
            if isinstance(value, str):
                fits = "\0" not in value and value == value.encode(errors="replace").decode()
            else:
                fits = math.isfinite(value)
            if not fits:
                raise ArtifactUnusable(
                    f"it has categories that cannot be stored, in {column.name!r}"
                )


def find_entry(model: Any) -> Estimator | None:
    """Return the row of the catalogue of a model, alone or standardised; None for another."""
    steps = getattr(model, "steps", None)
    if steps is not None and (len(steps) != 2 or _name_type(steps[0][1]) != _SCALER):
        return None
    final = split_pipeline(model)[1]
    has_categories = getattr(final, "_preprocessor", None) is not None
    return None if has_categories else find_by_type(_name_type(final))


def _has_one_output(model: Any) -> bool:
    try:
        with np.errstate(all="ignore"):
            return np.size(model.predict(np.zeros((1, model.n_features_in_)))) == 1
    except MALFORMED as error:
        raise ArtifactUnusable(f"its own predict fails with {type(error).__name__}") from None


def is_own_pipeline(model: Any) -> bool:
    """Return whether a model is a pipeline as `preprocessing.build_pipeline` makes them."""
    if not is_typed(model) or [name for name, _ in model.steps[1:]] != [ESTIMATOR]:
        return False
    transformers = getattr(model.steps[0][1], "transformers_", [("", None, [])])
    return find_by_type(_name_type(model.steps[-1][1])) is not None and all(
        _is_own_step(name, step) and all(isinstance(column, str) for column in columns)
        for name, step, columns in transformers
        if name != "remainder"
    )


def _is_own_step(name: str, step: Any) -> bool:
    if isinstance(step, str) or type(step).__name__ not in _OWN_STEPS.get(name, ()):
        return False
    parts = dict(getattr(step, "steps", ()))
    if list(parts) not in _OWN_PARTS.get(name, ([],)):
        return False
    return name == "text" or all(
        part.get_params(deep=False)[option] == value
        for part in (step, *parts.values())
        for option, value in _OWN_OPTIONS.get(type(part).__name__, {}).items()
    )


def find_final(model: Any) -> Any:
    """Return the estimator at the end of pipelines and searches."""
    while True:
        if hasattr(model, "best_estimator_"):
            model = model.best_estimator_
        elif hasattr(model, "steps"):
            model = model.steps[-1][1]
        else:
            return model


def _name_type(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def find_task(model: Any) -> Task:
    """Return what a model predicts; raises ArtifactUnusable where it predicts nothing."""
    from sklearn.base import BaseEstimator
    from sklearn.utils import get_tags
    from sklearn.utils.validation import check_is_fitted

    if not isinstance(model, BaseEstimator):
        raise ArtifactUnusable("it is not a scikit-learn estimator")
    try:
        model.get_params()  # each is there
        check_is_fitted(model)
        kind = get_tags(model).estimator_type
        if kind in TASKS and hasattr(model, "predict"):
            return TASKS[kind]
    except MALFORMED as error:
        if type(error).__name__ == "NotFittedError":
            raise ArtifactUnusable("it has not been fitted") from None
        raise ArtifactUnusable("its parts do not fit together") from None
    raise ArtifactUnusable(f"a {type(model).__name__} does not predict new rows")


def _list_classes(model: Any, task: Task) -> tuple[Any, ...] | None:
    """Return the labels of a classifier with one output, or the components of a mixture."""
    final = find_final(model)
    if task == "classification":
        many = isinstance(model.classes_, list) or getattr(final, "multilabel_", False)
        return None if many else tuple(np.asarray(model.classes_).tolist())
    if task == "clustering" and hasattr(final, "predict_proba"):
        return tuple(range(len(final.means_)))
    return None


def _is_matrix(signature: Signature) -> bool:
    return all(column.kind in ("number", "boolean") for column in signature.columns)


def _score_gaps(compiled: Scorer, caller: _Caller, X: Matrix) -> Scores:
    """Return the scores of rows, some of which may be missing: compiled code takes none."""
    return caller.score(X) if np.isnan(X).any() else compiled(X)


@dataclass(frozen=True)
class _Caller:
    """Calls a model with rows in the form that it takes: a frame, texts, a matrix or objects."""

    model: Any
    signature: Signature
    form: str
    classes: tuple[Any, ...] | None
    has_probabilities: bool
    has_decision: bool

    @classmethod
    def make(cls, model: Any, signature: Signature) -> _Caller:
        kinds = [column.kind for column in signature.columns]
        if getattr(model, "feature_names_in_", None) is not None:
            form = "frame"
        elif kinds == ["text"]:
            form = "texts"
        else:
            form = "matrix" if _is_matrix(signature) else "objects"
        classes = _list_classes(model, signature.task)
        return cls(
            model,
            signature,
            form,
            classes,
            classes is not None and hasattr(model, "predict_proba"),
            signature.task == "outliers" and hasattr(model, "decision_function"),
        )

    def score(self, X: Matrix, texts: Texts | None = None) -> Scores:
        """Return what the model itself says of encoded rows.

        Raises InvalidInput for rows that its own predict refuses.
        """
        rows = self.to_rows(X, texts)
        try:
            return self._call(rows)
        except MALFORMED:
            message = "has values that the model's own predict refuses: a category new to it, say"
            raise InvalidInput([message]) from None

    def to_rows(self, X: Matrix, texts: Texts | None = None) -> Any:
        """Return encoded rows in the form that the model takes."""
        if self.form == "texts" and texts is not None:
            return [text or "" for text in texts[:, 0]]
        if self.form == "matrix" or self.form == "texts":
            return X
        frame = make_frame(self.signature, X, texts)
        return frame.to_numpy(dtype=object) if self.form == "objects" else frame

    def _call(self, rows: Any) -> Scores:
        values = self.model.predict(rows)
        values = np.asarray(values.toarray() if hasattr(values, "toarray") else values)
        if values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        probabilities = decision = None
        if self.has_probabilities and values.ndim == 1:
            probabilities = np.asarray(self.model.predict_proba(rows), dtype=np.float64)
        if self.has_decision:
            decision = np.asarray(self.model.decision_function(rows), dtype=np.float64)
        are_labels = self.signature.task != "regression"
        return Scores(values, probabilities, are_labels=are_labels, decision=decision)


def _check(loaded: LoadedModel, sample: Features | None) -> None:
    """Raise ArtifactUnusable unless a model predicts: for the sample, or for drawn rows.

    Those must be of one kind at least: a model may be made for positive numbers alone, say.
    """
    reason = ""
    drawn = _draw_rows(loaded.signature) if sample is None else [(sample.X, sample.texts)]
    for X, texts in drawn:
        try:
            with np.errstate(all="ignore"):
                # Of many rows, an array could be as long as these by chance.
                for n_rows in (1, len(X)):
                    rows = [X[:n_rows]] if texts is None else [X[:n_rows], texts[:n_rows]]
                    _check_scores(loaded, loaded.scorer(*rows), n_rows)
            return
        except (InvalidInput, ArithmeticError, ValueError):
            reason = reason or "its own predict fails for rows as its signature has them"
        except ArtifactUnusable as error:
            reason = error.reason
    raise ArtifactUnusable(reason)


def _check_scores(loaded: LoadedModel, scores: Scores, n_rows: int) -> None:
    values, probabilities, classes = scores.values, scores.probabilities, loaded.classes
    kinds = "fiu" if loaded.signature.task == "regression" else "fiubOU"
    if values.ndim not in (1, 2) or len(values) != n_rows or values.dtype.kind not in kinds:
        raise ArtifactUnusable("its own predict does not give a value for each row")
    if classes is not None and not set(values.tolist()) <= set(classes):
        raise ArtifactUnusable("it predicts other labels than its classes")
    if probabilities is not None and probabilities.shape != (n_rows, len(classes or ())):
        raise ArtifactUnusable("it does not give a probability for each class")
    if scores.decision is not None and scores.decision.shape != (n_rows,):
        raise ArtifactUnusable("it does not give a score for each row")
    if not np.isfinite(scores.numbers).all():
        raise ArtifactUnusable("it holds numbers that are not finite")


def _read_rows(rows: Any, signature: Signature) -> Features:
    """Return rows of JSON, arrays or objects; raises InvalidInput."""
    if not signature.is_matrix:
        return encode_rows(rows, signature)
    if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
        return Features(matrix_from_records(rows, signature.names))
    X = matrix_from_rows(rows)
    check_width(X, len(signature.names))
    return Features(X)


def compare_sample(
    loaded: LoadedModel, sample: Features | None, expected: Sequence[Any] | None
) -> dict[str, Any]:
    """Return, as ``self_check``, how far predictions are from those that were expected.

    That is relative to the largest. Raises InvalidInput where it is more than ``TOLERANCE``, or
    labels differ. Without a sample, nothing is compared.
    """
    if sample is None or expected is None:
        return {}
    found = loaded.scorer(*([sample.X] if sample.texts is None else [sample.X, sample.texts]))
    values = found.values.tolist()
    if len(values) != len(expected):
        message = f"has {len(expected)} predictions for {len(values)} rows of sample"
        raise InvalidInput({"expected": [message]})
    largest = 0.0
    if loaded.signature.task == "regression":
        try:
            given = np.array(expected, dtype=np.float64).reshape(found.values.shape)
        except (TypeError, ValueError):
            raise InvalidInput({"expected": ["must be a prediction for each row"]}) from None
        scale = np.abs(found.values).max(initial=0.0) or 1.0
        apart = np.abs(found.values - given).reshape(len(values), -1).max(axis=1) / scale
        row = int(np.argmax(apart))
        largest = float(apart[row])
        same = largest <= TOLERANCE
    else:
        row = next((n for n, value in enumerate(values) if value != expected[n]), -1)
        same = row < 0
    if not same:
        message = f"row {row} of sample gives {json.dumps(values[row])}"
        if loaded.signature.task == "regression":
            message += f"; the largest difference is {largest:.3g} of the largest prediction"
        raise InvalidInput({"expected": [message]})
    compared = {"rows": len(values), "largest_difference": largest, "tolerance": TOLERANCE}
    return {"self_check": compared}


def _draw_rows(signature: Signature) -> Iterator[tuple[Matrix, Texts | None]]:
    """Yield encoded rows to try a model with: of any numbers, positive ones, and small ones."""
    width = max(1, len(signature.inputs))
    n_rows = min(PROBE_ROWS, max(1, MOST_CELLS // width))
    random = np.random.RandomState(0)
    drawn = random.standard_normal((n_rows, width))
    gaps = random.random_sample((n_rows, width)) < MISSING_SHARE
    words = random.choice(
        np.array(["", "a few words", "more"], dtype=object), (n_rows, len(signature.text_names))
    )
    for values in (drawn, np.abs(drawn), np.floor(np.abs(drawn)), np.abs(drawn) / 100):
        X: Matrix = values[:, : len(signature.inputs)].copy()
        for column, place in zip(signature.columns, signature.places, strict=True):
            if column.kind == "category":
                codes = random.randint(0, len(column.categories), n_rows)
                X[:, place] = codes[:, np.newaxis]
            elif column.kind == "boolean":
                X[:, place] = X[:, place] > 0
            if column.missing:
                X[:, place][gaps[:, place]] = np.nan
        yield X, words if signature.text_names else None


def _list_params(final: Any) -> dict[str, Any]:
    """Return the parameters of an estimator: JSON values, and of others the name of the type."""
    shown = {}
    for name, value in final.get_params(deep=False).items():
        try:
            shown[name] = to_json(value)
        except ValueError:
            shown[name] = type(value).__name__
    return shown
