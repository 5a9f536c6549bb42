"""Whether fitted scikit-learn objects are safe to predict with: one walk over all they hold.

skops audits the types of a file, not what their attributes hold; and compiled code follows indices
and reads arrays without bounds checks. So each object is checked by its type for what compiled
code would trust. Everything else is Python and NumPy, which raise an exception where parts make
no sense together. Considered, and found to index with NumPy alone: linear models, mixtures,
Gaussian processes, naive Bayes, networks, isotonic and calibrated models, imputers, scalers,
decompositions, feature selection, and the meta-estimators, whose members are walked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache, partial
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np

from webapp.ml.errors import ArtifactUnusable

MOST_FEATURES = 2**20  # whatever an operator allows
LONGEST_TOKEN_PATTERN = 200  # characters
MALFORMED = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What NumPy and scikit-learn raise for parts that make no sense together."""

_BAD_PARTS = "its parts do not fit together"
_BAD_TREE = "its tree node indices or values are out of range"
_FUNCTIONS = (FunctionType, BuiltinFunctionType, np.ufunc, type)
_PLAIN = (bool, int, float, complex, str, bytes, type(None), slice, np.generic, np.dtype, range)
_LEAVES = (*_PLAIN, *_FUNCTIONS)
_KERNELS = ("linear", "poly", "rbf", "sigmoid")
# The metrics that need no parameters but p, by the classes of their distances.
_METRICS = {
    "EuclideanDistance64": "euclidean",
    "ManhattanDistance64": "manhattan",
    "ChebyshevDistance64": "chebyshev",
    "MinkowskiDistance64": "minkowski",
}

_CHARACTER = r"(?:\\[wWdDsS]|\\[^\w\s]|\[(?:\\[wWdDsS]|\\[^\w\s]|[^][\\])+\]|[^][\\^$*+?{}|()])"
_WORD = rf"{_CHARACTER}*(?:{_CHARACTER}(?:[*+?]|\{{\d{{1,2}}(?:,\d{{0,2}})?\}}))?"
_CHOICE = rf"(?:\\b{_WORD}(?:\\b)?|{_WORD})"
_TOKEN_PATTERN = re.compile(rf"(?:\(\?[ui]+\))?{_CHOICE}(?:\|{_CHOICE})*")
"""What finds words in a time that grows with the text, and no faster.

Characters, or classes of them, of which the last may be repeated; what ends at the end of a word
also begins at a beginning, or each of its letters would be tried. Choices of these.
"""


def check_parts(model: Any) -> None:
    """Raise ArtifactUnusable unless all that a model holds is safe to call.

    Search trees are grown anew from their rows: nothing in them is checked. Parts of types that
    nobody expects raise what Python raises for them.
    """
    from sklearn.tree import BaseDecisionTree

    checks = _list_checks()
    seen: dict[int, Any] = {}
    todo = [model]
    while todo:
        part = todo.pop()
        if isinstance(part, _LEAVES) or id(part) in seen:
            continue
        seen[id(part)] = part
        if isinstance(part, _bare_trees()):
            # They have a predict of their own. Those of estimators are known by now.
            raise ArtifactUnusable(_BAD_PARTS)
        if not isinstance(part, dict | list | tuple | set | np.ndarray | partial):
            for tree in _renew_search_trees(part):
                seen[id(tree)] = tree
            if isinstance(part, BaseDecisionTree) and "tree_" in vars(part):
                seen[id(part.tree_)] = part.tree_
            if any(hasattr(type(part), name) for name in getattr(part, "__dict__", ())):
                # A method, or what libsvm is told to compute: see SVC._impl.
                raise ArtifactUnusable("it holds an attribute with the name of a method")
        for kind in type(part).__mro__:
            if kind in checks:
                checks[kind](part)
        todo += _list_parts(part)


def _list_parts(part: Any) -> list[Any]:
    if isinstance(part, dict):
        return list(part.values())
    if isinstance(part, list | tuple | set):
        return list(part)
    if isinstance(part, np.ndarray):
        return part.ravel().tolist() if part.dtype == object else []
    if isinstance(part, partial):
        return [part.func, *part.args, *part.keywords.values()]
    return list(getattr(part, "__dict__", {}).values())


