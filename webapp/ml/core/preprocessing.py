"""From a signature to scikit-learn's own preprocessing, and its rows as a pandas data frame.

The steps stand in the artifact, in one Pipeline with the estimator: it predicts the same wherever
it is loaded, from a frame with the raw columns. Only dates are expanded before (``encoding``),
since scikit-learn has no transformer that reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from webapp.ml.core.datasets import Matrix, Texts
from webapp.ml.core.estimators import Estimator
from webapp.ml.core.signature import Signature

MOST_ONE_HOT = 30  # categories of a column; beyond, they are encoded by the target's mean
# Histogram boosting splits as many by itself: from the 127 models of nycflights13's planes it
# learns the number of seats with R² 0.95 so, and with 0.98 from the mean of the target.
MOST_NATIVE = 60
WORD_PLACES = 2**13  # words are counted by their hash: no text has too few, or none
TEXT_COMPONENTS = 50  # of text, for estimators that need dense input
TARGET_FOLDS = 5
UNSEEN_TEXT = "\0"  # no category: cleaned text has no control characters
PREPARE, ESTIMATOR = "prepare", "estimator"


def build_pipeline(
    entry: Estimator, final: Any, signature: Signature, *, scale: bool, random_state: int
) -> Any:
    """Return a Pipeline of preprocessing and ``final``, an unfitted estimator of ``entry``.

    Histogram boosting takes categories and missing values as they are. For any other estimator,
    numbers are imputed by their median with an indicator of what was missing, and standardised
    with ``scale``; categories are one-hot up to 30 values, encoded by the target beyond.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline

    native = entry.name.startswith("hist_gradient_boosting")
    numbers: list[str] = []
    few: list[str] = []
    many: list[str] = []
    most = min(MOST_NATIVE, final.max_bins) if native else MOST_ONE_HOT
    for column in signature.columns:
        if column.kind == "category":
            (few if len(column.categories) <= most else many).append(column.name)
        else:
            numbers += column.inputs
    categories = _make_ordinal() if native else _make_one_hot()
    steps = [
        ("categories", categories, few),
        ("target", _make_target_encoder(signature, random_state), many),
        ("numbers", "passthrough" if native else _make_imputer(scale=scale), numbers),
        ("text", _make_words(signature, random_state, entry=entry), list(signature.text_names)),
    ]
    used = [step for step in steps if step[2]]
    if native and few:
        final.set_params(categorical_features=list(range(len(few))))
    prepare = ColumnTransformer(used, verbose_feature_names_out=False)
    return Pipeline([(PREPARE, prepare), (ESTIMATOR, final)])


def is_typed(model: Any) -> bool:
    """Return whether a fitted model is a pipeline that ``build_pipeline`` made."""
    steps = getattr(model, "steps", None)
    return steps is not None and steps[0][0] == PREPARE


def make_frame(signature: Signature, X: Matrix, texts: Texts | None) -> Any:
    """Return encoded rows, X: (n_rows, n_inputs), as a data frame of raw values."""
    import pandas as pd

    columns: dict[str, Any] = {}
    text = iter(() if texts is None else texts.T)
    for column, place in zip(signature.columns, signature.places, strict=True):
        if column.kind == "text":
            values = next(text).copy()
            absent = np.nan if column.missing else ""
            values[values == None] = absent  # noqa: E711 (elementwise)
            columns[column.name] = pd.Series(values, dtype=object)
        elif column.kind == "category":
            columns[column.name] = _decode(column.categories, X[:, place.start])
        else:
            columns |= zip(column.inputs, X[:, place].T, strict=True)
    return pd.DataFrame(columns)


def _decode(categories: tuple[Any, ...], codes: Any) -> Any:
    """Return the values of codes; NaN is missing, and -1 becomes a value that is no category."""
    import pandas as pd

    if isinstance(categories[0], str):
        known: Any = np.array([*categories, np.nan, UNSEEN_TEXT], dtype=object)
    else:
        known = np.array([*categories, np.nan, max(categories) + 1])
    places = np.where(np.isnan(codes), len(categories), codes).astype(np.intp)
    return pd.Series(known[places], dtype=known.dtype)


def choose_columns(transformer: Any, chosen: Any) -> list[int]:
    """Return the places of the columns that a column transformer was told to take."""
    names = list(getattr(transformer, "feature_names_in_", ()))
    if isinstance(chosen, str):
        chosen = [chosen]
    if isinstance(chosen, slice) and isinstance(chosen.start or chosen.stop, str):
        start = names.index(chosen.start) if chosen.start else 0
        stop = names.index(chosen.stop) + 1 if chosen.stop else None
        chosen = slice(start, stop, chosen.step)
    if isinstance(chosen, list | np.ndarray) and len(chosen) and isinstance(chosen[0], str):
        return [names.index(name) for name in chosen]
    found = np.arange(transformer.n_features_in_)[chosen]
    return [int(place) for place in np.atleast_1d(found)]


def _make_imputer(*, scale: bool) -> Any:
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    imputer = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
    return Pipeline([("impute", imputer), ("scale", StandardScaler())]) if scale else imputer


def _make_one_hot() -> Any:
    from sklearn.preprocessing import OneHotEncoder

    return OneHotEncoder(handle_unknown="ignore", sparse_output=False)


def _make_ordinal() -> Any:
    from sklearn.preprocessing import OrdinalEncoder

    return OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=np.nan, encoded_missing_value=np.nan
    )


def _make_target_encoder(signature: Signature, random_state: int) -> Any:
    from sklearn.model_selection import KFold, StratifiedKFold
    from sklearn.preprocessing import TargetEncoder

    kind = KFold if signature.task == "regression" else StratifiedKFold
    folds = kind(TARGET_FOLDS, shuffle=True, random_state=random_state)
    # Left to itself, it takes whole numbers of a regression for classes.
    task: Mapping[str, Any] = {"regression": {"target_type": "continuous"}}
    return TargetEncoder(cv=folds, **task.get(signature.task, {}))


def _make_words(signature: Signature, random_state: int, *, entry: Estimator) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import Pipeline

    words = [
        (name, HashingVectorizer(n_features=WORD_PLACES, alternate_sign=False, norm=None), place)
        for place, name in enumerate(signature.text_names)
    ]
    steps = [
        ("impute", SimpleImputer(strategy="constant", fill_value="", keep_empty_features=True)),
        ("words", ColumnTransformer(words, sparse_threshold=1)),
        ("weigh", TfidfTransformer()),
    ]
    if not entry.is_linear:
        steps.append(("reduce", TruncatedSVD(TEXT_COMPONENTS, random_state=random_state)))
    return Pipeline(steps)
