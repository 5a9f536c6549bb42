"""XGBoost models: what ``save_model`` wrote as JSON or UBJSON of a Booster or a wrapper.

XGBoost follows the indices of a file without a check: of a tree whose child is out of range, it
reads beyond its memory, while it loads or while it predicts. So the file is read here, and what
predictions need of it is checked, and written anew, in UBJSON, for the library.
"""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from webapp.ml.core.datasets import Matrix, Vector
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

NO_MODEL = "it is not an XGBoost model as `save_model` writes them"
MOST_VALUES = 2**24  # of JSON, which take 40 bytes each when they are read
DEEPEST = 20  # levels: XGBoost writes 8
MOST_CODES = 2**24  # whole numbers from there on are not exact as float32
_LOSSES = "squarederror squaredlogerror logistic pseudohubererror absoluteerror quantileerror"
REGRESSIONS = frozenset(f"reg:{loss}" for loss in (*_LOSSES.split(), "gamma", "tweedie")) | {
    "count:poisson"
}
BINARY = ("binary:logistic", "binary:hinge")
MULTIPLE = ("multi:softprob", "multi:softmax")

_NODE_ARRAYS = {
    **dict.fromkeys(("base_weights", "loss_changes", "sum_hessian", "split_conditions"), "f4"),
    **dict.fromkeys(("left_children", "right_children", "parents", "split_indices"), "i4"),
    **dict.fromkeys(("default_left", "split_type"), "u1"),
}
"""The type of each array with a value for every node."""
_CATEGORY_ARRAYS = {
    **dict.fromkeys(("categories", "categories_nodes"), "i4"),
    **dict.fromkeys(("categories_segments", "categories_sizes"), "i8"),
}
_NO_PARENT = _DELETED = 2**31 - 1  # the parent of a root, and the feature of a deleted node
_MARKS = {b"d": "f4", b"D": "f8", b"i": "i1", b"U": "u1", b"I": "i2", b"l": "i4", b"L": "i8"}
"""UBJSON's numbers, which are big-endian."""


@dataclass(frozen=True)
class _File:
    """A model that has been read: what the library gets, and what the service has to know.

    ``rounds`` is the range of boosting rounds to predict with, (0, 0) for all.
    """

    model: dict[str, Any]
    booster: str
    objective: str
    n_outputs: int
    names: Sequence[str]
    columns: tuple[Column, ...]
    rounds: tuple[int, int]
    n_trees: int

    @property
    def task(self) -> Task:
        return "regression" if self.objective in REGRESSIONS else "classification"

    def list_trees(self) -> Sequence[Mapping[str, Any]]:
        """Return the trees, whose nodes are arrays; a linear booster has none."""
        booster = self.model["learner"]["gradient_booster"]
        trees: Sequence[Mapping[str, Any]] = booster.get("gbtree", booster)["model"].get(
            "trees", ()
        )
        return trees


def recognises(data: bytes) -> bool:
    """Return whether a file is a JSON or UBJSON object, with the key of XGBoost's models."""
    return data[:16].lstrip().startswith(b"{") and b"learner" in data


def load(
    data: bytes, signature: Signature, profile: Mapping[str, Any] | None = None
) -> LoadedModel:
    """Return the model of a stored file; raises ArtifactUnusable."""
    return _load(_read_file(data), signature)


def describe(data: bytes, **options: Any) -> dict[str, Any]:
    """Return what a version of an uploaded file has; ``options`` as `fitted.describe`."""
    file, upload = _read_file(data), Upload(**options)
    signature = upload.make_signature(file.columns, file.names, file.task)
    params = {"booster": file.booster, "objective": file.objective, "n_trees": file.n_trees}
    loaded = _load(file, signature)
    gains = None if file.booster == "gblinear" else _read_gains(loaded.model, len(file.columns))
    return upload.describe(loaded, estimator="xgboost", params=params, gains=gains)


def _read_gains(booster: Any, n_features: int) -> Vector:
    found = booster.get_score(importance_type="total_gain")  # of features that are in a tree
    return np.array([found.get(f"f{n}", 0.0) for n in range(n_features)])


