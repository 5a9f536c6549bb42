"""The catalogue of estimators: adding one is adding one row.

Names and defaults of parameters are scikit-learn's own. The limits are ours: they keep a single
fit bounded, and leave out values at which scikit-learn fails whatever the data. Never a
parameter: ``n_jobs`` (a worker has one thread for a fit) and ``random_state`` (the training's).
scikit-learn is imported only when a model is built.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np

from webapp.errors import MOST_FAULTS, InvalidInput
from webapp.ml.core.datasets import Matrix
from webapp.ml.errors import ArtifactUnusable

Task: TypeAlias = Literal["regression", "classification"]
Params: TypeAlias = Mapping[str, Any]
Schema: TypeAlias = dict[str, Any]
"""A JSON Schema, or a part of one (draft 2020-12, as OpenAPI 3.1 uses it)."""

LONGEST_VALUE = 1000  # characters or values of an uploaded model's parameter: class weights, say
MOST_INTEGERS = 5  # of a parameter that is a list: the layers of a network
LINEAR_TYPES = ("sklearn.linear_model.", "sklearn.svm._classes.LinearSV")
"""What the full names of estimators that have an intercept and coefficients begin with."""


@dataclass(frozen=True)
class Parameter:
    """A parameter that a client may set.

    Its values are those of ``type``, from ``minimum`` to ``maximum`` (all numbers have both), and
    null where ``nullable``. "integers" is a list of 1 to 5 of them. A string is one of
    ``choices``; for any other type, ``choices`` are words accepted beside it, such as ``"sqrt"``
    beside a number.
    """

    name: str
    default: Any
    help: str
    minimum: float | None = None
    maximum: float | None = None
    type: Literal["boolean", "integer", "integers", "number", "string"] = "number"
    exclusive_minimum: bool = False
    choices: tuple[str, ...] = ()
    nullable: bool = False


@dataclass(frozen=True)
class Estimator:
    """One row of the catalogue.

    ``type_name`` is the full name of the class where scikit-learn defines it, which is how skops
    names it. ``lighter`` says what to change where a fit takes too much. ``conflict``, of values
    that are fine alone and not together: which parameter to change, how, and whether it is met.
    ``seeded``: takes a ``random_state``. ``scaled``: its fits depend on the scales of the
    features, so that standardising them is the default. ``within``: bounds of the largest
    absolute value of the rows, beyond which its solver never ends.
    """

    name: str
    task: Task
    summary: str
    type_name: str
    parameters: tuple[Parameter, ...]
    lighter: str = ""
    conflict: tuple[str, str, Callable[[Params], bool]] | None = None
    seeded: bool = True
    scaled: bool = False
    within: tuple[float, float] | None = None

    @property
    def library(self) -> str:
        """Return the package that fits it; of boosters, it is also the name of their format."""
        return self.type_name.partition(".")[0]

    @property
    def is_linear(self) -> bool:
        """Return whether a fitted one has an intercept and coefficients."""
        return self.type_name.startswith(LINEAR_TYPES)


_boolean = partial(Parameter, type="boolean")
_integer = partial(Parameter, type="integer")


def _choice(name: str, text: str, *choices: str) -> Parameter:
    """Return a parameter that is one of some words, by default the first."""
    return Parameter(name, choices[0], text, type="string", choices=choices)


_FIT_INTERCEPT = _boolean("fit_intercept", True, "Whether to fit a constant term.")
_POSITIVE = _boolean("positive", False, "Whether coefficients must not be negative.")
_ALPHA = Parameter("alpha", 1.0, "Strength of the penalty; 0 is none.", 0, 1e12)
_TOLERANCE = Parameter("tol", 1e-4, "Precision at which iterations end.", 0, 1)
_ITERATIONS = _integer("max_iter", 1000, "Iterations at most.", 1, 100_000)
_SELECTION = _choice("selection", "Order in which coefficients are updated.", "cyclic", "random")
_DESCENT = (_FIT_INTERCEPT, _POSITIVE, _ITERATIONS, _TOLERANCE, _SELECTION)
_CLASS_WEIGHT = replace(
    _choice("class_weight", "Weigh classes by inverse frequency, or alike (null).", "balanced"),
    default=None,
    nullable=True,
)
_MAX_DEPTH = _integer("max_depth", None, "Depth at most; null: no limit.", 1, 64, nullable=True)
_MAX_LEAVES = _integer(
    "max_leaf_nodes", None, "Leaves of a tree at most; null: no limit.", 2, 65_535, nullable=True
)
_MIN_LEAF = _integer("min_samples_leaf", 1, "Rows that a leaf needs at least.", 1, 1_000_000)
_SHARE = Parameter(
    "max_features", 1.0, "Share of the features tried at each split.", 0, 1, exclusive_minimum=True
)
_MAX_FEATURES = replace(
    _SHARE, help="Features tried at each split: their share, or a rule.", choices=("sqrt", "log2")
)
_ALL_FEATURES = replace(
    _MAX_FEATURES, default=None, help=f"{_MAX_FEATURES.help} Null: all.", nullable=True
)
_GROWTH = (
    _MAX_DEPTH,
    _integer("min_samples_split", 2, "Rows that a split needs at least.", 2, 1_000_000),
    _MIN_LEAF,
    _MAX_LEAVES,
    Parameter("min_impurity_decrease", 0.0, "What a split must gain at least.", 0, 1e12),
    Parameter("ccp_alpha", 0.0, "Strength of cost-complexity pruning.", 0, 1e12),
)
_SPLIT = "What a split is judged by."
_REGRESSION_CRITERION = _choice("criterion", _SPLIT, "squared_error", "absolute_error", "poisson")
_CLASS_CRITERION = _choice("criterion", _SPLIT, "gini", "entropy", "log_loss")
_SPLITTER = _choice("splitter", "How the threshold of a split is chosen.", "best", "random")
_N_TREES = _integer("n_estimators", 100, "Number of trees.", 1, 1000)
_MAX_SAMPLES = "Share of the rows drawn for each tree; null: as many as there are."
_BOOTSTRAP = _boolean("bootstrap", True, "Whether each tree sees a random sample of rows.")
_SAMPLES = Parameter(
    "max_samples", None, _MAX_SAMPLES, 0, 1, exclusive_minimum=True, nullable=True
)
_FOREST = (_N_TREES, *_GROWTH, _BOOTSTRAP, _SAMPLES)
_EXTRA_TREES = (_N_TREES, *_GROWTH, replace(_BOOTSTRAP, default=False), _SAMPLES)
_FOREST_CLASSES = (
    _CLASS_CRITERION,
    replace(_MAX_FEATURES, default="sqrt"),
    replace(_CLASS_WEIGHT, choices=("balanced", "balanced_subsample")),
)
_FOREST_CONFLICT = (
    "max_samples",
    "must be null when bootstrap is false",
    lambda params: params["max_samples"] is not None and not params["bootstrap"],
)
_RATE = "Share of each tree's correction that is taken."
_EARLY = "Whether to hold rows out and stop when they gain no more; auto: above 10,000 rows."
_BOOSTING = (
    Parameter("learning_rate", 0.1, _RATE, 0, 10, exclusive_minimum=True),
    _integer("max_iter", 100, "Rounds of boosting at most.", 1, 2000),
    replace(_MAX_LEAVES, default=31),
    _MAX_DEPTH,
    replace(_MIN_LEAF, default=20),
    Parameter("l2_regularization", 0.0, "Penalty on the leaves' values.", 0, 1e12),
    _SHARE,
    _integer("max_bins", 255, "Bins that a feature's values are put in.", 2, 255),
    _boolean("early_stopping", "auto", _EARLY, choices=("auto",)),
    Parameter("validation_fraction", 0.1, "Share of rows held out for early stopping.", 0.01, 0.9),
    _integer("n_iter_no_change", 10, "Rounds without gain that early stopping takes.", 1, 2000),
    Parameter("tol", 1e-7, "What counts as a gain for early stopping.", 0, 1),
)
_STAGES = (
    Parameter("learning_rate", 0.1, _RATE, 0, 10, exclusive_minimum=True),
    replace(_N_TREES, help="Rounds of boosting at most."),
    Parameter("subsample", 1.0, "Share of the rows drawn for each tree.", 0.01, 1),
    replace(_MAX_DEPTH, default=3),
    *_GROWTH[1:],
    _ALL_FEATURES,
    _integer(
        "n_iter_no_change",
        None,
        "Rounds without gain on rows held out after which to stop; null: never.",
        *(1, 1000),
        nullable=True,
    ),
    Parameter("validation_fraction", 0.1, "Share of rows held out for that.", 0.01, 0.9),
    Parameter("tol", 1e-4, "What counts as a gain.", 0, 1),
)
_C = Parameter("C", 1.0, "Inverse strength of the penalty.", 1e-6, 1e6)
_EPSILON = Parameter("epsilon", 0.1, "Errors up to this size cost nothing.", 0, 1e12)
_GAMMA = 'Inverse reach of a row, or a rule; not for the kernel "linear".'
_KERNEL = (
    _choice("kernel", "How rows are compared.", "rbf", "linear", "poly", "sigmoid"),
    _C,
    Parameter("gamma", "scale", _GAMMA, 0, 1e6, choices=("scale", "auto")),
    _integer("degree", 3, 'Degree of the kernel "poly".', 0, 10),
    Parameter("coef0", 0.0, 'Constant term of the kernels "poly" and "sigmoid".', -1e6, 1e6),
    Parameter("tol", 1e-3, "Precision at which iterations end.", 1e-8, 1),
    _boolean("shrinking", True, "Whether to leave out rows that are settled."),
    # scikit-learn's default is no limit: of 12 rows in the millions, libsvm never ends.
    _integer("max_iter", 1_000_000, "Iterations at most.", 1, 10_000_000),
)
_LINEAR_SVM = (
    _C,
    replace(_TOLERANCE, minimum=1e-12),
    _FIT_INTERCEPT,
    _ITERATIONS,
)
_LIBLINEAR = (1e-100, 1e100)  # squares must neither overflow nor vanish
_NEIGHBORS = (
    _integer("n_neighbors", 5, "Neighbors that are asked.", 1, 1000),
    _choice("weights", "Whether nearer neighbors count for more.", "uniform", "distance"),
    _integer("p", 2, "Distance: 1 is Manhattan, 2 is Euclidean.", 1, 2),
)
_NETWORK = (
    Parameter("hidden_layer_sizes", (100,), "Neurons of each layer.", 1, 1000, type="integers"),
    _choice("activation", "Function of a neuron.", "relu", "tanh", "logistic", "identity"),
    _choice("solver", "How weights are found.", "adam", "lbfgs", "sgd"),
    Parameter("alpha", 1e-4, "Strength of the penalty on squared weights.", 0, 1e6),
    _integer("batch_size", "auto", "Rows of a step; auto: 200.", 1, 100_000, choices=("auto",)),
    _choice("learning_rate", 'Of "sgd": how it changes.', "constant", "invscaling", "adaptive"),
    Parameter(
        "learning_rate_init", 1e-3, "Size of the first steps.", 0, 1, exclusive_minimum=True
    ),
    Parameter("momentum", 0.9, 'Of "sgd": share of the last step that is kept.', 0, 1),
    _integer("max_iter", 200, "Passes over the rows at most.", 1, 10_000),
    replace(_TOLERANCE, help="What counts as a gain."),
    _integer("n_iter_no_change", 10, "Passes without gain after which to stop.", 1, 10_000),
    _boolean("early_stopping", False, "Whether rows held out judge the gain."),
    Parameter("validation_fraction", 0.1, "Share of rows held out for that.", 0.01, 0.9),
)
_RIDGE_SOLVERS = ("auto", "svd", "cholesky", "lsqr", "sag", "saga")
_LOGISTIC_SOLVERS = ("lbfgs", "newton-cg", "newton-cholesky", "sag", "saga")
_LOSSES = ("squared_error", "absolute_error", "poisson", "gamma", "quantile")
_STAGE_LOSSES = ("squared_error", "absolute_error", "huber", "quantile")
_QUANTILE = 'The quantile to predict when loss is "quantile".'
_STAGE_QUANTILE = 'The quantile of the loss "quantile"; for "huber", where large errors begin.'
_TREES = "sklearn.ensemble._hist_gradient_boosting.gradient_boosting"
_LIGHTER_TREE = "a smaller max_leaf_nodes, or a larger min_samples_leaf"
_LIGHTER_FOREST = "fewer trees (n_estimators), or smaller ones (max_leaf_nodes, min_samples_leaf)"
_LIGHTER_BOOSTING = "a smaller max_iter or max_leaf_nodes"
_LIGHTER_STAGES = "a smaller n_estimators or max_depth, or hist_gradient_boosting"
_LIGHTER_SVM = "a smaller max_iter, or linear_svm"
_LIGHTER_NETWORK = "smaller hidden_layer_sizes"

DEFAULT_ESTIMATOR = "linear_regression"

_ROWS = (
    Estimator(
        DEFAULT_ESTIMATOR,
        "regression",
        "Ordinary least squares.",
        "sklearn.linear_model._base.LinearRegression",
        (_FIT_INTERCEPT, _POSITIVE),
        seeded=False,
    ),
    Estimator(
        "ridge",
        "regression",
        "Least squares with a penalty on squared coefficients.",
        "sklearn.linear_model._ridge.Ridge",
        (
            *(_ALPHA, _FIT_INTERCEPT, _POSITIVE),
            _choice("solver", "How equations are solved.", *_RIDGE_SOLVERS),
            replace(_ITERATIONS, default=None, nullable=True, help="Iterations; null: automatic."),
            _TOLERANCE,
        ),
        'the solver "lsqr", or a smaller max_iter',
        (
            "solver",
            'must be "auto" when positive is true',
            lambda params: params["positive"] and params["solver"] != "auto",
        ),
    ),
    Estimator(
        "lasso",
        "regression",
        "Least squares with a penalty on absolute coefficients, which sets some to 0.",
        "sklearn.linear_model._coordinate_descent.Lasso",
        (_ALPHA, *_DESCENT),
        "a smaller max_iter",
    ),
    Estimator(
        "elastic_net",
        "regression",
        "Least squares with the penalties of ridge and lasso mixed.",
        "sklearn.linear_model._coordinate_descent.ElasticNet",
        (_ALPHA, Parameter("l1_ratio", 0.5, "The lasso's share of the penalty.", 0, 1), *_DESCENT),
        "a smaller max_iter",
    ),
    Estimator(
        "random_forest",
        "regression",
        "The mean of decision trees grown on random samples.",
        "sklearn.ensemble._forest.RandomForestRegressor",
        (
            *_FOREST,
            _REGRESSION_CRITERION,
            _MAX_FEATURES,
        ),
        _LIGHTER_FOREST,
        _FOREST_CONFLICT,
    ),
    Estimator(
        "hist_gradient_boosting",
        "regression",
        "Boosted decision trees on binned features, for many rows.",
        f"{_TREES}.HistGradientBoostingRegressor",
        (
            _choice("loss", "What is minimised; poisson and gamma need y from 0.", *_LOSSES),
            Parameter("quantile", None, _QUANTILE, 0.001, 0.999, nullable=True),
            *_BOOSTING,
        ),
        _LIGHTER_BOOSTING,
        (
            "quantile",
            'must be given when loss is "quantile", and only then',
            lambda params: (params["loss"] == "quantile") != (params["quantile"] is not None),
        ),
    ),
    Estimator(
        "decision_tree",
        "regression",
        "A tree of questions, each about one feature, that can be read.",
        "sklearn.tree._classes.DecisionTreeRegressor",
        (*_GROWTH, _REGRESSION_CRITERION, _SPLITTER, _ALL_FEATURES),
        _LIGHTER_TREE,
    ),
    Estimator(
        "extra_trees",
        "regression",
        "The mean of decision trees whose thresholds are drawn at random.",
        "sklearn.ensemble._forest.ExtraTreesRegressor",
        (*_EXTRA_TREES, _REGRESSION_CRITERION, _MAX_FEATURES),
        _LIGHTER_FOREST,
        _FOREST_CONFLICT,
    ),
    Estimator(
        "gradient_boosting",
        "regression",
        "Boosted decision trees on exact thresholds, for few rows.",
        "sklearn.ensemble._gb.GradientBoostingRegressor",
        (
            _choice("loss", "What is minimised.", *_STAGE_LOSSES),
            Parameter("alpha", 0.9, _STAGE_QUANTILE, 0.001, 0.999),
            *_STAGES,
        ),
        _LIGHTER_STAGES,
    ),
    Estimator(
        "svm",
        "regression",
        "Support vectors: rows compared by a kernel, for up to some thousand rows.",
        "sklearn.svm._classes.SVR",
        (*_KERNEL, _EPSILON),
        _LIGHTER_SVM,
        seeded=False,
        scaled=True,
    ),
    Estimator(
        "linear_svm",
        "regression",
        "A linear model that small errors cost nothing.",
        "sklearn.svm._classes.LinearSVR",
        (
            _choice(
                "loss", "How errors cost.", "epsilon_insensitive", "squared_epsilon_insensitive"
            ),
            replace(_EPSILON, default=0.0),
            *_LINEAR_SVM,
        ),
        "a smaller max_iter",
        scaled=True,
        within=_LIBLINEAR,
    ),
    Estimator(
        "k_neighbors",
        "regression",
        "The mean of the most similar rows.",
        "sklearn.neighbors._regression.KNeighborsRegressor",
        _NEIGHBORS,
        seeded=False,
        scaled=True,
    ),
    Estimator(
        "mlp",
        "regression",
        "A neural network of fully connected layers.",
        "sklearn.neural_network._multilayer_perceptron.MLPRegressor",
        _NETWORK,
        _LIGHTER_NETWORK,
        scaled=True,
    ),
    Estimator(
        "poisson",
        "regression",
        "A linear model of the logarithm of counts; y from 0.",
        "sklearn.linear_model._glm.glm.PoissonRegressor",
        (
            _ALPHA,
            _FIT_INTERCEPT,
            _choice("solver", "How the likelihood is maximised.", "lbfgs", "newton-cholesky"),
            replace(_ITERATIONS, default=100),
            replace(_TOLERANCE, exclusive_minimum=True),
        ),
        'the solver "lbfgs"',
        seeded=False,
    ),
    Estimator(
        "quantile",
        "regression",
        "A linear model of a quantile: the median, say.",
        "sklearn.linear_model._quantile.QuantileRegressor",
        (
            Parameter("quantile", 0.5, "The quantile to predict.", 0.001, 0.999),
            replace(_ALPHA, help="Strength of the penalty on absolute coefficients; 0 is none."),
            _FIT_INTERCEPT,
        ),
        seeded=False,
    ),
    Estimator(
        "logistic_regression",
        "classification",
        "A linear model of the log-odds of each class.",
        "sklearn.linear_model._logistic.LogisticRegression",
        (
            # Not from 0: the penalty is 1 / C.
            Parameter("C", 1.0, "Inverse strength of the penalty.", 1e-12, 1e12),
            Parameter("l1_ratio", 0.0, 'Share of the absolute penalty; 0 but for "saga".', 0, 1),
            _choice("solver", "How the likelihood is maximised.", *_LOGISTIC_SOLVERS),
            replace(_ITERATIONS, default=100),
            *(_FIT_INTERCEPT, _TOLERANCE, _CLASS_WEIGHT),
        ),
        'the solver "lbfgs", or a smaller max_iter',
        (
            "l1_ratio",
            'must be 0 unless solver is "saga"',
            lambda params: params["l1_ratio"] > 0 and params["solver"] != "saga",
        ),
    ),
    Estimator(
        "random_forest_classifier",
        "classification",
        "The vote of decision trees grown on random samples.",
        "sklearn.ensemble._forest.RandomForestClassifier",
        (*_FOREST, *_FOREST_CLASSES),
        _LIGHTER_FOREST,
        _FOREST_CONFLICT,
    ),
    Estimator(
        "hist_gradient_boosting_classifier",
        "classification",
        "Boosted decision trees on binned features, for many rows.",
        f"{_TREES}.HistGradientBoostingClassifier",
        (*_BOOSTING, _CLASS_WEIGHT),
        _LIGHTER_BOOSTING,
    ),
    Estimator(
        "decision_tree_classifier",
        "classification",
        "A tree of questions, each about one feature, that can be read.",
        "sklearn.tree._classes.DecisionTreeClassifier",
        (*_GROWTH, _CLASS_CRITERION, _SPLITTER, _ALL_FEATURES, _CLASS_WEIGHT),
        _LIGHTER_TREE,
    ),
    Estimator(
        "extra_trees_classifier",
        "classification",
        "The vote of decision trees whose thresholds are drawn at random.",
        "sklearn.ensemble._forest.ExtraTreesClassifier",
        (*_EXTRA_TREES, *_FOREST_CLASSES),
        _LIGHTER_FOREST,
        _FOREST_CONFLICT,
    ),
    Estimator(
        "gradient_boosting_classifier",
        "classification",
        "Boosted decision trees on exact thresholds, for few rows.",
        "sklearn.ensemble._gb.GradientBoostingClassifier",
        _STAGES,
        _LIGHTER_STAGES,
    ),
    Estimator(
        "svm_classifier",
        "classification",
        "Support vectors: rows compared by a kernel; labels without probabilities.",
        "sklearn.svm._classes.SVC",
        (*_KERNEL, _CLASS_WEIGHT),
        _LIGHTER_SVM,
        scaled=True,
    ),
    Estimator(
        "linear_svm_classifier",
        "classification",
        "A linear model of the border between classes; labels without probabilities.",
        "sklearn.svm._classes.LinearSVC",
        (
            _choice("penalty", "Of squared coefficients, or absolute ones.", "l2", "l1"),
            _choice("loss", "How errors cost.", "squared_hinge", "hinge"),
            *_LINEAR_SVM,
            _CLASS_WEIGHT,
        ),
        "a smaller max_iter",
        (
            "penalty",
            'must be "l2" when loss is "hinge"',
            lambda params: params["penalty"] == "l1" and params["loss"] == "hinge",
        ),
        scaled=True,
        within=_LIBLINEAR,
    ),
    Estimator(
        "k_neighbors_classifier",
        "classification",
        "The vote of the most similar rows.",
        "sklearn.neighbors._classification.KNeighborsClassifier",
        _NEIGHBORS,
        seeded=False,
        scaled=True,
    ),
    Estimator(
        "mlp_classifier",
        "classification",
        "A neural network of fully connected layers.",
        "sklearn.neural_network._multilayer_perceptron.MLPClassifier",
        _NETWORK,
        _LIGHTER_NETWORK,
        scaled=True,
    ),
    Estimator(
        "naive_bayes",
        "classification",
        "Each feature has a normal distribution in each class, independent of the others.",
        "sklearn.naive_bayes.GaussianNB",
        (
            Parameter(
                "var_smoothing", 1e-9, "Share of the largest variance added to all.", 1e-15, 1
            ),
        ),
        seeded=False,
    ),
)
CATALOGUE: Mapping[str, Estimator] = {row.name: row for row in _ROWS}
"""What scikit-learn fits, to rows in memory."""

_LEAF_L2 = Parameter("reg_lambda", 1.0, "Penalty on the leaves' squared values.", 0, 1e12)
_BINS = _integer("max_bin", 256, "Bins that a feature's values are put in.", 2, 1024)
_OF_BOTH = (
    _integer("n_estimators", 100, "Rounds of boosting.", 1, 1000),
    Parameter("subsample", 1.0, "Share of the rows drawn for each tree.", 0.01, 1),
    Parameter("colsample_bytree", 1.0, "Share of the features drawn for each tree.", 0.01, 1),
    Parameter("reg_alpha", 0.0, "Penalty on the leaves' absolute values.", 0, 1e12),
)
_XGBOOST = (
    *_OF_BOTH,
    Parameter("learning_rate", 0.3, _RATE, 0, 1, exclusive_minimum=True),
    _integer("max_depth", 6, "Depth at most.", 1, 16),
    Parameter("min_child_weight", 1.0, "Weight of rows that a leaf needs at least.", 0, 1e9),
    Parameter("gamma", 0.0, "What a split must gain at least.", 0, 1e12),
    _LEAF_L2,
    _BINS,
)
_LIGHTGBM = (
    *_OF_BOTH,
    Parameter("learning_rate", 0.1, _RATE, 0, 1, exclusive_minimum=True),
    _integer("max_depth", -1, "Depth at most; -1 or 0: no limit.", -1, 64),
    _integer("num_leaves", 31, "Leaves of a tree at most.", 2, 4096),
    _integer("min_child_samples", 20, "Rows that a leaf needs at least.", 1, 1_000_000),
    replace(_LEAF_L2, default=0.0),
    replace(_BINS, default=255),
)
_LIBRARIES = (
    ("XGBoost", "xgboost.XGB", _XGBOOST, "a smaller n_estimators, max_depth or max_bin"),
    ("LightGBM", "lightgbm.LGBM", _LIGHTGBM, "a smaller n_estimators, num_leaves or max_bin"),
)
_TASKS: tuple[tuple[Task, str, str], ...] = (
    ("regression", "", "Regressor"),
    ("classification", "_classifier", "Classifier"),
)
_BOOSTERS = [
    Estimator(
        library.lower() + suffix,
        task,
        f"{library}: boosted trees on the workers of a Dask cluster, for a source.",
        type_name + kind,
        parameters,
        lighter,
    )
    for task, suffix, kind in _TASKS
    for library, type_name, parameters, lighter in _LIBRARIES
]
BOOSTERS: Mapping[str, Estimator] = {row.name: row for row in _BOOSTERS}
"""What libraries of their own fit, to a source on a cluster: names and defaults are theirs."""
ESTIMATORS: Mapping[str, Estimator] = {**CATALOGUE, **BOOSTERS}


def find_by_type(type_name: str) -> Estimator | None:
    """Return the row of a class by its full name, as skops writes it."""
    return next((row for row in _ROWS if row.type_name == type_name), None)


def resolve_params(estimator: Estimator, given: Params) -> dict[str, Any]:
    """Return the full set of parameters: those given, checked, and defaults for the rest.

    Raises InvalidInput, by the name of the parameter, for unknown names, values of another
    type or beyond the limits, and values that do not go together.
    """
    faults: dict[str, list[str]] = {}
    known = {parameter.name: parameter for parameter in estimator.parameters}
    params = {name: parameter.default for name, parameter in known.items()}
    for name, value in given.items():
        if len(faults) == MOST_FAULTS:
            break
        if found := find_faults(estimator, name, value):
            faults[name] = found
        else:
            # A whole number is a number: scikit-learn would take 1 for "one feature".
            number = known[name].type == "number" and type(value) is int
            params[name] = float(value) if number else value
    if not faults and estimator.conflict is not None:
        name, message, is_met = estimator.conflict
        if is_met(params):
            faults[name] = [message]
    if faults:
        raise InvalidInput({"params": faults})
    return params


def find_faults(estimator: Estimator, name: str, value: Any) -> list[str]:
    """Return what is wrong with a value for a parameter, or with its name; empty for nothing."""
    known = {parameter.name: parameter for parameter in estimator.parameters}
    if name not in known:
        return [f"is no parameter of {estimator.name}; it has {', '.join(known)}"]
    return [] if _accepts(known[name], value) else [f"must be {_describe_values(known[name])}"]


def check_range(estimator: Estimator, X: Matrix) -> None:
    """Raise InvalidInput where the solver of an estimator would never end.

    X: (n_rows, n_features); missing values are NaN.
    """
    if estimator.within is None:
        return
    low, high = estimator.within
    largest = np.nanmax(np.abs(X), initial=0.0)
    if largest > high or 0 < largest < low:
        message = f"holds values beyond {low:g} to {high:g}, which {estimator.name} cannot fit"
        raise InvalidInput({"X": [message]})


_TYPE_WORDS = {
    "boolean": "a boolean",
    "integer": "an integer",
    "integers": f"a list of 1 to {MOST_INTEGERS} integers",
    "number": "a number",
}


def _accepts(parameter: Parameter, value: Any) -> bool:
    # The type is compared, not isinstance: a boolean is an int to Python, not to JSON.
    if value is None:
        return parameter.nullable
    if type(value) is str:
        return value in parameter.choices
    if type(value) is bool:
        return parameter.type == "boolean"
    if parameter.type == "integers":
        one = replace(parameter, type="integer", nullable=False)
        is_list = type(value) in (list, tuple) and 1 <= len(value) <= MOST_INTEGERS
        return is_list and all(_accepts(one, item) for item in value)
    low, high = parameter.minimum, parameter.maximum
    kinds = (int,) if parameter.type == "integer" else (int, float)
    if type(value) not in kinds or low is None or high is None:
        return False
    return low <= value <= high and not (parameter.exclusive_minimum and value == low)


def _describe_values(parameter: Parameter) -> str:
    kinds = []
    if parameter.type in _TYPE_WORDS:
        kinds.append(_TYPE_WORDS[parameter.type])
    if parameter.maximum is not None:
        low = f"{parameter.minimum:.15g}"
        start = f"above {low} and up to" if parameter.exclusive_minimum else f"from {low} to"
        kinds[0] += f" {start} {parameter.maximum:.15g}"
    if parameter.choices:
        words = ", ".join(map(json.dumps, parameter.choices))
        kinds.append(f"one of {words}" if len(parameter.choices) > 1 else words)
    if parameter.nullable:
        kinds.append("null")
    return " or ".join(kinds)


def build_estimator(
    estimator: Estimator, params: Params, *, random_state: int, scale: bool
) -> Any:
    """Return the estimator unfitted; ``params`` come from `resolve_params`.

    With ``scale``, it is a Pipeline of ``scale`` (StandardScaler) and ``estimator``.
    """
    seed = {"random_state": random_state} if estimator.seeded else {}
    built = load_class(estimator)(**params, **seed)
    if not scale:
        return built
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    return Pipeline([("scale", StandardScaler()), ("estimator", built)])


def load_class(estimator: Estimator) -> Any:
    """Return the class of a row, importing it."""
    module, _, name = estimator.type_name.rpartition(".")
    return getattr(importlib.import_module(module), name)


def split_pipeline(estimator: Any) -> tuple[Any | None, Any]:
    """Return the standardisation of a model (None without one), and the estimator behind it."""
    steps = getattr(estimator, "steps", None)
    return (None, estimator) if steps is None else (steps[0][1], steps[-1][1])


def is_classifier(estimator: Any) -> bool:
    """Return whether a model, scaled or not, predicts classes.

    Its class decides: a file can put ``classes_`` into a regressor.
    """
    from sklearn.base import ClassifierMixin

    return issubclass(type(split_pipeline(estimator)[1]), ClassifierMixin)


def has_probabilities(classifier: Any) -> bool:
    """Return whether a fitted classifier, scaled or not, gives the probability of each class."""
    return hasattr(split_pipeline(classifier)[1], "predict_proba")


def read_params(estimator: Estimator, fitted: Any) -> dict[str, Any]:
    """Return what a fitted estimator has for the parameters of its row, as JSON values.

    Raises ArtifactUnusable for values that have no JSON form, or a very long one.
    """
    params = fitted.get_params()
    try:
        return {p.name: to_json(params[p.name]) for p in estimator.parameters}
    except ValueError as error:
        raise ArtifactUnusable(f"one of its parameters {error}") from None


def to_json(value: Any) -> Any:
    """Return the value of a parameter as JSON; raises ValueError, which says what it is."""
    # A grid search leaves NumPy scalars and arrays; weights by class are a mapping.
    if isinstance(value, np.ndarray | np.generic):
        value = value.ravel()[: LONGEST_VALUE + 1].tolist() if value.ndim else value.item()
    if isinstance(value, str | list | tuple | dict) and len(value) > LONGEST_VALUE:
        raise ValueError(f"is longer than {LONGEST_VALUE}")
    if isinstance(value, dict):
        return {to_json(str(key)): to_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("is beyond the whole numbers of 64 bits")
    if isinstance(value, str) and not value.isprintable():
        raise ValueError("has characters that are not printable")
    if not isinstance(value, int | float | str | None):
        raise ValueError("is no number, string or mapping")
    return value


def describe_estimator(estimator: Estimator) -> dict[str, Any]:
    """Return a row as JSON: name, task, summary, and a JSON Schema for each parameter."""
    return {
        "name": estimator.name,
        "task": estimator.task,
        "summary": estimator.summary,
        "parameters": {row.name: _describe_parameter(row) for row in estimator.parameters},
    }


def params_schema() -> Schema:
    """Return a JSON Schema of the parameters of a training: those of any one estimator."""
    closed = {"type": "object", "additionalProperties": False}
    rows = map(describe_estimator, ESTIMATORS.values())
    return {"anyOf": [{"title": r["name"], "properties": r["parameters"], **closed} for r in rows]}


def _describe_parameter(parameter: Parameter) -> Schema:
    described = {"description": parameter.help, "default": parameter.default}
    null: list[str | None] = [None] if parameter.nullable else []
    kind = [parameter.type, "null"] if parameter.nullable else parameter.type
    if parameter.type == "string":
        return described | {"type": kind, "enum": [*parameter.choices, *null]}
    values: Schema = {"type": kind}
    if parameter.minimum is not None:
        key = "exclusiveMinimum" if parameter.exclusive_minimum else "minimum"
        values |= {key: parameter.minimum, "maximum": parameter.maximum}
    if parameter.type == "integers":
        lengths = {"minItems": 1, "maxItems": MOST_INTEGERS}
        values = {"type": "array", "items": values | {"type": "integer"}, **lengths}
        described["default"] = list(parameter.default)
    if parameter.choices:
        return described | {"anyOf": [values, {"enum": list(parameter.choices)}]}
    return described | values