def _renew_search_trees(part: Any) -> Iterator[Any]:
    """Yield the search trees of an object, which are grown again from their rows."""
    attributes = getattr(part, "__dict__", {})
    for name, value in attributes.items():
        if type(value) in _search_trees():
            rows, _, _, _, leaf_size, *_, metric, weights = value.__getstate__()
            known = _METRICS.get(type(metric).__name__)
            if known is None or rows.shape[1] != getattr(part, "n_features_in_", None):
                raise ArtifactUnusable(_BAD_PARTS)
            options = {"p": metric.__getstate__()[0]} if known == "minkowski" else {}
            attributes[name] = type(value)(
                rows, leaf_size=leaf_size, metric=known, sample_weight=weights, **options
            )
            yield attributes[name]


@cache
def _bare_trees() -> tuple[type, ...]:
    from sklearn.tree._tree import Tree

    return (Tree, *_search_trees())


@cache
def _search_trees() -> tuple[type, ...]:
    from sklearn.neighbors import BallTree, KDTree

    return (KDTree, BallTree)


@cache
def _list_checks() -> dict[type, Callable[[Any], None]]:
    """Return what checks what compiled code would trust, by class."""
    from scipy import sparse
    from scipy.interpolate import BSpline
    from sklearn import base, ensemble, neighbors, preprocessing, svm, tree
    from sklearn.cluster import BisectingKMeans, KMeans, MiniBatchKMeans
    from sklearn.ensemble._hist_gradient_boosting.binning import _BinMapper
    from sklearn.ensemble._hist_gradient_boosting.gradient_boosting import (
        BaseHistGradientBoosting,
    )
    from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer

    members: list[tuple[Callable[[Any], None], tuple[type, ...]]] = [
        (_check_estimator, (base.BaseEstimator,)),
        (_check_tree, (tree.DecisionTreeRegressor, tree.DecisionTreeClassifier)),
        (_check_forest, (ensemble.RandomForestRegressor, ensemble.RandomForestClassifier)),
        (_check_forest, (ensemble.ExtraTreesRegressor, ensemble.ExtraTreesClassifier)),
        (_check_forest, (ensemble.RandomTreesEmbedding,)),
        (_check_isolation, (ensemble.IsolationForest,)),
        (_check_stages, (ensemble.GradientBoostingRegressor, ensemble.GradientBoostingClassifier)),
        (_check_boosting, (BaseHistGradientBoosting,)),
        (_check_bins, (_BinMapper,)),
        (_check_polynomial, (preprocessing.PolynomialFeatures,)),
        (_check_support_vectors, (svm.SVC, svm.NuSVC, svm.SVR, svm.NuSVR, svm.OneClassSVM)),
        (_check_neighbors, (neighbors.KNeighborsRegressor, neighbors.KNeighborsClassifier)),
        (_check_neighbors, (neighbors.RadiusNeighborsRegressor,)),
        (_check_neighbors, (neighbors.RadiusNeighborsClassifier, neighbors.NearestNeighbors)),
        (_check_neighbors, (neighbors.KNeighborsTransformer, neighbors.LocalOutlierFactor)),
        (_check_neighbors, (neighbors.RadiusNeighborsTransformer,)),
        (_check_centers, (KMeans, MiniBatchKMeans)),
        (_check_bisections, (BisectingKMeans,)),
        (_check_words, (CountVectorizer, HashingVectorizer)),
        (_check_one_hot, (preprocessing.OneHotEncoder,)),
        (_check_function, (preprocessing.FunctionTransformer,)),
        (_check_partial, (partial,)),
        (_check_spline, (BSpline,)),
        (_check_sparse, (sparse.spmatrix, sparse.sparray)),
        (_check_generator, (np.random.RandomState,)),
    ]
    return {kind: check for check, kinds in members for kind in kinds}


def _require(*facts: Any, reason: str = _BAD_PARTS) -> None:
    if not all(facts):
        raise ArtifactUnusable(reason)


def _check_estimator(part: Any) -> None:
    attributes = vars(part)
    n_features = attributes.get("n_features_in_", 1)
    if type(n_features) is not int or not 1 <= n_features <= MOST_FEATURES:
        raise ArtifactUnusable("its number of features is out of range")
    # Stacking calls them by name.
    methods = {"predict", "predict_proba", "decision_function"}
    _require(set(attributes.get("stack_method_", ())) <= methods)


def _check_spline(spline: Any) -> None:
    knots, coefficients, degree = spline.t, spline.c, spline.k
    _require(
        type(degree) is int and 0 <= degree <= len(knots) // 2 - 1,
        knots.ndim == 1 and knots.dtype == coefficients.dtype == np.float64,
        (np.diff(knots) >= 0).all() and np.isfinite(knots).all(),
        len(coefficients) >= len(knots) - degree - 1,
        spline.axis == 0,
    )


