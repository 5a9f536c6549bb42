"""Which columns a fitted scikit-learn model takes, as its own parts have learnt them.

A raw column is followed through pipelines, column transformers and meta-estimators: an encoder
that it reaches knows its categories, a vectoriser makes it text, an imputer takes missing values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from webapp.errors import InvalidInput
from webapp.ml.core.datasets import default_feature_names
from webapp.ml.core.formats.checks import MALFORMED
from webapp.ml.core.preprocessing import choose_columns
from webapp.ml.core.signature import Column
from webapp.ml.errors import ArtifactUnusable

TEXT = "text"  # the name of the only column of a model of texts
_INNER = ("best_estimator_", "regressor_", "estimator_", "estimators_", "calibrated_classifiers_")


def infer_columns(model: Any, names: Sequence[str] | None) -> tuple[Column, ...]:
    """Return the columns of a fitted model: called as it has learnt, or as ``names`` say.

    Raises ArtifactUnusable where they cannot be known, and InvalidInput for other names than it
    has learnt, or more or fewer.
    """
    found: dict[int, Column] = {}
    learnt = getattr(model, "feature_names_in_", None)
    if learnt is not None and not all(type(name) is str for name in learnt):
        raise ArtifactUnusable("its feature names are not strings")
    try:
        n_features = getattr(model, "n_features_in_", 1)
        known = learnt if names is None else names
        _follow([model], list(range(n_features)), found)
    except MALFORMED:
        raise ArtifactUnusable("its parts do not fit together") from None
    texts = [column.kind for column in found.values()] == ["text"]
    if not hasattr(model, "n_features_in_") and not texts:
        raise ArtifactUnusable("it does not say which columns it takes: send a signature")
    if known is None:
        known = (TEXT,) if texts else default_feature_names(n_features)
    if len(known) != n_features:
        message = f"has {len(known)} names for {n_features} features"
        raise InvalidInput({"feature_names": [message]})
    # A column that is dropped is not asked for.
    return tuple(
        Column(known[place], column.kind, column.missing, categories=column.categories)
        for place, column in sorted(found.items())
    )


def _follow(parts: list[Any], places: list[int], found: dict[int, Column]) -> None:
    """Note the columns at ``places``, which reach the first of the parts, and then the next."""
    from sklearn.base import OneToOneFeatureMixin
    from sklearn.compose import ColumnTransformer
    from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import FeatureUnion, Pipeline
    from sklearn.preprocessing import (
        FunctionTransformer,
        OneHotEncoder,
        OrdinalEncoder,
        TargetEncoder,
    )
    from sklearn.utils import get_tags

    missing = None  # not known yet
    while parts:
        part, *parts = parts
        inner = _find_inner(part)
        passed = isinstance(part, FunctionTransformer) and not isinstance(part.func, np.ufunc)
        if part is None or isinstance(part, str) or passed:
            continue
        if isinstance(part, Pipeline):
            parts = [step for _, step in part.steps] + parts
        elif isinstance(part, FeatureUnion):
            parts = [part.transformer_list[0][1], *parts]
        elif isinstance(part, ColumnTransformer) and len(places) != part.n_features_in_:
            break  # it stands behind another one, and sees other columns
        elif isinstance(part, ColumnTransformer):
            for _, step, chosen in part.transformers_:
                if not isinstance(step, str) or step != "drop":
                    taken = choose_columns(part, chosen)
                    _follow([step, *parts], [places[place] for place in taken], found)
            return
        elif isinstance(part, CountVectorizer | HashingVectorizer):
            for place in places:
                found.setdefault(place, Column("", "text", missing=True))
            return
        elif isinstance(part, OneHotEncoder | OrdinalEncoder | TargetEncoder):
            ignores = isinstance(part, TargetEncoder) or part.handle_unknown != "error"
            for place, categories in zip(places, part.categories_, strict=True):
                column = _describe_categories(categories, missing=bool(missing) or ignores)
                found.setdefault(place, column)
            return
        elif inner is not None:
            parts = [inner, *parts]
        elif (encoder := getattr(part, "_preprocessor", None)) is not None and (
            len(places) == encoder.n_features_in_
        ):
            parts = [encoder]  # of histogram boosting, which takes the other columns as they are
        else:
            takes_gaps = get_tags(part).input_tags.allow_nan
            if missing is None and not takes_gaps:
                missing = False
            if missing is None and "impute" in type(part).__module__:
                missing = True
            if not isinstance(part, OneToOneFeatureMixin | SimpleImputer):
                break  # what follows sees other columns
    for place in places:
        found.setdefault(place, Column("", missing=missing is not False))


def _find_inner(part: Any) -> Any:
    """Return what a meta-estimator calls with the rows as they are, where that is a pipeline."""
    for name in _INNER:
        inner = getattr(part, "__dict__", {}).get(name)
        if isinstance(inner, list) and inner:
            inner = inner[0]
        inner = getattr(inner, "estimator", inner) if name == _INNER[-1] else inner
        if inner is None or isinstance(inner, str | list | np.ndarray):
            continue
        if hasattr(inner, "steps") or hasattr(inner, "transformers_") or _find_inner(inner):
            return inner
    return None


def _describe_categories(categories: Any, *, missing: bool) -> Column:
    """Return a column of the categories that an encoder has learnt, in its order."""
    values = [value for value in categories.tolist() if value is not None and value == value]
    has_missing = missing or len(values) < len(categories)
    kinds = set(map(type, values))
    if kinds == {bool}:
        return Column("", "boolean", missing=has_missing)
    if not values:
        return Column("", missing=True)
    if kinds <= {int, float}:
        return Column("", "category", has_missing, categories=tuple(map(float, values)))
    if kinds == {str}:
        return Column("", "category", has_missing, categories=tuple(values))
    raise ArtifactUnusable("it has categories that are neither all text nor all numbers")