def _load(file: _File, signature: Signature) -> LoadedModel:
    library = import_library("xgboost")
    version = list(map(int, library.__version__.split(".")[:2]))
    if file.model["version"][:2] > version:
        written = ".".join(map(str, file.model["version"]))
        raise ArtifactUnusable(f"it is of XGBoost {written}, and this is {library.__version__}")
    booster = library.Booster()
    try:
        booster.load_model(bytearray(_write_ubjson(file.model)))
        booster.set_param({"nthread": 1})
    except MALFORMED:  # as XGBoostError is
        raise ArtifactUnusable(NO_MODEL) from None
    except MemoryError:
        raise ArtifactUnusable("it needs more memory than there is") from None
    if file.booster == "gblinear":  # which has no predictions in place, nor safe ones in threads
        predict = partial(_predict_locked, library, booster, threading.Lock())
    else:
        predict = partial(
            booster.inplace_predict, iteration_range=file.rounds, validate_features=False
        )
    coded = [n for n, column in enumerate(signature.columns) if column.kind == "category"]
    n_classes = max(2, file.n_outputs) if file.task == "classification" else 0
    scorer = partial(_score, predict, coded, file.objective)
    trees = file.list_trees()
    explain = LibraryExplainer(
        partial(_contribute, library, booster, threading.Lock(), file.rounds),
        coded,
        _find_sum(file),
        [(tree["left_children"], tree["right_children"]) for tree in trees],
    )
    return LoadedModel(booster, signature, tuple(range(n_classes)) or None, scorer, explain)


def _predict_locked(library: Any, booster: Any, lock: threading.Lock, X: Matrix) -> Any:
    with lock:
        return booster.predict(library.DMatrix(X, nthread=1), validate_features=False)


def _contribute(
    library: Any, booster: Any, lock: threading.Lock, rounds: tuple[int, int], X: Matrix
) -> Any:
    options = {"pred_contribs": True, "iteration_range": rounds, "strict_shape": True}
    with lock:  # only predictions in place are safe in threads for every booster
        return booster.predict(library.DMatrix(X, nthread=1), validate_features=False, **options)


def _find_sum(file: _File) -> Of | None:
    """Return what the trees of a model sum up to; None of one with several targets."""
    if file.objective in REGRESSIONS and file.n_outputs > 1:
        return None
    if file.objective == "binary:hinge":
        return "score"
    if file.objective in ("reg:logistic", "binary:logistic", *MULTIPLE):
        return "log_odds"
    is_log = file.objective in ("reg:gamma", "reg:tweedie", "count:poisson")
    return "log_prediction" if is_log else "prediction"


def _score(predict: Any, coded: Sequence[int], objective: str, X: Matrix) -> Scores:
    """Return scores as the wrappers make them: the second of two classes has more than 0.5."""
    found = predict(hide_unseen(X, coded))
    if objective in REGRESSIONS:
        return Scores(found.astype(np.float64))
    if objective == "multi:softmax":
        return Scores(found.astype(np.int64), are_labels=True)
    if objective == "multi:softprob":
        return score_classes(found)
    return score_classes(np.stack([1 - found, found], axis=1), (found > 0.5).astype(np.int64))


def _read_file(data: bytes) -> _File:
    try:
        is_ubjson = data[1:2] in (b"L", b"l", b"i", b"U", b"I")
        return _check_file(_Reader(data).read_all() if is_ubjson else _read_json(data))
    except (*MALFORMED, RecursionError):
        raise ArtifactUnusable(NO_MODEL) from None
    except MemoryError:
        raise ArtifactUnusable("it needs more memory than there is") from None


def _read_json(data: bytes) -> Any:
    if data.count(b",") > MOST_VALUES:
        raise ArtifactUnusable(f"it has more than {MOST_VALUES} values: save it as UBJSON")
    return json.loads(data)


def _check_file(document: Any) -> _File:
    learner = document["learner"]
    shape, objective = learner["learner_model_param"], learner["objective"]
    name, booster = objective["name"], learner["gradient_booster"]
    if name not in (*REGRESSIONS, *BINARY, *MULTIPLE):
        raise ArtifactUnusable(f"its objective, {str(name)[:40]}, is not served")
    n_features, n_classes = int(shape["num_feature"]), int(shape["num_class"])
    n_targets = int(shape.get("num_target", 1))
    if not (1 <= n_features <= MOST_FEATURES and 1 <= n_targets <= MOST_CLASSES):
        raise ArtifactUnusable("its number of features or targets is out of range")
    if (2 <= n_classes <= MOST_CLASSES) != (name in MULTIPLE) or n_classes > MOST_CLASSES:
        raise ArtifactUnusable("its number of classes does not fit its objective")
    if name in MULTIPLE:
        # Whatever the objective says of them, outputs are read by this number.
        objective = {"name": name, "softmax_multiclass_param": {"num_class": str(n_classes)}}
    if n_targets > 1 and name not in REGRESSIONS:
        raise ArtifactUnusable("it predicts several labels for a row, which is not served")
    n_outputs = max(1, n_classes) * n_targets
    trees: dict[str, Any] = {}
    if booster["name"] == "gblinear":
        booster = _check_weights(booster, (n_features + 1) * n_outputs)
    else:
        dart = booster["name"] == "dart"
        trees = (booster["gbtree"] if dart else booster)["model"]
        model = {"model": _check_trees(trees, n_features, n_outputs)}
        if dart:
            dropped = list(map(float, booster["weight_drop"]))
            _require(len(dropped) == len(trees["trees"]))
            booster = {"name": "dart", "gbtree": {**model, "name": "gbtree"}}
            booster["weight_drop"] = dropped
        else:
            booster = {"name": "gbtree", **model}
    return _File(
        model={
            "learner": {
                "attributes": {},
                "feature_names": [],
                "feature_types": [],
                "gradient_booster": booster,
                "learner_model_param": {key: str(value) for key, value in shape.items()},
                "objective": objective,
            },
            "version": list(map(int, document["version"])),
        },
        booster=booster["name"],
        objective=name,
        n_outputs=n_outputs,
        names=[str(name) for name in learner.get("feature_names", ())],
        columns=_read_columns(learner.get("feature_types", ()), trees.get("cats", {}), n_features),
        rounds=_find_rounds(learner.get("attributes", {})),
        n_trees=len(trees.get("trees", ())),
    )


