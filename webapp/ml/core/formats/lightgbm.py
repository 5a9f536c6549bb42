"""LightGBM models: the text that ``save_model`` wrote of a Booster, which a wrapper has, too.

LightGBM follows the indices in a file without a check: of a tree whose child is out of range, it
reads beyond its memory. So the text is read here, and what predictions need of it is checked, and
written anew for the library.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from webapp.ml.core.datasets import Matrix
from webapp.ml.core.explaining import Of
from webapp.ml.core.formats.checks import MALFORMED, MOST_FEATURES
from webapp.ml.core.formats.elsewhere import (
    MOST_CATEGORIES,
    LibraryExplainer,
    Upload,
    hide_unseen,
    import_library,
    make_category,
    score_classes,
)
from webapp.ml.core.formats.shapes import LoadedModel
from webapp.ml.core.scoring import Scores
from webapp.ml.core.signature import Column, Signature, Task
from webapp.ml.core.training import MOST_CLASSES
from webapp.ml.errors import ArtifactUnusable

NO_MODEL = "it is not a LightGBM model as `save_model` writes them"
_LOSSES = "regression regression_l1 huber fair poisson quantile mape gamma tweedie"
REGRESSIONS = (*_LOSSES.split(), "cross_entropy", "cross_entropy_lambda")
MULTIPLE = ("multiclass", "multiclassova")

_IS_CATEGORY = 1  # a bit of a node's decision_type
_MOST_DECISIONS = 16  # of decision_type: two more bits for missing values, one for their side


@dataclass(frozen=True)
class _File:
    """A model that has been read: what the library gets, and what the service has to know.

    ``options`` are those of the objective. ``children`` are those of each tree, left and right.
    ``averaged`` is the number of trees that an output is the mean of, 1 where it is their sum.
    """

    text: str
    objective: str
    options: Sequence[str]
    n_outputs: int
    averaged: int
    children: Sequence[tuple[Any, Any]]
    names: Sequence[str]
    columns: tuple[Column, ...]
    n_trees: int

    @property
    def task(self) -> Task:
        return "regression" if self.objective in REGRESSIONS else "classification"

    def find_sum(self) -> Of:
        """Return what the trees sum up to."""
        plain = not any(option.startswith(("sqrt", "sigmoid")) for option in self.options)
        if self.objective in ("binary", "cross_entropy", "multiclass"):
            return "log_odds" if plain or "sigmoid:1" in self.options else "score"
        if self.objective in ("poisson", "gamma", "tweedie"):
            return "log_prediction"
        return "prediction" if plain and self.objective in REGRESSIONS[:-2] else "score"


def recognises(data: bytes) -> bool:
    """Return whether a file begins as LightGBM's models do."""
    return data.startswith((b"tree\nversion=", b"tree\r\nversion="))


def load(
    data: bytes, signature: Signature, profile: Mapping[str, Any] | None = None
) -> LoadedModel:
    """Return the model of a stored file; raises ArtifactUnusable."""
    return _load(_read_file(data), signature)


def describe(data: bytes, **options: Any) -> dict[str, Any]:
    """Return what a version of an uploaded file has; ``options`` as `fitted.describe`."""
    file, upload = _read_file(data), Upload(**options)
    signature = upload.make_signature(file.columns, file.names, file.task)
    params = {"objective": file.objective, "n_trees": file.n_trees}
    loaded = _load(file, signature)
    gains = loaded.model.feature_importance("gain")
    return upload.describe(loaded, estimator="lightgbm", params=params, gains=gains)