def _check_sparse(matrix: Any) -> None:
    _require(matrix.format in ("csr", "csc"))
    matrix.check_format(full_check=True)  # the indices; raises ValueError


def _check_generator(generator: Any) -> None:
    # It reads its 624 words from there without looking.
    _require(0 <= generator.get_state(legacy=False)["state"]["pos"] <= 624)


def _check_partial(part: Any) -> None:
    from sklearn.utils.validation import check_array

    _require(part.func is check_array)


def _check_function(part: Any) -> None:
    from sklearn.utils.validation import check_array

    for function in (part.func, part.inverse_func):
        _require(
            function is None
            or isinstance(function, np.ufunc)
            or function is check_array
            or isinstance(function, partial)
        )


def _check_words(part: Any) -> None:
    """Check that rows are texts, not names of files, and that words have a place each.

    A regular expression with a repeated group would never end with some texts.
    """
    _require(part.input == "content")
    pattern = part.token_pattern
    if pattern is not None:
        _require(isinstance(pattern, str))
        if len(pattern) > LONGEST_TOKEN_PATTERN or not _TOKEN_PATTERN.fullmatch(pattern):
            raise ArtifactUnusable(
                f"the token_pattern of its {type(part).__name__} may take very long, "
                f"{ascii(pattern)[:60]}: take one without groups that repeats its last character "
                r"alone, such as (?u)\b\w\w+\b, [a-z]+ or \S+"
            )
        try:
            re.compile(pattern)
        except re.error:
            raise ArtifactUnusable(_BAD_PARTS) from None
    words = vars(part).get("vocabulary_")
    if words is not None:
        places = list(words.values())
        _require(set(map(type, places)) <= {int}, set(places) == set(range(len(places))))


def _check_one_hot(part: Any) -> None:
    """Check the places that a sparse matrix is built with, whose own constructor does not."""
    if "categories_" not in vars(part):
        return
    sizes = [len(found) for found in part.categories_]
    if part._infrequent_enabled:
        found = zip(part._infrequent_indices, part._default_to_infrequent_mappings, strict=True)
        for place, (rare, mapping) in enumerate(found):
            if rare is None and mapping is None:
                continue
            size = sizes[place]
            _require(mapping.shape == (size,), rare.min() >= 0, rare.max() < size)
            sizes[place] = size - (rare.size - 1)
            _require(mapping.min() >= 0, mapping.max() < sizes[place])
    dropped = part._drop_idx_after_grouping
    if dropped is not None:
        _require(len(dropped) == len(sizes))
        for place, index in enumerate(dropped):
            _require(index is None or 0 <= index < sizes[place])
            sizes[place] -= index is not None
    _require(list(part._n_features_outs) == sizes, len(sizes) == part.n_features_in_)


def _check_centers(part: Any) -> None:
    centers = vars(part).get("cluster_centers_")
    if centers is not None:
        _require(centers.shape == (len(centers), part.n_features_in_), centers.size)


def _check_bisections(part: Any) -> None:
    """Check the tree of clusters: no circles, and centers as wide as the rows."""
    from sklearn.cluster._bisect_k_means import _BisectingTree

    nodes, seen = [vars(part).get("_bisecting_tree")], set()
    if nodes == [None]:
        return
    width = (part.n_features_in_,)
    _require(getattr(part, "_X_mean", nodes[0].center).shape == width)
    while nodes:
        node = nodes.pop()
        _require(type(node) is _BisectingTree, id(node) not in seen)
        _require(isinstance(node.center, np.ndarray), node.center.shape == width)
        seen.add(id(node))
        if node.left is not None:
            nodes += [node.left, node.right]


def _check_tree(part: Any) -> None:
    """Check a decision tree: its indices, and that it reads as many features as it is given."""
    if "tree_" not in vars(part):  # it has not been fitted, as the parameter of an ensemble
        return
    tree = part.tree_
    # node_count comes from the file, capacity from the array of nodes that was copied: the
    # state may be read only where they agree.
    _require(
        type(tree).__module__ == "sklearn.tree._tree",
        part.n_outputs_ == tree.n_outputs,
        part.n_features_in_ == tree.n_features,
        tree.node_count == tree.capacity >= 1,
    )
    state = tree.__getstate__()
    nodes = state["nodes"]
    inner = nodes["left_child"] != -1
    fields = ("left_child", "right_child", "feature", "threshold")
    _require(
        np.array_equal(nodes["right_child"] != -1, inner),
        np.isfinite(state["values"]).all(),
        _are_within(nodes, inner, fields, tree.n_features),
        reason=_BAD_TREE,
    )