def _require(holds: Any) -> None:
    if not holds:
        raise ArtifactUnusable("its tree node indices, or other numbers in it, are out of range")


def _check_weights(booster: Mapping[str, Any], n_weights: int) -> dict[str, Any]:
    """Return a linear booster: (n_features + 1, n_outputs) weights."""
    model = booster["model"]
    weights = np.array(model["weights"], "f4")
    _require(weights.shape == (n_weights,))
    rounds = int(model["boosted_rounds"])
    return {"name": "gblinear", "model": {"boosted_rounds": rounds, "weights": weights}}


def _check_trees(model: Mapping[str, Any], n_features: int, n_outputs: int) -> dict[str, Any]:
    """Return the trees of a booster; ``tree_info`` says to which output each of them adds."""
    trees = [_check_tree(tree, n_features) for tree in model["trees"]]
    outputs = np.array(model["tree_info"], "i4")
    _require(outputs.shape == (len(trees),) and trees)
    _require(((outputs >= 0) & (outputs < n_outputs)).all())
    parallel = int(model["gbtree_model_param"].get("num_parallel_tree", 1))
    _require(1 <= parallel <= len(trees))
    checked = {
        "gbtree_model_param": {"num_parallel_tree": str(parallel), "num_trees": str(len(trees))},
        "tree_info": outputs.tolist(),
        "trees": [{"id": number, **tree} for number, tree in enumerate(trees)],
    }
    if "iteration_indptr" in model:  # since XGBoost 2.0
        starts = np.array(model["iteration_indptr"], "i4")
        _require(starts[0] == 0 and starts[-1] == len(trees) and (np.diff(starts) >= 0).all())
        checked["iteration_indptr"] = starts.tolist()
    return checked


def _check_tree(tree: Mapping[str, Any], n_features: int) -> dict[str, Any]:
    arrays = {key: np.array(tree[key], dtype) for key, dtype in _NODE_ARRAYS.items()}
    coded = {key: np.array(tree[key], dtype) for key, dtype in _CATEGORY_ARRAYS.items()}
    sizes = tree["tree_param"]
    if int(sizes["size_leaf_vector"]) > 1:
        raise ArtifactUnusable("its trees have several outputs each, which is not served")
    left, right, parents = (arrays[k] for k in ("left_children", "right_children", "parents"))
    feature, kind = arrays["split_indices"], arrays["split_type"]
    _require(len(left) and all(array.shape == left.shape for array in arrays.values()))
    inner = np.flatnonzero(left != -1)
    for children in (left[inner], right[inner]):
        # A child stands behind its parent, so that every path ends.
        _require(((children > inner) & (children < len(left))).all())
    _require(((feature[inner] >= 0) & (feature[inner] < n_features)).all())
    _require(parents[0] == _NO_PARENT)
    _require(((parents[1:] >= 0) & (parents[1:] < len(left))).all())
    _require((right[left == -1] == -1).all() and (kind <= 1).all())
    starts, counts = coded["categories_segments"], coded["categories_sizes"]
    codes = coded["categories"]
    _require(np.array_equal(coded["categories_nodes"], np.flatnonzero(kind)))
    _require(starts.shape == counts.shape == coded["categories_nodes"].shape)
    _require(((starts >= 0) & (counts > 0) & (starts <= len(codes) - counts)).all())
    _require(((codes >= 0) & (codes < MOST_CODES)).all())
    n_deleted = np.count_nonzero(feature == _DELETED)
    sizes = {"num_deleted": n_deleted, "num_feature": n_features, "num_nodes": len(left)}
    param = {key: str(value) for key, value in {**sizes, "size_leaf_vector": 1}.items()}
    return {"tree_param": param, **arrays, **coded}