def _load(file: _File, signature: Signature) -> LoadedModel:
    library = import_library("lightgbm")
    try:
        booster = library.Booster(model_str=file.text)
    except (*MALFORMED, library.basic.LightGBMError):
        raise ArtifactUnusable(NO_MODEL) from None
    except MemoryError:
        raise ArtifactUnusable("it needs more memory than there is") from None
    coded = [n for n, column in enumerate(signature.columns) if column.kind == "category"]
    predict = partial(booster.predict, num_threads=1, validate_features=False)
    n_classes = max(2, file.n_outputs) if file.task == "classification" else 0
    scorer = partial(_score, predict, coded, file.objective)
    explain = LibraryExplainer(
        partial(_contribute, predict, file.n_outputs, file.averaged),
        coded,
        file.find_sum(),
        file.children,
    )
    return LoadedModel(booster, signature, tuple(range(n_classes)) or None, scorer, explain)


def _contribute(predict: Any, n_outputs: int, averaged: int, X: Matrix) -> Any:
    found = predict(X, pred_contrib=True).reshape(len(X), n_outputs, -1)
    return found / averaged  # LightGBM adds up what its random forests take the mean of


def _score(predict: Any, coded: Sequence[int], objective: str, X: Matrix) -> Scores:
    found = predict(hide_unseen(X, coded))  # as LightGBM does for a new category
    if objective in REGRESSIONS:
        return Scores(found)
    return score_classes(found if found.ndim == 2 else np.stack([1 - found, found], axis=1))


def _read_file(data: bytes) -> _File:
    try:
        return _check_file(data.decode().replace("\r\n", "\n"))
    except (*MALFORMED, RecursionError):
        raise ArtifactUnusable(NO_MODEL) from None
    except MemoryError:
        raise ArtifactUnusable("it needs more memory than there is") from None


def _check_file(text: str) -> _File:
    head, _, rest = text.partition("\nTree=")
    trees, end, rest = rest.partition("\nend of trees")
    if not end:
        raise ArtifactUnusable(NO_MODEL)
    fields = _read_fields(head)
    n_features = int(fields["max_feature_idx"]) + 1
    n_classes, n_outputs = int(fields["num_class"]), int(fields["num_tree_per_iteration"])
    objective, *options = fields.get("objective", "custom").split(" ")
    if objective not in (*REGRESSIONS, *MULTIPLE, "binary"):
        raise ArtifactUnusable(f"its objective, {objective[:40]}, is not served")
    if not 1 <= n_features <= MOST_FEATURES:
        raise ArtifactUnusable("its number of features is out of range")
    many = 2 <= n_classes <= MOST_CLASSES
    if many != (objective in MULTIPLE) or n_outputs != n_classes or (n_classes != 1 and not many):
        raise ArtifactUnusable("its number of classes does not fit its objective")
    options = [o for o in options if re.fullmatch(r"sqrt|(sigmoid|tweedie\w+|alpha):[\d.e+-]+", o)]
    if many:
        options.append(f"num_class:{n_classes}")
    read = [_check_tree(_read_fields(tree), n_features) for tree in trees.split("\nTree=")]
    checked = [text for text, _ in read]
    is_mean = "\naverage_output\n" in head
    _require(len(checked) % n_outputs == 0)
    lines = [
        *("tree", "version=v4", f"num_class={n_classes}", f"num_tree_per_iteration={n_outputs}"),
        *("label_index=0", f"max_feature_idx={n_features - 1}"),
        " ".join([f"objective={objective}", *options]),
        *(["average_output"] if is_mean else []),
        _write_line("feature_names", (f"x{n}" for n in range(n_features))),
        _write_line("feature_infos", ["none"] * n_features),
        *(f"\nTree={number}\n{tree}\n" for number, tree in enumerate(checked)),
        "\nend of trees\n\nparameters:\n[verbosity: -1]\nend of parameters\n",
    ]
    return _File(
        text="\n".join(lines),
        objective=objective,
        options=options,
        n_outputs=n_outputs,
        averaged=len(checked) // n_outputs if is_mean else 1,
        children=[children for _, children in read],
        names=fields["feature_names"].split(" "),
        columns=_read_columns(rest, n_features),
        n_trees=len(checked),
    )


def _read_fields(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.split("\n") if "=" in line)


