"""What each column adds to a prediction: of linear models and of trees, exactly.

Base and contributions sum up to the prediction, or to the number that it is made of. A linear
model's are its terms, less what they are on average in training; of trees they are Shapley values
(``tree_shap``). Both are of the numbers that the estimator gets, and are summed by the column that
these were made of: its categories, the parts of its date, its words, its indicator of what is
missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from webapp.errors import InvalidInput
from webapp.ml.core.datasets import Matrix, Texts, Vector
from webapp.ml.core.preprocessing import choose_columns
from webapp.ml.core.scoring import find_linear_functions
from webapp.ml.core.signature import Signature
from webapp.ml.core.tree_shap import CoverTree, TreeShap
from webapp.ml.core.validation import MALFORMED

Of: TypeAlias = Literal["prediction", "log_prediction", "probability", "log_odds", "score"]
Owners: TypeAlias = NDArray[np.intp]

BLOCK_CELLS = 2**22  # of rows as the estimator gets them: 32 MB
MOST_SECONDS = 5.0  # of a core that a request may take; a row of 100 boosted trees takes 1 ms
MOST_OUTPUTS = 2**22  # of a transformer, such as words by their hash
MEAN_ROWS = 100_000  # of training that means are taken of, evenly spaced: they take 0.2 s
EXPLAINED = (
    "linear models, decision trees, forests and gradient boosting of scikit-learn, and models of "
    "XGBoost and LightGBM can be explained"
)

_PLAIN = (
    *("LinearRegression", "Ridge", "RidgeCV", "Lasso", "LassoCV", "LassoLars", "LassoLarsCV"),
    *("ElasticNet", "ElasticNetCV", "Lars", "LarsCV", "OrthogonalMatchingPursuit", "LinearSVR"),
    *("BayesianRidge", "ARDRegression", "HuberRegressor", "QuantileRegressor", "SGDRegressor"),
    *("TheilSenRegressor", "PassiveAggressiveRegressor"),
)
LINEAR: Mapping[str, Of] = {
    **dict.fromkeys(_PLAIN, "prediction"),
    **dict.fromkeys(("PoissonRegressor", "GammaRegressor"), "log_prediction"),
    **dict.fromkeys(("LogisticRegression", "LogisticRegressionCV"), "log_odds"),
    **dict.fromkeys(("LinearSVC", "RidgeClassifier", "RidgeClassifierCV"), "score"),
    **dict.fromkeys(("SGDClassifier", "Perceptron", "PassiveAggressiveClassifier"), "score"),
}
"""Linear models of scikit-learn, and what the values of their functions are."""


@dataclass(frozen=True)
class Explanation:
    """base: (n_functions,); contributions: (n_rows, n_columns, n_functions).

    ``of`` says what base and contributions sum up to: the prediction or its logarithm, the
    probability of each class, its log-odds (of more than two classes: what the softmax makes
    probabilities of), or the score that a class is chosen by. A function of two classes is that
    of the second one. ``against`` says what the contributions are measured against.
    """

    base: Vector
    contributions: Any
    of: Of
    against: Literal["training mean", "zero"]


Explainer: TypeAlias = Callable[..., Explanation]
"""Explains encoded rows, X, of which text comes as the second argument.