def _check_members(members: Any) -> None:
    from sklearn.tree import BaseDecisionTree

    _require(all(isinstance(member, BaseDecisionTree) for member in members))


def _check_forest(part: Any) -> None:
    members = vars(part).get("estimators_")
    if members is not None:
        _check_members(members)
        sizes = {(member.n_features_in_, member.n_outputs_) for member in members}
        _require(sizes <= {(part.n_features_in_, part.n_outputs_)})


def _check_isolation(part: Any) -> None:
    members = vars(part).get("estimators_")
    if members is None:
        return
    _check_members(members)
    features = part.estimators_features_
    some = part._max_features != part.n_features_in_
    widths = [len(found) if some else part.n_features_in_ for found in features]
    _require([member.n_features_in_ for member in members] == widths)


def _check_stages(part: Any) -> None:
    """Check gradient boosting: (n_stages, n_outputs) trees, and a constant that they start from.

    Its compiled code trusts that each is a tree of one value per node, and writes as many
    outputs as there are trees in a stage.
    """
    from sklearn.base import is_classifier
    from sklearn.dummy import DummyClassifier, DummyRegressor

    members = vars(part).get("estimators_")
    if members is None:
        return
    width, first = part.n_trees_per_iteration_, part.init_
    n_classes = len(part.classes_) if is_classifier(part) else 1
    _require(
        type(width) is int and width == (n_classes if n_classes > 2 else 1),
        isinstance(members, np.ndarray) and members.shape == (len(members), width),
        len(members) >= 1,
        type(part._loss).__module__ == "sklearn._loss.loss",
    )
    if not isinstance(first, str):
        expected = DummyClassifier if is_classifier(part) else DummyRegressor
        _require(type(first) is expected, first.n_outputs_ == 1)
        constant = first.class_prior_ if is_classifier(part) else first.constant_
        _require(np.size(constant) == n_classes)
        _require(
            not is_classifier(part) or (first.strategy, first.n_classes_) == ("prior", n_classes)
        )
    _check_members(members.ravel())
    for member in members.ravel():
        _check_tree(member)
        tree = member.tree_
        _require(member.n_features_in_ == part.n_features_in_)
        _require(tree.n_outputs == tree.max_n_classes == 1)
    rows = np.zeros((1, part.n_features_in_))
    _require(part._raw_predict_init(rows).shape == (1, width))


def _check_boosting(part: Any) -> None:
    from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE

    if "_predictors" not in vars(part):
        return
    n_features, width = part.n_features_in_, part.n_trees_per_iteration_
    is_category = part._bin_mapper.is_categorical_
    _require(
        is_category.shape == (n_features,),
        type(width) is int,
        part._baseline_prediction.shape == (1, width),
        # Another object's predict_proba could run compiled code that nobody has checked.
        type(part._loss).__module__ == "sklearn._loss.loss",
        all(len(iteration) == width for iteration in part._predictors),
    )
    _check_preprocessor(part, n_features)
    fields = ("left", "right", "feature_idx", "num_threshold")
    for predictor in (tree for trees in part._predictors for tree in trees):
        nodes, known = predictor.nodes, predictor.raw_left_cat_bitsets
        _require(
            nodes.dtype == PREDICTOR_RECORD_DTYPE,
            nodes.ndim == 1,
            len(nodes) >= 1,
            known.dtype == np.uint32,
            known.shape == (len(known), 8),
        )
        inner = nodes["is_leaf"] == 0
        by_category = inner & (nodes["is_categorical"] != 0)
        _require(
            np.isfinite(nodes["value"]).all(),
            _are_within(nodes, inner, fields, n_features),
            (nodes["bitset_idx"][by_category] < len(known)).all(),
            (is_category[nodes["feature_idx"][by_category]] == 1).all(),
            reason=_BAD_TREE,
        )


def _check_preprocessor(part: Any, n_features: int) -> None:
    """Check that the encoder of categories gives as many columns as the trees read."""
    from sklearn.compose import ColumnTransformer
    from sklearn.preprocessing import FunctionTransformer, OrdinalEncoder

    encoder = part._preprocessor
    if encoder is None:
        return
    _require(type(encoder) is ColumnTransformer, encoder.n_features_in_ == n_features)
    taken = np.zeros(n_features, dtype=int)
    for _, step, mask in encoder.transformers_:
        if not np.any(mask):  # all columns are categories, or none, or what is dropped
            continue
        _require(type(step) in (OrdinalEncoder, FunctionTransformer))
        _require(len(getattr(step, "categories_", mask[mask])) == mask.sum())
        _require(isinstance(mask, np.ndarray) and mask.dtype == bool)
        _require(step.n_features_in_ == mask.sum())
        taken += mask
    _require((taken == 1).all())