def _require(holds: Any) -> None:
    if not holds:
        raise ArtifactUnusable("its tree node indices, or other numbers in it, are out of range")


def _write_line(name: str, values: Any) -> str:
    return f"{name}={' '.join(map(str, values))}"


def _check_tree(fields: Mapping[str, str], n_features: int) -> tuple[str, tuple[Any, Any]]:
    """Return the text of a tree, and its children, left and right, which are nodes, or ~leaf."""
    if fields.get("is_linear", "0") != "0":
        raise ArtifactUnusable("it has linear models in its leaves, which are not served")
    n_leaves, n_categories = int(fields["num_leaves"]), int(fields["num_cat"])

    def read(name: str, count: int, kind: Any = int) -> list[Any]:
        values = list(map(kind, fields[name].split(" "))) if count else []
        _require(len(values) == count)
        return values

    _require(n_leaves >= 1 and n_categories >= 0)
    parts = {
        "num_leaves": [n_leaves],
        "num_cat": [n_categories],
        "leaf_value": read("leaf_value", n_leaves, float),
    }
    left = right = np.empty(0, np.int64)
    if "leaf_count" in fields:  # how many rows they learnt, which explanations need
        parts["leaf_count"] = read("leaf_count", n_leaves)
        parts["internal_count"] = read("internal_count", n_leaves - 1)
    if n_leaves > 1:
        names = ("split_feature", "decision_type", "left_child", "right_child")
        parts |= {name: read(name, n_leaves - 1) for name in names}
        parts["threshold"] = read("threshold", n_leaves - 1, float)
        if "split_gain" in fields:
            parts["split_gain"] = read("split_gain", n_leaves - 1, float)
        features, decisions, left, right = (np.array(parts[name], np.int64) for name in names)
        nodes = np.arange(n_leaves - 1)
        for children in (left, right):
            # A child stands behind its parent, so that every path ends.
            behind = (children > nodes) & (children < n_leaves - 1)
            _require((behind | ((children < 0) & (children >= -n_leaves))).all())
        _require(((features >= 0) & (features < n_features)).all())
        _require(((decisions >= 0) & (decisions < _MOST_DECISIONS)).all())
        places = np.array(parts["threshold"])[(decisions & _IS_CATEGORY) > 0]
        _require(((places >= 0) & (places < n_categories)).all())
    if n_categories:
        parts["cat_boundaries"] = read("cat_boundaries", n_categories + 1)
        ends = np.array(parts["cat_boundaries"], np.int64)
        _require(ends[0] == 0 and (np.diff(ends) >= 0).all())
        parts["cat_threshold"] = read("cat_threshold", int(ends[-1]))
        words = np.array(parts["cat_threshold"], np.int64)
        _require(((words >= 0) & (words < 2**32)).all())
    lines = (_write_line(name, values) for name, values in parts.items())
    return "\n".join(lines), (left, right)


def _read_columns(tail: str, n_features: int) -> tuple[Column, ...]:
    """Return the columns, yet without names: a missing value is one that LightGBM takes.

    ``tail`` has the parameters of the fit, and pandas' categories in the order of the columns
    that are categories. Other columns of categories are numbers, their codes.
    """
    columns = [Column("", missing=True)] * n_features
    found = re.search(r"^pandas_categorical:(.*)$", tail, re.M)
    categories = json.loads(found[1]) if found else None
    if not categories:
        return tuple(columns)
    listed = re.search(r"^\[categorical_feature: ([\d,]+)\]$", tail, re.M)
    places = [int(place) for place in listed[1].split(",")] if listed else []
    if len(places) != len(categories):
        raise ArtifactUnusable(
            "it does not say which columns its categories belong to: leave ordered categories "
            "out, and categorical_feature at its default"
        )
    _require(sum(map(len, categories)) <= MOST_CATEGORIES)
    for place, values in zip(places, categories, strict=True):
        columns[place] = make_category(values)
    return tuple(columns)