A third one, (n_columns, n_functions), is what a linear model's columns add on average. Raises
InvalidInput, under ``explain``, where the model cannot be explained, or not for so many rows."""


def refuse(reason: str) -> InvalidInput:
    """Return the error of what cannot be explained."""
    return InvalidInput({"explain": [reason]})


def check_seconds(n_rows: int, by_row: float, first: float = 0.0) -> None:
    """Raise InvalidInput where rows take too long: ``first`` seconds, and so many for each."""
    if first + n_rows * by_row <= MOST_SECONDS:
        return
    fit = int(max(0.0, MOST_SECONDS - first) / by_row)
    if not fit:
        raise refuse("the trees of this model are too large to explain a row in time")
    raise refuse(f"takes too long for {n_rows} rows: send at most {fit} of them a request")


def check_finite(explanation: Explanation) -> Explanation:
    """Return an explanation; raises InvalidInput unless all of it is finite."""
    if np.isfinite(explanation.contributions).all() and np.isfinite(explanation.base).all():
        return explanation
    raise refuse(
        "gives numbers that are not finite: values are too large, or trees do not say how many "
        "rows they learnt"
    )


@dataclass(frozen=True)
class LinearTerms:
    """A linear model by column: which of its features are of a column, and their coefficients.

    places: an array for each column; coefficients: (n_functions, n_features).
    """

    places: Sequence[NDArray[np.intp]]
    coefficients: Matrix
    intercepts: Vector
    of: Of

    def add(self, Z: Any) -> Any:
        """Return what each column adds: (n_rows, n_columns, n_functions).

        Z: (n_rows, n_features), which may be sparse.
        """
        added = np.zeros((Z.shape[0], len(self.places), len(self.intercepts)))
        for column, places in enumerate(self.places):
            added[:, column] = Z[:, places] @ self.coefficients[:, places].T
        return added

    def explain(self, Z: Any, means: Matrix | None) -> Explanation:
        """Return the explanation of rows against ``means``: (n_columns, n_functions), or 0."""
        added = self.add(Z)
        if means is None:
            return Explanation(self.intercepts, added, self.of, "zero")
        added -= means
        base = self.intercepts + means.sum(axis=0)
        return Explanation(base, added, self.of, "training mean")


class ModelExplainer:
    """Explains a fitted scikit-learn model; what that needs is made for the first rows.

    ``to_rows(X, texts)`` returns encoded rows in the form that the model takes. ``profile`` is
    that of the rows it was trained on, None where they are not known.
    """

    def __init__(
        self,
        model: Any,
        signature: Signature,
        to_rows: Callable[..., Any],
        profile: Mapping[str, Any] | None = None,
    ) -> None:
        self._steps = split_steps(model)
        self._learnt = getattr(model, "feature_names_in_", None)
        self._signature, self._to_rows, self._profile = signature, to_rows, profile

    def __call__(
        self, X: Matrix, texts: Texts | None = None, means: Matrix | None = None
    ) -> Explanation:
        """Return the explanation of encoded rows; see ``Explainer``."""
        parts = self._parts
        if isinstance(parts, InvalidInput):
            raise parts.with_traceback(None)
        if isinstance(parts, LinearTerms):
            means = self._profile_means if means is None else means
        else:
            check_seconds(len(X), parts[0].seconds_by_row, parts[0].seconds)
        try:
            blocks = [_explain(parts, Z, means) for Z in self._transform_blocks(X, texts)]
        except (*MALFORMED, MemoryError):
            raise refuse(
                "fails for these rows: the parts of the model do not fit together"
            ) from None
        added = np.concatenate([block.contributions for block in blocks])
        return check_finite(replace(blocks[0], contributions=added))

    def transform(self, X: Matrix, texts: Texts | None = None) -> Any:
        """Return what the final estimator gets of encoded rows: (n_rows, n_features)."""
        Z = self._to_rows(X, texts)
        for step in self._steps[:-1]:
            Z = step.transform(Z)
        return Z if hasattr(Z, "toarray") else np.asarray(Z, dtype=np.float64)

    def find_means(self, X: Matrix, texts: Texts | None) -> Matrix | None:
        """Return what each column of rows adds on average, (n_columns, n_functions).

        None where the model is not linear, cannot be explained, or adds what is not finite.
        """
        parts = self._parts
        if not isinstance(parts, LinearTerms):
            return None
        every = max(1, -(-len(X) // MEAN_ROWS))
        X, texts = X[::every], None if texts is None else texts[::every]
        total = np.zeros((len(parts.places), len(parts.intercepts)))
        try:
            with np.errstate(all="ignore"):
                for Z in self._transform_blocks(X, texts):
                    total += parts.add(Z).sum(axis=0)
        except MALFORMED:  # values that overflow on the way, say
            return None
        return total / len(X) if np.isfinite(total).all() else None

    def _transform_blocks(self, X: Matrix, texts: Texts | None) -> Iterator[Any]:
        step = max(1, BLOCK_CELLS // self._steps[-1].n_features_in_)
        for start in range(0, len(X), step):
            chosen = slice(start, start + step)
            yield self.transform(X[chosen], None if texts is None else texts[chosen])

    @cached_property
    def _parts(self) -> LinearTerms | tuple[TreeShap, Of, bool] | InvalidInput:
        try:
            n_columns = len(self._signature.columns)
            owners = find_owners(self._steps[:-1], _list_owners(self._signature, self._learnt))
            return _read_final(self._steps[-1], owners, n_columns)
        except InvalidInput as error:
            return error
        except (*MALFORMED, MemoryError):
            return refuse("is not possible: the parts of the model do not fit together")

    @cached_property
    def _profile_means(self) -> Matrix | None:
        """Return what the columns of a matrix add to its mean row; None for another table."""
        profile, parts = self._profile, self._parts
        if profile is None or not self._signature.is_matrix or None in profile["mean"]:
            return None
        assert isinstance(parts, LinearTerms)  # noqa: S101 (as the only caller knows)
        means: Matrix = parts.add(self.transform(np.array([profile["mean"]])))[0]
        return means


def _explain(
    parts: LinearTerms | tuple[TreeShap, Of, bool], Z: Any, means: Matrix | None
) -> Explanation:
    if isinstance(parts, LinearTerms):
        return parts.explain(Z, means)
    shap, of, single = parts
    base, added = shap.explain(_to_dense(Z, single=single))
    return Explanation(base, added, of, "training mean")


def split_steps(model: Any) -> list[Any]:
    """Return the transformers of a model in order, and its final estimator.

    Searches are what they found; histogram boosting encodes its categories first.
    """
    steps: list[Any] = []
    while True:
        if hasattr(model, "best_estimator_"):
            model = model.best_estimator_
        elif hasattr(model, "steps"):
            steps += [
                step for _, step in model.steps[:-1] if step is not None and step != "passthrough"
            ]
            model = model.steps[-1][1]
        else:
            break
    encoder = getattr(model, "_preprocessor", None)
    return [*steps, model] if encoder is None else [*steps, encoder, model]


def _list_owners(signature: Signature, learnt: Sequence[str] | None) -> Owners:
    """Return the column of each number or text of a row, as a model gets them.

    By name where it has ``learnt`` names: -1 of what it drops, which is no column.
    """
    widths = [max(1, len(column.inputs)) for column in signature.columns]
    owners = np.repeat(np.arange(len(widths)), widths)
    if learnt is None:
        return owners
    names = [name for column in signature.columns for name in column.inputs or (column.name,)]
    known = dict(zip(names, owners.tolist(), strict=True))
    return np.array([known.get(name, -1) for name in learnt], dtype=np.intp)


def find_owners(steps: Sequence[Any], owners: Owners) -> Owners:
    """Return the column of each output of transformers, given those of their inputs.

    Raises InvalidInput where an output is made of several columns.
    """
    for step in steps:
        owners = _follow(step, owners)
    return owners


def _follow(step: Any, owners: Owners) -> Owners:
    from sklearn.base import OneToOneFeatureMixin
    from sklearn.compose import ColumnTransformer
    from sklearn.feature_selection import SelectorMixin
    from sklearn.impute import MissingIndicator, SimpleImputer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, TargetEncoder

    if step is None or isinstance(step, str):
        return owners
    if isinstance(step, Pipeline):
        return find_owners([part for _, part in step.steps], owners)
    if isinstance(step, ColumnTransformer):
        return _follow_columns(step, owners)
    if isinstance(step, SelectorMixin):
        return np.asarray(owners[step.get_support()])
    if isinstance(step, SimpleImputer):
        kept = np.ones(len(owners), dtype=bool)
        if step.strategy != "constant" and not step.keep_empty_features:
            kept = np.array([value == value for value in step.statistics_], dtype=bool)
        indicator = step.indicator_ if step.add_indicator else None
        return np.concatenate(
            [owners[kept], owners[[] if indicator is None else indicator.features_]]
        )
    if isinstance(step, MissingIndicator):
        return np.asarray(owners[step.features_])
    if isinstance(step, OneHotEncoder):
        return np.repeat(owners, step._n_features_outs)
    if isinstance(step, TargetEncoder):
        return np.repeat(owners, len(step.encodings_) // len(owners))
    if isinstance(step, OneToOneFeatureMixin | FunctionTransformer):
        return owners
    if len(owners) and (owners == owners[0]).all():
        n_outputs = _count_outputs(step)
        if n_outputs <= MOST_OUTPUTS:
            return np.full(n_outputs, owners[0])
    raise refuse(f"is not possible: {type(step).__name__} makes numbers of several columns")


def _follow_columns(step: Any, owners: Owners) -> Owners:
    ends = [place.stop for place in step.output_indices_.values()]
    found = np.zeros(max(ends, default=0), dtype=np.intp)
    for name, part, chosen in step.transformers_:
        place = step.output_indices_[name]
        if place.stop > place.start:
            of_part = _follow(part, owners[choose_columns(step, chosen)])
            if len(of_part) != place.stop - place.start:
                raise refuse(f"is not possible: what {name!r} makes belongs to no one column")
            found[place] = of_part
    return found


def _count_outputs(step: Any) -> int:
    """Return how many numbers a transformer makes."""
    names = getattr(step, "get_feature_names_out", None)
    if hasattr(step, "components_"):
        return len(step.components_)
    if hasattr(step, "n_features") and names is None:  # words by their hash
        return int(step.n_features)
    if names is None:
        raise refuse(f"is not possible behind {type(step).__name__}")
    return len(names())


def _read_final(
    final: Any, owners: Owners, n_columns: int
) -> LinearTerms | tuple[TreeShap, Of, bool]:
    """Return a linear model's terms, or trees, what their sum is, and whether they read float32.

    Raises InvalidInput for another model.
    """
    kind = type(final).__name__
    reader = next((read for name, read in _TREES.items() if kind.startswith(name)), None)
    ours = type(final).__module__.startswith("sklearn.")
    if not ours or (kind not in LINEAR and reader is None):
        raise refuse(f"is not possible for {kind}: {EXPLAINED}")
    if len(owners) != final.n_features_in_ or (owners < 0).any():
        raise refuse("is not possible: it is not known which columns the model's features are of")
    if reader is None:
        return _read_linear(final, owners, n_columns)
    if getattr(final, "n_outputs_", 1) > 1:
        raise refuse("is not possible for models of several outputs")
    start, trees, of = reader(final)
    try:
        shap = TreeShap(trees, owners=owners, n_columns=n_columns, start=start)
    except ValueError:
        raise refuse("is not possible: its trees do not say how many rows they learnt") from None
    return shap, of, not kind.startswith("Hist")


def _read_linear(final: Any, owners: Owners, n_columns: int) -> LinearTerms:
    functions = find_linear_functions(final)
    of = LINEAR[type(final).__name__]
    if functions is None or (of.endswith("prediction") and len(functions[1]) > 1):
        raise refuse("is not possible for models of several outputs")
    order = np.argsort(owners, kind="stable")
    ends = np.searchsorted(owners[order], np.arange(1, n_columns))
    return LinearTerms(np.split(order, ends), *functions, of)


_Read: TypeAlias = tuple[Vector, list[CoverTree], Of]
"""What trees are added to, (n_functions,), the trees, and what their sum is."""


def _read_tree(tree: Any, weight: float, function: int = 0) -> CoverTree:
    return CoverTree(
        left=tree.children_left,
        right=tree.children_right,
        feature=tree.feature,
        threshold=tree.threshold,
        missing_left=tree.missing_go_to_left,
        is_leaf=tree.children_left == -1,
        cover=tree.weighted_n_node_samples,
        values=tree.value[:, 0, :],
        weight=weight,
        function=function,
    )


def _read_forest(final: Any) -> _Read:
    members = [member.tree_ for member in getattr(final, "estimators_", [final])]
    trees = [_read_tree(tree, 1 / len(members)) for tree in members]
    of: Of = "probability" if hasattr(final, "classes_") else "prediction"
    return np.zeros(members[0].value.shape[2]), trees, of


def _read_stages(final: Any) -> _Read:
    if final.init_ != "zero" and not type(final.init_).__name__.startswith("Dummy"):
        raise refuse("is not possible for boosting that begins with another estimator")
    first = final._raw_predict_init(np.zeros((1, final.n_features_in_), np.float32))[0]
    trees = [
        _read_tree(tree.tree_, final.learning_rate, function)
        for stage in final.estimators_
        for function, tree in enumerate(stage)
    ]
    of: Of = "log_odds" if hasattr(final, "classes_") else "prediction"
    return first.astype(np.float64), trees, "score" if final.loss == "exponential" else of


def _read_histogram_boosting(final: Any) -> _Read:
    trees = []
    for iteration in final._predictors:
        for function, tree in enumerate(iteration):
            nodes, bits = tree.nodes, np.asarray(tree.raw_left_cat_bitsets)
            by_set = (nodes["is_categorical"] != 0) & (nodes["is_leaf"] == 0)
            trees.append(
                CoverTree(
                    left=nodes["left"],
                    right=nodes["right"],
                    feature=nodes["feature_idx"],
                    threshold=nodes["num_threshold"],
                    missing_left=nodes["missing_go_to_left"],
                    is_leaf=nodes["is_leaf"],
                    cover=nodes["count"],
                    values=nodes["value"][:, np.newaxis],
                    function=function,
                    set_of=np.where(by_set, nodes["bitset_idx"].astype(np.intp), -1),
                    sets=bits.view(np.uint8).reshape(len(bits), 32) if by_set.any() else None,
                )
            )
    logs = type(final._loss.link).__name__ == "LogLink"
    of: Of = "log_prediction" if logs else "prediction"
    return final._baseline_prediction[0], trees, "log_odds" if hasattr(final, "classes_") else of


_TREES: Mapping[str, Callable[[Any], _Read]] = {
    **dict.fromkeys(("DecisionTree", "ExtraTree", "RandomForest"), _read_forest),
    "GradientBoosting": _read_stages,
    "HistGradientBoosting": _read_histogram_boosting,
}
"""What the names of scikit-learn's trees begin with, and how they are read."""


def _to_dense(Z: Any, *, single: bool) -> Matrix:
    """Return rows as trees read them: of most, rounded to float32."""
    dense: Matrix = Z.toarray() if hasattr(Z, "toarray") else Z
    return dense.astype(np.float32).astype(np.float64) if single else dense