def _check_bins(part: Any) -> None:
    sizes = {len(part.is_categorical_), len(part.bin_thresholds_), len(part.n_bins_non_missing_)}
    _require(len(sizes) == 1)


def _check_polynomial(part: Any) -> None:
    """Check how many columns it fills of those that it takes memory for."""
    if "n_output_features_" not in vars(part):
        return
    sizes = (part.n_output_features_, part._min_degree), (part._n_out_full, 0)
    for size, min_degree in sizes:
        expected = part._num_combinations(
            n_features=part.n_features_in_,
            min_degree=min_degree,
            max_degree=part._max_degree,
            interaction_only=part.interaction_only,
            include_bias=part.include_bias,
        )
        _require(size == expected)


def _check_support_vectors(part: Any) -> None:
    """Check the arrays that libsvm reads as far as their number of classes and vectors say."""
    from sklearn.base import is_classifier
    from sklearn.svm import OneClassSVM

    if "support_vectors_" not in vars(part):
        return
    vectors, n_support, weights = part.support_vectors_, part._n_support, part._dual_coef_
    n_classes = len(part.classes_) if is_classifier(part) else 2
    n_vectors, n_pairs = vectors.shape[0], n_classes * (n_classes - 1) // 2
    given = weights.data if part._sparse else weights
    expected = (n_classes - 1, n_vectors)
    _require(
        isinstance(part.kernel, str) and part.kernel in _KERNELS,
        type(part._sparse) is bool,
        vectors.shape == (n_vectors, part.n_features_in_),
        part._sparse or isinstance(vectors, np.ndarray),
        n_support.shape == (n_classes,),
        (n_support >= 0).all(),
        n_support.sum() == n_vectors if is_classifier(part) else True,
        part.support_.shape == (n_vectors,),
        weights.shape == expected,
        given.size == expected[0] * expected[1],
        part._intercept_.shape == (n_pairs,),
    )
    n_given = n_pairs if part._effective_probability else 0
    _require(part._probA.size == n_given or (part._probA.size == 0 and not n_given))
    _require(part._probB.size == part._probA.size or isinstance(part, OneClassSVM))


def _check_neighbors(part: Any) -> None:
    """Check the rows of neighbors, and what is looked up by their numbers."""
    from sklearn.base import is_classifier

    if "_fit_X" not in vars(part):
        return
    rows = part._fit_X
    n_rows = rows.shape[0]
    _require(
        isinstance(part.metric, str) and part.metric != "precomputed",
        isinstance(part.effective_metric_, str) and part.effective_metric_ != "precomputed",
        isinstance(part._fit_method, str),
        rows.dtype in (np.float64, np.float32),
        rows.shape == (n_rows, part.n_features_in_),
        n_rows >= 1,
        type(part.n_samples_fit_) is int and part.n_samples_fit_ == n_rows,
    )
    if isinstance(rows, np.ndarray):
        _require(rows.flags.c_contiguous, np.isfinite(rows).all())
    tree = part._tree
    if tree is not None:
        _require(isinstance(tree, _search_trees()), len(tree.get_arrays()[0]) == n_rows)
    _require((tree is None) == (part._fit_method == "brute"))
    if not hasattr(part, "_y"):
        return
    target = part._y
    _require(len(target) == n_rows)
    if is_classifier(part):
        codes = target.reshape(n_rows, -1)
        labels = part.classes_ if part.outputs_2d_ else [part.classes_]
        _require(type(part.outputs_2d_) is bool, target.dtype.kind == "i")
        _require(part.outputs_2d_ or target.shape == (n_rows,))
        for column, known in zip(codes.T, labels, strict=True):
            _require(column.min() >= 0, column.max() < len(known))


def _are_within(nodes: Any, inner: Any, fields: tuple[str, ...], n_features: int) -> bool:
    """Return whether every walk from the root (node 0) stays inside the tree, and ends.

    nodes: (n_nodes,) records; inner: (n_nodes,) whether a node has children, which come
    after it. Fields: left child, right child, feature, threshold.
    """
    index = np.flatnonzero(inner)
    left, right, feature, threshold = (nodes[field][index] for field in fields)
    return bool(
        (left > index).all()
        and (left < len(nodes)).all()
        and (right > index).all()
        and (right < len(nodes)).all()
        and (feature >= 0).all()
        and (feature < n_features).all()
        and not np.isnan(threshold).any()  # infinite where missing values go their own way
    )