def _read_columns(
    types: Sequence[str], cats: Mapping[str, Any], n_features: int
) -> tuple[Column, ...]:
    """Return the columns, yet without names: a missing value is one that XGBoost takes.

    What is a category without its values in the file (before XGBoost 3.1) is a number, its code.
    """
    categories = list(map(_read_categories, cats.get("enc") or [{}] * n_features))
    _require(len(categories) == n_features)
    _require(sum(map(len, categories)) <= MOST_CATEGORIES)
    columns = []
    for kind, values in zip(types or ["float"] * n_features, categories, strict=True):
        if kind == "c" and values:
            columns.append(make_category(values))
        else:
            columns.append(Column("", "boolean" if kind == "i" else "number", missing=True))
    return tuple(columns)


def _read_categories(encoded: Mapping[str, Any]) -> list[Any]:
    """Return the categories of a feature: numbers, or bytes of text with their offsets."""
    values: Any = np.array(encoded.get("values", ()))
    if "offsets" not in encoded:
        return list(values.tolist())
    if (values < 0).any():
        # XGBoost 3.2 counts characters, not bytes, and cuts such text short.
        raise ArtifactUnusable(
            "XGBoost cannot store categories beyond ASCII: rename them, or train with their codes"
        )
    text = bytes(values.astype("u1")).decode("ascii")
    return [text[start:end] for start, end in pairwise(encoded["offsets"])]


def _find_rounds(attributes: Mapping[str, str]) -> tuple[int, int]:
    """Return the rounds to predict with: a wrapper stops at the best one, and a Booster does not.

    (0, 0) stands for all.
    """
    if "scikit_learn" in attributes and "best_iteration" in attributes:
        best = int(attributes["best_iteration"])
        _require(best >= 0)
        return 0, best + 1
    return 0, 0


class _Reader:
    """Reads UBJSON as XGBoost writes it; raises ValueError, or KeyError, for anything else."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.place = 0

    def read_all(self) -> Any:
        document = self._read_value(0)
        if self.place != len(self.data):
            raise ValueError("bytes are left")
        return document

    def _take(self, n_bytes: int) -> bytes:
        end = self.place + n_bytes
        if n_bytes < 0 or end > len(self.data):
            raise ValueError("it is cut short")
        taken = self.data[self.place : end]
        self.place = end
        return taken

    def _next_is(self, mark: bytes) -> bool:
        if not self.data.startswith(mark, self.place):
            return False
        self.place += len(mark)
        return True

    def _read_numbers(self, mark: bytes, count: int) -> Any:
        dtype = np.dtype(f">{_MARKS[mark]}")
        return np.frombuffer(self._take(count * dtype.itemsize), dtype)

    def _read_number(self, mark: bytes) -> Any:
        return self._read_numbers(mark, 1)[0].item()

    def _read_text(self) -> str:
        return self._take(self._read_number(self._take(1))).decode()

    def _read_value(self, depth: int) -> Any:
        if depth > DEEPEST:
            raise ValueError("it is nested too deeply")
        mark = self._take(1)
        if mark == b"{":
            found = {}
            while not self._next_is(b"}"):
                key = self._read_text()
                found[key] = self._read_value(depth + 1)
            return found
        if mark == b"S":
            return self._read_text()
        if mark != b"[":
            return self._read_number(mark)
        if self._next_is(b"$"):
            mark, counted = self._take(1), self._take(1)
            if counted != b"#":
                raise ValueError("an array of one type has no size")
            return self._read_numbers(mark, self._read_number(self._take(1)))
        if self._next_is(b"#"):
            count = self._read_number(self._take(1))
            if count > len(self.data) - self.place:  # a value takes a byte at least
                raise ValueError("it is cut short")
            return [self._read_value(depth + 1) for _ in range(count)]
        values = []
        while not self._next_is(b"]"):
            values.append(self._read_value(depth + 1))
        return values


def _write_ubjson(value: Any) -> bytes:
    """Return UBJSON of what the checks return: objects, arrays, text and whole numbers."""
    if isinstance(value, dict):
        pairs = (_write_text(key) + _write_ubjson(item) for key, item in value.items())
        return b"{" + b"".join(pairs) + b"}"
    if isinstance(value, np.ndarray):
        mark = next(mark for mark, name in _MARKS.items() if np.dtype(name) == value.dtype)
        big_endian = value.astype(value.dtype.newbyteorder(">"))
        return b"[$" + mark + b"#" + _write_size(len(value)) + big_endian.tobytes()
    if isinstance(value, list):
        return b"[#" + _write_size(len(value)) + b"".join(map(_write_ubjson, value))
    if isinstance(value, str):
        return b"S" + _write_text(value)
    if isinstance(value, float):
        return b"d" + struct.pack(">f", value)
    return _write_size(int(value))


def _write_size(number: int) -> bytes:
    return b"L" + number.to_bytes(8, "big", signed=True)


def _write_text(text: str) -> bytes:
    written = text.encode()
    return _write_size(len(written)) + written
